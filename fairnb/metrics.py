"""Metrics as functions of one contingency table of counts `n[g, y, ŷ]`.

    table = contingency_table(pred, target, group)     # int64 [..., G, 2, 2], exact
    accuracy(table)                                    # [...]      in [0, 1]
    underestimation_score(table)                       # [..., G]   1 is ideal, < 1 underestimates
    underestimation_index(table)                       # [...]      in [0, 1], 0 is ideal

Tables of batches, shards or processes add up to the table of the whole. Leading dimensions (labels, particles, swarms) are
handled at once.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def contingency_table(pred: Tensor, target: Tensor, group: Tensor, groups: int | None = None) -> Tensor:
    """Count predictions: int64 [..., G, 2, 2]; `table[..., g, y, ŷ]` samples of group g with truth y were predicted ŷ.

    Predictions `pred` and truths `target` are bool or 0/1 [..., N] and broadcast; `group` is integer [N] in 0..G-1, and G is
    `groups`, by default one more than the largest. Another value, or differing numbers of samples, raise ValueError.
    """
    n = group.shape[-1]
    if pred.shape[-1] != n or target.shape[-1] != n:
        raise ValueError(f"pred, target and group have {pred.shape[-1]}, {target.shape[-1]} and {n} samples")
    if group.is_floating_point() and (shares := group[group % 1 != 0]).numel():
        raise ValueError(f"group holds {float(shares[0]):g}: groups are whole numbers from 0 to G-1, not shares")
    groups = int(group.max()) + 1 if groups is None and n else (groups or 0)
    if n and (int(group.min()) < 0 or int(group.max()) >= groups):
        raise ValueError(f"group holds values from {int(group.min())} to {int(group.max())}, outside 0..{groups - 1}")
    for name, values in {"pred": pred, "target": target}.items():
        if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
            raise ValueError(f"{name} holds values other than 0 and 1: threshold it first")
    order, sizes = group.argsort(stable=True), torch.bincount(group.long(), minlength=groups).tolist()
    parts = (values.bool()[..., order].split(sizes, dim=-1) for values in (pred, target))
    return torch.stack([_table(*part) for part in zip(*parts, strict=True)], dim=-3)


def _table(pred: Tensor, target: Tensor) -> Tensor:
    """Table int64 [..., 2, 2] of the samples of one group, bool [..., N]."""
    predicted, true, both = torch.broadcast_tensors(pred.sum(-1), target.sum(-1), (pred & target).sum(-1))
    neither = pred.shape[-1] - predicted - true + both
    return torch.stack([neither, predicted - both, true - both, both], dim=-1).unflatten(-1, (2, 2))


def cells(target: Tensor, member: Tensor) -> Tensor:
    """Cell (g, y) of each sample, 0/1 float32 [..., N, G·2], of bool `target` [..., N] and 0/1 `member` [N, G]."""
    truth = torch.stack([~target, target], dim=-1)  # [..., N, 2]
    return (member.bool().unsqueeze(-1) & truth.unsqueeze(-2)).flatten(-2).float()


def accuracy(table: Tensor) -> Tensor:
    """Share of correct predictions, [...] in [0, 1]; NaN without samples."""
    table = table.double()
    return (table[..., 0, 0] + table[..., 1, 1]).sum(-1) / table.sum((-3, -2, -1))


def underestimation_score(table: Tensor) -> Tensor:
    """US(s) = P[ŷ=1 | S=s] / P[y=1 | S=s] per group: equation 1 of the paper.

    Float64 [..., G] in [0, ∞): 1 is ideal, below 1 the group's positives are underestimated, above 1 overestimated; NaN for
    a group without positives.
    """
    table = table.double()
    positives = table[..., 1, :].sum(-1)
    return table[..., 1].sum(-1) / positives.where(positives > 0, torch.nan)


def underestimation_index(table: Tensor) -> Tensor:
    """Hellinger distance between the joint distributions of (prediction, group) and (truth, group): equation 2.

    UEI = sqrt(1 − Σ_{y,s} sqrt(P[ŷ=y, S=s] · P[y=y, S=s])), computed as sqrt(½ Σ (√p̂ − √p)²): the same number, since both
    distributions sum to 1, and exactly 0 where they agree. Kamishima et al. (2012) introduced it.

    Float64 [...] in [0, 1], minimised: 0 is ideal; NaN without samples.
    """
    table = table.double()
    total = table.sum((-3, -2, -1)).unsqueeze(-1).unsqueeze(-1)
    predicted, true = table.sum(-2) / total, table.sum(-1) / total  # [..., G, 2] each
    return ((predicted.sqrt() - true.sqrt()).square().sum((-2, -1)) / 2).sqrt()


def chance_index(table: Tensor) -> Tensor:
    """Approximate UEI expected by chance at this number of errors, float64 [...] ≥ 0.

    It is the root mean square for a model whose errors are as likely false positives as false negatives: predicted and true
    positives of a group then differ by the square root of its errors, and UEI² follows to second order. A lower UEI cannot
    be distinguished from 0. Groups without positives or negatives add nothing.
    """
    table = table.double()
    each = (table[..., 0, 1] + table[..., 1, 0]) * (1 / table.sum(-1)).nan_to_num(posinf=0.0).sum(-1)  # errors [..., G]
    return (each.sum(-1) / (8 * table.sum((-3, -2, -1)))).sqrt()


def true_positive_rate(table: Tensor) -> Tensor:
    """P[ŷ=1 | y=1, S=s], [..., G] in [0, 1]; NaN for a group without positives."""
    return _share_of_positives(table[..., 1, :])


def false_positive_rate(table: Tensor) -> Tensor:
    """P[ŷ=1 | y=0, S=s], [..., G] in [0, 1]; NaN for a group without negatives."""
    return _share_of_positives(table[..., 0, :])


def lowest_rate(rates: Tensor) -> Tensor:
    """The lowest of the groups' rates [..., G] without those that are NaN: [...] in [0, 1], 1 if all are."""
    return rates.nan_to_num(nan=1.0).amin(-1)


def rate_gap(rates: Tensor) -> Tensor:
    """Difference between the highest and the lowest of such rates [..., G]: [...] in [0, 1], 0 if all are NaN."""
    return (rates.nan_to_num(nan=0.0).amax(-1) - lowest_rate(rates)).clamp(min=0)


def gap(rate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The measure of a rate's difference between its highest and its lowest group: [...] in [0, 1], NaN if one is."""
    return lambda table: (rates := rate(table)).amax(-1) - rates.amin(-1)


@dataclass(frozen=True)
class Measure:
    """A number by which methods are compared."""

    of: Callable[[Tensor], Tensor]  # contingency tables [..., G, 2, 2] to float64 [...]
    title: str  # on pages
    ideal: float  # value of a perfect model
    lower_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)  # intervals are clamped to these
    groups: int = 1  # groups needed
    people: int | None = None  # true label, 0 or 1, of those whose rate it is; None for everybody
    per_label: bool = False  # whether `labels.csv` has a column of it


# Every measure by its column. To add one, add a line.
MEASURES = {
    "uei": Measure(underestimation_index, "UEI", 0.0, per_label=True),
    "accuracy": Measure(accuracy, "accuracy", 1.0, lower_is_better=False, per_label=True),
    "tpr_gap": Measure(gap(true_positive_rate), "gap of TPR", 0.0, groups=2, people=1),
    "fpr_gap": Measure(gap(false_positive_rate), "gap of FPR", 0.0, groups=2, people=0),
}

# What is measured in each group: values are float64 [..., G].
OF_GROUPS = {
    "us": Measure(underestimation_score, "US", 1.0, lower_is_better=False, bounds=(0.0, float("inf")), people=1),
    "tpr": Measure(true_positive_rate, "TPR", 1.0, lower_is_better=False, people=1),
    "fpr": Measure(false_positive_rate, "FPR", 0.0, people=0),
}


def _share_of_positives(counts: Tensor) -> Tensor:
    total = counts.double().sum(-1)
    return counts[..., 1] / total.where(total > 0, torch.nan)
