"""What the benchmarks have in common: claims with their limits, and timings in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import pandas as pd

Claim = tuple[str, object, str, bool]  # what, the value seen, the value claimed, whether it is kept


def at_most(what: str, seen: float, limit: float) -> Claim:
    return what, seen, f"≤ {limit:g}", seen <= limit


def at_least(what: str, seen: float, limit: float) -> Claim:
    return what, seen, f"≥ {limit:g}", seen >= limit


def verdict(claims: list[Claim]) -> int:
    """Print the claims; returns the exit status, 1 where one falls short."""
    table = pd.DataFrame(claims, columns=["what", "seen", "claimed", "kept"])
    print(f"\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    return int(not table.kept.all())


def in_turns(runs: Sequence[Callable[[], object]], turns: int, warm: int = 1) -> list[list[float]]:
    """Seconds of each run in each turn, as a shared machine changes its speed; the first `warm` turns do not count."""
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(warm + turns):
        for kept, run in zip(seconds, runs, strict=True):
            begun = time.perf_counter()
            run()
            if turn >= warm:
                kept.append(time.perf_counter() - begun)
    return seconds
