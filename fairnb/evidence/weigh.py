"""Comparison of methods: the results of each, its changes per label, and their intervals.

evidence = weigh([judge.outcome("base", heads), judge.outcome("multi-task", search), …], truth, names)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from fairnb.evidence.bootstrap import LEVEL, draw, holm, interval, two_sided_p
from fairnb.evidence.outcome import Outcome
from fairnb.features import Features
from fairnb.metrics import MEASURES
from fairnb.run.files import save_table
from fairnb.run.keys import seeded
from fairnb.run.messages import some, unknown

DRAWS = 20_000  # enough for Holm's correction in the long tails of Student's t with few degrees of freedom
DIGITS = 6  # of the saved tables


class Aim(NamedTuple):
    """A method's target on test."""

    uei: float  # mean, at most
    accuracy: float  # mean, at least
    rise: float  # upper bound of any label's rise of UEI, at most


AIM = Aim(0.019, 0.856, 0.02)  # of the calibrated search on the photographs of `results/`


@dataclass(frozen=True, eq=False)
class Evidence:
    """The tables of `weigh`.

    In `methods`, values are means over labels and seeds, on test unless stated otherwise; `units` is the number of people or
    images resampled. A gap is a mean over the labels whose rates have `FEW` people or more in each group. `highest_rise` is
    the largest upper end of any label's change of UEI: with few people or seeds, `worsened` may overlook it. In `changes`,
    worst first, the interval is a single label's; p_holm is corrected for all labels.
    """

    methods: pd.DataFrame  # method, seeds, units, each of `MEASURES` with its `_low` and `_high`, worsened, mended,
    # highest_rise, labels, needs_group, evaluations, seconds, uei_pick, uei_valid, accuracy_valid, average_precision,
    # area_valid, area_test
    changes: pd.DataFrame  # method, label, uei_base, uei, change, low, high, p, p_holm, worsened, mended
    differences: pd.DataFrame  # method, against, each of `MEASURES` with its `_low` and `_high`: `method` minus `against`

    def save(self, folder: Path) -> None:
        """Write methods.csv, changes.csv and differences.csv."""
        for name, table in vars(self).items():
            save_table(folder / f"{name}.csv", table.round(DIGITS))


def weigh(
    outcomes: Sequence[Outcome], truth: Features, names: Sequence[str], *,
    reference: str = "base", draws: int = DRAWS, seed: int = 0,
) -> Evidence:  # fmt: skip
    """Compare methods, all of the same seeds, on the same test images: those of `truth`, with L labels of these names.

    People are resampled if `truth` knows them, else images. A label is worsened, or mended, if its change of UEI from the
    reference is significant after Holm's correction over the labels. Raises ValueError if seeds differ, the reference is
    missing, predictions are of other images, or there are too few draws for any change to be significant.
    """
    by_place = {(outcome.method, outcome.seed): outcome for outcome in outcomes}
    methods, seeds = list(dict.fromkeys(method for method, _ in by_place)), sorted({seed for _, seed in by_place})
    _check(by_place, methods, seeds, reference, truth, names, draws)
    order = [[by_place[method, seed] for seed in seeds] for method in methods]  # [M][K]
    drawn = draw(order, truth, draws, seeded(seed, "bootstrap"))
    uei, home = list(MEASURES).index("uei"), methods.index(reference)
    of_labels = drawn.map(lambda measured: measured[..., uei, :])  # [..., M, L]
    means = drawn.map(lambda measured: measured.nanmean(-1))  # over labels, [..., M, 4]
    mean = of_labels.each.mean(0)  # [M, L]
    labels, counts = [], []
    for m, method in enumerate(methods):
        change, changed = of_labels.of(m, less=home)
        p, (low, high) = two_sided_p(changed), interval(changed)
        corrected = holm(p)
        significant = corrected <= 1 - LEVEL
        columns = {
            "method": method, "label": list(names), "uei_base": mean[home], "uei": mean[m], "change": change,
            "low": low, "high": high, "p": p, "p_holm": corrected,
            "worsened": significant & (change > 0), "mended": significant & (change < 0),
        }  # fmt: skip
        table = pd.DataFrame({k: v.numpy() if isinstance(v, Tensor) else v for k, v in columns.items()})
        rise = float(table.high.max()) if m != home else float("nan")
        counts.append({"worsened": int(table.worsened.sum()), "mended": int(table.mended.sum()), "highest_rise": rise})
        if m != home:
            labels.append(table.sort_values("change", ascending=False, kind="stable"))
    rows = [_method_row(row, with_interval(*means.of(m)), counts[m], truth) for m, row in enumerate(order)]
    two = permutations(range(len(methods)), 2)
    pairs = [{"method": methods[m], "against": methods[n], **with_interval(*means.of(m, less=n))} for m, n in two]
    changes = pd.concat(labels, ignore_index=True) if labels else pd.DataFrame()
    return Evidence(pd.DataFrame(rows), changes, pd.DataFrame(pairs))


def with_interval(mean: Tensor, draws: Tensor) -> dict[str, float]:
    """Each of `MEASURES` with its interval, from means [M] and draws [B, M]."""
    ends = dict(zip(("", "_low", "_high"), (mean, *interval(draws)), strict=True))
    return {f"{name}{end}": float(value[i]) for i, name in enumerate(MEASURES) for end, value in ends.items()}


def _method_row(row: list[Outcome], measured: dict[str, float], changed: dict[str, Any], truth: Features) -> dict[str, Any]:
    from sklearn.metrics import average_precision_score  # slow to import

    precision = [
        float("nan") if one.scores is None else average_precision_score(truth.labels[:, j].numpy(), one.scores[j].numpy())
        for one in row
        for j in range(len(one.test))
    ]
    bounds = {name: MEASURES[name.removesuffix("_low").removesuffix("_high")].bounds for name in measured}
    held = {name: min(max(value, bounds[name][0]), bounds[name][1]) for name, value in measured.items()}
    per_label = ((f"{name}_valid", measure.of) for name, measure in MEASURES.items() if measure.per_label)
    valid = {name: fmean(float(of(one.valid).mean()) for one in row) for name, of in per_label}
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
    if missing := [f"{method} of seed {seed}" for method in methods for seed in seeds if (method, seed) not in by_place]:
        raise ValueError(f"every method needs the same seeds to be compared: there is no {some(missing)}")
    if reference not in methods:
        raise ValueError(unknown("method", reference, methods))
    wanted = (truth.labels.shape[1], len(truth.group))
    for (method, seed), one in by_place.items():
        if (shape := tuple(one.test.shape)) != wanted:
            raise ValueError(f"{method} of seed {seed} predicts {shape} labels and images, the truth has {wanted}")
    if len(names) != wanted[0]:
        raise ValueError(f"{len(names)} names for {wanted[0]} labels")
    if 2 * len(names) / (draws + 1) > 1 - LEVEL:
        raise ValueError(f"draws={draws} can show nothing of {len(names)} labels: take {int(40 * len(names)) + 1} or more")
