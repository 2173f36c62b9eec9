"""What tests tell in tables of the book: `pytest tests/faults -m "slow or soak or not slow" --tables results`."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pandas as pd

from fairnb.run.files import save_table

ROWS: dict[str, list[dict[str, str | int]]] = defaultdict(list)  # by the table's file name


def tell(table: str, **row: str | int) -> None:
    """Add a row of words and counts; counts of the same words are added up."""
    ROWS[table].append({name.replace("_", " "): value for name, value in row.items()})


def write(folder: Path) -> None:
    """Write each table of which something was told; rows of tests that were not run stay."""
    for name, rows in ROWS.items():
        words = [column for column, value in rows[0].items() if isinstance(value, str)]
        new = pd.DataFrame(rows).groupby(words, sort=False).sum().reset_index()
        if (path := folder / name).exists():
            old = pd.read_csv(path)
            apart = ~old[words].apply(tuple, axis=1).isin(new[words].apply(tuple, axis=1))
            new = pd.concat([old[apart], new])
        save_table(path, new.sort_values(words, kind="stable"))
