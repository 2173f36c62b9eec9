"""Penultimate features of validation and test, computed once and saved; the searches work on these and see no image."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairnb.metrics import contingency_table
from fairnb.run.files import load_notes, load_tensors, save_tensors

if TYPE_CHECKING:
    from fairnb.data import Faces
    from fairnb.data.feeding import Feed
    from fairnb.model import MultiLabelNet


@dataclass(frozen=True, eq=False)
class Features:
    """Features, labels and groups of one split, for the second stage. Different numbers of images raise ValueError."""

    x: Tensor  # float32 [N, D] ≥ 0, penultimate features, or pooled ones
    labels: Tensor  # bool [N, L]
    group: Tensor  # int64 [N] in 0..G-1
    groups: int  # G, also where a group has nobody in this split
    person: Tensor | None = None  # int64 [N], number of the person shown; None if unknown

    def __post_init__(self) -> None:
        if len({len(part) for part in self.tensors().values()}) > 1:
            counts = ", ".join(f"{len(part):,} rows in {name}" for name, part in self.tensors().items())
            raise ValueError(f"features, labels and groups are of different images: {counts}")

    @property
    def people(self) -> tuple[int, Tensor]:
        """Number of people, and the person in each image, int64 [N]; if unknown, every image counts as its own person."""
        if self.person is None:
            return len(self.x), torch.arange(len(self.x))
        found, which = self.person.unique(return_inverse=True)
        return len(found), which

    def to(self, device: torch.device | str) -> Features:
        """A copy on another device."""
        return self._each(lambda part: part.to(device))

    def rows(self, rows: Tensor) -> Features:
        """The features of some images, int64 or bool."""
        return self._each(lambda part: part[rows.to(self.x.device)])

    def of_labels(self, labels: Tensor) -> Features:
        """The features with some labels, bool [L] or indices."""
        return replace(self, labels=self.labels[:, labels.to(self.labels.device)])

    def tables(self, predicted: Tensor) -> Tensor:
        """Contingency tables int64 [L, G, 2, 2] of predictions bool [L, N]."""
        return contingency_table(predicted, self.labels.T, self.group, self.groups)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that have one row per image, by name."""
        return {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Features:
        return Features(**{name: change(part) for name, part in self.tensors().items()}, groups=self.groups)


def extract_features(faces: Faces, model: MultiLabelNet, feed: Feed, *, layer: str = "penultimate") -> dict[str, Features]:
    """Run the backbone once over validation and test: `{"valid": Features, "test": Features}`, on the CPU.

    `layer` names a method of the network: 'penultimate', or 'pooled' for a search that moves both layers. Features are
    computed in float32 whatever the training's precision, since the tables of results depend on them.
    """
    model = model.to(feed.fabric.device).eval()
    features = {}
    for split in ("valid", "test"):
        rows = faces.rows(split)
        x = feed.apply(getattr(model, layer), rows, title=f"features of {split}")
        person = None if faces.person is None else faces.person[rows]
        features[split] = Features(x, faces.labels[rows], faces.group[rows], len(faces.group_names), person)
    return features


def save_features(path: Path, features: dict[str, Features], **notes: str) -> None:
    """Write the features of all splits as one safetensors file, with short notes in its header."""
    parts = {f"{split}.{name}": value for split, part in features.items() for name, value in part.tensors().items()}
    save_tensors(path, parts, groups=json.dumps({split: part.groups for split, part in features.items()}), **notes)


def load_features(path: Path) -> dict[str, Features]:
    """Memory-map the features that `save_features` wrote. A damaged or different file raises ValueError with its path."""
    saved, notes = load_tensors(path), load_notes(path)
    if "groups" not in notes:
        raise ValueError(f"{path} does not say how many groups there are: delete it to make it anew")
    parts: dict[str, dict[str, Any]] = {split: {"groups": count} for split, count in json.loads(notes["groups"]).items()}
    for name, value in saved.items():
        split, _, field = name.partition(".")
        parts[split][field] = value
    return {split: Features(**part) for split, part in parts.items()}


def load_layer(path: Path, layer: str = "head") -> Tensor:
    """Weights and biases of a layer in a file such as `base.safetensors`: 'head' [L, D + 1] or 'hidden' [D, F + 1]."""
    saved = load_tensors(path)
    return torch.cat([saved[f"{layer}.weight"], saved[f"{layer}.bias"].unsqueeze(1)], dim=1)
