"""What a difference is worth: intervals over test images and seeds, corrected for many labels, and what UEI does not see.

    outcomes = [outcome("base", 0, ...), outcome("multi-task", 0, ...), ...]
    evidence = weigh(outcomes, truth)
    evidence.methods                # one row a method, with 95 % intervals
    evidence.changes                # one row a method and label: what changed against the base model, and whether it counts
    evidence.differences            # one row a pair of methods

The test images are drawn anew with replacement, the same draws for every method: Efron's bootstrap (1979), paired. Where a
method was run with several seeds, these are drawn anew too.

What is estimated is what a test split of this size shows on average. A UEI near 0 comes out the higher the smaller the
split, and higher once more in a draw from it; so the draws are moved until their mean is the estimate. Left where they fall,
their percentiles would hardly ever cover a low UEI.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor
from torch.nn.functional import one_hot

from fairnb.features import Features
from fairnb.files import save_table, seeded
from fairnb.messages import some, unknown
from fairnb.metrics import (
    accuracy,
    cells,
    contingency_table,
    false_positive_rate,
    true_positive_rate,
    underestimation_index,
)
from fairnb.repository import hypervolume
from fairnb.scoring import score_heads
from fairnb.strategies import Search, answers, evaluate, uei_and_error

LEVEL = 0.95  # of the intervals
DRAWS = 4000
AT_ONCE = 500  # draws whose weights are held together


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method's model answers, trained or searched with one seed; L labels are judged.

    Attributes:
        method: its name.
        seed: of the base model and the search.
        test: bool [L, N], its predictions on test.
        scores: float32 [L, N], what they are thresholded from: higher is more positive.
        valid: int64 [L, G, 2, 2], its contingency tables on validation.
        area: the part of the rectangle below the base model that its front dominates, on validation and on test, mean over
            labels; see `area`.
        needs_group: whether it needs to know everybody's group to predict.
        evaluations: models scored a label.
        seconds: that it took.
    """

    method: str
    seed: int
    test: Tensor
    scores: Tensor
    valid: Tensor
    area: tuple[float, float] = (float("nan"), float("nan"))
    needs_group: bool = False
    evaluations: int = 0
    seconds: float = float("nan")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `weigh` finds; each a table.

    Attributes:
        methods: method, seeds, uei, uei_low, uei_high, accuracy, accuracy_low, accuracy_high, worsened, mended, labels,
            needs_group, evaluations, seconds, uei_valid, accuracy_valid, tpr_gap, fpr_gap, average_precision, area_valid,
            area_test. Means over labels and seeds, on test where nothing else is said.
        changes: method, label, uei_base, uei, change, low, high, p, p_holm, worsened, mended. Worst first.
        differences: method, against, uei, uei_low, uei_high, accuracy, accuracy_low, accuracy_high: `method` less `against`.
    """

    methods: pd.DataFrame
    changes: pd.DataFrame
    differences: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write methods.csv, changes.csv and differences.csv."""
        for name, table in vars(self).items():
            save_table(folder / f"{name}.csv", table.round(6))


def weigh(
    outcomes: Sequence[Outcome],
    truth: Features,
    names: Sequence[str],
    *,
    reference: str = "base",
    draws: int = DRAWS,
    seed: int = 0,
) -> Evidence:
    """Compare methods on the same test images.

    A label counts as worsened, or mended, where the interval of its change of UEI against the reference excludes 0 after
    Holm's correction over the labels.

    Args:
        outcomes: every method with the same seeds.
        truth: labels bool [N, L] and groups of the test images; `x` is not looked at.
        names: of the L labels.
        reference: the method that labels are compared with.
        draws: of the bootstrap.
        seed: of the draws.

    Raises:
        ValueError: if the methods have not the same seeds, the reference is missing, predictions are of other images, or
            there are too few draws for a label ever to count.
    """
    seeds = sorted({outcome.seed for outcome in outcomes})
    methods = list(dict.fromkeys(outcome.method for outcome in outcomes))
    by_place = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    _check(by_place, methods, seeds, reference, truth, names, draws)
    order = [[by_place[method, seed] for seed in seeds] for method in methods]  # [M][K]
    seen = torch.stack([torch.stack([_uei_and_accuracy(_tables(one.test, truth)) for one in row]) for row in order])
    drawn = _draw(order, truth, draws, seeded(seed, "bootstrap"))  # [B, M, 2, L], means over the seeds drawn
    mean = seen.mean(1)  # [M, 2, L]
    drawn = drawn - drawn.mean(0) + mean
    home = methods.index(reference)
    change, changed = mean[:, 0] - mean[home, 0], drawn[:, :, 0] - drawn[:, home, 0].unsqueeze(1)  # [M, L], [B, M, L]
    labels, counts = [], []
    for m, method in enumerate(methods):
        p = two_sided_p(changed[:, m])
        corrected = holm(p)
        counts_now = corrected <= 1 - LEVEL
        low, high = interval(changed[:, m])
        columns = {
            "method": method, "label": list(names), "uei_base": mean[home, 0], "uei": mean[m, 0], "change": change[m],
            "low": low, "high": high, "p": p, "p_holm": corrected,
            "worsened": counts_now & (change[m] > 0), "mended": counts_now & (change[m] < 0),
        }  # fmt: skip
        table = pd.DataFrame(
            {name: value.numpy() if isinstance(value, Tensor) else value for name, value in columns.items()}
        )
        counts.append((int(table.worsened.sum()), int(table.mended.sum())))
        if m != home:
            labels.append(table.sort_values("change", ascending=False, kind="stable"))
    rows = [_method_row(row, mean[m].mean(-1), drawn[:, m].mean(-1), counts[m], truth) for m, row in enumerate(order)]
    pairs = [
        (methods[m], methods[n], *_with_interval((mean[m] - mean[n]).mean(-1), (drawn[:, m] - drawn[:, n]).mean(-1)))
        for m, n in permutations(range(len(methods)), 2)
    ]
    columns_of_pairs = ["method", "against", "uei", "uei_low", "uei_high", "accuracy", "accuracy_low", "accuracy_high"]
    return Evidence(
        pd.DataFrame(rows),
        pd.concat(labels, ignore_index=True) if labels else pd.DataFrame(),
        pd.DataFrame(pairs, columns=columns_of_pairs),
    )


def outcome(
    method: str,
    seed: int,
    splits: dict[str, Features],
    heads: Tensor,
    searched: Tensor,
    *,
    search: Search | None = None,
    base: Outcome | None = None,
    tolerance: float = 0.05,
    seconds: float = float("nan"),
) -> Outcome:
    """What heads answer on the labels searched.

    Args:
        method: its name.
        seed: of the base model and the search.
        splits: features of 'valid' and 'test': what the first layer that was moved reads.
        heads: float32 [L, D + 1] or [G, L, D + 1], the method's.
        searched: bool [L], the labels that are judged.
        search: what found them, for its front and its cost; where it is None, the heads are a front of one.
        base: of the same seed, what the area is measured from; None where this is the base model.
        tolerance: accuracy that may be lost: a side of the rectangle of the area.
        seconds: that it took.
    """
    where, hidden = searched.nonzero().squeeze(1), search.hidden if search else None
    front = heads[..., where, :].movedim(-2, 0).flatten(1).unsqueeze(1)  # [S, 1, D + 1] or [S, 1, G·(D + 1)]
    if hidden is not None:
        splits = {name: replace(part, x=(part.x @ hidden[:, :-1].T + hidden[:, -1]).relu()) for name, part in splits.items()}
    elif search is not None:
        front = _front(search, len(where))
    valid, test = (replace(splits[name], labels=splits[name].labels[:, where]) for name in ("valid", "test"))
    own = heads[..., where, :]
    logits = own[..., :-1] @ test.x.T + own[..., -1:]
    if heads.dim() == 3:
        logits = logits.gather(0, test.group.expand(1, *logits.shape[1:]))[0]
    tables, predicted = evaluate(valid, own), answers(test, own)
    corners = tables if base is None else base.valid, _tables(predicted if base is None else base.test, test)
    beside = torch.tensor([0.0, tolerance], dtype=torch.float64)
    areas = [area(part, front, uei_and_error(c) + beside) for part, c in zip((valid, test), corners, strict=True)]
    return Outcome(
        method=method,
        seed=seed,
        test=predicted,
        scores=logits,
        valid=tables,
        area=(areas[0], areas[1]),
        needs_group=heads.dim() == 3,
        evaluations=search.fronts.evaluations if search else 0,
        seconds=seconds,
    )


def area(features: Features, front: Tensor, corner: Tensor) -> float:
    """Share of a rectangle from (0, 0) that fronts dominate in UEI and error, mean over labels.

    Args:
        features: of the split to judge on, with the S labels only.
        front: float32 [S, A, D + 1] heads, or [S, A, G·(D + 1)], one for each group in a row.
        corner: float64 [S, 2], the rectangle's far corner: the base model's UEI, its error and what may be lost.

    Returns:
        In [0, 1); NaN where every rectangle is empty.
    """
    reached = uei_and_error(score_heads(features, front))
    return float((hypervolume(reached, corner) / corner.prod(-1)).nanmean())


def _front(search: Search, labels: int) -> Tensor:
    """The candidates of each label, [S, A, …]; a label with fewer repeats one of them."""
    positions, mask = search.fronts.positions, search.fronts.mask
    if len(positions) != labels:  # one swarm for all labels
        positions = positions[0].unflatten(-1, (labels, -1)).transpose(0, 1)
        mask = mask.expand(labels, -1)
    places = torch.where(mask, torch.arange(mask.shape[1]), mask.int().argmax(1, keepdim=True))
    return positions.gather(1, places.unsqueeze(-1).expand(-1, -1, positions.shape[-1]))


# ---------------------------------------------------------------------------- the bootstrap


def interval(draws: Tensor, level: float = LEVEL) -> tuple[Tensor, Tensor]:
    """The middle `level` of draws [B, ...]: two tensors [...]."""
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=draws.dtype)
    low, high = draws.quantile(ends, dim=0)
    return low, high


def two_sided_p(draws: Tensor) -> Tensor:
    """Twice the share of draws [B, ...] on the rarer side of 0, the estimate itself counted as a draw: [...] in (0, 1]."""
    side = torch.minimum((draws <= 0).sum(0), (draws >= 0).sum(0))
    return (2 * (side + 1) / (len(draws) + 1)).double().clamp(max=1)


def holm(p: Tensor) -> Tensor:
    """Holm's step-down correction of p-values [L]: what is at most α is significant at the family-wise level α.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics, 1979.
    """
    ordered, place = p.sort()
    corrected = (ordered * torch.arange(len(p), 0, -1)).cummax(0).values.clamp(max=1)
    return torch.zeros_like(p).scatter(0, place, corrected)


def resampled(counts: Tensor, tables: Tensor) -> Tensor:
    """Tables [B, ...] of draws, from how often each image was drawn, float32 [B, N], and each image's own table [N, ...]."""
    return (counts @ tables.flatten(1).float()).unflatten(1, tables.shape[1:])


def draw_counts(images: int, draws: int, generator: torch.Generator) -> Tensor:
    """How often each of N images is drawn in N draws with replacement: float32 [B, N], exact up to 2^24 images."""
    drawn = torch.randint(images, (draws, images), generator=generator)
    return torch.zeros(draws, images).scatter_add_(1, drawn, torch.ones(()).expand(draws, images))


def _draw(order: list[list[Outcome]], truth: Features, draws: int, generator: torch.Generator) -> Tensor:
    """UEI and accuracy of each method in each draw of images and seeds: float64 [B, M, 2, L]."""
    cell = cells(truth.labels.T, one_hot(truth.group, truth.groups)).transpose(0, 1)  # [N, L, G·2]
    found = []
    for first in range(0, draws, AT_ONCE):
        counts = draw_counts(len(truth.group), min(AT_ONCE, draws - first), generator)
        seeds = torch.randint(len(order[0]), (len(counts), len(order[0])), generator=generator)  # [b, K]
        weight = one_hot(seeds, len(order[0])).double().mean(1)  # [b, K]
        total = resampled(counts, cell)  # [b, L, G·2]
        methods = []
        for row in order:
            mean = torch.zeros(len(counts), 2, len(cell[0]), dtype=torch.float64)
            for k, one in enumerate(row):
                positive = resampled(counts, cell * one.test.T.unsqueeze(-1))
                tables = torch.stack([total - positive, positive], dim=-1).unflatten(-2, (-1, 2))  # [b, L, G, y, ŷ]
                mean += weight[:, k].view(-1, 1, 1) * _uei_and_accuracy(tables)
            methods.append(mean)
        found.append(torch.stack(methods, dim=1))
    return torch.cat(found)


def _tables(predicted: Tensor, truth: Features) -> Tensor:
    return contingency_table(predicted, truth.labels.T, truth.group, truth.groups)


def _uei_and_accuracy(tables: Tensor) -> Tensor:
    """Float64 [..., 2, L] of tables [..., L, G, 2, 2]."""
    return torch.stack([underestimation_index(tables), accuracy(tables)], dim=-2)


def _with_interval(mean: Tensor, draws: Tensor) -> list[float]:
    """UEI, its interval, accuracy, its interval, of means [2] and draws [B, 2]."""
    low, high = interval(draws)
    return [float(value[i]) for i in (0, 1) for value in (mean, low, high)]


def _method_row(
    row: list[Outcome], mean: Tensor, draws: Tensor, changed: tuple[int, int], truth: Features
) -> dict[str, Any]:
    tables = torch.stack([_tables(one.test, truth) for one in row])  # [K, L, G, 2, 2]
    gaps = [rate.amax(-1) - rate.amin(-1) for rate in (true_positive_rate(tables), false_positive_rate(tables))]
    precision = [
        average_precision_score(truth.labels[:, j].numpy(), one.scores[j].numpy())
        for one in row
        for j in range(len(one.test))
    ]
    valid = torch.stack([_uei_and_accuracy(one.valid) for one in row]).mean((0, 2))
    names = ["uei", "uei_low", "uei_high", "accuracy", "accuracy_low", "accuracy_high"]
    held = [min(max(value, 0.0), 1.0) for value in _with_interval(mean, draws)]
    areas = torch.tensor([one.area for one in row], dtype=torch.float64).mean(0).tolist()
    return {
        "method": row[0].method, "seeds": len(row), **dict(zip(names, held, strict=True)),
        "worsened": changed[0], "mended": changed[1], "labels": len(tables[0]), "needs_group": row[0].needs_group,
        "evaluations": row[0].evaluations, "seconds": fmean(one.seconds for one in row),
        "uei_valid": float(valid[0]), "accuracy_valid": float(valid[1]),
        "tpr_gap": float(gaps[0].nanmean()), "fpr_gap": float(gaps[1].nanmean()),
        "average_precision": fmean(precision), "area_valid": areas[0], "area_test": areas[1],
    }  # fmt: skip


def _check(
    by_place: dict[tuple[str, int], Outcome], methods: list[str], seeds: list[int], reference: str, truth: Features,
    names: Sequence[str], draws: int,
) -> None:  # fmt: skip
    missing = [f"{method} of seed {seed}" for method in methods for seed in seeds if (method, seed) not in by_place]
    if missing:
        raise ValueError(f"every method needs the same seeds to be compared: there is no {some(missing)}")
    if reference not in methods:
        raise ValueError(unknown("method", reference, methods))
    wanted = (truth.labels.shape[1], len(truth.group))
    for (method, seed), one in by_place.items():
        if one.test.shape != wanted:
            raise ValueError(
                f"{method} of seed {seed} predicts {tuple(one.test.shape)} labels and images, the truth has {wanted}"
            )
    if len(names) != wanted[0]:
        raise ValueError(f"{len(names)} names for {wanted[0]} labels")
    if 2 * len(names) / (draws + 1) > 1 - LEVEL:
        raise ValueError(f"draws={draws} can show nothing of {len(names)} labels: take {int(40 * len(names)) + 1} or more")
