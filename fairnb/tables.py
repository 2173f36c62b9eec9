"""Tables of results: one row per label, and one row per label and group."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from pandas.api.types import is_numeric_dtype
from torch import Tensor

from fairnb.metrics import MEASURES, underestimation_score

NAMES = ("method", "split", "label", "group")  # columns of text


def read(path: Path, *needed: str) -> pd.DataFrame:
    """A table of results from its CSV file: names stay text, also `0` and `NA`, and only what is empty is NaN.

    ValueError with the path if the file is damaged: it is no table, was cut short, lacks a column that is `needed`, or holds
    text among numbers.
    """
    table = read_csv(path, dtype=dict.fromkeys(NAMES, str), keep_default_na=False, na_values=[""])
    if missing := [name for name in needed if name not in table]:
        raise ValueError(f"{path} is damaged (it has no column {missing[0]!r}): delete it to make it anew")
    if odd := [name for name in table if name not in NAMES and not is_numeric_dtype(table[name])]:
        raise ValueError(f"{path} is damaged (text in its column {odd[0]!r}): delete it to make it anew")
    return table


def read_csv(path: Path, **how: Any) -> pd.DataFrame:
    """A table that fairnb wrote, read by pandas; ValueError with the path if it is no table, or was cut short."""
    try:
        table = pd.read_csv(path, **how)
    except ValueError as error:  # pandas' own are of this kind
        raise ValueError(f"{path} is damaged ({str(error).strip()}): delete it to make it anew") from None
    if table.empty or not path.read_bytes().endswith(b"\n"):
        raise ValueError(f"{path} is damaged (it was cut short): delete it to make it anew")
    return table


def label_rows(method: str, tables: dict[str, Tensor], labels: Sequence[str], analysed: Tensor) -> pd.DataFrame:
    """Rows of `labels.csv`: method, split, label, analysed, and each measure that is `per_label`, such as accuracy and uei.

    `tables` holds contingency tables int64 [L, G, 2, 2] by split, `labels` L names; `analysed` is bool [L].
    """
    columns = {name: MEASURES[name].of for name in sorted(MEASURES) if MEASURES[name].per_label}
    measured = {split: torch.stack([of(table) for of in columns.values()], dim=-1) for split, table in tables.items()}
    rows = [
        (method, split, label, kept, *row)
        for split, values in measured.items()
        for label, kept, row in zip(labels, analysed.tolist(), values.tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "split", "label", "analysed", *columns])


def group_rows(method: str, tables: dict[str, Tensor], labels: Sequence[str], groups: Sequence[str]) -> pd.DataFrame:
    """Rows of `groups.csv`, arguments as in `label_rows`; `groups` holds G names, and `us` is NaN without positives."""
    rows = [
        (method, split, label, group, int(cell.sum()), int(cell[1].sum()), int(cell[:, 1].sum()), us)  # cell [y, ŷ]
        for split, table in tables.items()
        for label, row, scores in zip(labels, table, underestimation_score(table).tolist(), strict=True)
        for group, cell, us in zip(groups, row, scores, strict=True)
    ]
    return pd.DataFrame(rows, columns=["method", "split", "label", "group", "n", "positives", "predicted_positives", "us"])
