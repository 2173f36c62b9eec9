"""How the search grows: memory flat, time linear, and what processes send each other.

    .venv/bin/python benchmarks/growth.py [--rows 5000000] [--folder <where 5 GB fit>]

Scores swarms on features that lie in a mapped file, up to 5 million rows × 256 features, while rows, labels, particles and
features grow one at a time; fits the exponent of time over each, and measures the most memory that the process itself held
(pages of the mapped file are the page cache's). That processes agree is a test, in `tests/test_scoring.py`.
Prints tables and exits 1 where a claim falls short.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from measuring import Claim, at_most, in_turns, verdict

from fairnb.features import Features
from fairnb.heads import Scorer


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    arguments = parser.parse_args()
    rows = arguments.rows
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "features.bin"
        write(path, rows, 256)
        print(f"{rows:,} rows × 256 features, {path.stat().st_size / 1e9:.1f} GB in a mapped file")
        sizes = {"rows": rows, "labels": 8, "particles": 25, "features": 256}
        tables: list[tuple[str, int, float, float]] = []
        claims: list[Claim] = []
        # One thing grows, the rest stays: small enough for seconds, large enough for the product to weigh.
        sweeps = {
            "rows": [{**sizes, "rows": rows // k} for k in (8, 4, 2, 1)],
            "labels": [{**sizes, "rows": rows // 16, "labels": n} for n in (8, 16, 32, 64)],
            "particles": [{**sizes, "rows": rows // 16, "particles": n} for n in (25, 50, 100, 200)],
            "features": [{**sizes, "rows": rows // 16, "features": n} for n in (256, 512, 1024, 2048)],
        }
        for name, sweep in sweeps.items():
            seconds, memory = measure(path, sweep)
            grown = [case[name] for case in sweep]
            exponent = float(np.polyfit(np.log(grown), np.log(seconds), 1)[0])
            tables += [(name, n, s, m) for n, s, m in zip(grown, seconds, memory, strict=True)]
            claims.append(at_most(f"exponent of time over {name}", exponent, 1.05))
            if name == "rows":
                what = f"most megabytes needed to score {rows * 256 * 4 / 1e6:,.0f} MB of features"
                claims.append(at_most(what, max(memory), 100))
        print(pd.DataFrame(tables, columns=["grown", "to", "seconds", "memory, MB"]).round(3).to_string(index=False))
    labels, particles = 34, 100
    scorer = Scorer(random_features(1000, 256, labels))
    summed = scorer.total.numel() * particles * 8
    print(f"\nbytes that a process sends an iteration, {labels} labels, {particles} particles: ", end="")
    print(f"{summed:,}, whatever the number of images")
    return verdict(claims)


def write(path: Path, rows: int, columns: int) -> None:
    draw = np.random.Generator(np.random.PCG64(0))
    with path.open("wb") as file:
        for first in range(0, rows, 100_000):
            file.write(draw.random((min(100_000, rows - first), columns), dtype=np.float32).tobytes())
        file.flush()
        os.fsync(file.fileno())  # else the disk is still busy with it when the clock runs


def random_features(rows: int, columns: int, labels: int, x: torch.Tensor | None = None) -> Features:
    draw = torch.Generator().manual_seed(0)
    truth = torch.empty(rows, labels, dtype=torch.bool).bernoulli_(0.1, generator=draw)
    group = torch.empty(rows, dtype=torch.int64).random_(2, generator=draw)
    return Features(torch.zeros(rows, columns) if x is None else x, truth, group, 2)


def measure(path: Path, sweep: list[dict[str, int]], rounds: int = 5) -> tuple[list[float], list[float]]:
    """Seconds of a scoring in each case, the least of rounds in turns, and the most megabytes that it needed.

    The least, because what else the machine does can only add: a case that takes long would gather more of it.
    """
    memory = [0.0 for _ in sweep]

    def watched(case: int, run: Callable[[], object]) -> Callable[[], None]:
        def once() -> None:
            with most_memory() as seen:
                run()
            memory[case] = max(memory[case], seen[0])

        return once

    runs = [watched(case, scoring(path, **sizes)) for case, sizes in enumerate(sweep)]
    return [min(values) for values in in_turns(runs, rounds)], memory  # the first turn reads the file into the page cache


def scoring(path: Path, rows: int, labels: int, particles: int, features: int) -> Callable[[], object]:
    """Scores swarms on the first rows of the mapped file."""
    mapped = torch.from_file(str(path), size=rows * features).view(rows, features)
    score = Scorer(random_features(rows, features, labels, mapped))
    heads = torch.randn(labels, particles, features + 1, generator=torch.Generator().manual_seed(1))
    return lambda: score(heads)


@contextmanager
def most_memory() -> Iterator[list[float]]:
    """The most anonymous memory while the block runs, above that at its beginning, in MB."""

    def anonymous() -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e3

    before, seen, done = anonymous(), [0.0], threading.Event()

    def sample() -> None:
        while not done.wait(0.02):
            seen[0] = max(seen[0], anonymous() - before)

    watcher = threading.Thread(target=sample)
    watcher.start()
    yield seen
    done.set()
    watcher.join()


if __name__ == "__main__":
    sys.exit(main())
