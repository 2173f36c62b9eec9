"""Paired bootstrap over people and seeds (Efron, 1979), and Holm's correction for many labels.

The test images are resampled with replacement, identically for every method; images of one person together, if people are
known. Resampling a few seeds would understate their spread; so seeds get random weights instead (see `seed_weights`).

The estimand is the average over test splits of this size. A UEI near 0 is biased upwards in a small split, and again in a
resample of it; so the draws are shifted until their mean is the estimate. Without the shift, their percentiles would rarely
cover a low UEI. Very near 0 an interval is too wide rather than too narrow, and a small change of such a label is rarely
found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairnb.evidence.outcome import Outcome
from fairnb.features import Features
from fairnb.metrics import MEASURES, cells

LEVEL = 0.95  # of the intervals
FEW = 8  # people: a rate of fewer is left out
AT_ONCE = 500  # draws per batch, limited by memory


def interval(draws: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """The middle `level` of draws [B, ...]: two tensors [...]."""
    low, high = draws.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype), dim=0)
    return low, high


def two_sided_p(draws: Tensor) -> Tensor:
    """Twice the share of draws [B, ...] on the rarer side of 0, with the estimate counted as a draw: [...] in (0, 1]."""
    side = torch.minimum((draws <= 0).sum(0), (draws >= 0).sum(0))
    return (2 * (side + 1) / (len(draws) + 1)).double().clamp(max=1)


def holm(p: Tensor) -> Tensor:
    """Holm's step-down correction (1979) of p-values [L]: at most α is significant at the family-wise level α."""
    ordered, place = p.sort()
    corrected = (ordered * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return torch.zeros_like(p).scatter(0, place, corrected)


def resampled(counts: Tensor, tables: Tensor) -> Tensor:
    """Tables [B, ...] of draws, from the counts of each image, float32 [B, N], and each image's own table [N, ...]."""
    return (counts @ tables.flatten(1).float()).unflatten(1, tables.shape[1:])


def draw_counts(images: int, draws: int, generator: torch.Generator) -> Tensor:
    """Counts of N images in N draws with replacement: float32 [B, N], exact up to 2^24 images."""
    drawn = torch.randint(images, (draws, images), generator=generator)
    return torch.zeros(draws, images).scatter_add_(1, drawn, torch.ones(()).expand(draws, images))


def seed_weights(seeds: int, draws: int, generator: torch.Generator) -> Tensor:
    """Random weights of K seeds, float64 [B, K], with which a mean spreads like Student's t of K − 1 degrees of freedom."""
    if seeds == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    normal = torch.randn(draws, seeds, generator=generator, dtype=torch.float64)
    chi2 = torch.randn(draws, seeds - 1, generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
    return 1 / seeds + (normal - normal.mean(1, keepdim=True)) / (seeds * chi2).sqrt()


@dataclass(frozen=True, eq=False)
class Draws:
    """The Q `MEASURES` of M methods, and their changes over draws of people and seeds; all float64."""

    each: Tensor  # [K, M, Q, L], of each seed and method on the whole split
    people: Tensor  # [B, M, Q, L], change of the mean over seeds in each draw of people; 0 on average
    own: Tensor  # [b, K, M, Q, L], change of each seed in some of the draws
    seeds: Tensor  # [B, K], weights of the seeds in each draw

    def map(self, part: Callable[[Tensor], Tensor]) -> Draws:
        """The draws of a linear function of the measures."""
        return Draws(part(self.each), part(self.people), part(self.own), self.seeds)

    def of(self, method: int, less: int | None = None) -> tuple[Tensor, Tensor]:
        """Estimate [Q] and draws [B, Q] of one method, or of its difference from another; the measures are [..., M, Q].

        Seeds differ because the models differ, and because each model has its own sampling noise on these images. The draws
        of seeds include both, so the draws of people are shrunk to the noise common to all seeds.
        """

        def part(values: Tensor) -> Tensor:
            return values[..., method, :] - (0 if less is None else values[..., less, :])

        each, own, people = part(self.each), part(self.own), part(self.people)  # [K, Q], [b, K, Q], [B, Q]
        estimate, seeds = each.mean(0), len(each)
        noise = (own - own.mean(1, keepdim=True)).square().sum(1).mean(0) / max(seeds - 1, 1)  # of one seed's own
        common = (1 - noise / seeds / people.square().mean(0)).nan_to_num(nan=0.0, neginf=0.0).clamp(min=0)
        return estimate, estimate + people * common.sqrt() + self.seeds @ (each - estimate)


def draw(order: list[list[Outcome]], truth: Features, draws: int, generator: torch.Generator) -> Draws:
    """Resample people, with all their images, and weight seeds."""
    few = _few(truth)
    each = torch.stack([torch.stack([_measures(truth.tables(one.test)) for one in row]) for row in order], dim=1)
    each = each.masked_fill(few, torch.nan)  # [K, M, Q, L]
    cell = cells(truth.labels.T, one_hot(truth.group, truth.groups)).transpose(0, 1)  # [N, L, G·2]
    people, who = truth.people
    found, own = [], torch.zeros(0)
    for first in range(0, draws, AT_ONCE):
        counts = draw_counts(people, min(AT_ONCE, draws - first), generator)[:, who]  # [b, N]
        everybody = resampled(counts, cell)  # [b, L, G·2]
        seen = []  # [b, K, Q, L] of each method
        for row in order:
            positive = [resampled(counts, cell * one.test.T.unsqueeze(-1)) for one in row]
            tables = [torch.stack([everybody - yes, yes], dim=-1).unflatten(-2, (-1, 2)) for yes in positive]
            seen.append(torch.stack(list(map(_measures, tables)), dim=1))
        changed = (torch.stack(seen, dim=2) - each).nan_to_num().masked_fill(few, torch.nan)  # no people, no change
        found.append(changed.mean(1))
        own = own if first else changed - changed.mean(0)
    changed = torch.cat(found)
    return Draws(each, changed - changed.mean(0), own, seed_weights(len(each), draws, generator))


def _few(truth: Features) -> Tensor:
    """Whether a measure of a label is a rate of fewer than `FEW` people of a group: bool [M, L], M measures."""
    cell = cells(truth.labels.T, one_hot(truth.group, truth.groups))  # [L, N, G·2]
    people, who = truth.people
    counts = (torch.zeros(len(cell), people, cell.shape[-1]).index_add(1, who, cell) > 0).sum(1)
    few = (counts.unflatten(-1, (-1, 2)) < FEW).any(1)  # [L, 2]: negatives, positives
    return torch.stack([few[:, 0] & False if one.people is None else few[:, one.people] for one in MEASURES.values()])


def _measures(tables: Tensor) -> Tensor:
    """`MEASURES` of tables [..., L, G, 2, 2]: float64 [..., M, L]; a gap is NaN if a group has no such people."""
    return torch.stack([measure.of(tables) for measure in MEASURES.values()], dim=-2)
