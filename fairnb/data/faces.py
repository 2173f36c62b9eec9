"""The dataset object: images, labels, groups and splits, with their names."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor

from fairnb.data.images import Images
from fairnb.run.messages import unknown

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, eq=False)
class Faces:
    """N images with binary labels, groups by one or several sensitive attributes, and a split."""

    images: Images  # read on access: `images[i]` is uint8 [3, H, W]
    labels: Tensor  # bool [N, L], True where the attribute is present
    group: Tensor  # int64 [N] in 0..G-1
    split: Tensor  # int64 [N], index into `SPLITS`
    label_names: tuple[str, ...]  # of the L attributes, in their file's order
    group_names: tuple[str, ...]  # of the G groups
    sensitive: str  # name of the sensitive attribute, or of several
    person: Tensor | None = None  # int64 [N], number of the person shown, if known: one person's images are dependent
    told: tuple[str, ...] = ()  # what was left out or assumed, in sentences

    def __post_init__(self) -> None:
        """Raise ValueError if the parts differ in length, a split has no images, or a name stands for two."""
        n = len(self.images)
        for name in ("labels", "group", "split", "person"):
            if (part := getattr(self, name)) is not None and len(part) != n:
                raise ValueError(f"{name} has {len(part):,} rows for {n:,} images")
        if empty := [split for code, split in enumerate(SPLITS) if not bool((self.split == code).any())]:
            raise ValueError(f"split {empty[0]!r} has no images: train, valid and test are all needed")

        for kind, names in {"labels": self.label_names, "groups": self.group_names}.items():
            alike = [unicodedata.normalize("NFKC", name) for name in names]  # é in one character or two
            if twice := [name for name in alike if alike.count(name) > 1]:
                raise ValueError(f"two {kind} are named {twice[0]!r}: rename an attribute or one of its values")

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, split: str) -> Tensor:
        """Row numbers of a split, int64 [N_split], in file order; ValueError unless it is one of `SPLITS`."""
        if split not in SPLITS:
            raise ValueError(unknown("split", split, SPLITS))
        return (self.split == SPLITS.index(split)).nonzero().squeeze(1)

    def positives(self, split: str) -> Tensor:
        """Positives per label and group: int64 [L, G]."""
        rows = self.rows(split)
        member = torch.nn.functional.one_hot(self.group[rows], len(self.group_names)).double()
        return (self.labels[rows].double().T @ member).long()  # counts below 2^53 are exact

    def fewest_positives(self) -> Tensor:
        """Positives of each label in the group that has fewest, in validation or test: int64 [L]."""
        return torch.stack([self.positives(split).min(dim=1).values for split in ("valid", "test")]).min(dim=0).values

    def prevalence(self, split: str) -> pd.DataFrame:
        """Share of each label in each group: columns label, group, n, positives, share (NaN for an empty group)."""
        positives = self.positives(split).flatten().numpy()
        sizes = torch.bincount(self.group[self.rows(split)], minlength=len(self.group_names)).repeat(len(self.label_names))
        pairs = pd.MultiIndex.from_product([self.label_names, self.group_names], names=["label", "group"])
        table = pd.DataFrame({"n": sizes.numpy(), "positives": positives}, index=pairs).reset_index()
        return table.assign(share=table.positives / table.n.where(table.n > 0))

    def analysed(self, exclude: Sequence[str] = (), min_positives: int = 1) -> Tensor:
        """The labels analysed, bool [L]: those not in `exclude` with `min_positives` per group in validation and in test.

        The paper analyses 34 of 39 labels, "based on having enough validation and test images" (section 3), without giving
        the limit. Raises ValueError if `exclude` names an unknown label, or no label is left.
        """
        if odd := [name for name in exclude if name not in self.label_names]:
            raise ValueError(unknown("label", odd[0], self.label_names))
        keep = (self.fewest_positives() >= min_positives) & torch.tensor([name not in exclude for name in self.label_names])
        if not bool(keep.any()):
            raise ValueError(f"no label has {min_positives} positives per group in validation and test: lower min_positives")
        return keep

    def fingerprint(self) -> str:
        """Hex digest that changes with any image, label, group, split or person: the key of everything made from them."""
        digest = hashlib.sha256(self.images.fingerprint().encode())
        digest.update(repr((self.label_names, self.group_names, self.sensitive)).encode())
        for part in (self.labels, self.group, self.split, *(() if self.person is None else (self.person,))):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()

    def limited(self, images: int) -> Faces:
        """The first `images` images of every split, for a quick look; all of them for 0."""
        if images == 0:
            return self
        rows = torch.cat([self.rows(split)[:images] for split in SPLITS])
        names = ["labels", "group", "split", *(["person"] if self.person is not None else [])]
        return replace(self, images=Chosen(self.images, rows), **{name: getattr(self, name)[rows] for name in names})


class Chosen:
    """A selection of images, in a given order."""

    def __init__(self, images: Images, rows: Tensor) -> None:
        self.images, self.rows, self.source, self.block = images, rows.tolist(), images.source, images.block
        self.names = list(map(images.names.__getitem__, self.rows))

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
