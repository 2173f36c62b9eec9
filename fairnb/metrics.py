"""Everything that is measured is a small function of one contingency table of counts `n[g, y, ŷ]`.

    table = contingency_table(pred, target, group)     # int64 [..., G, 2, 2], exact
    accuracy(table)                                    # [...]      in [0, 1]
    underestimation_score(table)                       # [..., G]   1 is ideal, < 1 underestimates
    underestimation_index(table)                       # [...]      in [0, 1], 0 is ideal

Tables add up: over batches, shards and processes, the sum of the tables is the table of the whole. Any leading
dimensions (labels, particles, swarms) go through every function at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

# float32 holds every integer up to 2^24: summing in blocks of this many samples keeps a float product of counts exact.
EXACT = 2**24


def contingency_table(pred: Tensor, target: Tensor, group: Tensor, groups: int | None = None) -> Tensor:
    """Count predictions by group and truth.

    Args:
        pred: bool (or 0/1) [..., N], the predictions ŷ; samples are the last dimension.
        target: bool (or 0/1) [..., N], the truth y; broadcasts against `pred`.
        group: integer [N] in 0..G-1, the sensitive attribute s.
        groups: G; by default one more than the largest value in `group`.

    Returns:
        int64 [..., G, 2, 2]: `table[..., g, y, ŷ]` samples of group g with truth y were predicted ŷ.

    Raises:
        ValueError: if the numbers of samples differ, a value is neither 0 nor 1, or a group is outside 0..G-1.
    """
    n = group.shape[-1]
    if pred.shape[-1] != n or target.shape[-1] != n:
        raise ValueError(f"pred, target and group have {pred.shape[-1]}, {target.shape[-1]} and {n} samples")
    groups = int(group.max()) + 1 if groups is None and n else (groups or 0)
    if n and (int(group.min()) < 0 or int(group.max()) >= groups):
        raise ValueError(f"group holds values from {int(group.min())} to {int(group.max())}, outside 0..{groups - 1}")
    for name, values in (("pred", pred), ("target", target)):
        if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
            raise ValueError(f"{name} holds values other than 0 and 1: threshold it first")
    member = torch.nn.functional.one_hot(group.long(), groups)  # [N, G]
    return count_cells(pred.bool().unsqueeze(-2), cells(target.bool(), member)).squeeze(-4)


def cells(target: Tensor, member: Tensor) -> Tensor:
    """Which cell (g, y) of the table each sample falls into: float32 [..., N, G·2], for `count_cells`.

    It does not depend on the predictions, so a search computes it once.

    Args:
        target: bool [..., N].
        member: 0/1 [N, G], group membership.
    """
    truth = torch.stack([~target, target], dim=-1)  # [..., N, 2]
    return (member.bool().unsqueeze(-1) & truth.unsqueeze(-2)).flatten(-2).float()


def count_cells(pred: Tensor, cell: Tensor) -> Tensor:
    """Contingency tables of P predictions of the same samples: int64 [..., P, G, 2, 2].

    The count is one matrix product of zeros and ones, exact because it is summed in blocks that float32 can hold.

    Args:
        pred: bool [..., P, N].
        cell: float32 [..., N, G·2], from `cells`.
    """
    positives = torch.zeros((), dtype=torch.int64, device=pred.device)
    totals = torch.zeros((), dtype=torch.int64, device=pred.device)
    for start in range(0, max(1, pred.shape[-1]), EXACT):
        block = cell[..., start : start + EXACT, :]
        positives = positives + (pred[..., start : start + EXACT].float() @ block).long()  # [..., P, G·2]
        totals = totals + block.sum(dim=-2).long()  # [..., G·2]
    totals = totals.unsqueeze(-2).expand_as(positives)  # every prediction is of the same samples
    return torch.stack([totals - positives, positives], dim=-1).unflatten(-2, (-1, 2))


def accuracy(table: Tensor) -> Tensor:
    """Share of samples predicted right, [...] in [0, 1]; NaN where there are no samples."""
    table = table.double()
    return (table[..., 0, 0] + table[..., 1, 1]).sum(-1) / table.sum((-3, -2, -1))


def underestimation_score(table: Tensor) -> Tensor:
    """US(s) = P[ŷ=1 | S=s] / P[y=1 | S=s] per group: equation 1 of the paper.

    Returns:
        [..., G] in [0, ∞): 1 is ideal, below 1 the group's positives are underestimated, above 1 overestimated; NaN where
        the group has no positives.
    """
    table = table.double()
    return table[..., :, :, 1].sum(-1) / _positive_or_nan(table[..., :, 1, :].sum(-1))


def underestimation_index(table: Tensor) -> Tensor:
    """Hellinger distance between the joint distributions of (prediction, group) and (truth, group): equation 2.

    UEI = sqrt(1 − Σ_{y,s} sqrt(P[ŷ=y, S=s] · P[y=y, S=s])), computed as sqrt(½ Σ (√p̂ − √p)²): the same number, since
    both distributions sum to 1, and exactly 0 where they agree. Kamishima et al. (2012) introduced it.

    Returns:
        [...] in [0, 1]: 0 is ideal, to be minimised; NaN where there are no samples.
    """
    table = table.double()
    total = table.sum((-3, -2, -1)).unsqueeze(-1).unsqueeze(-1)
    predicted, true = table.sum(-2) / total, table.sum(-1) / total  # [..., G, 2] each
    return ((predicted.sqrt() - true.sqrt()).square().sum((-2, -1)) / 2).sqrt()


def chance_index(table: Tensor) -> Tensor:
    """UEI that chance alone shows, about, for as many errors: the root mean square where positives match in the long run.

    Of a group's errors each is as likely a false positive as a false negative, so predicted and true positives differ by the
    square root of their number; UEI² follows to second order. It falls with the square root of the number of samples, and no
    model with these errors can be told from one with a UEI of 0 below it.

    Returns:
        [...] ≥ 0; groups without positives or negatives add nothing.
    """
    table = table.double()
    errors = table[..., 0, 1] + table[..., 1, 0]  # [..., G]
    each = errors * (1 / table.sum(-1)).nan_to_num(posinf=0.0).sum(-1)
    return (each.sum(-1) / (8 * table.sum((-3, -2, -1)))).sqrt()


def true_positive_rate(table: Tensor) -> Tensor:
    """P[ŷ=1 | y=1, S=s], [..., G] in [0, 1]; NaN for a group without positives."""
    table = table.double()
    return table[..., 1, 1] / _positive_or_nan(table[..., 1, :].sum(-1))


def false_positive_rate(table: Tensor) -> Tensor:
    """P[ŷ=1 | y=0, S=s], [..., G] in [0, 1]; NaN for a group without negatives."""
    table = table.double()
    return table[..., 0, 1] / _positive_or_nan(table[..., 0, :].sum(-1))


def gap(rate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The measure that takes a rate's difference between the highest and the lowest group: [...] in [0, 1]."""

    def difference(table: Tensor) -> Tensor:
        rates = rate(table)
        return rates.amax(-1) - rates.amin(-1)

    return difference


@dataclass(frozen=True)
class Measure:
    """A number that methods are compared by.

    Attributes:
        of: contingency tables [..., G, 2, 2] to the measure, float64 [...].
        title: its name on pages.
        ideal: the value of a perfect model.
        lower_is_better: the direction in which it improves.
        bounds: lowest and highest value, to which intervals are clamped.
        groups: number of groups it needs.
        people: the true label, 0 or 1, of the people whose rate it is; None where it is of everybody.
        per_label: whether `labels.csv` has a column of it.
    """

    of: Callable[[Tensor], Tensor]
    title: str
    ideal: float
    lower_is_better: bool = True
    bounds: tuple[float, float] = (0.0, 1.0)
    groups: int = 1
    people: int | None = None
    per_label: bool = False


# Every measure by the name of its column. To add one, add a line.
MEASURES = {
    "uei": Measure(underestimation_index, "UEI", 0.0, per_label=True),
    "accuracy": Measure(accuracy, "accuracy", 1.0, lower_is_better=False, per_label=True),
    "tpr_gap": Measure(gap(true_positive_rate), "gap of TPR", 0.0, groups=2, people=1),
    "fpr_gap": Measure(gap(false_positive_rate), "gap of FPR", 0.0, groups=2, people=0),
}


def _positive_or_nan(count: Tensor) -> Tensor:
    return count.where(count > 0, torch.nan)
