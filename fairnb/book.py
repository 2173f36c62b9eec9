"""Numbers that prose shows: `glue("uei", 0.12)` in a cell, `{glue:text}`uei:.3f`` in the text."""

from __future__ import annotations

from myst_nb import glue as _glue


def glue(key: str, value: float | int | str) -> None:
    """Store a plain value under a key for the page's prose, without showing it.

    Raises:
        TypeError: for anything but a plain number or word: an array's repr would end up in a sentence.
    """
    if not isinstance(value, float | int | str):
        raise TypeError(f"{key!r}: glue takes a plain number or word, not {type(value).__name__}")
    _glue(key, value, display=False)
