"""Tables of the pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from math import copysign, isnan
from typing import Any

import pandas as pd
import torch
from pandas.io.formats.style import Styler
from torch import Tensor

from fairnb.evidence.bootstrap import FEW
from fairnb.methods import METHODS, group_use
from fairnb.metrics import accuracy, false_positive_rate, lowest_rate, rate_gap, true_positive_rate, underestimation_index
from fairnb.run.messages import unknown

ENDS = {"": "mean", "_low": "min", "_high": "max"}
DIGITS = 3, 6  # of an interval: usually, and at most, where fewer would round an end to 0; results/ carry six
INTERVAL, WHOLE = re.compile(r"\([-+\d][^)]*\)"), r'<span style="white-space: nowrap">\g<0></span>'
PAGE = """body { font: 15px sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; color: #222832; }
td, th { padding: 0.1em 0.7em; } div { overflow-x: auto; }
"""
FIGURES = re.compile(r"(?:[-–+\d.,:;%()e ]|of|to|nan)*")  # the characters of numbers, shares, intervals and gaps


def changes(labels: pd.DataFrame, method: str, split: str = "test") -> pd.DataFrame:
    """A method's effect on each analysed label of `labels.csv`, compared with the base model; ValueError if it is missing.

    Columns label, uei_base, uei, uei_change, accuracy_base, accuracy, accuracy_change; worst change of UEI first.
    """
    if method not in set(labels.method):
        raise ValueError(unknown("method", method, set(labels.method)))
    kept = labels[(labels.split == split) & labels.analysed]
    base, other = (kept[kept.method == name].set_index("label")[["uei", "accuracy"]] for name in ("base", method))
    table = base.add_suffix("_base").join(other)
    table = table.assign(uei_change=table.uei - table.uei_base, accuracy_change=table.accuracy - table.accuracy_base)
    order = [f"{measure}{of}" for measure in ("uei", "accuracy") for of in ("_base", "", "_change")]
    return table.sort_values("uei_change", ascending=False, kind="stable")[order].reset_index()


def summary(labels: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Means over the analysed labels: method, uei, accuracy, accuracy_loss, higher, labels.

    `higher` counts the labels whose UEI is above the base model's, by chance or not; `accuracy_loss` is from its mean.
    """
    rows = []
    for method in (name for name in METHODS if name in set(labels.method)):
        change = changes(labels, method, split)
        higher, loss = int((change.uei_change > 0).sum()), (change.accuracy_base - change.accuracy).mean()
        rows.append((method, change.uei.mean(), change.accuracy.mean(), loss, higher, len(change)))
    return pd.DataFrame(rows, columns=["method", "uei", "accuracy", "accuracy_loss", "higher", "labels"])


def ablation(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """An ablation's table, one row per dataset and setting: means over the seeds, with the lowest and highest seed.

    From the rows of `ablations.csv` with a column `data`; ValueError for an unknown ablation.
    """
    if name not in set(rows.ablation):
        raise ValueError(unknown("ablation", name, set(rows.ablation)))
    groups = rows[rows.ablation == name].groupby(["data", "setting"], sort=False)
    return groups.agg(
        seeds=("seed", "nunique"),
        **{f"{column}{end}": (column, how) for column in ("uei", "accuracy") for end, how in ENDS.items()},
        **{c: (c, "mean") for c in ("higher", "uei_valid", "uei_pick", "area_valid", "area_test", "evaluations")},
        seconds=("seconds", "median"),
    ).reset_index()


def in_brief(table: pd.DataFrame, differences: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table from `ablation` for a page: means over the seeds, and changes with 95 % intervals; no `uei_pick`."""
    own = differences[differences.ablation == name].set_index(["data", "setting"])
    changed = own.reindex(pd.MultiIndex.from_frame(table[["data", "setting"]])).reset_index()
    brief = table[["data", "setting"]].copy()
    for column, title in {"uei": "UEI", "accuracy": "accuracy"}.items():
        brief[title] = table[column].map("{:.3f}".format)
        brief[f"change of {title}"] = with_range(changed, column, signed=True)
    brief["area: validation, test"] = table.area_valid.map("{:.3f}".format) + ", " + table.area_test.map("{:.3f}".format)
    return brief


def with_range(table: pd.DataFrame, column: str, *, signed: bool = False) -> pd.Series:
    """A column with its `_low` and `_high`, as text: 0.123 (0.120–0.126), or signed, -0.010 (-0.012 to +0.001).

    NaN is –; an unsigned number without an interval stands alone. A printed signed interval excludes 0 exactly if the
    interval does: if an end other than 0 would look like 0, all three numbers get more digits, and at the last digit they
    are rounded away from 0.
    """
    if signed:
        triples = table[[f"{column}{end}" for end in ENDS]].to_numpy(dtype=float)
        return pd.Series([_signed(*triple) for triple in triples.tolist()], index=table.index, dtype=object)
    middle, low, high = (table[f"{column}{end}"].map("{:.3f}".format) for end in ENDS)
    ranged = (middle + " (" + low + "–" + high + ")").where(table[f"{column}_low"].notna(), middle)
    return ranged.where(table[column].notna(), "–")


def _signed(middle: float, low: float, high: float) -> str:
    if isnan(middle):
        return "–"
    fewest, most = DIGITS
    digits = next((n for n in range(fewest, most) if all(round(end, n) or not end for end in (low, high))), most)

    def text(value: float) -> str:
        shown = round(value, digits)
        if digits == most and value and not shown:
            shown = copysign(10.0**-most, value)
        return f"{shown:+.{digits}f}" if shown else f"{0:.{digits}f}"

    return f"{text(middle)} ({text(low)} to {text(high)})"


def are_numbers(texts: Iterable[str]) -> bool:
    """Whether a column holds only numbers, shares, intervals and –, and is aligned to the right."""
    return all(FIGURES.fullmatch(text) for text in texts)


def shown(table: pd.DataFrame, digits: int = 3) -> Styler:
    """A table for a page: words instead of underscores, intervals on one line, no row numbers, numbers to the right."""
    words = table.map(lambda value: INTERVAL.sub(WHOLE, _words(value)) if isinstance(value, str) else value)
    words.columns = [re.sub(r"\buei\b", "UEI", _words(str(name))) for name in table.columns]
    sides = ["right" if are_numbers(map(str, column)) else "left" for _, column in table.items()]
    styles: Any = [{"selector": f".col{i}", "props": f"text-align: {side}"} for i, side in enumerate(sides)]
    style = words.style.hide().format(precision=digits).set_table_styles(styles)
    return style.set_table_attributes('class="dataframe mathjax_ignore"')  # for the theme; a $ in a name is no formula


def readable(name: str) -> str:
    """A name with spaces for underscores, unless it has nothing else."""
    return name.replace("_", " ") if name.strip("_ ") else name


def _words(name: str) -> str:
    return escape(readable(name), quote=False)


def standalone(body: str, title: str, style: str = "") -> str:
    """A page in one file that needs no network, of HTML; its title is plain text."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{escape(title)}</title><style>{PAGE}{style}</style></head><body><h1>{escape(title)}</h1>{body}</body></html>\n"
    )


def of_methods(methods: pd.DataFrame, *, settings: bool = False) -> pd.DataFrame:
    """The table of methods, or of `settings`, for readers: each mean with its interval; of methods, the use of the group."""
    table = methods[["method", "seeds"]].copy()
    table["UEI"], table["accuracy"] = with_range(methods, "uei"), with_range(methods, "accuracy")
    table["worsened"] = methods.worsened.map(str) + " of " + methods.labels.map(str)
    return table if settings else table.assign(group=methods.method.map(group_use))


def beside(methods: pd.DataFrame) -> pd.DataFrame:
    """The methods' other measures, and their costs."""
    table = methods[["method"]].copy()
    columns = {"uei_pick": "UEI where picked", "average_precision": "average precision", "area_test": "area"}
    table["gap of TPR"], table["gap of FPR"] = with_range(methods, "tpr_gap"), with_range(methods, "fpr_gap")
    for column, title in columns.items():
        table[title] = methods[column].map("{:.3f}".format).where(methods[column].notna(), "–")
    table["evaluations"] = methods.evaluations.map("{:,}".format).where(methods.evaluations > 0, "–")
    table["seconds"] = methods.seconds.map("{:,.1f}".format, na_action="ignore").fillna("–")
    return table


def of_pick(picked: Sequence[int], counts: Tensor) -> dict[str, float | str]:
    """A row on a search's pick, by the contingency tables of its model, int64 [S, G, 2, 2]: means over the S labels.

    `picked` holds each swarm's candidate, as `Search.picked`; the last entry counts the labels that keep the base model.
    Labels whose rates are of fewer than `FEW` images in a group are left out of the means of rates.
    """
    few = counts.sum(-1).amin(1) < FEW  # [S, y]
    values = {
        "UEI": underestimation_index(counts), "accuracy": accuracy(counts),
        "gap of FPR": rate_gap(false_positive_rate(counts)).masked_fill(few[:, 0], torch.nan),
        "lowest recall": lowest_rate(true_positive_rate(counts)).masked_fill(few[:, 1], torch.nan),
    }  # fmt: skip
    kept = list(picked).count(0) * len(counts) // len(picked)
    return {name: float(value.nanmean()) for name, value in values.items()} | {"keep the base": f"{kept} of {len(counts)}"}


def between(differences: pd.DataFrame, places: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Differences of `fairnb.evidence.weigh.Evidence` for readers, at pairs of a method and its reference."""
    rows = differences.set_index(["method", "against"]).loc[list(places)].reset_index()
    titles = {"uei": "UEI", "accuracy": "accuracy", "tpr_gap": "gap of TPR", "fpr_gap": "gap of FPR"}
    columns = {title: with_range(rows, column, signed=True) for column, title in titles.items()}
    return pd.DataFrame({"method": rows.method, "less": rows.against} | columns)
