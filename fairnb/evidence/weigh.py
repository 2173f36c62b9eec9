"""What a difference is worth: intervals over test people and seeds, corrected for many labels, and what UEI does not see.

    outcomes = [outcome("base", 0, ...), outcome("multi-task", 0, ...), ...]
    evidence = weigh(outcomes, truth)
    evidence.methods                # one row a method, with 95 % intervals
    evidence.changes                # one row a method and label: what changed against the base model, and whether it counts
    evidence.differences            # one row a pair of methods

The test images are drawn anew with replacement, the same draws for every method: Efron's bootstrap (1979), paired. Images of
one person are drawn together, where it is known who they show. A few seeds drawn anew would differ too little, and a few is
what there is; so they get random weights instead, by which a mean over seeds spreads like Student's t (see `seed_weights`).

What is estimated is what a test split of this size shows on average. A UEI near 0 comes out the higher the smaller the
split, and higher once more in a draw from it; so the draws are moved until their mean is the estimate. Left where they fall,
their percentiles would hardly ever cover a low UEI. Very near 0 an interval is too wide rather than too narrow, and a small
change of such a label is seldom found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairnb.features import Features
from fairnb.heads import Scorer, score_heads
from fairnb.methods.strategies import Search, answers, evaluate, uei_and_error
from fairnb.metrics import (
    MEASURES,
    cells,
    contingency_table,
    underestimation_index,
)
from fairnb.run.files import save_table
from fairnb.run.keys import seeded
from fairnb.run.messages import some, unknown
from fairnb.swarm.repository import hypervolume

LEVEL = 0.95  # of the intervals
DRAWS = 20_000  # Student's t with few degrees of freedom has far tails, and Holm's correction looks there
FEW = 8  # a rate of fewer people is no rate
DIGITS = 6  # of the tables that are written
AT_ONCE = 500  # draws whose weights are held together


class Aim(NamedTuple):
    """What a method was to reach on test: at most this mean UEI, at least this mean accuracy, and a rise of any label's UEI
    that is excluded above this."""

    uei: float
    accuracy: float
    rise: float


AIM = Aim(0.019, 0.856, 0.02)  # of the calibrated search on the photographs of `results/`


@dataclass(frozen=True, eq=False)
class Outcome:
    """What one method's model answers, trained or searched with one seed; L labels are judged.

    Attributes:
        method: its name.
        seed: of the base model and the search.
        test: bool [L, N], its predictions on test.
        scores: float32 [L, N], what they are thresholded from: higher is more positive; None where no score decides.
        valid: int64 [L, G, 2, 2], its contingency tables on validation.
        promised: mean UEI on the images that the pick was made on: all of validation, or those held out for it.
        area: the part of the rectangle below the base model that its front dominates, on validation and on test, mean over
            labels; see `area`.
        needs_group: whether it needs to know everybody's group to predict.
        evaluations: models scored a label.
        seconds: that it took.
    """

    method: str
    seed: int
    test: Tensor
    scores: Tensor | None
    valid: Tensor
    promised: float = float("nan")
    area: tuple[float, float] = (float("nan"), float("nan"))
    needs_group: bool = False
    evaluations: int = 0
    seconds: float = float("nan")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What `weigh` finds; each a table.

    Attributes:
        methods: method, seeds, units, each of `MEASURES` with its `_low` and `_high`, worsened, mended, highest_rise,
            labels, needs_group, evaluations, seconds, uei_pick, uei_valid, accuracy_valid, average_precision, area_valid,
            area_test. Means over labels and seeds, on test where nothing else is said; `units` says how many people or
            images were drawn from. A gap is a mean over the labels whose rates are of `FEW` people or more in each group.
            `highest_rise` is the largest upper end of any label's change of UEI: what a count of worsened labels, which
            few people and seeds keep low, may overlook.
        changes: method, label, uei_base, uei, change, low, high, p, p_holm, worsened, mended. Worst first. The interval
            is a single label's, p_holm is corrected for all of them.
        differences: method, against, each of `MEASURES` with its `_low` and `_high`: `method` less `against`.
    """

    methods: pd.DataFrame
    changes: pd.DataFrame
    differences: pd.DataFrame

    def save(self, folder: Path) -> None:
        """Write methods.csv, changes.csv and differences.csv."""
        for name, table in vars(self).items():
            save_table(folder / f"{name}.csv", table.round(DIGITS))


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

    Where `truth` knows who is shown, people are drawn, else images. A label counts as worsened, or mended, where the
    interval of its change of UEI against the reference excludes 0 after Holm's correction over the labels.

    Args:
        outcomes: every method with the same seeds.
        truth: labels bool [N, L], groups and people of the test images; `x` is not looked at.
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
    drawn = _draw(order, truth, draws, seeded(seed, "bootstrap"))
    uei = list(MEASURES).index("uei")
    of_labels = drawn.map(lambda measured: measured[..., uei, :])  # [..., M, L]
    means = drawn.map(lambda measured: measured.nanmean(-1))  # over labels, [..., M, 4]
    home = methods.index(reference)
    mean = of_labels.each.mean(0)  # [M, L]
    labels, counts = [], []
    for m, method in enumerate(methods):
        change, changed = of_labels.of(m, less=home)
        p = two_sided_p(changed)
        corrected = holm(p)
        counts_now = corrected <= 1 - LEVEL
        low, high = interval(changed)
        columns = {
            "method": method, "label": list(names), "uei_base": mean[home], "uei": mean[m], "change": change,
            "low": low, "high": high, "p": p, "p_holm": corrected,
            "worsened": counts_now & (change > 0), "mended": counts_now & (change < 0),
        }  # fmt: skip
        table = pd.DataFrame(
            {name: value.numpy() if isinstance(value, Tensor) else value for name, value in columns.items()}
        )
        rise = float(table.high.max()) if m != home else float("nan")
        counts.append({"worsened": int(table.worsened.sum()), "mended": int(table.mended.sum()), "highest_rise": rise})
        if m != home:
            labels.append(table.sort_values("change", ascending=False, kind="stable"))
    rows = [_method_row(row, _with_interval(*means.of(m)), counts[m], truth) for m, row in enumerate(order)]
    pairs = [
        {"method": methods[m], "against": methods[n], **_with_interval(*means.of(m, less=n))}
        for m, n in permutations(range(len(methods)), 2)
    ]
    return Evidence(
        pd.DataFrame(rows),
        pd.concat(labels, ignore_index=True) if labels else pd.DataFrame(),
        pd.DataFrame(pairs),
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
    own = heads[..., where, :]
    front, layers = own.movedim(-2, 0).flatten(1).unsqueeze(1), None  # [S, 1, D + 1] or [S, 1, G·(D + 1)]
    if search is not None:
        front, layers = _front(search, own)
    valid, test = (replace(splits[name], labels=splits[name].labels[:, where]) for name in ("valid", "test"))
    judged = valid, test  # by the front, each of whose candidates has a hidden layer of its own where that moves
    if hidden is not None:
        valid, test = (replace(part, x=(part.x @ hidden[:, :-1].T + hidden[:, -1]).relu()) for part in judged)
    logits = own[..., :-1] @ test.x.T + own[..., -1:]
    if heads.dim() == 3:
        logits = logits.gather(0, test.group.expand(1, *logits.shape[1:]))[0]
    tables, predicted = evaluate(valid, own), answers(test, own)
    corners = tables if base is None else base.valid, _tables(predicted if base is None else base.test, test)
    beside = torch.tensor([0.0, tolerance], dtype=torch.float64)
    areas = [area(part, front, uei_and_error(c) + beside, layers) for part, c in zip(judged, corners, strict=True)]
    if search is None:
        promised = float(underestimation_index(tables).mean())
    else:
        promised = fmean(float(uei[place]) for uei, place in zip(search.uei, search.picked, strict=True))
    return Outcome(
        method=method,
        seed=seed,
        test=predicted,
        scores=logits,
        valid=tables,
        promised=promised,
        area=(areas[0], areas[1]),
        needs_group=heads.dim() == 3,
        evaluations=search.fronts.evaluations if search else 0,
        seconds=seconds,
    )


def area(features: Features, front: Tensor, corner: Tensor, layers: Tensor | None = None) -> float:
    """Share of a rectangle from (0, 0) that fronts dominate in UEI and error, mean over labels.

    Args:
        features: of the split to judge on, with the S labels only.
        front: float32 [S, A, D + 1] heads, or [S, A, G·(D + 1)], one for each group in a row.
        corner: float64 [S, 2], the rectangle's far corner: the base model's UEI, its error and what may be lost.
        layers: float32 [A, D, F + 1], the layer before of each candidate, where it was searched too.

    Returns:
        In [0, 1); NaN where every rectangle is empty.
    """
    reached = uei_and_error(score_heads(features, front) if layers is None else Scorer(features)(front, layers))
    return float((hypervolume(reached, corner) / corner.prod(-1)).nanmean())


def _front(search: Search, own: Tensor) -> tuple[Tensor, Tensor | None]:
    """The candidates of each label, [S, A, …], those with fewer repeating one; and their hidden layers [A, D, F + 1].

    Args:
        search: one swarm a label, or one for all of them.
        own: [..., S, D + 1], the heads that were picked.
    """
    positions, mask = search.fronts.positions, search.fronts.mask
    places = torch.where(mask, torch.arange(mask.shape[1], device=mask.device), mask.int().argmax(1, keepdim=True))
    positions = positions.gather(1, places.unsqueeze(-1).expand(-1, -1, positions.shape[-1]))
    if len(positions) == own.shape[-2] and search.hidden is None:
        return positions, None
    heads = positions[0, :, : own.numel()].unflatten(-1, own.shape).transpose(0, 1)  # one swarm for all labels
    hidden = None if search.hidden is None else positions[0, :, own.numel() :].unflatten(-1, search.hidden.shape)
    return heads, hidden


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


def seed_weights(seeds: int, draws: int, generator: torch.Generator) -> Tensor:
    """Weights of K seeds in each draw, float64 [B, K], which sum to 1.

    A mean with these weights, of values that differ from seed to seed, lies around their plain mean as Student's t with
    K − 1 degrees of freedom says.
    """
    if seeds == 1:
        return torch.ones(draws, 1, dtype=torch.float64)
    normal = torch.randn(draws, seeds, generator=generator, dtype=torch.float64)
    chi2 = torch.randn(draws, seeds - 1, generator=generator, dtype=torch.float64).square().sum(1, keepdim=True)
    return 1 / seeds + (normal - normal.mean(1, keepdim=True)) / (seeds * chi2).sqrt()


@dataclass(frozen=True, eq=False)
class _Draws:
    """What draws of people and of seeds do to `MEASURES`.

    Attributes:
        each: float64 [K, M, 4, L], of each seed and method on the whole split.
        people: float64 [B, M, 4, L], what each draw of people changes in the mean over seeds; 0 on average.
        own: float64 [b, K, M, 4, L], what some of the draws change in each seed.
        seeds: float64 [B, K], weights of the seeds in each draw.
    """

    each: Tensor
    people: Tensor
    own: Tensor
    seeds: Tensor

    def map(self, part: Callable[[Tensor], Tensor]) -> _Draws:
        """The same of a linear function of the measures."""
        return _Draws(part(self.each), part(self.people), part(self.own), self.seeds)

    def of(self, method: int, less: int | None = None) -> tuple[Tensor, Tensor]:
        """Estimate [Q] and draws [B, Q] of one method, or of its difference from another; the measures are [..., M, Q].

        Seeds differ for two reasons: the models do, and each model has noise of its own on the images at hand. The draws of
        seeds show both, so the draws of people are shrunk to the noise that all seeds have in common.
        """

        def part(values: Tensor) -> Tensor:
            return values[..., method, :] - (0 if less is None else values[..., less, :])

        each, own, people = part(self.each), part(self.own), part(self.people)  # [K, Q], [b, K, Q], [B, Q]
        estimate, seeds = each.mean(0), len(each)
        noise = (own - own.mean(1, keepdim=True)).square().sum(1).mean(0) / max(seeds - 1, 1)  # of one seed's own
        common = (1 - noise / seeds / people.square().mean(0)).nan_to_num(nan=0.0, neginf=0.0).clamp(min=0)
        return estimate, estimate + people * common.sqrt() + self.seeds @ (each - estimate)


def _draw(order: list[list[Outcome]], truth: Features, draws: int, generator: torch.Generator) -> _Draws:
    """Draw people, of which images come along, and weigh seeds."""
    few = _few(truth)
    each = torch.stack([torch.stack([_measures(_tables(one.test, truth)) for one in row]) for row in order], dim=1)
    each = each.masked_fill(few, torch.nan)  # [K, M, 4, L]
    cell = cells(truth.labels.T, one_hot(truth.group, truth.groups)).transpose(0, 1)  # [N, L, G·2]
    people, who = truth.people
    found, own = [], torch.zeros(0)
    for first in range(0, draws, AT_ONCE):
        counts = draw_counts(people, min(AT_ONCE, draws - first), generator)[:, who]  # [b, N]
        everybody = resampled(counts, cell)  # [b, L, G·2]
        seen = []
        for row in order:
            positive = [resampled(counts, cell * one.test.T.unsqueeze(-1)) for one in row]
            tables = [torch.stack([everybody - yes, yes], dim=-1).unflatten(-2, (-1, 2)) for yes in positive]
            seen.append(torch.stack([_measures(table) for table in tables], dim=1))  # [b, K, 4, L]
        changed = (torch.stack(seen, dim=2) - each).nan_to_num().masked_fill(few, torch.nan)  # nobody of a kind: no change
        found.append(changed.mean(1))
        own = own if first else changed - changed.mean(0)
    changed = torch.cat(found)
    return _Draws(each, changed - changed.mean(0), own, seed_weights(len(each), draws, generator))


def _few(truth: Features) -> Tensor:
    """Which of `MEASURES` and labels are rates of fewer than `FEW` people of a group: bool [M, L], M measures."""
    cell = cells(truth.labels.T, one_hot(truth.group, truth.groups))  # [L, N, G·2]
    people, who = truth.people
    counts = (torch.zeros(len(cell), people, cell.shape[-1]).index_add(1, who, cell) > 0).sum(1)
    few = (counts.unflatten(-1, (-1, 2)) < FEW).any(1)  # [L, 2]: negatives, positives
    everybody = torch.zeros_like(few[:, 0])
    return torch.stack([everybody if one.people is None else few[:, one.people] for one in MEASURES.values()])


def _tables(predicted: Tensor, truth: Features) -> Tensor:
    return contingency_table(predicted, truth.labels.T, truth.group, truth.groups)


def _measures(tables: Tensor) -> Tensor:
    """`MEASURES` of tables [..., L, G, 2, 2]: float64 [..., M, L]; a gap is NaN where a group has no such people."""
    return torch.stack([measure.of(tables) for measure in MEASURES.values()], dim=-2)


def _with_interval(mean: Tensor, draws: Tensor) -> dict[str, float]:
    """Each of `MEASURES` and its interval, of means [M] and draws [B, M]."""
    low, high = interval(draws)
    return {
        f"{name}{end}": float(value[i])
        for i, name in enumerate(MEASURES)
        for end, value in (("", mean), ("_low", low), ("_high", high))
    }


def _method_row(
    row: list[Outcome], measured: dict[str, float], changed: dict[str, float], truth: Features
) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score  # slow to import

    precision = [
        float("nan") if one.scores is None else average_precision_score(truth.labels[:, j].numpy(), one.scores[j].numpy())
        for one in row
        for j in range(len(one.test))
    ]
    bounds = {name: measure.bounds for name, measure in MEASURES.items()}
    held = {
        column: min(max(value, bounds[name][0]), bounds[name][1])
        for column, value in measured.items()
        for name in [column.removesuffix("_low").removesuffix("_high")]
    }
    valid = {
        f"{name}_valid": fmean(float(measure.of(one.valid).mean()) for one in row)
        for name, measure in MEASURES.items()
        if measure.per_label
    }
    areas = torch.tensor([one.area for one in row], dtype=torch.float64).mean(0).tolist()
    units = f"{truth.people[0]:,} {'images' if truth.person is None else 'people'}"
    return {
        "method": row[0].method, "seeds": len(row), "units": units, **held,
        **changed, "labels": len(row[0].test), "needs_group": row[0].needs_group,
        "evaluations": round(fmean(one.evaluations for one in row)), "seconds": fmean(one.seconds for one in row),
        "uei_pick": fmean(one.promised for one in row), **valid,
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
