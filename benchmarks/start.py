"""How soon the command answers: CPU seconds of help, of a refusal and of a chapter's imports, beside `import torch`.

    .venv/bin/python benchmarks/start.py [--turns 5]

Each is a process of its own; they take turns, and medians are compared. Exits 1 where a share is above its limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from statistics import median

from measuring import at_most, verdict

IMPORTS = """
from fairnb.book import plots, tables
from fairnb.book.prose import glue
from fairnb.experiment import Experiment
from fairnb.run.parameters import named_in
plots.set_style()
"""
RUN = [sys.executable, "-m", "fairnb.cli"]
# What is started, and the limit of its share of `import torch`.
STARTED: dict[str, tuple[list[str], float]] = {
    "import torch": ([sys.executable, "-c", "import torch"], 1.0),
    "fairnb --help": ([*RUN, "--help"], 0.2),
    "a mistyped parameter is refused": ([*RUN, "run", "-p", "epoch=3"], 0.6),
    "a chapter's imports": ([sys.executable, "-c", IMPORTS], 2.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=5)
    turns = parser.parse_args().turns
    spent: dict[str, list[float]] = {name: [] for name in STARTED}
    for _ in range(turns):
        for name, (command, _) in STARTED.items():
            spent[name].append(cpu_seconds(command))
    seconds = {name: median(values) for name, values in spent.items()}
    print(", ".join(f"{name}: {value:.2f} s" for name, value in seconds.items()))
    shares = {name: value / seconds["import torch"] for name, value in seconds.items()}
    return verdict([at_most(f"{name}, of import torch", shares[name], limit) for name, (_, limit) in STARTED.items()])


def cpu_seconds(command: list[str]) -> float:
    """Of a process and its children."""
    before = os.times()
    subprocess.run(command, capture_output=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    sys.exit(main())
