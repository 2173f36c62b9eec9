"""The dataset object that everything else takes: images, labels, groups and splits, with their names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from fairnb.data.images import Images
from fairnb.run.messages import unknown

SPLITS = ("train", "valid", "test")


def choose_labels(attributes: Sequence[str], sensitive: str, targets: Sequence[str]) -> tuple[list[int], tuple[str, str]]:
    """Columns of the attributes to predict, in their own order, and the words for the groups without and with `sensitive`.

    Args:
        attributes: all that the data have.
        sensitive: the one that splits people into groups; it is never a target.
        targets: the ones to predict; empty for all but the sensitive one.

    Raises:
        ValueError: for an unknown attribute, a target that is the sensitive one, or nothing left to predict.
    """
    for attribute in (sensitive, *targets):
        if attribute not in attributes:
            raise ValueError(unknown("attribute", attribute, attributes))
    if sensitive in targets:
        raise ValueError(f"{sensitive!r} is the sensitive attribute: it cannot also be a target")
    kept = [column for column, name in enumerate(attributes) if (name in targets if targets else name != sensitive)]
    if not kept:
        raise ValueError(f"there is no label to predict beside {sensitive!r}")
    # for Male, the paper's words
    return kept, ("female", "male") if sensitive == "Male" else (f"not {sensitive}", sensitive)


@dataclass(frozen=True, eq=False)
class Faces:
    """Images with binary labels, a sensitive attribute and a split each.

    Attributes:
        images: the N pictures, read lazily: `images[i]` is uint8 [3, H, W].
        labels: bool [N, L], True where the attribute is present.
        group: int64 [N] in 0..G-1, the sensitive attribute of each image.
        split: int64 [N], index into `SPLITS`.
        label_names: the L attributes, in the order of the file they came from.
        group_names: the G groups, in words.
        sensitive: name of the sensitive attribute.
        person: int64 [N], a number for whoever an image shows, where that is known: images of one person are no independent
            evidence.
    """

    images: Images
    labels: Tensor
    group: Tensor
    split: Tensor
    label_names: tuple[str, ...]
    group_names: tuple[str, ...]
    sensitive: str
    person: Tensor | None = None

    def __post_init__(self) -> None:
        """Check that the parts fit.

        Raises:
            ValueError: if the parts disagree in length, or a split has no images.
        """
        n = len(self.images)
        for name in ("labels", "group", "split", "person"):
            part = getattr(self, name)
            if part is not None and len(part) != n:
                raise ValueError(f"{name} has {len(part):,} rows for {n:,} images")
        for code, split in enumerate(SPLITS):
            if not bool((self.split == code).any()):
                raise ValueError(f"split {split!r} has no images: train, valid and test are all needed")

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, split: str) -> Tensor:
        """Row numbers of a split, int64 [N_split], in file order.

        Raises:
            ValueError: if the split is not one of `SPLITS`.
        """
        if split not in SPLITS:
            raise ValueError(unknown("split", split, SPLITS))
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def positives(self, split: str) -> Tensor:
        """Images of each group that have each label: int64 [L, G]."""
        rows = self.rows(split)
        member = torch.nn.functional.one_hot(self.group[rows], len(self.group_names)).double()
        return (self.labels[rows].double().T @ member).long()  # counts below 2^53 are exact

    def prevalence(self, split: str) -> pd.DataFrame:
        """How often each label occurs per group: columns label, group, n, positives, share (NaN for an empty group)."""
        positives = self.positives(split)
        sizes = torch.bincount(self.group[self.rows(split)], minlength=len(self.group_names))
        table = pd.DataFrame(
            [
                (label, group, int(sizes[g]), int(positives[j, g]))
                for j, label in enumerate(self.label_names)
                for g, group in enumerate(self.group_names)
            ],
            columns=["label", "group", "n", "positives"],
        )
        return table.assign(share=table.positives / table.n.where(table.n > 0))

    def analysed(self, exclude: Sequence[str] = (), min_positives: int = 1) -> Tensor:
        """Labels with enough examples to be judged, bool [L].

        A label is analysed when it is not in `exclude` and every group has at least `min_positives` positives in
        validation and in test. The paper analyses 34 of 39 labels, "based on having enough validation and test
        images" (section 3), without giving the limit.

        Raises:
            ValueError: if `exclude` names a label that is not there, or no label is left.
        """
        for name in exclude:
            if name not in self.label_names:
                raise ValueError(unknown("label", name, self.label_names))
        enough = torch.stack([self.positives(split).min(dim=1).values for split in ("valid", "test")]).min(dim=0).values
        keep = enough >= min_positives
        keep &= torch.tensor([name not in exclude for name in self.label_names])
        if not bool(keep.any()):
            raise ValueError(
                f"no label has {min_positives} positives in every group of validation and test: lower min_positives"
            )
        return keep

    def fingerprint(self) -> str:
        """Hex digest that changes when an image, a label, a group or a split does: the key of what is made from them."""
        digest = hashlib.sha256(self.images.fingerprint().encode())
        digest.update(repr((self.label_names, self.group_names, self.sensitive)).encode())
        for part in (self.labels, self.group, self.split):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def limited(self, images: int) -> Faces:
        """The first `images` images of every split, for a quick look; all of them where `images` is 0.

        Raises:
            ValueError: if `images` is negative.
        """
        if images < 0:
            raise ValueError(f"max_images={images} must not be negative; 0 takes all images")
        if images == 0:
            return self
        rows = torch.cat([self.rows(split)[:images] for split in SPLITS])
        return replace(
            self,
            images=Chosen(self.images, rows),
            labels=self.labels[rows],
            group=self.group[rows],
            split=self.split[rows],
            person=None if self.person is None else self.person[rows],
        )


class Chosen:
    """Some of a collection's images, in a given order."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        self.images, self.rows, self.source, self.block = images, rows.tolist(), images.source, images.block
        names = images.names
        self.names = [names[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[self.rows[index]]

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """See `Images`."""
        return self.images.read([self.rows[row] for row in rows], size)

    def fingerprint(self) -> str:
        """See `Images`."""
        return hashlib.sha256(f"{self.images.fingerprint()} {self.rows}".encode()).hexdigest()
