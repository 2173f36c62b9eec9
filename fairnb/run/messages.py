"""Helpers for messages: nearest names, long lists, durations."""

from collections.abc import Iterable
from difflib import get_close_matches

# Printed once by a training, and parsed by `fairnb.book.clock`.
SPEED = "{left:,} images to train on, {speed:,.0f} a second: about {seconds:.0f} s of training"


def unknown(kind: str, name: object, options: Iterable[str]) -> str:
    """Message for a name that is not among `options`: the nearest option, or else the first twelve."""
    options = sorted(options)
    lower = {option.lower(): option for option in options}
    if near := get_close_matches(str(name).lower(), lower, n=1, cutoff=0.5):
        return f"unknown {kind} {name!r}: did you mean {lower[near[0]]!r}?"
    shown = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    return f"unknown {kind} {name!r}: choose from {shown}"


def some(names: Iterable[str], most: int = 5) -> str:
    """Up to `most` names, then the number left out: `a, b, … (7 more)`."""
    names = list(names)
    return ", ".join(names[:most]) + (f", … ({len(names) - most:,} more)" if len(names) > most else "")


def duration(seconds: float) -> str:
    """A duration in suitable units: `40 s`, `3 min`, `2 h 10 min`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
