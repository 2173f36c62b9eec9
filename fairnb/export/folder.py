"""A run's model as a folder: weights for plain torch and torchvision, ONNX, a configuration and a model card."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fairnb.data import pixels
from fairnb.data.crops import IMAGENET_MEAN, IMAGENET_STD
from fairnb.data.decoded import shown_shape, stored_shape
from fairnb.data.faces import SPLITS
from fairnb.data.feeding import BATCH
from fairnb.evidence.compare import read_run
from fairnb.experiment import Experiment
from fairnb.export.card import Stated, card
from fairnb.export.network import FORMAT, FromPixels, load, squares, thresholds
from fairnb.export.onnx_file import INPUTS, run_onnx, write_onnx
from fairnb.heads import Heads
from fairnb.methods import BASE, METHODS, method_named
from fairnb.model import arguments_of, classifier_of
from fairnb.run.files import folder_beside, load_tensors, save_json, save_tensors
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Recipe
from fairnb.run.record import git_revision
from fairnb.training import FILES
from fairnb.yours.assessment import DRAWS, by_group

NEEDED = ("onnx", "onnxscript", "onnxruntime", "huggingface_hub")  # the extra `export`
PACKAGES = ("fairnb", "torch", "torchvision", "onnx", "onnxruntime", "numpy", "pillow")
CHECKED = 256  # test images on which the exported network is compared with the run's
APART = 0.01  # most that logits may differ, as a share of the largest one


@dataclass(frozen=True)
class Agreement:
    """How far two sets of scores agree; a score above 0 predicts its label."""

    images: int
    predictions: int  # of all labels
    largest: float  # difference of two scores
    differ: int  # predictions
    nearest: float  # largest distance from 0 of a score whose prediction differs; 0 if none does

    @classmethod
    def of(cls, scores: Tensor, others: Tensor) -> Agreement:
        """Compare scores float32 [N, L]; ValueError if they are too far apart to be of one network."""
        largest, differ = float((scores - others).abs().max()), (scores > 0) != (others > 0)
        if not largest <= APART * float(others.abs().max()):
            raise ValueError(f"the exported network's logits differ by {largest:.3g} from the run's: nothing was exported")
        nearest = float(others[differ].abs().max()) if bool(differ.any()) else 0.0
        return cls(len(scores), scores.numel(), largest, int(differ.sum()), nearest)

    def __str__(self) -> str:
        near = f", all with a score within {self.nearest:.2g} of 0" if self.differ else ""
        return (
            f"on {self.images:,} test images the largest difference of logits is {self.largest:.2g}; "
            f"{self.differ:,} of {self.predictions:,} predictions differ{near}"
        )


def export(
    run: Path, method: str, to: Path, *, input: str = "uint8", stated: Stated | None = None,
    say: Callable[[str], object] = print,
) -> None:  # fmt: skip
    """Write the model that `method` found in a run's folder to the new folder `to`.

    `input`, 'uint8' or 'float', is the type of the pixels that model.onnx takes. `say` receives how far ONNX, torch and the
    run agree.

    ValueError: an unknown method, one that the run lacks or that no single network expresses, a missing package, or networks
    that disagree. FileNotFoundError: no finished run. FileExistsError: `to` is not empty.
    """
    method_named(method)
    if input not in INPUTS:
        raise ValueError(unknown("input", input, INPUTS))
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ValueError(f'the export needs {some(missing)}: pip install "fairnb[export]"')
    with folder_beside(to) as folder:
        made = _Exported(open_run(run, method), method)
        config = made.config(input)
        save_tensors(folder / "model.safetensors", made.weights, format="pt")
        save_json(folder / "config.json", config)
        _, network = load(folder)  # as whoever takes it away does
        config["opset"] = write_onnx(folder / "model.onnx", network, config)
        shutil.copyfile(str(pixels.__file__), folder / "pixels.py")
        config["checked"] = made.check(folder / "model.onnx", network, config, say)
        save_json(folder / "config.json", config)
        groups, labels = made.assessed(config)
        words = card(config, labels, groups, made.experiment.labels(), stated or Stated())
        (folder / "README.md").write_text(words, encoding="utf-8")


def open_run(folder: Path, method: str) -> Experiment:
    """The finished run in a folder; ValueError if it lacks the method, FileNotFoundError if it is not finished."""
    run = read_run(folder)
    done = [name for name in METHODS if name == BASE.name or name in run.stages]
    if method not in done:
        raise ValueError(f"{folder} has no result of {method!r}, only of {some(done, 12)}: `fairnb run` searches")
    depth = run.parameters["run"].count("/") + 1  # of a sweep's runs
    place = folder.resolve()
    return Experiment.open("/".join(place.parts[-depth:]), runs=place.parents[depth - 1])


class _Exported:
    """What is exported of a run: one head for all groups, and thresholds on its logits."""

    def __init__(self, experiment: Experiment, method: str) -> None:
        self.experiment, self.method = experiment, method
        self.heads = experiment.heads_of(method)
        last, self.thresholds = one_head(self.heads, experiment.heads())
        self.weights = renamed(load_tensors(experiment.folder / FILES[0])) | _layer(3, last)
        if self.heads.hidden is not None:
            self.weights |= _layer(1, self.heads.hidden)
        self.test = experiment.features_for(self.heads)["test"]

    def config(self, input: str) -> dict[str, Any]:
        """The content of config.json, all but what is known only after the export."""
        given, faces, method = self.experiment.parameters, self.experiment.faces, method_named(self.method)
        names, rows = list(faces.label_names), self.thresholds.tolist()
        groups, by_group = list(faces.group_names), self.heads.by_group
        arguments, size = arguments_of(given.backbone, given.weights), given.image_size
        stored = stored_shape(faces.images, given.resize)
        analysed = [name for name, kept in zip(names, self.experiment.analysed.tolist(), strict=True) if kept]
        stage = self.experiment.record.stages["base model" if method.find is None else self.method]
        return {
            "format": FORMAT,
            "labels": names, "analysed": analysed,
            "needs_group": by_group, "thresholds": dict(zip(groups, rows, strict=True)) if by_group else rows[0],
            "sensitive": list(given.attributes), "groups": groups, "bins": given.bins, "merge": given.merge,
            "backbone": given.backbone, "arguments": arguments, "classifier": _classifier(given.backbone, arguments),
            "features": self.weights["1.weight"].shape[1], "hidden": self.weights["1.weight"].shape[0],
            "resize": given.resize, "stored": stored, "scaled": shown_shape(stored, given.resize), "image_size": size,
            "input": input, "input_name": "images", "input_shape": ["batch", size, size, 3], "input_range": [0, 255],
            "mean": IMAGENET_MEAN, "std": IMAGENET_STD,
            "method": self.method, "tolerance": given.tolerance if method.find else None,
            "parameters": given.model_dump(mode="json", include=method.depends_on),
            "training": given.model_dump(mode="json", include=Recipe.names()),
            "dataset": {
                "layout": given.data, "name": "drawn faces" if given.data == "drawn" else Path(given.data_root).name,
                "images": {split: len(faces.rows(split)) for split in SPLITS},
                "people": None if faces.person is None else self.test.people[0],
                "told": [line.replace(str(given.data_root) or "\0", "the folder") for line in faces.told],
            },
            "versions": {name: version(name) for name in PACKAGES},
            "revision": {"run": stage["revision"], "export": git_revision()},
        }  # fmt: skip

    @torch.inference_mode()
    def check(self, path: Path, network: FromPixels, config: dict[str, Any], say: Callable[[str], object]) -> dict[str, Any]:
        """Compare ONNX with torch, and torch with the run's own logits, on test images."""
        rows = self.experiment.faces.rows("test")
        chosen = torch.arange(len(rows))[:: max(1, len(rows) // CHECKED)][:CHECKED]
        images = [squares(self.experiment.faces.images, batch.tolist(), config) for batch in rows[chosen].split(BATCH)]
        part = self.test.rows(chosen)
        limits = thresholds(config).expand(part.groups, -1)[part.group]
        by_torch = torch.cat([network(batch) for batch in images]) - limits
        by_onnx = torch.cat(run_onnx(path, images, config)) - limits
        found = {"onnx": Agreement.of(by_onnx, by_torch), "run": Agreement.of(by_torch, self.heads.logits(part).T)}
        say(f"ONNX and torch: {found['onnx']}")
        say(f"torch and the run: {found['run']}")
        return {name: vars(agreement) | {"words": str(agreement)} for name, agreement in found.items()}

    def assessed(self, config: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The tables `groups` and `labels` of an `Assessment` on test, of the analysed labels."""
        kept, names = self.experiment.analysed, config["analysed"]
        predicted, attribute = self.heads.of(kept).predict(self.test), self.experiment.faces.sensitive
        groups, labels, _ = by_group(
            self.test.of_labels(kept), predicted, names, attribute, config["groups"], draws=DRAWS, seed=0
        )
        return groups, labels


def one_head(heads: Heads, base: Tensor) -> tuple[Tensor, Tensor]:
    """One head for all groups, float32 [L, D + 1], and thresholds on its logits, [G, L], or [1, L] of 0.

    Heads by group must differ in their biases only (ValueError otherwise): the head has the base model's, [L, D + 1].
    """
    if not heads.by_group:
        return heads.last, torch.zeros(1, len(base))
    weights, biases = heads.weights[..., :-1], heads.weights[..., -1]
    if not bool((weights == weights[:1]).all()):
        raise ValueError("these heads differ between groups in more than their thresholds: no single network expresses them")
    return torch.cat([weights[0], base[:, -1:]], dim=1), base[:, -1] - biases


def renamed(saved: dict[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a `MultiLabelNet` by their names in `fairnb.export.network.plain`."""
    places = {"backbone": 0, "hidden": 1, "head": 3}
    parts = {name: name.partition(".") for name in saved}
    return {f"{places[part]}.{rest}": saved[name] for name, (part, _, rest) in parts.items()}


def _layer(place: int, weights: Tensor) -> dict[str, Tensor]:
    """A fully connected layer [R, D + 1], its weights then its bias, as `plain` names it."""
    return {f"{place}.weight": weights[:, :-1], f"{place}.bias": weights[:, -1]}


def _classifier(backbone: str, arguments: dict[str, Any]) -> str:
    import torchvision

    with torch.random.fork_rng(devices=[]):
        return classifier_of(torchvision.models.get_model(backbone, **arguments))
