"""One threshold per label, or per label and group, on the base model's logits; every threshold is tried."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairnb.features import Features
from fairnb.heads import uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, picked_from
from fairnb.methods.problem import Problem
from fairnb.metrics import cells
from fairnb.swarm.repository import non_dominated


def label_thresholds(problem: Problem) -> Search:
    """Move each label's threshold only, to every place between the logits of two validation images."""
    positions, values = [], []
    for head, label in zip(problem.start, problem.where.tolist(), strict=True):
        bias, tables = _thresholds(head, problem.valid, label)
        keep = non_dominated(f := uei_and_error(tables))
        positions.append(torch.cat([head[:-1].expand(int(keep.sum()), -1), bias[keep].unsqueeze(1)], dim=1))
        values.append(f[keep])
    return picked_from(problem, positions, values, len(problem.valid.x) + 1)


def group_thresholds(problem: Problem) -> Search:
    """Move each label's threshold per group: after Hardt, Price and Srebro (2016), with UEI in place of rates.

    Every combination of thresholds counts: UEI² and the error are sums over the groups, so the front of the whole lies among
    combinations of points on the groups' own fronts. Predictions need every image's group.
    """
    valid, positions, values = problem.valid, [], []
    for head, label in zip(problem.start, problem.where.tolist(), strict=True):
        sums = torch.zeros(1, 2, dtype=torch.float64, device=head.device)  # UEI² and error of the groups so far
        biases = head.new_zeros(1, 0)
        for group in range(valid.groups):
            bias, tables = _thresholds(head, valid.rows(valid.group == group), label)
            share = tables[:, group].double() / len(valid.x)  # [K, y, ŷ]
            gaps = (share.sum(-2).sqrt() - share.sum(-1).sqrt()).square().sum(-1) / 2
            parts = torch.stack([gaps, share[:, 0, 1] + share[:, 1, 0]], dim=-1)  # the group's part of UEI² and of the error
            keep = non_dominated(parts)
            first, second = biases.repeat_interleave(int(keep.sum()), dim=0), bias[keep].repeat(len(biases)).unsqueeze(1)
            keep = non_dominated(pairs := (sums.unsqueeze(1) + parts[keep]).flatten(0, 1))
            sums, biases = pairs[keep], torch.cat([first, second], dim=1)[keep]
        weights = head[:-1].expand(*biases.shape, -1)  # [K, G, D]
        positions.append(torch.cat([weights, biases.unsqueeze(-1)], dim=-1).flatten(1))
        values.append(torch.stack([sums[:, 0].clamp(min=0).sqrt(), sums[:, 1]], dim=1))
    return picked_from(problem, positions, values, len(valid.x) + valid.groups)


def _thresholds(head: Tensor, part: Features, label: int) -> tuple[Tensor, Tensor]:
    """All distinguishable biases of a head [D + 1]: biases [K], and contingency tables [K, G, 2, 2]."""
    raw, order = (part.x @ head[:-1]).sort(descending=True)
    cell = cells(part.labels[order, label], one_hot(part.group[order], part.groups)).long()  # [N, G·2]
    positives = torch.cat([torch.zeros_like(cell[:1]), cell.cumsum(0)])  # of the first k, k = 0 … N
    ends = torch.cat([raw[:1] + 1, raw, raw[-1:] - 1])
    apart, threshold = ends[:-1] != ends[1:], (ends[:-1] + ends[1:]) / 2
    counts = torch.stack([positives[-1] - positives, positives], dim=-1).unflatten(1, (-1, 2))  # [N + 1, G, y, ŷ]
    return -threshold[apart], counts[apart]


BY_LABEL = Method(
    "label thresholds", lambda problem, _: label_thresholds(problem),
    takes=frozenset(), group="unused", colour="#de8f05", marker="v",
)  # fmt: skip
BY_GROUP = Method(
    "group thresholds", lambda problem, _: group_thresholds(problem),
    takes=frozenset(), group="given", colour="#cc78bc", marker="^", reference="hardt2016",
)  # fmt: skip
