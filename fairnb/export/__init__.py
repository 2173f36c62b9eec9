"""What leaves the house: a run's model as a folder with a model card, and its predictions for a folder of images.

    export(Path("runs/demo"), "multi-task", Path("mine"))  # model.safetensors, model.onnx, config.json, README.md, pixels.py
    scores, failed = predict(Path("mine"), Path("photos"))  # a row per image, `<label>_score` per label

Whoever takes the folder needs no fairnb: one network serves all groups, and a group threshold is a number beside it.

>>> import torch
>>> from fairnb.export import one_head
>>> from fairnb.heads import Heads
>>> base = torch.tensor([[1.0, 2.0, 0.5]])  # one label's head on two features: weights, then bias
>>> by_group = Heads(torch.stack([base, base - torch.tensor([0.0, 0.0, 0.25])]))  # the second group's threshold is higher
>>> one_head(by_group, base)[1].tolist()  # the base model's logit must be above these, per group and label
[[0.0], [0.25]]
"""

from fairnb.export.card import Stated
from fairnb.export.folder import export, one_head
from fairnb.export.network import load
from fairnb.export.predict import predict, save_predictions

__all__ = ["Stated", "export", "load", "one_head", "predict", "save_predictions"]
