"""The two tables of a model card: measures per label, and per label and group.

TO BE REPLACED by `fairnb.yours.assessment.assess(...)`, whose `labels` and `groups` have these columns and intervals. Here
the ends of all intervals are NaN, which the card shows as –.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pandas as pd
from torch import Tensor

from fairnb import metrics
from fairnb.features import Features

OF_LABEL = {name: measure.of for name, measure in metrics.MEASURES.items()} | {"chance": metrics.chance_index}
OF_GROUP = {
    "us": metrics.underestimation_score, "tpr": metrics.true_positive_rate, "fpr": metrics.false_positive_rate,
}  # fmt: skip


def measured(
    predicted: Tensor, truth: Features, labels: Sequence[str], groups: Sequence[str], attribute: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Tables per label, and per label and group, of predictions bool [L, N]; ends of intervals are NaN."""
    tables = truth.tables(predicted)  # [L, G, y, ŷ]
    named = pd.MultiIndex.from_tuples(itertools.product([attribute], labels, groups), names=["attribute", "label", "group"])
    counts = {"n": tables.sum((2, 3)), "positives": tables[:, :, 1].sum(-1), "predicted_positives": tables[..., 1].sum(-1)}
    of_group = {name: of(tables) for name, of in OF_GROUP.items()}
    by_group = pd.DataFrame({name: value.flatten().numpy() for name, value in (counts | of_group).items()}, index=named)
    by_label = pd.DataFrame({name: of(tables).numpy() for name, of in OF_LABEL.items()})
    by_label.insert(0, "label", list(labels))
    by_label.insert(0, "attribute", attribute)
    return _with_ends(by_label, set(OF_LABEL) - {"chance"}), _with_ends(by_group.reset_index(), OF_GROUP)


def _with_ends(table: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
    return table.assign(**{f"{name}{end}": float("nan") for name in columns for end in ("_low", "_high")})
