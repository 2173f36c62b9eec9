"""Numbers that prose shows: `glue("uei", 0.12)` in a cell, `{glue:text}`uei:.3f`` in the text."""

from __future__ import annotations

from collections.abc import Hashable

import pandas as pd
from myst_nb import glue as _glue

from fairnb.metrics import MEASURES
from fairnb.tables import with_range


def glue(key: str, value: float | int | str) -> None:
    """Store a plain value under a key for the page's prose, without showing it.

    Raises:
        TypeError: for anything but a plain number or word: an array's repr would end up in a sentence.
    """
    if not isinstance(value, float | int | str):
        raise TypeError(f"{key!r}: glue takes a plain number or word, not {type(value).__name__}")
    _glue(key, value, display=False)


def glue_change(key: str, table: pd.DataFrame, place: Hashable) -> None:
    """Store what a row of differences changes as `<key>_uei`, `<key>_accuracy` and so on, such as -0.010 (-0.012 to +0.001).

    Args:
        key: what the names begin with.
        table: columns of `fairnb.metrics.MEASURES`, those that there are, and each with `_low` and `_high`.
        place: of the row, in the table's index.
    """
    for column in MEASURES:
        if column in table:
            glue(f"{key}_{column}", with_range(table.loc[[place]], column, signed=True).item())
