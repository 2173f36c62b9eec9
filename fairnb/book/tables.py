"""Tables as a page shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from math import copysign, isnan
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from fairnb.run.messages import unknown
from fairnb.tables import METHODS, group_use
from fairnb.tables import PAPER as PAPER

ENDS = {"": "mean", "_low": "min", "_high": "max"}


DIGITS = 3, 6  # of an interval: as a rule, and where fewer would show an end as 0 that is not; results/ carry six


INTERVAL, WHOLE = re.compile(r"\([-+\d][^)]*\)"), r'<span style="white-space: nowrap">\g<0></span>'


FIGURES = re.compile(r"(?:[-–+\d.,:%()e ]|of|to|nan)*")  # what numbers, shares, intervals and gaps are written with


def changes(labels: pd.DataFrame, method: str, split: str = "test") -> pd.DataFrame:
    """What a method did to each analysed label: label, uei_base, uei, uei_change, accuracy_base, accuracy, accuracy_change.

    Args:
        labels: `labels.csv`.
        method: the method compared with the base model.
        split: 'valid' or 'test'.

    Returns:
        One row a label, worst change of UEI first.

    Raises:
        ValueError: if the method is not in the table.
    """
    if method not in set(labels.method):
        raise ValueError(unknown("method", method, set(labels.method)))
    kept = labels[(labels.split == split) & labels.analysed]
    base, other = (kept[kept.method == name].set_index("label")[["uei", "accuracy"]] for name in ("base", method))
    table = base.add_suffix("_base").join(other)
    table["uei_change"] = table.uei - table.uei_base
    table["accuracy_change"] = table.accuracy - table.accuracy_base
    order = ["uei_base", "uei", "uei_change", "accuracy_base", "accuracy", "accuracy_change"]
    return table.sort_values("uei_change", ascending=False, kind="stable")[order].reset_index()


def summary(labels: pd.DataFrame, split: str = "test") -> pd.DataFrame:
    """Means over the analysed labels: method, uei, accuracy, accuracy_loss, higher, labels.

    `higher` counts the labels whose UEI is higher than the base model's, by chance or not; `accuracy_loss` is the
    base's mean less the method's.
    """
    rows = []
    for method in (name for name in METHODS if name in set(labels.method)):
        change = changes(labels, method, split)
        higher = int((change.uei_change > 0).sum())
        loss = (change.accuracy_base - change.accuracy).mean()
        rows.append((method, change.uei.mean(), change.accuracy.mean(), loss, higher, len(change)))
    return pd.DataFrame(rows, columns=["method", "uei", "accuracy", "accuracy_loss", "higher", "labels"])


def ablation(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """One row a dataset and setting of an ablation: means over the seeds, and the lowest and highest seed's.

    Args:
        rows: those of `fairnb.evidence.ablations.Trial`, with a column `data`.
        name: of the ablation.

    Returns:
        Columns data, setting, seeds, uei, uei_low, uei_high, accuracy, accuracy_low, accuracy_high, higher, uei_valid,
        uei_pick, area_valid, area_test, evaluations, seconds.

    Raises:
        ValueError: if there is no such ablation (nearest name).
    """
    if name not in set(rows.ablation):
        raise ValueError(unknown("ablation", name, set(rows.ablation)))
    groups = rows[rows.ablation == name].groupby(["data", "setting"], sort=False)
    table = groups.agg(
        seeds=("seed", "nunique"),
        **{f"{column}{end}": (column, how) for column in ("uei", "accuracy") for end, how in ENDS.items()},
        **{column: (column, "mean") for column in ("higher", "uei_valid", "uei_pick", "area_valid", "area_test")},
        evaluations=("evaluations", "mean"),
        seconds=("seconds", "median"),
    )
    return table.reset_index()


def in_brief(table: pd.DataFrame, differences: pd.DataFrame, name: str) -> pd.DataFrame:
    """An ablation's table as a page shows it: means over the seeds, and what is changed, with its 95 % interval.

    UEI on the images of the pick is in the figure.

    Args:
        table: from `ablation`.
        differences: columns data, ablation, setting, uei, accuracy and each with `_low` and `_high`.
        name: of the ablation.
    """
    own = differences[differences.ablation == name].set_index(["data", "setting"])
    changed = own.reindex(pd.MultiIndex.from_frame(table[["data", "setting"]])).reset_index()
    brief = table[["data", "setting"]].copy()
    for column, title in {"uei": "UEI", "accuracy": "accuracy"}.items():
        brief[title] = table[column].map("{:.3f}".format)
        brief[f"change of {title}"] = with_range(changed, column, signed=True)
    brief["area: validation, test"] = table.area_valid.map("{:.3f}".format) + ", " + table.area_test.map("{:.3f}".format)
    return brief


def with_range(table: pd.DataFrame, column: str, *, signed: bool = False) -> pd.Series:
    """A column with its `_low` and `_high`, as text: 0.123 (0.120–0.126), or signed, -0.010 (-0.012 to +0.001). NaN is –.

    As printed, a signed interval excludes 0 exactly where it does: where an end that is not 0 would look like it, all three
    numbers get more digits, and at the last digit they are rounded away from 0.
    """
    if signed:
        triples = table[[f"{column}{end}" for end in ENDS]].to_numpy(dtype=float)
        return pd.Series([_signed(*triple) for triple in triples.tolist()], index=table.index, dtype=object)
    middle, low, high = (table[f"{column}{end}"].map("{:.3f}".format) for end in ENDS)
    return (middle + " (" + low + "–" + high + ")").where(table[column].notna(), "–")


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
    """Whether a column holds nothing but numbers, shares, intervals and –: such a column is set to the right."""
    return all(FIGURES.fullmatch(text) for text in texts)


def shown(table: pd.DataFrame, digits: int = 3) -> Styler:
    """A table as a page shows it: words instead of underscores, intervals on one line, no row numbers, so many digits.

    Columns of numbers are set to the right, those of words to the left.
    """
    words = table.map(lambda value: INTERVAL.sub(WHOLE, value.replace("_", " ")) if isinstance(value, str) else value)
    words.columns = [str(name).replace("_", " ").replace("uei", "UEI") for name in table.columns]
    sides = ["right" if are_numbers(map(str, column)) else "left" for _, column in table.items()]
    styles: Any = [{"selector": f".col{i}", "props": f"text-align: {side}"} for i, side in enumerate(sides)]
    style = words.style.hide().format(precision=digits).set_table_styles(styles)
    return style.set_table_attributes('class="dataframe"')  # as the theme knows tables


def of_methods(methods: pd.DataFrame) -> pd.DataFrame:
    """The table of methods as people read it: each mean with its interval in one column, and its use of the group."""
    table = methods[["method", "seeds"]].copy()
    table["UEI"], table["accuracy"] = with_range(methods, "uei"), with_range(methods, "accuracy")
    table["worsened"] = methods.worsened.map(str) + " of " + methods.labels.map(str)
    table["group"] = methods.method.map(group_use)
    return table


def beside(methods: pd.DataFrame) -> pd.DataFrame:
    """What the same methods show beside UEI and accuracy, and what they cost."""
    table = methods[["method"]].copy()
    columns = {
        "uei_pick": "UEI where picked", "average_precision": "average precision", "area_test": "area",
    }  # fmt: skip
    table["gap of TPR"], table["gap of FPR"] = with_range(methods, "tpr_gap"), with_range(methods, "fpr_gap")
    for column, title in columns.items():
        table[title] = methods[column].map("{:.3f}".format).where(methods[column].notna(), "–")
    table["evaluations"] = methods.evaluations.map("{:,}".format).where(methods.evaluations > 0, "–")
    table["seconds"] = methods.seconds.map("{:,.1f}".format, na_action="ignore").fillna("–")
    return table


def between(differences: pd.DataFrame, places: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """What methods differ by, as people read it.

    Args:
        differences: of `fairnb.evidence.weigh.Evidence`.
        places: a method and what it is compared with, in this order.
    """
    rows = differences.set_index(["method", "against"]).loc[list(places)].reset_index()
    table = pd.DataFrame({"method": rows.method, "less": rows.against})
    titles = {"uei": "UEI", "accuracy": "accuracy", "tpr_gap": "gap of TPR", "fpr_gap": "gap of FPR"}
    for column, title in titles.items():
        table[title] = with_range(rows, column, signed=True)
    return table
