"""Numbers and words for the prose: `glue(uei=0.12)` in a cell, `{glue:text}`uei:.3f`` in the text.

A sentence about `results/` is written out, and `claim` fails the chapter if the results contradict it. In a sentence about
the current run, words are chosen by the run's numbers: `verdict`, `counted`, `out_of`.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pandas as pd
from myst_nb import glue as _glue

from fairnb.book.tables import with_range
from fairnb.metrics import MEASURES
from fairnb.run.parameters import Recipe

NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
# Parameters that distinguish recipes of a base model for a reader.
RECIPE = [*(n for n in Recipe.model_fields if n not in ("resize", "precision", "compiled", "mitigation", "seed")), "drawn"]


class ClaimError(Exception):
    """A sentence contradicted by the results."""


def claim(holds: bool, words: str) -> None:
    """Fail the chapter with a ClaimError, and so the build, unless a sentence holds; a test finds its words on the page."""
    if not holds:
        raise ClaimError(f"the results do not bear out what the page says: {words!r}")


def sign(table: pd.DataFrame, place: Hashable, column: str = "uei") -> int:
    """Whether the interval of a difference lies below 0 (-1), contains 0 (0) or lies above 0 (1).

    The table has columns `<column>_low` and `<column>_high`; `place` is the index of the row.
    """
    ((low, high),) = table.loc[[place], [f"{column}_low", f"{column}_high"]].to_numpy(dtype=float).tolist()
    return int(low > 0) - int(high < 0)


def verdict(table: pd.DataFrame, place: Hashable, column: str = "uei") -> str:
    """`sign` in words, after "compared with B, A's UEI": "is lower", "cannot be told apart" or "is higher"."""
    return {-1: "is lower", 0: "cannot be told apart", 1: "is higher"}[sign(table, place, column)]


def spelled(number: int) -> str:
    """A number in a sentence: "none", "one", … "twelve", then digits."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def counted(number: int, noun: str = "label") -> str:
    """A number of things: "no label", "one label", "two labels", "13 labels"."""
    return f"{spelled(number) if number else 'no'} {noun}{'' if number < 2 else 's'}"


def out_of(number: int, total: int, one: str = "has", more: str = "have") -> str:
    """The beginning of a sentence: "None of 30 labels has", "One of 30 labels has", "Two of 30 labels have"."""
    return f"{spelled(number).capitalize()} of {counted(total)} {one if number < 2 else more}"


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(names[:-1])] if names[1:] else []), names[-1]])


def of_recipe(measured: dict[str, Any], run: dict[str, Any]) -> str:
    """Saved results' recipe and this run's differences: "resnet18 on 64×64 pixels, …; this run has epochs = 5"."""
    usual = {"schedule": "constant"}  # the only one, before there were others
    measured, run = usual | measured, usual | run
    faces = f" on {measured['drawn'][0]:,} drawn faces" if measured["data"] == "drawn" else ""
    size, epochs = measured["image_size"], counted(measured["epochs"], "epoch")
    words = f"{measured['backbone']} on {size}×{size} pixels, {epochs}{faces}"
    if measured["data"] != run["data"]:
        return f"{words}; this run has other data"
    names = [name for name in RECIPE if measured.get(name) != run.get(name) and (name != "drawn" or faces)]
    differ = ", ".join(f"{name} = {run.get(name)}" for name in names)
    return f"{words}; this run has {differ}" if differ else f"{words}, as in this run"


def glue(**values: float | int | str) -> None:
    """Store plain values for the prose; TypeError for others, such as arrays, whose repr would end up in a sentence."""
    for key, value in values.items():
        if not isinstance(value, float | int | str):
            raise TypeError(f"{key!r}: glue takes a plain number or word, not {type(value).__name__}")
        _glue(key, value, display=False)


def glue_change(key: str, table: pd.DataFrame, place: Hashable) -> None:
    """Store a row's differences in the `MEASURES` present as `<key>_uei` and so on, such as -0.010 (-0.012 to +0.001)."""
    for column in (name for name in MEASURES if name in table):
        glue(**{f"{key}_{column}": with_range(table.loc[[place]], column, signed=True).item()})
