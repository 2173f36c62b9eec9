"""Tables of results: one row per label, and one row per label and group."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from fairnb.metrics import MEASURES, underestimation_score
from fairnb.run.messages import unknown

PAPER = ("base", "dynamic weighting", "multi-task")
# The order of rows in tables and of colours in figures.
METHODS = (
    *PAPER,
    "label thresholds",
    "group thresholds",
    "soft UEI",
    "random search",
    "calibrated multi-task",
)
# Where a prediction gets the group from. "given": with each image. "inferred": from the image, as weights can that were
# moved with the group in view; the calibrated search does so by design, and any search over all weights may. Else "unused".
GROUP = {
    "base": "unused",
    "dynamic weighting": "inferred",
    "multi-task": "inferred",
    "label thresholds": "unused",
    "group thresholds": "given",
    "soft UEI": "inferred",
    "random search": "inferred",
    "calibrated multi-task": "inferred",
    "torchjd UPGrad": "inferred",
    "pymoo NSGA-II": "inferred",
    "jMetalPy SMPSO": "inferred",
    "fairlearn": "given",
    "reweighing": "inferred",
    "domain-independent": "inferred",
}


def file_name(method: str) -> str:
    """What the names of a method's files begin with."""
    return method.lower().replace(" ", "_").replace("-", "_")


def group_use(method: str) -> str:
    """Where a method's prediction gets the group from, of `GROUP`: "given", "inferred" or "unused".

    Args:
        method: its name, with what may follow it: `multi-task after reweighing (noise=0)`, `fairlearn, equal odds`.

    Raises:
        ValueError: if `GROUP` does not say (nearest name).
    """
    name = re.split(r" after | \(|, ", method)[0]
    if name not in GROUP:
        raise ValueError(unknown("method", name, GROUP))
    return GROUP[name]


def label_rows(method: str, tables: dict[str, Tensor], labels: Sequence[str], analysed: Tensor) -> pd.DataFrame:
    """Rows of `labels.csv`: method, split, label, analysed, and each measure that is `per_label`, such as accuracy and uei.

    Args:
        method: its name.
        tables: contingency tables int64 [L, G, 2, 2] by split.
        labels: names of the L labels.
        analysed: bool [L].
    """
    columns = sorted(name for name, measure in MEASURES.items() if measure.per_label)
    rows = []
    for split, table in tables.items():
        measured = torch.stack([MEASURES[name].of(table) for name in columns], dim=-1)
        rows += [
            (method, split, label, kept, *values)
            for label, kept, values in zip(labels, analysed.tolist(), measured.tolist(), strict=True)
        ]
    return pd.DataFrame(rows, columns=["method", "split", "label", "analysed", *columns])


def group_rows(method: str, tables: dict[str, Tensor], labels: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """Rows of `groups.csv`: method, split, label, group, n, positives, predicted_positives, us.

    `us` is NaN, an empty field in the file, where the group has no positives; the count of 0 stands beside it. The arguments
    are those of `label_rows`; `groups` are the names of the G groups.
    """
    rows = []
    for split, table in tables.items():
        us = underestimation_score(table)
        for j, label in enumerate(labels):
            for g, group in enumerate(groups):
                cell = table[j, g]  # [y, ŷ]
                counts = int(cell.sum()), int(cell[1].sum()), int(cell[:, 1].sum())
                rows.append((method, split, label, group, *counts, float(us[j, g])))
    columns = ["method", "split", "label", "group", "n", "positives", "predicted_positives", "us"]
    return pd.DataFrame(rows, columns=columns)
