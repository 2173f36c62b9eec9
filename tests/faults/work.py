"""Work that faults are done to: tiny, on drawn faces, in processes that are forked with everything imported."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from fairnb.book.pages import build_book
from fairnb.cli import app
from fairnb.experiment import Experiment
from fairnb.run.files import load_tensors, save_json
from tests.conftest import RECIPE

ROOT = Path(__file__).parents[2]
GIVEN = RECIPE.model_dump() | {
    "drawn": [64, 40, 40], "resize": 34, "image_size": 32, "epochs": 4, "batch_size": 16, "min_positives": 2,
    "particles": 20, "iterations": 60, "tolerance": 0.1, "device": "cpu", "targets": ["Smiling", "Young", "Bangs"],
}  # fmt: skip
OPEN = "from fairnb.experiment import Experiment\nexperiment = Experiment.open(run)\n"
CHAPTERS = {
    "00_the_drawn_faces": f"{OPEN}experiment.features()['test'].x.sum()",
    "01_search": f"{OPEN}experiment.search('multi-task').picked",
}
METHODS = ("dynamic weighting", "multi-task")
forks = multiprocessing.get_context("forkserver")
forks.set_forkserver_preload(["tests.faults.work"])


def few_or_many(few: int, many: int) -> pytest.MarkDecorator:
    """Rounds of a test: few in the slow suite, none for 0; many by `pytest -m soak`."""
    slow, soak = pytest.param(few, marks=pytest.mark.slow), pytest.param(many, marks=pytest.mark.soak)
    return pytest.mark.parametrize("rounds", [slow, soak] if few else [soak])


def project(folder: Path) -> Path:
    """A folder that is taken for a checkout."""
    (folder / "notebooks").mkdir(parents=True)
    (folder / "pyproject.toml").touch()
    save_json(folder / "given.yml", GIVEN)  # JSON is YAML
    return folder


def opened(root: Path, run: str = "r", **more: Any) -> Experiment:
    return Experiment.open(run, runs=root / "runs", **(GIVEN | more))


def train(root: Path) -> None:
    app(["train", "--run", "r", "--params", "given.yml"])


def search(root: Path) -> None:
    experiment = opened(root)
    for method in METHODS:
        experiment.search(method)


def whole(root: Path) -> None:
    """The whole of a small run, with all that is read of it."""
    experiment = opened(root)
    experiment.base_model()
    experiment.features()
    for method in METHODS:
        experiment.search(method)
    experiment.labels()
    experiment.groups()


def chapters(root: Path) -> None:
    app(["run", "--run", "r", "--params", "given.yml"])


def render(root: Path) -> None:
    build_book(root, root / "runs" / "r" / "chapters", print)


@dataclass
class Work:
    """A piece of work in a process of its own."""

    process: Any
    output: Path
    children: dict[int, psutil.Process]

    @classmethod
    def begin(cls, do: Callable[[Path], None], root: Path) -> Work:
        output = root.parent / f"{root.name}.txt"
        process = forks.Process(target=_in_root, args=(do, root, output))
        process.start()
        return cls(process, output, {})

    def kill(self) -> bool:
        """Kill it with all that it started; whether it was still at work."""
        alive = self.process.is_alive()
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            for child in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self.process.join()
        return alive

    def ended(self) -> tuple[int, str]:
        """Exit status and what was printed."""
        self.process.join(300)
        return self.process.exitcode, self.output.read_text()


def done(do: Callable[[Path], None], root: Path) -> None:
    """Do a piece of work; it must succeed."""
    status, printed = Work.begin(do, root).ended()
    assert status == 0, printed


def refusal(do: Callable[[Path], None], root: Path) -> str:
    """The line in which a piece of work says why it stops; empty if it does not stop."""
    status, printed = Work.begin(do, root).ended()
    if status == 0:
        return ""
    assert "Traceback" not in printed, printed
    lines = [line for line in re.split(r"[\r\n]+", printed) if line.startswith("fairnb: ")]
    assert len(lines) == 1, printed
    return lines[0]


def _in_root(do: Callable[[Path], None], root: Path, output: Path) -> None:
    with output.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", buffering=1) for stream in (1, 2))
    os.chdir(root)
    os.environ |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # the latter for kernels
    torch.set_num_threads(1)  # rounds are quick also where other work shares the cores
    try:
        do(root)
    except (ValueError, OSError) as error:  # as the command prints it
        print(f"fairnb: {error}", file=sys.stderr)
        raise SystemExit(1) from None


def results(root: Path) -> dict[str, str]:
    """Digests of all that a run's results are, by file: without seconds and provenance. Litter is found too."""
    litter = r"\.part$|^\.tmp|checkpoint|_search\.safetensors"
    assert not [path for path in root.rglob("*") if re.search(litter, path.name)]
    found = {}
    for path in sorted(path for path in (root / "runs").rglob("*") if path.is_file() and path.suffix != ".lock"):
        name = str(path.relative_to(root))
        if path.name == "run.json":
            known = json.loads(path.read_text())
            content: Any = [known["parameters"], sorted(known["stages"]), known["base_key"]]
        elif path.name == "history.csv":
            content = pd.read_csv(path).filter(regex="^(val_.*|epoch|loss|best)$").to_csv()
        elif path.suffix == ".safetensors":
            content = {name: hashlib.sha256(part.numpy().tobytes()).hexdigest() for name, part in load_tensors(path).items()}
        elif path.suffix == ".ipynb":
            cells = nbformat.read(path, as_version=4).cells  # progress bars differ
            content = [[one.data for one in cell.get("outputs", []) if "data" in one] for cell in cells]
        elif path.suffix == ".npy":
            content = np.load(path).tobytes().hex()
        else:
            content = path.read_bytes().hex()
        found[name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return found


def kills(begin: Callable[[], Path], do: Callable[[Path], None], rounds: int, seen: Callable[[Path], Any] = results) -> int:
    """Kill a piece of work at a random moment and let the same command end it; rounds with other results.

    `begin` makes a new place for each round.
    """
    whole, lost, killed = begin(), 0, 0
    start = time.perf_counter()
    done(do, whole)
    longest, wanted, draw = time.perf_counter() - start, seen(whole), random.Random(rounds)
    while killed < rounds:
        root = begin()
        work = Work.begin(do, root)
        time.sleep(draw.uniform(0, longest))
        if work.kill():
            killed += 1
            done(do, root)
        else:
            longest *= 0.9  # it was over
        if (found := seen(root)) != wanted:
            lost += 1
            print("other results:", [name for name in wanted | found if wanted.get(name) != found.get(name)])
        shutil.rmtree(root)
    return lost


def places(folder: Path, like: Path | None = None) -> Callable[[], Path]:
    """Makes new places in a folder, each a new project or a copy of one that is there."""
    numbers: Iterator[int] = iter(range(10**6))

    def begin() -> Path:
        place = folder / f"place{next(numbers)}"
        return project(place) if like is None else Path(shutil.copytree(like, place))

    return begin
