"""An exported network, as plain torch and torchvision build it from `config.json` and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fairnb.data.crops import centre_crops
from fairnb.data.decoded import enlarge, read_images
from fairnb.data.images import Images
from fairnb.run.files import load_json, load_tensors
from fairnb.run.messages import some

FORMAT = 1  # of config.json
NEEDED = (
    "format", "labels", "needs_group", "thresholds", "sensitive", "groups", "bins", "merge", "backbone", "arguments",
    "classifier", "features", "hidden", "stored", "scaled", "image_size", "mean", "std",
)  # fmt: skip


class FromPixels(nn.Module):
    """A network behind the normalisation of its images."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        for name in ("mean", "std"):
            self.register_buffer(name, torch.tensor(config[name]).view(3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Logits float32 [B, L] of pixels in 0..255, uint8 or float32 [B, S, S, 3]."""
        scaled = images.permute(0, 3, 1, 2).float() * (1 / 255)  # in the order of `fairnb.data.crops.normalise`: equal bits
        return self.network((scaled - self.mean) / self.std)


def plain(config: Mapping[str, Any]) -> nn.Sequential:
    """The architecture that `config` describes, in evaluation mode, with weights of no use yet.

    Backbone, hidden layer, ReLU and head: images float32 [B, 3, S, S], standardised, to logits [B, L].
    """
    import torchvision  # slow to import

    with torch.random.fork_rng(devices=[]):  # nn's initialisers draw from the global generator: leave it unchanged
        backbone = torchvision.models.get_model(config["backbone"], **config["arguments"])
        backbone.set_submodule(config["classifier"], nn.Identity())
        hidden = nn.Linear(config["features"], config["hidden"])
        return nn.Sequential(backbone, hidden, nn.ReLU(), nn.Linear(config["hidden"], len(config["labels"]))).eval()


def load(folder: Path) -> tuple[dict[str, Any], FromPixels]:
    """The configuration and the network of an exported folder, in evaluation mode.

    FileNotFoundError if the folder holds no export, ValueError if its format is another one, or weights do not fit.
    """
    if missing := [name for name in ("config.json", "model.safetensors") if not (folder / name).is_file()]:
        raise FileNotFoundError(f"{folder} is no exported model: there is no {some(missing)} (`fairnb export` makes them)")
    config = load_json(folder / "config.json", "format")
    if config.get("format") != FORMAT:
        raise ValueError(
            f"{folder} was exported by another version of fairnb (format {config.get('format')}): export it anew"
        )
    network = plain(load_json(folder / "config.json", *NEEDED))
    try:
        network.load_state_dict(load_tensors(folder / "model.safetensors"))
    except RuntimeError as error:
        raise ValueError(
            f"{folder}: model.safetensors and config.json do not fit: {str(error).splitlines()[-1].strip()}"
        ) from None
    return config, FromPixels(network, config).eval()


def squares(images: Images, rows: Sequence[int], config: Mapping[str, Any]) -> Tensor:
    """What the network sees of some images, uint8 [B, S, S, 3]; ValueError or OSError if one cannot be read."""
    scaled = enlarge(read_images(images, rows, tuple(config["stored"])), tuple(config["scaled"]))
    return centre_crops(scaled, config["image_size"]).permute(0, 2, 3, 1)


def thresholds(config: Mapping[str, Any]) -> Tensor:
    """Thresholds on the logits, float32 [G, L], or [1, L] where the groups share them."""
    given = config["thresholds"]
    return torch.tensor([given[group] for group in config["groups"]] if config["needs_group"] else [given])
