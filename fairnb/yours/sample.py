"""One split of somebody's images, as `mitigate` takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairnb.data.table import alike
from fairnb.features import Features
from fairnb.run.messages import some, unknown
from fairnb.yours import arrays

FEWEST = 4  # features by which an image is known again
ALIKE = 10_000  # parts of the largest feature below which a difference is one of rounding


class Sample:
    """Labels, groups, and the scores or penultimate features of N images.

    Args:
        truth: 0 and 1, [N, L], as for `assess`.
        group: [N], or a frame of several sensitive attributes, whose product makes the groups; none may be missing.
        scores: [N, L], logits or probabilities of the L labels, where a classifier is known by its scores alone.
        group_scores: [N] or [N, K], scores from which the group can be inferred, where predictions are not given the group.
        features: [N, D], the input of the classifier's last layer; instead of scores.
        person: [N], who is shown, if known.
        image: [N], names of the images, by which it is checked that no image is in two splits; without, rows are compared.
        names: of the labels, where the arrays have none.
        kind: of the scores, 'probabilities' or 'logits', as for `assess`.
        bins: where groups of numbers begin.
    """

    def __init__(
        self, truth: Any, group: Any, *, scores: Any = None, group_scores: Any = None, features: Any = None,
        person: Any = None, image: Any = None, names: Sequence[str] | None = None, kind: arrays.Kind | None = None,
        bins: Mapping[str, Sequence[float]] | None = None,
    ) -> None:  # fmt: skip
        if (scores is None) == (features is None):
            raise ValueError("give the scores of the labels, or the features that the last layer reads: one of the two")
        if features is not None and group_scores is not None:
            raise ValueError("group_scores go with scores: a search over features infers the group from these")
        true, columns = arrays.truths(truth)
        self.told: list[str] = []
        self.cut: float | None = None  # of scores: above it they predict a label
        others: list[str] = []
        if features is not None:
            x, _ = arrays.matrix(features, "features")
        else:
            x, others, found = arrays.scores(scores, kind, self.told)
            if found == "binary":
                raise ValueError("scores are all 0 and 1: a threshold can only move along logits or probabilities")
            self.cut = arrays.CUTS[found]
        self.bins = bins
        self.attribute, column = list(arrays.attributes(group, bins, products=True).items())[-1]
        self.people, self.images = (
            None if of is None else list(map(alike, arrays.plain(of).tolist())) for of in (person, image)
        )
        more = None if group_scores is None else arrays.matrix(group_scores, "group_scores")[0]
        arrays.same_rows(
            "images",
            truth=true, **{"scores" if features is None else "features": x}, group=column.codes, group_scores=more,
            **{name: arrays.plain(of) for name, of in {"person": person, "image": image}.items() if of is not None},
        )  # fmt: skip
        if missing := int((column.codes < 0).sum()):
            raise ValueError(
                f"{self.attribute} is missing for {missing:,} images, first in row {int((column.codes < 0).argmax())}"
            )
        self.labels, ordered = arrays.matched(true, true if features is not None else x, names, (columns, others))
        x = x if features is not None else ordered
        x = (x if more is None else torch.cat([x, more.to(x.dtype)], dim=1)).float().contiguous()
        self.groups, codes = list(column.words), torch.from_numpy(column.codes).long()
        self.features = Features(x, true, codes, len(self.groups), arrays.numbered(person))

    def codes(self, group: Any) -> Tensor:
        """The groups of other images, int64 [N], given as for this sample or by their names; ValueError for another one."""
        values = arrays.plain(group)
        found = values.tolist()
        if values.ndim > 1 or not set(found) <= set(self.groups):
            column = list(arrays.attributes(group, self.bins, products=True, every=True).values())[-1]
            if missing := int((column.codes < 0).sum()):
                first = int((column.codes < 0).argmax())
                raise ValueError(f"the group of {missing:,} images is missing, first in row {first}")
            found = [column.words[code] for code in column.codes]
        if odd := [word for word in found if word not in self.groups]:
            raise ValueError(unknown("group", odd[0], self.groups))
        return torch.tensor([self.groups.index(word) for word in found])

    @property
    def inferred(self) -> bool:
        """Whether scores of the group stand behind those of the labels."""
        return self.cut is not None and self.features.x.shape[1] > len(self.labels)

    @property
    def columns(self) -> list[str]:
        """What the columns of the features are."""
        width, labels = self.features.x.shape[1], len(self.labels)
        if self.cut is None:
            return ["features"] * width
        return [f"scores above {self.cut:g}"] * labels + ["scores of the group"] * (width - labels)

    @property
    def heads(self) -> Tensor:
        """The last layer that reads scores as they are, float32 [L, L + K + 1]: each label's own score, less its cut."""
        assert self.cut is not None
        size, width = len(self.labels), self.features.x.shape[1]
        return torch.cat([torch.eye(size, width), torch.full((size, 1), -self.cut)], dim=1)


def check_splits(valid: Sample, test: Sample) -> None:
    """Raise ValueError if two splits differ in labels, groups or columns, or share people or images, with their number."""
    for what in ("labels", "groups", "columns"):
        mine, theirs = getattr(valid, what), getattr(test, what)
        if mine != theirs:
            raise ValueError(f"validation and test differ in {what}: {_shown(mine)} and {_shown(theirs)}")
    shared = {}
    for what in ("people", "images"):
        mine, theirs = getattr(valid, what), getattr(test, what)
        if mine is not None and theirs is not None and (both := set(mine) & set(theirs)):
            shared[what] = len(both)
    if None in (valid.images, test.images) and (count := _same_rows(valid, test)):
        shared["images (rows of equal numbers; name images by image=… if they are others)"] = count
    if shared:
        raise ValueError(
            f"validation and test share {' and '.join(f'{count:,} {what}' for what, count in shared.items())}: what is "
            "chosen on an image cannot be judged on it; leave them out of one of the two"
        )


def _shown(names: list[str]) -> str:
    return f"{len(names)} ({some(names, 3)})"


def _same_rows(valid: Sample, test: Sample) -> int:
    """Images of validation that seem to be in test too, by their numbers, which a module may give with other last digits.

    Rows that are not the only ones of their kind in a split, as of a saturated network, are not looked at. Few numbers may
    be equal by chance, and so may scores that were rounded: then only more than half of a split's rows count.
    """
    largest, once = float(valid.features.x.abs().max()), []
    for x in (valid.features.x, test.features.x):
        whole = np.round(x.numpy() * (ALIKE / max(largest, 1e-30))).astype(np.int32)
        found, counts = np.unique(whole.view(np.dtype((np.void, 4 * x.shape[1]))).ravel(), return_counts=True)
        once.append(set(found[counts == 1].tolist()))
    shared, surely = len(once[0] & once[1]), valid.cut is None and valid.features.x.shape[1] >= FEWEST
    return shared if surely or 2 * shared > min(map(len, once)) else 0
