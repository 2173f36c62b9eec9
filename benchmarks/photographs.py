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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
from measuring import Claim, at_least, at_most, verdict
from phenomenon import SEARCHES, shown, swept

from fairnb.run.record import load_run

ROOT = Path(__file__).resolve().parents[1]
PARAMS = "params/photographs.yml"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_root", type=Path)
    parser.add_argument("--reference", type=Path, help="labels.csv of an earlier run, to be equal to the bit")
    parser.add_argument("--keep", type=Path, help="copy the run's tables into this folder")
    arguments = parser.parse_args()
    given = {"data_root": str(arguments.data_root.resolve())}
    with book("--params", PARAMS, "-p", f"data_root={given['data_root']}") as (clone, claims):
        folder = clone / "runs" / "photographs"
        if arguments.keep:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            for name in ("labels.csv", "groups.csv", "run.json"):
                shutil.copyfile(folder / name, arguments.keep / name)
        seen = pd.Series(shown(folder))
        seconds = {stage: made["seconds"] for stage, made in load_run(folder)["stages"].items()}
        claims += [
            at_most("second stage, seconds", sum(seconds[name] for name in SEARCHES), 10),
            at_least("base: mean test UEI", seen.uei, 0.10),
            at_least("base: mean test accuracy", seen.accuracy, 0.87),
            at_most("multi-task: mean test UEI", seen.multi, 0.035),
            at_most("multi-task: accuracy loss", seen.loss, 0.05),
            ("dynamic weighting: mean test UEI", seen.dynamic, "in between", seen.multi < seen.dynamic < seen.uei),
            ("dynamic weighting: labels with a higher UEI", seen.higher_dynamic, f"of {seen.labels:.0f}", True),
            ("multi-task: labels with a higher UEI", seen.higher, f"of {seen.labels:.0f}", True),
        ]
        if arguments.reference:
            same = (folder / "labels.csv").read_bytes() == arguments.reference.read_bytes()
            claims.append(("labels.csv equal to the reference", float(same), "to the bit", same))
        spread = swept(clone, name="spread", params=PARAMS, set=given, grid={"search_seed": list(range(5))})
    columns = spread[["dynamic", "multi", "loss_dynamic", "loss", "higher_dynamic", "higher"]]
    print(f"stages, seconds: {seconds}\n\nfive seeds of the searches on this base model (test split):")
    print(columns.agg(["mean", "min", "max"]).round(4).T.to_string())
    return verdict(claims)


@contextmanager
def book(*words: str) -> Iterator[tuple[Path, list[Claim]]]:
    """A clone of the checkout in which `fairnb book` ran with these words, and what is claimed of its costs."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "fairnb"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        command = [str(Path(sys.executable).with_name("fairnb")), "book", *words]
        start, most = time.perf_counter(), [0]
        process = subprocess.Popen(command, cwd=clone, env=os.environ | {"PYTHONPATH": str(clone)})  # the clone's package

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
        minutes = (time.perf_counter() - start) / 60
        yield clone, [
            at_most("whole book, minutes", minutes, 15), at_most("memory of all processes, GB", most[0] / 1e9, 4)
        ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
