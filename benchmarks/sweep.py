"""What a sweep costs beside the same runs in a plain loop, on saved features, and what its own process holds.

    .venv/bin/python benchmarks/sweep.py [--runs 200] [--many 1000]

One base model is trained on drawn faces. Then `--runs` runs search its labels (multi-task, another tolerance each): by a
loop in one process, with their rows of the table, and by sweeps with one worker of as many threads and with more. Then a
sweep of 10 and one of `--many` runs that search nothing compare the memory of the process that asked. Prints a table and
exits 1 where a claim falls short.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from measuring import at_most, verdict

DATA = {"drawn": [2000, 2000, 3000], "epochs": 1}
TRAIN = """
import json, sys
from fairnb.experiment import Experiment
Experiment.open(**json.loads(sys.argv[1])).features()
"""
LOOP = """
import json, sys
from fairnb.evidence.swept import rows_of
from fairnb.experiment import Experiment
for given in json.loads(sys.argv[1]):
    experiment = Experiment.open(**given)
    experiment.search("multi-task")
    rows_of(experiment.folder)
"""
SWEEP = """
import json, resource, sys
from pathlib import Path
from fairnb.sweep.drive import Sweep, Where, run_sweep
from fairnb.sweep.plan import SweepFile
sweep = Sweep(SweepFile(**json.loads(sys.argv[1])), Path.cwd())
assert run_sweep(sweep, Where(workers=int(sys.argv[2])))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--many", type=int, default=1000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "notebooks").mkdir()
        (root / "pyproject.toml").touch()
        seconds(TRAIN, [DATA | {"run": "base"}], root)
        labels = pd.read_csv(root / "runs" / "base" / "labels.csv").query(
            "method == 'base' and split == 'test' and analysed"
        )
        tolerances = [round(0.01 + 0.2 * k / arguments.runs, 6) for k in range(arguments.runs)]
        loop, _ = seconds(LOOP, [[DATA | {"run": f"loop-{t}", "tolerance": t} for t in tolerances]], root)
        rows = [{"road": "loop, one process", "workers": 1, "seconds": loop}]
        for workers in (1, os.cpu_count() or 1):
            what = {"name": f"s-{workers}", "stages": ["multi-task"], "set": DATA, "grid": {"tolerance": tolerances}}
            taken, _ = seconds(SWEEP, [what, workers], root)
            rows.append({"road": "sweep", "workers": workers, "seconds": taken})
        table = pd.DataFrame(rows).set_index(["road", "workers"])
        table["runs a second"] = arguments.runs / table.seconds
        print(f"{arguments.runs} runs, {len(labels)} labels; the starts of processes count\n{table.round(2)}\n", flush=True)
        held = {}
        for runs in (10, arguments.many):
            grid = {"tolerance": [round(0.5 * k / runs, 6) for k in range(runs)]}
            what = {"name": f"many-{runs}", "stages": ["base"], "set": DATA, "grid": grid}
            taken, said = seconds(SWEEP, [what, os.cpu_count() or 1], root)
            held[runs] = float(said.splitlines()[-1])
            print(
                f"{runs} runs that search nothing: {taken:.0f} s, {held[runs]:.0f} MB in the process that asked", flush=True
            )
        shutil.rmtree(root / "runs")
    over = table.seconds["sweep", 1] / table.seconds["loop, one process", 1] - 1
    grown = held[arguments.many] / held[10] - 1
    held_by = f"memory of the sweeping process, 10 to {arguments.many} runs: growth"
    return verdict([at_most("overhead of a sweep, one worker", over, 0.05), at_most(held_by, grown, 0.1)])


def seconds(code: str, words: list[object], root: Path) -> tuple[float, str]:
    """How long a program takes, and what it says."""
    given = [word if isinstance(word, str) else json.dumps(word) for word in words]
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code, *given], cwd=root, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return time.perf_counter() - start, done.stdout


if __name__ == "__main__":
    sys.exit(main())
