"""Assessment of predictions by group: whose positives are predicted less often than they occur, and how sure that is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from fairnb.evidence.bootstrap import FEW, LEVEL, interval, measures, people_by_cell, resamples, too_few
from fairnb.features import Features
from fairnb.metrics import MEASURES, OF_GROUPS, Measure, chance_index
from fairnb.run.files import save_table
from fairnb.run.keys import seeded
from fairnb.run.messages import some
from fairnb.tables import group_rows
from fairnb.yours import arrays

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 1000  # of people, for intervals
ENDS = ("", "_low", "_high")
NOTHING = "the intervals of all groups contain 1, or there are too few people"


@dataclass(frozen=True, eq=False, repr=False)
class Assessment:
    """What `assess` found. Columns `_low` and `_high` are the ends of 95 % intervals.

    An interval is a single number's: of twenty such intervals about one misses by chance alone. It is NaN where it was not
    wanted, where a rate is of fewer than eight people, and where no resample changed anything, as for a label that is never
    predicted.
    """

    # attribute, label, group, n, positives, predicted_positives, each of `OF_GROUPS` (us, tpr, fpr), NaN without such images
    groups: pd.DataFrame
    # attribute, label, each of `MEASURES` (uei, accuracy, tpr_gap, fpr_gap), uei_chance, verdict, and average_precision, NaN
    # without scores; a gap is NaN if one of its rates is of fewer than eight people
    labels: pd.DataFrame
    means: (
        pd.DataFrame
    )  # attribute, images, people, labels, and means over the labels of each of `MEASURES` and of uei_chance
    told: tuple[str, ...]  # what was assumed or left out, in sentences

    @property
    def attributes(self) -> list[str]:
        """The sensitive attributes, and their products, by which it assessed."""
        return list(self.means.attribute)

    def of(self, table: str, attribute: str = "") -> pd.DataFrame:
        """The rows of 'groups' or 'labels' by one attribute, the first by default."""
        rows: pd.DataFrame = getattr(self, table)
        return rows[rows.attribute == (attribute or self.attributes[0])]

    def below(self, limit: float) -> pd.DataFrame:
        """The rows of `groups` whose US is below `limit`, for groups of `FEW` (eight) positives or more."""
        rows = self.groups[(self.groups.us < limit) & (self.groups.positives >= FEW)]
        return rows.sort_values("us", kind="stable")

    def plot_scores(self, attribute: str = "") -> Figure:
        """US of each label and group by one attribute, the first by default."""
        from fairnb.book import plots

        return plots.underestimation_scores(self.of("groups", attribute))

    def plot_index(self, attribute: str = "") -> Figure:
        """UEI of each label by one attribute, the first by default, beside the UEI expected by chance."""
        from fairnb.book import plots

        return plots.beside_chance(self.of("labels", attribute))

    def __repr__(self) -> str:
        rows = (f"by {row.attribute} {row.uei:.3f} ({row.uei_chance:.3f} by chance)" for row in self.means.itertuples())
        return f"Assessment of {self.means.labels[0]} labels, mean UEI {', '.join(rows)}"

    def to_csv(self, folder: str | Path) -> None:
        """Write groups.csv, labels.csv and means.csv into a folder, which is made if needed."""
        (folder := Path(folder)).mkdir(parents=True, exist_ok=True)
        for name in ("groups", "labels", "means"):
            save_table(folder / f"{name}.csv", getattr(self, name))

    def to_html(self, path: str | Path, title: str = "Assessment") -> None:
        """Write one page with verdicts, figures and tables that needs no network."""
        from fairnb.yours import report

        report.save(Path(path), self, title)

    def _repr_html_(self) -> str:
        from fairnb.yours import report

        return report.brief(self)


def assess(
    truth: Any, prediction: Any, group: Any, *, person: Any = None, kind: arrays.Kind | None = None, threshold: Any = None,
    names: Sequence[str] | None = None, bins: Mapping[str, Sequence[float]] | None = None, products: bool = False,
    draws: int = DRAWS, seed: int = 0,
) -> Assessment:  # fmt: skip
    """Assess predictions of L labels for N images by group.

    Args:
        truth: 0 and 1 (or −1 and 1), [N] or [N, L]: an array, tensor, or a pandas or polars frame.
        prediction: the same shape; 0 and 1, probabilities or logits, as `kind` says ('binary', 'probabilities', 'logits') or
            else the values: what lies in 0..1 is read as probabilities. Columns of two frames are matched by name.
        group: [N], one sensitive attribute, or a frame or dictionary of several, each assessed by itself. An image whose
            group is missing is left out by that attribute.
        person: [N], who is shown, if known: one person's images are not independent, and are resampled together.
        threshold: a score above it predicts the label: one number, one per label, or by name; by default 0 for logits, else
            0.5.
        names: of the labels, where the arrays have none.
        bins: where groups of numbers begin, such as `{"age": [0, 30, 60]}`.
        products: assess by the product of all attributes too.
        draws: of people with replacement, for intervals; 0 leaves intervals out.
        seed: of these draws.

    Raises ValueError for shapes that differ, values that are missing or out of range, an attribute with one value, and where
    all predictions are the same.
    """
    told: list[str] = []
    true, columns = arrays.truths(truth)
    numbers, others, kind = arrays.scores(prediction, kind, told)
    groups, people = arrays.attributes(group, bins, products=products), arrays.numbered(person)
    arrays.same_rows(
        "images", truth=true, prediction=numbers, **{f"group {k}": v.codes for k, v in groups.items()}, person=people
    )
    names, numbers = arrays.matched(true, numbers, names, (columns, others))
    predicted = arrays.cut(numbers, kind, threshold, names)
    told += constant(predicted, names)
    images, found = Features(torch.zeros(len(true), 0), true, torch.zeros(len(true), dtype=torch.int64), 1, people), []
    for attribute, column in groups.items():
        codes = torch.from_numpy(column.codes)
        if missing := int((codes < 0).sum()):
            told.append(f"{attribute} is missing for {missing:,} images, which are left out where it is assessed")
        there = codes >= 0
        part = replace(images, group=codes, groups=len(column.words)).rows(there)
        how: Any = {"scores": None if kind == "binary" else numbers[there].T, "draws": draws, "seed": seed}
        found.append(by_group(part, predicted[there].T, names, attribute, column.words, **how))
    return joined(found, told)


def joined(found: Sequence[tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]], told: Sequence[str]) -> Assessment:
    """The assessment of the tables from `by_group`, a triple per attribute."""
    groups, labels, means = (pd.concat(part, ignore_index=True) for part in zip(*found, strict=True))
    return Assessment(groups, labels, means, tuple(told))


def by_group(
    truth: Features, predicted: Tensor, names: Sequence[str], attribute: str, groups: Sequence[str], *,
    scores: Tensor | None = None, draws: int, seed: int,
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """The tables `groups`, `labels` and `means` of an `Assessment` by one attribute, of predictions bool [L, N].

    `scores` [L, N] give the average precision.
    """
    tables, people = truth.tables(predicted), people_by_cell(truth)
    few = torch.stack([people[..., one.people or 0] < FEW for one in OF_GROUPS.values()])  # [R, L, G]
    unsure = too_few(people)  # [M, L]
    rates, values = _rates(tables), measures(tables).masked_fill(unsure, torch.nan)  # [R, L, G], [M, L]
    drawn = [part[:, 0] for part in resamples(truth, [predicted], draws, seeded(seed, "assess", attribute))]
    changed = torch.cat(list(map(measures, drawn))) if drawn else values.new_zeros(0, *values.shape)
    changed = changed.masked_fill(unsure, torch.nan)
    changed_rates = torch.cat(list(map(_rates, drawn))) if drawn else rates.new_zeros(0, *rates.shape)
    table = group_rows("", {"": tables}, names, groups).drop(columns=["method", "split", "us"])
    ends = _ends(rates, changed_rates, OF_GROUPS).masked_fill(few, torch.nan)
    table = pd.concat([table, _columns(OF_GROUPS, rates.flatten(1), ends.flatten(2))], axis=1)
    labels = _columns(MEASURES, values, _ends(values, changed, MEASURES))
    labels = labels.assign(
        uei_chance=chance_index(tables).numpy(), verdict=[verdict(part, draws > 0) for part in _parts(table, len(groups))]
    )
    labels["average_precision"] = float("nan") if scores is None else average_precision(truth.labels.T, scores)
    labels.insert(0, "label", list(names))
    means = _columns(
        MEASURES, values.nanmean(1, keepdim=True), _ends(values.nanmean(1), changed.nanmean(2), MEASURES)[..., None]
    )
    means = means.assign(uei_chance=labels.uei_chance.mean())
    for name, count in {"labels": len(names), "people": truth.people[0], "images": len(truth.group)}.items():
        means.insert(0, name, count)
    for one in (table, labels, means):
        one.insert(0, "attribute", attribute)
    return table, labels, means


def verdict(groups: pd.DataFrame, drawn: bool) -> str:
    """What the rows of `Assessment.groups` of one label show: intervals that exclude 1, or all where none was drawn."""
    told, rows = [], groups.sort_values("us", kind="stable", na_position="first")
    row: Any
    for row in rows.itertuples():
        times = f"{row.group}: predicted {row.us:.2f} times as often as it occurs"
        if not row.positives:
            told.append(f"{row.group}: no positives, {row.predicted_positives:,} predicted")
        elif not row.predicted_positives:
            told.append(f"{row.group}: never predicted, at {row.positives:,} positives")
        elif row.us_low > 1 or row.us_high < 1:
            told.append(f"{times}, {100 * LEVEL:.0f} % {row.us_low:.2f} to {row.us_high:.2f}")
        elif not drawn:
            told.append(times)
    return "; ".join([*told[:3], *([f"… ({len(told) - 3} more)"] if told[3:] else [])]) or NOTHING


def constant(predicted: Tensor, names: Sequence[str]) -> list[str]:
    """Sentences on labels that are predicted for no or every image; ValueError if all predictions [N, L] are equal."""
    never, always = ~predicted.any(0), predicted.all(0)
    if bool(never.all() | always.all()):
        raise ValueError(
            f"every prediction of every label is {int(always.all())}: nothing can be assessed. Check the threshold, and "
            "whether scores are probabilities or logits (kind=…)"
        )
    where = {"no": never, "every": always}
    named = {word: [name for name, one in zip(names, kept.tolist(), strict=True) if one] for word, kept in where.items()}
    return [f"predicted for {word} image: {some(labels)}" for word, labels in named.items() if labels]


def average_precision(true: Tensor, scores: Tensor) -> list[float]:
    """Average precision of each label by its scores, both [L, N]; NaN for a label without positives."""
    from sklearn.metrics import average_precision_score  # slow to import

    pairs = zip(true.numpy(), scores.numpy(), strict=True)
    return [float(average_precision_score(truth, of)) if truth.any() else float("nan") for truth, of in pairs]


def _rates(tables: Tensor) -> Tensor:
    """`OF_GROUPS` of tables [..., L, G, 2, 2]: float64 [..., R, L, G]."""
    return torch.stack([one.of(tables) for one in OF_GROUPS.values()], dim=-3)


def _ends(values: Tensor, draws: Tensor, of: Mapping[str, Measure]) -> Tensor:
    """Lower and upper ends [2, Q, …] of measures [Q, …] from their draws [B, Q, …], NaN where these are all the same."""
    if not len(draws):
        return torch.full((2, *values.shape), torch.nan, dtype=values.dtype)
    changed = (draws - values).nan_to_num()  # no people, no change
    low, high = interval(values + changed - changed.mean(0))
    limits = torch.tensor([one.bounds for one in of.values()], dtype=values.dtype).T.reshape(
        2, -1, *[1] * (values.dim() - 1)
    )
    ends = torch.stack([low, high]).clamp(limits[0], limits[1])
    return ends.masked_fill((changed == 0).all(0), torch.nan)


def _columns(of: Mapping[str, Measure], values: Tensor, ends: Tensor) -> pd.DataFrame:
    """Each measure with its ends as columns, of values [Q, n] and ends [2, Q, n]."""
    parts = zip(of, values, ends[0], ends[1], strict=True)
    return pd.DataFrame(
        {f"{name}{end}": part.numpy() for name, *three in parts for end, part in zip(ENDS, three, strict=True)}
    )


def _parts(table: pd.DataFrame, size: int) -> Iterator[pd.DataFrame]:
    """The rows of each label, in blocks of `size` groups."""
    return (table.iloc[first : first + size] for first in range(0, len(table), size))
