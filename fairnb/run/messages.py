"""Words that help whoever made a mistake."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

# What a training says once of itself; `fairnb.book.clock` reads it there.
SPEED = "{left:,} images to train on, {speed:,.0f} a second: about {seconds:.0f} s of training"


def unknown(kind: str, name: object, options: Iterable[str]) -> str:
    """One line for a name that is not among `options`: the nearest of them, or all of them where they are few."""
    options = sorted(options)
    lower = {option.lower(): option for option in options}
    near = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5)
    if near:
        return f"unknown {kind} {name!r}: did you mean {lower[near[0]]!r}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"unknown {kind} {name!r}: choose from {shown}"


def some(names: Iterable[str], most: int = 5) -> str:
    """Up to `most` names in a row, then how many were left out: `a, b, … (7 more)`."""
    names = list(names)
    more = f", … ({len(names) - most:,} more)" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def duration(seconds: float) -> str:
    """A time in words of its own size: `40 s`, `3 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def check_run_name(run: str) -> None:
    """Refuse a run's name that is no plain folder name.

    Raises:
        ValueError: for a path, a hidden folder, nothing, or 'cache', where decoded images lie.
    """
    if not run or run != run.strip() or run.startswith(".") or "/" in run or "\\" in run or run == "cache":
        raise ValueError(f"run={run!r} must be a plain folder name (and not 'cache', where decoded images lie)")
