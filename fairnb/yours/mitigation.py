"""Mitigation of a classifier that is not ours: by its scores alone, by features and a last layer, or as a torch module."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fairnb.evidence.bootstrap import people_by_cell
from fairnb.evidence.outcome import Judge
from fairnb.evidence.weigh import Evidence, weigh
from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import Problem, Search, method_named
from fairnb.methods.pick import unmet
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Conditions, Parameters, Pick, Settings, Swarm
from fairnb.yours import arrays
from fairnb.yours.assessment import DRAWS, Assessment, by_group, joined
from fairnb.yours.module import head_of, last_linear, sample_of, with_head
from fairnb.yours.sample import Sample, check_splits

if TYPE_CHECKING:
    import pandas as pd

MINE = Swarm.names() | Settings.names() | Pick.names() | Conditions.names() | {"seed", "not_analysed", "min_positives"}
BY_SCORES = ("label thresholds", "group thresholds")  # methods that move no weights
BY_GROUP_SCORES = "calibrated multi-task"


@dataclass(frozen=True, eq=False, repr=False)
class Mitigation:
    """What `mitigate` found: fronts and pick, tables before and after on test, and what is put to work."""

    method: str
    search: Search  # fronts and picks, on validation
    evidence: Evidence  # before and after on test, of the labels that were searched: `evidence.changes` has a row a label
    before: Assessment  # of the classifier as it was, on test
    after: Assessment
    told: tuple[str, ...]  # what was assumed, and which labels were left as they were, and why
    valid: Sample
    base: Tensor  # float32 [L, D + 1], the last layer as it was
    module_before: tuple[nn.Module, str] | None = None  # the module that was given, and the name of its last layer

    @property
    def changes(self) -> pd.DataFrame:
        """A row per label searched, worst first: its UEI before and after on test, the change with its interval, and p."""
        return self.evidence.changes

    def __repr__(self) -> str:
        (before, after), searched = self.evidence.methods.uei, self.evidence.methods.labels[0]
        return f"Mitigation by {self.method!r}: mean UEI of {searched} labels on test {before:.3f} before, {after:.3f} after"

    def _repr_html_(self) -> str:
        from fairnb.book import tables

        told = "".join(f"<li>{escape(line)}</li>" for line in self.told)
        return f"{tables.shown(tables.of_methods(self.evidence.methods)).to_html()}<ul>{told}</ul>"

    @property
    def thresholds(self) -> Tensor:
        """Thresholds above which a score predicts the label: float32 [L], or [G, L] in the order of `valid.groups`.

        Of logits, where features and a head were given. A method that moved weights raises ValueError.
        """
        weights = self.search.heads.weights
        if not torch.equal(weights[..., :-1], self.base[:, :-1].expand_as(weights[..., :-1])):
            raise ValueError(f"{self.method!r} moves whole heads, not thresholds alone: take head, or module")
        found = (0.0 if self.valid.cut is not None else self.base[:, -1]) - weights[..., -1]
        return found if self.search.heads.by_group else found[0]

    @property
    def head(self) -> Tensor:
        """The new last layer, float32 [L, D + 1], weights then bias of each label; ValueError if groups have their own."""
        return self.search.heads.last

    @property
    def module(self) -> nn.Module:
        """A copy of the module with the new last layer; ValueError if none was given, or groups have their own."""
        if self.module_before is None:
            raise ValueError("no module was given: take head, or thresholds")
        return with_head(*self.module_before, self.head)

    def predict(self, x: Any, group: Any = None) -> Tensor:
        """Predictions bool [N, L] from scores (those of the group behind) or features, and groups if needed."""
        (numbers, columns), heads = arrays.matrix(x, "scores or features"), self.search.heads
        if self.valid.cut is not None and set(columns) == set(self.valid.labels):
            numbers = numbers[:, [columns.index(name) for name in self.valid.labels]]
        if (given := numbers.shape[1]) != (wanted := self.base.shape[1] - 1):
            raise ValueError(f"there are {given} columns of scores or features, and {wanted} were given to mitigate")
        codes = torch.zeros(len(numbers), dtype=torch.int64)
        if heads.by_group:
            if group is None:
                raise ValueError(f"{self.method!r} predicts by group: give each image's group")
            codes = self.valid.codes(group)
        empty = torch.zeros(len(numbers), len(self.base), dtype=torch.bool)
        return heads.predict(Features(numbers.float(), empty, codes, len(self.valid.groups))).T


def mitigate(
    valid: Sample | Iterable[Any], test: Sample | Iterable[Any], *, head: Any = None,
    module: nn.Module | None = None, method: str = "", names: Sequence[str] | None = None, **parameters: Any,
) -> Mitigation:  # fmt: skip
    """Move the thresholds or the last layer of a classifier for a lower UEI, by a method of `METHODS`.

    The search sees validation only; tables before and after are of test, which may share no image and no person with it.

    Args:
        valid, test: `Sample`s; with a module, loaders of its batches, see `fairnb.yours.module.sample_of`.
        head: the last layer, which reads the samples' features: float32 [L, D + 1], each label's weights then its bias, a
            `torch.nn.Linear`, or (weights, biases).
        module: any classifier that ends in a `Linear` layer; it is left as it is.
        method: by default "multi-task"; where only scores are known "label thresholds", or, with scores of the group,
            "calibrated multi-task".
        names: of the labels, with a module.
        parameters: of swarms, searches and pick, such as `tolerance`, `max_fpr_gap`, `seed`; see the book's page.

    Labels with fewer than `min_positives` positives in a group of either split are left as they are.

    Raises ValueError for a head that does not fit the features, splits that differ or share images, and as the method does.
    """
    taken = ""
    if module is not None:
        batches = iter(valid)  # type: ignore[arg-type]
        if (first := next(batches, None)) is None:
            raise ValueError("the validation loader gives no batches")
        taken = last_linear(module, first)
        valid, test = (sample_of(module, part, taken, names=names) for part in (chain([first], batches), test))  # type: ignore
        head = module.get_submodule(taken)
    if not (isinstance(valid, Sample) and isinstance(test, Sample)):
        raise ValueError("validation and test must be Samples, or loaders of a module's batches (module=…)")
    check_splits(valid, test)
    base, method = _base(valid, head), method or _usual(valid)
    given = _parameters(valid, method, parameters)
    searched, told = _searched(valid, test, given)
    found = method_named(method).search(Problem(valid.features, base, searched, seed=given.seed_of_search), given)
    as_was = Heads(base.unsqueeze(0))
    judge = Judge({"valid": valid.features, "test": test.features}, searched, given.seed_of_search, given.tolerance)
    before = judge.outcome("base", as_was)
    kept = [name for name, one in zip(valid.labels, searched.tolist(), strict=True) if one]
    evidence = weigh(
        [before, judge.outcome(method, found, base=before)], test.features.of_labels(searched), kept,
        draws=max(4 * DRAWS, 40 * len(kept) + 1),
    )  # fmt: skip
    told += filter(None, [unmet(found, kept)])
    whole = None if module is None else (module, taken)
    return Mitigation(
        method,
        found,
        evidence,
        _assessed(test, as_was),
        _assessed(test, found.heads),
        (*valid.told, *told),
        valid,
        base,
        whole,
    )


def _usual(valid: Sample) -> str:
    if valid.cut is None:
        return "multi-task"
    return BY_GROUP_SCORES if valid.inferred else BY_SCORES[0]


def _base(valid: Sample, head: Any) -> Tensor:
    """The last layer as it is, float32 [L, D + 1]."""
    if valid.cut is not None:
        if head is not None:
            raise ValueError("a head reads features: give Sample(…, features=…)")
        return valid.heads
    if head is None:
        raise ValueError("features need the last layer that reads them: head=…, or give scores alone")
    if isinstance(head, nn.Linear):
        head = head_of(head)
    elif isinstance(head, tuple):
        weights, bias = (arrays.matrix(part, "head")[0].float() for part in head)
        arrays.same_rows("labels", weights=weights, biases=bias)
        head = torch.cat([weights, bias], dim=1)
    layer = arrays.matrix(head, "head")[0].float()
    if layer.shape != (wanted := (len(valid.labels), valid.features.x.shape[1] + 1)):
        raise ValueError(
            f"a head of shape {tuple(layer.shape)} does not fit {wanted[0]} labels and {wanted[1] - 1} features: it must be "
            f"{wanted}, each label's weights then its bias"
        )
    return layer


def _parameters(valid: Sample, method: str, parameters: dict[str, Any]) -> Parameters:
    """The parameters, all checked; ValueError for others, or for a method that needs what is not there."""
    method_named(method)
    if odd := sorted(set(parameters) - MINE):
        raise ValueError(unknown("parameter", odd[0], MINE))
    if valid.cut is not None and method not in (*BY_SCORES, *([BY_GROUP_SCORES] if valid.inferred else [])):
        raise ValueError(
            f"{method!r} moves weights, and scores alone have none: give features and a head, or take "
            f"{', '.join(BY_SCORES)}, or {BY_GROUP_SCORES} with group_scores"
        )
    if method == BY_GROUP_SCORES and valid.cut is not None:
        parameters = {"start": "base"} | parameters  # a label's own score counts, and those of others do not
    given = Parameters(**parameters)
    if given.layers == "all":
        raise ValueError("layers='all' moves the layer before the last too, which is not known here")
    return given


def _searched(valid: Sample, test: Sample, given: Parameters) -> tuple[Tensor, list[str]]:
    """The labels that can be searched and judged, bool [L], and a sentence about the others."""
    if odd := [name for name in given.not_analysed if name not in valid.labels]:
        raise ValueError(unknown("label", odd[0], valid.labels))
    fewest = torch.stack([people_by_cell(one.features)[..., 1].amin(1) for one in (valid, test)]).amin(0)
    keep = torch.tensor([name not in given.not_analysed for name in valid.labels]) & (fewest >= given.min_positives)
    few = [
        f"{name} ({count})" for name, count in zip(valid.labels, fewest.tolist(), strict=True) if count < given.min_positives
    ]
    if not keep.any():
        raise ValueError(
            f"no label has {given.min_positives} people with it in each group of validation and test, the most is "
            f"{int(fewest.max())}: lower min_positives, or join groups"
        )
    words = (
        f"left as they are, with fewer than {given.min_positives} people in a group of either split (fewest): {some(few)}"
    )
    return keep, [words] if few else []


def _assessed(test: Sample, heads: Heads) -> Assessment:
    part = test.features
    how: Any = {"scores": heads.logits(part), "draws": DRAWS, "seed": 0}
    return joined([by_group(part, heads.predict(part), test.labels, test.attribute, test.groups, **how)], [])
