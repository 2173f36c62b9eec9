"""Outcomes of methods, by which they are compared: their models' predictions and the reach of their fronts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean

import torch
from torch import Tensor

from fairnb.features import Features
from fairnb.heads import Heads, Scorer, score_heads, uei_and_error
from fairnb.methods.pick import Search
from fairnb.metrics import underestimation_index
from fairnb.run.parameters import Pick
from fairnb.swarm.repository import hypervolume

NONE = float("nan")


@dataclass(frozen=True, eq=False)
class Outcome:
    """The predictions of one method's model, trained or searched with one seed; L labels are judged."""

    method: str  # its name
    seed: int  # of the base model and the search
    test: Tensor  # bool [L, N], predictions on test
    scores: Tensor | None  # float32 [L, N], thresholded for the predictions, higher is more positive; None if there are none
    valid: Tensor  # int64 [L, G, 2, 2], contingency tables on validation
    promised: float = NONE  # mean UEI on the images of the pick: all of validation, or those held out for it
    area: tuple[float, float] = (NONE, NONE)  # on validation and on test, see `area`
    needs_group: bool = False  # whether predictions need the group
    evaluations: int = 0  # models scored per label
    seconds: float = NONE  # of the training or the search


@dataclass(frozen=True, eq=False)
class Judge:
    """Judges the models of one seed on the labels searched."""

    features: dict[str, Features]  # of 'valid' and 'test'
    searched: Tensor  # bool [L], the labels that are judged
    seed: int = 0  # of the base model and the searches
    tolerance: float = Pick().tolerance  # accuracy that may be lost: a side of the rectangle of the area
    base: Outcome | None = None  # the base model's, a corner of that rectangle; None while the base model itself is judged
    pooled: dict[str, Features] | None = None  # inputs of the layer before the last, if a search moves that layer too

    def outcome(self, method: str, found: Heads | Search, seconds: float = NONE, *, base: Outcome | None = None) -> Outcome:
        """The outcome of a method's heads, a front of one, or of its search; `base` overrides the judge's."""
        search, heads = (found, found.heads) if isinstance(found, Search) else (None, found)
        where, base = self.searched.nonzero().squeeze(1), base or self.base
        own = heads.of(where)
        splits = self.features if heads.hidden is None or self.pooled is None else self.pooled
        valid, test = (splits[name].of_labels(where) for name in ("valid", "test"))
        alone = own.weights.movedim(-2, 0).flatten(1).unsqueeze(1)  # [S, 1, D + 1] or [S, 1, G·(D + 1)]
        front, layers = (alone, None) if search is None else _front(search, own)
        tables, predicted = own.tables(valid), own.predict(test)
        beside = torch.tensor([0.0, self.tolerance], dtype=torch.float64)
        on_valid, on_test = (tables, predicted) if base is None else (base.valid, base.test)
        corners = uei_and_error(on_valid) + beside, uei_and_error(test.tables(on_test)) + beside
        areas = area(valid, front, corners[0], layers), area(test, front, corners[1], layers)
        picks = [] if search is None else [float(uei[place]) for uei, place in zip(search.uei, search.picked, strict=True)]
        promised = fmean(picks) if picks else float(underestimation_index(tables).mean())
        return Outcome(
            method, self.seed, predicted, own.logits(test), tables, promised, areas, heads.by_group,
            search.fronts.evaluations if search else 0, seconds,
        )  # fmt: skip


def area(features: Features, front: Tensor, corner: Tensor, layers: Tensor | None = None) -> float:
    """Hypervolume of fronts in UEI and error, as a share of the rectangle from (0, 0), mean over labels: in [0, 1), or NaN.

    Args:
        features: of the split to judge on, with the S labels only.
        front: float32 [S, A, D + 1] heads, or [S, A, G·(D + 1)], the groups' heads in a row.
        corner: float64 [S, 2], the rectangle's far corner: the base model's UEI, and its error plus the tolerance.
        layers: float32 [A, D, F + 1], each candidate's previous layer, if searched too.
    """
    reached = uei_and_error(score_heads(features, front) if layers is None else Scorer(features)(front, layers))
    return float((hypervolume(reached, corner) / corner.prod(-1)).nanmean())


def _front(search: Search, own: Heads) -> tuple[Tensor, Tensor | None]:
    """The candidates of each label, [S, A, …], shorter fronts padded with one of theirs; and hidden layers [A, D, F + 1].

    The search has one swarm per label, or one for all of them; `own` are the heads picked, of the S labels.
    """
    positions, mask = search.fronts.positions, search.fronts.mask
    places = torch.where(mask, torch.arange(mask.shape[1], device=mask.device), mask.int().argmax(1, keepdim=True))
    positions = positions.gather(1, places.unsqueeze(-1).expand(-1, -1, positions.shape[-1]))
    picked, hidden = own.weights[0], own.hidden
    if len(positions) == len(picked) and hidden is None:
        return positions, None
    heads = positions[0, :, : picked.numel()].unflatten(-1, picked.shape).transpose(0, 1)  # one swarm for all labels
    return heads, None if hidden is None else positions[0, :, picked.numel() :].unflatten(-1, hidden.shape)
