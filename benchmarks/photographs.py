"""The whole book on photographs in CelebA's layout, measured against what it promises.

    .venv/bin/python benchmarks/photographs.py <folder in CelebA layout> [--reference labels.csv]

Clones the checkout into a temporary folder, so that nothing trained earlier is found, runs `fairnb book` there with
`params/photographs.yml`, and samples the memory of all its processes. Then repeats both searches with five seeds on the
features of that run, for the spread. With `--reference`, the tables must equal those of an earlier run to the bit.
Prints a table and exits 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil
from torch import Tensor

from fairnb.book.tables import summary
from fairnb.experiment import Experiment
from fairnb.heads import Heads
from fairnb.methods import METHODS
from fairnb.metrics import accuracy, underestimation_index

ROOT = Path(__file__).resolve().parents[1]
SEEDS = range(5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--reference", type=Path, help="labels.csv of an earlier run, to be equal to the bit")
    parser.add_argument("--keep", type=Path, help="copy the run's tables into this folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "fairnb"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        words = ["--params", "params/photographs.yml", "-p", f"data_root={arguments.data_root.resolve()}"]
        seconds, gigabytes = run_book(clone, words)
        experiment = Experiment.open("photographs", runs=clone / "runs")
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for name in ("labels.csv", "groups.csv", "run.json"):
                shutil.copyfile(experiment.folder / name, arguments.keep / name)
        means = summary(experiment.labels()).set_index("method")
        seconds_of = {stage: made["seconds"] for stage, made in experiment.record.stages.items()}
        second_stage = seconds_of["dynamic weighting"] + seconds_of["multi-task"]
        base, dynamic, multi = (means.loc[name] for name in ("base", "dynamic weighting", "multi-task"))
        claims = [
            ("whole book, minutes", seconds / 60, "≤ 15", seconds <= 15 * 60),
            ("memory of all processes, GB", gigabytes, "≤ 4", gigabytes <= 4),
            ("second stage, seconds", second_stage, "≤ 10", second_stage <= 10),
            ("base: mean test UEI", base.uei, "≥ 0.10", base.uei >= 0.10),
            ("base: mean test accuracy", base.accuracy, "≥ 0.87", base.accuracy >= 0.87),
            ("multi-task: mean test UEI", multi.uei, "≤ 0.035", multi.uei <= 0.035),
            ("multi-task: accuracy loss", multi.accuracy_loss, "≤ 0.05", multi.accuracy_loss <= 0.05),
            ("dynamic weighting: mean test UEI", dynamic.uei, "in between", multi.uei < dynamic.uei < base.uei),
            ("dynamic weighting: labels with a higher UEI", dynamic.higher, f"of {dynamic.labels:.0f}", True),
            ("multi-task: labels with a higher UEI", multi.higher, f"of {multi.labels:.0f}", True),
        ]
        if arguments.reference:
            same = (experiment.folder / "labels.csv").read_bytes() == arguments.reference.read_bytes()
            claims.append(("labels.csv equal to the reference", float(same), "to the bit", same))
        print(pd.DataFrame(claims, columns=["what", "seen", "promised", "kept"]).to_string(index=False))
        print(f"\nstages, seconds: {seconds_of}")
        print(f"\nfive seeds of the searches on this base model (test split):\n{spread(experiment)}")
    return int(not all(kept for *_, kept in claims))


def run_book(clone: Path, words: list[str]) -> tuple[float, float]:
    """Seconds of `fairnb book` with these words, and the most memory of its processes together in 10⁹ bytes."""
    command = [str(Path(sys.executable).with_name("fairnb")), "book", *words]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)})  # the clone's own package
    most = [0]

    def sample() -> None:
        while process.poll() is None:
            total = 0
            for one in [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]:
                try:
                    total += one.memory_info().rss
                except psutil.NoSuchProcess:
                    continue
            most[0] = max(most[0], total)
            time.sleep(0.5)

    watcher = threading.Thread(target=sample)
    watcher.start()
    if process.wait():
        sys.exit("the book was not built")
    watcher.join()
    return time.perf_counter() - start, most[0] / 1e9


def spread(experiment: Experiment) -> str:
    """Mean and range over seeds of what each strategy reaches on test."""
    test, problem = experiment.features()["test"].of_labels(experiment.analysed), experiment.problem()

    def judged(heads: Heads) -> tuple[Tensor, Tensor]:
        tables = heads.of(experiment.analysed).tables(test)
        return underestimation_index(tables), accuracy(tables)

    before, base_accuracy = judged(Heads(problem.heads.unsqueeze(0)))
    rows = []
    for seed in SEEDS:
        for method in ("dynamic weighting", "multi-task"):
            find = METHODS[method].search
            assert find
            uei, reached = judged(find(replace(problem, seed=seed), experiment.parameters).heads)
            loss, higher = base_accuracy - reached, int((uei > before).sum())
            rows.append((method, float(uei.mean()), float(loss.mean()), higher))
    table = pd.DataFrame(rows, columns=["method", "uei", "accuracy_loss", "higher"])
    return table.groupby("method").agg(["mean", "min", "max"]).round(4).to_string()


if __name__ == "__main__":
    sys.exit(main())
