"""Tables of results: one row per label, and one row per label and group."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from fairnb.metrics import MEASURES, underestimation_score


def label_rows(method: str, tables: dict[str, Tensor], labels: Sequence[str], analysed: Tensor) -> pd.DataFrame:
    """Rows of `labels.csv`: method, split, label, analysed, and each measure that is `per_label`, such as accuracy and uei.

    `tables` holds contingency tables int64 [L, G, 2, 2] by split, `labels` L names; `analysed` is bool [L].
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
    """Rows of `groups.csv`: method, split, label, group, n, positives, predicted_positives, us (NaN without positives).

    Arguments as in `label_rows`; `groups` holds G names.
    """
    rows = []
    for split, table in tables.items():
        us = underestimation_score(table)
        for j, label in enumerate(labels):
            for g, group in enumerate(groups):
                cell = table[j, g]  # [y, ŷ]
                counts = int(cell.sum()), int(cell[1].sum()), int(cell[:, 1].sum())
                rows.append((method, split, label, group, *counts, float(us[j, g])))
    return pd.DataFrame(rows, columns=["method", "split", "label", "group", "n", "positives", "predicted_positives", "us"])
