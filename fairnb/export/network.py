"""An exported network, as plain torch and torchvision build it from `config.json` and `model.safetensors`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import BaseModel, FiniteFloat, PositiveInt, ValidationError, model_validator
from torch import Tensor, nn

from fairnb.data.crops import centre_crops
from fairnb.data.decoded import enlarge, read_images
from fairnb.data.images import Images
from fairnb.run.files import load_json, load_tensors
from fairnb.run.messages import some

FORMAT = 1  # of config.json
Shape = tuple[PositiveInt, PositiveInt]  # of images: H, W


class Needed(BaseModel):
    """What a network needs of config.json; for the rest see `fairnb.export.folder`."""

    labels: list[str]
    needs_group: bool
    thresholds: list[FiniteFloat] | dict[str, list[FiniteFloat]]
    sensitive: list[str]
    groups: list[str]
    bins: dict[str, list[float]]
    merge: dict[str, list[str]]
    backbone: str
    arguments: dict[str, Any]
    classifier: str
    features: PositiveInt
    hidden: PositiveInt
    stored: Shape
    scaled: Shape
    image_size: PositiveInt
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rows = self.thresholds if isinstance(self.thresholds, dict) else {"": self.thresholds}
        if {*rows} != ({*self.groups} if self.needs_group else {""}) or {*map(len, rows.values())} != {len(self.labels)}:
            raise ValueError("thresholds fit neither labels nor groups")
        return self


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
    config = load_json(path := folder / "config.json", "format")
    if config["format"] != FORMAT:
        raise ValueError(f"{folder} was exported by another version of fairnb (format {config['format']}): export it anew")
    try:
        Needed.model_validate(config)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        raise ValueError(f"{path} is damaged ({where}: {first['msg']}): export it anew") from None
    weights = load_tensors(folder / "model.safetensors")
    try:
        network = plain(config)
        network.load_state_dict(weights)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError) as error:  # as torchvision and torch raise them
        reason = (str(error).splitlines() or [type(error).__name__])[-1].strip()
        raise ValueError(f"{folder}: model.safetensors and config.json do not fit: {reason}") from None
    return config, FromPixels(network, config).eval()


def squares(images: Images, rows: Sequence[int], config: Mapping[str, Any]) -> Tensor:
    """What the network sees of some images, uint8 [B, S, S, 3]; ValueError or OSError if one cannot be read."""
    scaled = enlarge(read_images(images, rows, tuple(config["stored"])), tuple(config["scaled"]))
    return centre_crops(scaled, config["image_size"]).permute(0, 2, 3, 1)


def thresholds(config: Mapping[str, Any]) -> Tensor:
    """Thresholds on the logits, float32 [G, L], or [1, L] where the groups share them."""
    given = config["thresholds"]
    return torch.tensor([given[group] for group in config["groups"]] if config["needs_group"] else [given])
