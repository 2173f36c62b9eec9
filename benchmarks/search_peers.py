"""The multi-task search against the peers of other libraries, from the same heads, features and number of evaluations.

    .venv/bin/python benchmarks/search_peers.py <folder of a run> [<folder of a run> …] [--seeds 3]

One search per analysed label minimises UEI and error on validation with 50 particles in 3,050 evaluations. Measured is the
area dominated below (the base model's UEI, its error + 0.05), as a share of that rectangle: mean over the labels.

The peers search within a box around the base model's head. How wide it should be, none of them can know: each is tried with
five half-widths, in units of the search's own noise, and its best one counts. Ours has one setting. The paper's own
coordinates are shown beside it. Prints a table and exits 1 where a claim falls short. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from measuring import Claim, at_least, verdict

from fairnb.evidence.compare import read_run
from fairnb.features import load_layer
from fairnb.methods import METHODS, Parameters, Problem
from fairnb.swarm.repository import hypervolume

WIDTHS: dict[str, tuple[float, ...]] = {
    "pymoo NSGA-II": (10, 30, 100, 300, 1000),
    "pymoo MOPSO_CD": (0.1, 0.2, 0.5, 1, 3),
    "jMetalPy SMPSO": (0.05, 0.1, 0.2, 0.5, 1),
}
# By name and width: the method and its parameters.
TRIED: dict[tuple[str, float], tuple[str, dict[str, Any]]] = {
    ("fairnb, whitened", 0): ("multi-task", {"noise": 0.2, "whiten": True}),
    ("fairnb, paper", 0): ("multi-task", {}),
    ("fairnb, constricted", 0): ("multi-task", {"flight": "constricted"}),
}
TRIED |= {(name, width): (name, {"box": width}) for name, widths in WIDTHS.items() for width in widths}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    claims: list[Claim] = []
    for folder in arguments.runs:
        run, rows = read_run(folder), []
        problem = Problem(run.features["valid"], load_layer(folder / "base.safetensors"), run.analysed)
        corner = problem.base + torch.tensor([0.0, problem.tolerance])
        for seed in range(arguments.seeds):
            for (name, width), (method, given) in TRIED.items():
                begun = time.perf_counter()
                fronts = METHODS[method].search(replace(problem, seed=seed), Parameters(**given)).fronts
                area = float((hypervolume(fronts.objectives, corner) / corner.prod(-1)).mean())
                rows.append((name, width, seed, area, time.perf_counter() - begun))
                print(f"{folder.name}, seed {seed}: {name}, width {width:g}: {area:.4f}", flush=True)
        found = pd.DataFrame(rows, columns=["method", "width", "seed", "area", "seconds"])
        table: Any = found.groupby(["method", "width"], sort=False).agg(
            area=("area", "mean"), least=("area", "min"), most=("area", "max"), seconds=("seconds", "mean")
        )
        print(f"\n{folder.name}: {len(problem.where)} labels, {arguments.seeds} seeds\n{table.round(4)}\n")
        ratio = table.area["fairnb, whitened", 0] / table.loc[list(WIDTHS)].area.max()
        claims.append(at_least(f"{folder.name}: mean area, of the best peer's", ratio, 1.03))
        for name, widths in WIDTHS.items():
            best = table.area[name].idxmax()
            claims.append((f"{folder.name}: best width of {name}", best, "inside those tried", best in widths[1:-1]))
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
