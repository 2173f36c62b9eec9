"""Paired bootstrap over people and seeds (Efron, 1979), and Holm's correction for many labels.

The test images are resampled with replacement, identically for every method; images of one person together, if people are
known. Resampling a few seeds would understate their spread; so seeds get random weights instead (see `seed_weights`).

The estimand is the average over test splits of this size. A UEI near 0 is biased upwards in a small split, and again in a
resample of it; so the draws are shifted until their mean is the estimate. Without the shift, their percentiles would rarely
cover a low UEI. Very near 0 an interval is too wide rather than too narrow, and a small change of such a label is rarely
found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fairnb.evidence.outcome import Outcome
from fairnb.features import Features
from fairnb.metrics import MEASURES

LEVEL = 0.95  # of the intervals
FEW = 8  # people: a rate of fewer is left out
AT_ONCE, MOST = 500, 2**27  # draws per batch, and their counts of images, limited by memory


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


def draw_counts(images: int, draws: int, generator: torch.Generator) -> Tensor:
    """Counts of N images in N draws with replacement: float32 [B, N], exact up to 2^24 images."""
    drawn = torch.randint(images, (draws, images), generator=generator)
    return torch.zeros(draws, images).scatter_add_(1, drawn, torch.ones(()).expand(draws, images))


def resamples(truth: Features, predicted: Sequence[Tensor], draws: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Contingency tables of draws of people, with all their images, the same for K predictions bool [L, N].

    They come in batches, float32 [b, K, L, G, 2, 2], whose integers are exact up to 2^24 images.
    """
    people, who = truth.people
    groups = [(truth.group == group).nonzero().squeeze(1) for group in range(truth.groups)]
    at_once = max(1, min(AT_ONCE, MOST // len(who)))
    for first in range(0, draws, at_once):
        counts = draw_counts(people, min(at_once, draws - first), generator)[:, who]  # [b, N]
        tables = [_tables(counts[:, rows], truth.labels[rows].T, [one[:, rows] for one in predicted]) for rows in groups]
        yield torch.stack(tables, dim=-3)


def _tables(counts: Tensor, true: Tensor, predicted: list[Tensor]) -> Tensor:
    """Tables [b, K, L, 2, 2] of the images of one group, from their counts in each draw, float32 [b, n]."""

    def total(of: Tensor) -> Tensor:
        return counts @ of.T.float()

    positives = total(true).unsqueeze(1)  # [b, 1, L]
    positive, both = (torch.stack(list(map(total, of)), dim=1) for of in (predicted, [one & true for one in predicted]))
    neither = counts.sum(1).view(-1, 1, 1) - positives - positive + both
    return torch.stack([neither, positive - both, positives - both, both], dim=-1).unflatten(-1, (2, 2))


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
    few = too_few(people_by_cell(truth))
    each = torch.stack([torch.stack([measures(truth.tables(one.test)) for one in row]) for row in order], dim=1)
    each = each.masked_fill(few, torch.nan)  # [K, M, Q, L]
    found, own = list[Tensor](), torch.zeros(0)
    for tables in resamples(truth, [one.test for row in order for one in row], draws, generator):
        seen = measures(tables).unflatten(1, (len(order), -1)).transpose(1, 2)  # [b, K, M, Q, L]
        changed = (seen - each).nan_to_num().masked_fill(few, torch.nan)  # no people, no change
        own = changed - changed.mean(0) if not found else own
        found.append(changed.mean(1))
    changed = torch.cat(found)
    return Draws(each, changed - changed.mean(0), own, seed_weights(len(each), draws, generator))


def people_by_cell(truth: Features) -> Tensor:
    """People with an image of each group and truth: int64 [L, G, 2], negatives then positives."""
    if truth.person is None:
        return truth.tables(truth.labels.T).sum(-1)
    people, who = truth.people
    counts = torch.zeros(truth.labels.shape[1], truth.groups, 2, dtype=torch.int64)
    for group in range(truth.groups):
        rows = truth.group == group
        for value in (0, 1):
            images = (truth.labels[rows] == bool(value)).float()
            counts[:, group, value] = (torch.zeros(people, len(counts)).index_add(0, who[rows], images) > 0).sum(0)
    return counts


def too_few(people: Tensor) -> Tensor:
    """Whether a measure of a label is a rate of fewer than `FEW` people of a group, see `people_by_cell`: bool [M, L]."""
    few = (people < FEW).any(1)  # [L, 2]
    return torch.stack([few[:, 0] & False if one.people is None else few[:, one.people] for one in MEASURES.values()])


def measures(tables: Tensor) -> Tensor:
    """`MEASURES` of tables [..., L, G, 2, 2]: float64 [..., M, L]; a gap is NaN if a group has no such people."""
    return torch.stack([measure.of(tables) for measure in MEASURES.values()], dim=-2)
