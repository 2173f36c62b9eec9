"""The backbone runs once: what the last layer reads, computed for validation and test and saved.

The second stage of the method works on these numbers and never sees an image.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairnb.data.feeding import Feed, apply
from fairnb.run.files import load_notes, load_tensors, save_tensors

if TYPE_CHECKING:
    from fairnb.data import Faces
    from fairnb.model import MultiLabelNet


@dataclass(frozen=True, eq=False)
class Features:
    """What the last layer reads, computed once a split: the second stage needs nothing else.

    Attributes:
        x: float32 [N, D] ≥ 0, penultimate features.
        labels: bool [N, L].
        group: int64 [N] in 0..G-1.
        groups: G, also where a group has nobody in this split.
        person: int64 [N], a number for whoever an image shows; None where that is not known.
    """

    x: Tensor
    labels: Tensor
    group: Tensor
    groups: int
    person: Tensor | None = None

    def __post_init__(self) -> None:
        """Refuse parts that do not belong together.

        Raises:
            ValueError: if the numbers of images differ.
        """
        rows = {name: len(part) for name, part in self.tensors().items()}
        if len(set(rows.values())) > 1:
            found = ", ".join(f"{count:,} rows in {name}" for name, count in rows.items())
            raise ValueError(f"features, labels and groups are of different images: {found}")

    @property
    def people(self) -> tuple[int, Tensor]:
        """How many people are shown, and which of them each image shows, int64 [N]; somebody else in each if unknown."""
        if self.person is None:
            return len(self.x), torch.arange(len(self.x))
        found, which = self.person.unique(return_inverse=True)
        return len(found), which

    def to(self, device: torch.device | str) -> Features:
        """The same on another device."""
        return self._each(lambda part: part.to(device))

    def rows(self, rows: Tensor) -> Features:
        """Those of some images, int64 or bool."""
        rows = rows.to(self.x.device)
        return self._each(lambda part: part[rows])

    def tensors(self) -> dict[str, Tensor]:
        """Whatever has a row for each image."""
        return {name: part for name, part in vars(self).items() if isinstance(part, Tensor)}

    def _each(self, change: Callable[[Tensor], Tensor]) -> Features:
        return Features(**{name: change(part) for name, part in self.tensors().items()}, groups=self.groups)


def extract_features(faces: Faces, model: MultiLabelNet, feed: Feed, *, layer: str = "penultimate") -> dict[str, Features]:
    """Run the backbone once over validation and test: `{"valid": Features, "test": Features}`, on the CPU.

    `layer` names a method of the network: 'penultimate', what the last layer reads, or 'pooled', what the layer before it
    reads. The features are computed in float32 whatever the training's precision: the tables of results depend on them.
    """
    model = model.to(feed.fabric.device).eval()
    found = {}
    for split in ("valid", "test"):
        rows = faces.rows(split)
        x = apply(getattr(model, layer), rows, feed, title=f"features of {split}")
        person = None if faces.person is None else faces.person[rows]
        found[split] = Features(x, faces.labels[rows], faces.group[rows], len(faces.group_names), person)
    return found


def save_features(path: Path, features: dict[str, Features]) -> None:
    """Write the features of splits as one safetensors file."""
    parts = {f"{split}.{name}": value for split, part in features.items() for name, value in part.tensors().items()}
    save_tensors(path, parts, groups=json.dumps({split: part.groups for split, part in features.items()}))


def load_features(path: Path) -> dict[str, Features]:
    """The features of splits that `save_features` wrote, mapped: read where they are used.

    Raises:
        ValueError: if the file is damaged or holds something else, with its path.
    """
    saved, notes = load_tensors(path), load_notes(path)
    if "groups" not in notes:
        raise ValueError(f"{path} does not say how many groups there are: delete it to make it anew")
    return {
        split: Features(
            **{name.removeprefix(f"{split}."): value for name, value in saved.items() if name.startswith(f"{split}.")},
            groups=count,
        )
        for split, count in json.loads(notes["groups"]).items()
    }


def load_layer(path: Path, layer: str = "head") -> Tensor:
    """A fully connected layer of a network in a file such as a run's `base.safetensors`: weights and biases.

    Args:
        path: of the file.
        layer: 'head', float32 [L, D + 1], or 'hidden', float32 [D, F + 1].

    Raises:
        ValueError: if the file is damaged, with its path.
    """
    saved = load_tensors(path)
    return torch.cat([saved[f"{layer}.weight"], saved[f"{layer}.bias"].unsqueeze(1)], dim=1)
