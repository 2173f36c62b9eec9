"""What a GPU makes of the project: speed, memory, and how far its results are from the CPU's.

    .venv/bin/python benchmarks/gpu.py [--only training tables] [--minutes 10]

| part | measures |
|---|---|
| training | images a second of ResNet-50 at 224 in bf16: the project's training on the decoded array, the same step on a batch that lies on the device, and a plain PyTorch loop |
| iteration | an iteration of the swarms at CelebA's size, of the bare matrix product |
| layers | seconds and memory of an iteration that moves both layers at that size |
| tables | the demo's tables, once by the GPU and once by the CPU, both in float32 |
| book | minutes of the whole demo book |

Each part is a process with a limit of its own, so that all together end in time; one that finds none left says so. Prints
tables, and exits 1 where a claim falls short or a part was not finished; without a GPU it says so and exits 77: not run.
"""  # noqa: E501

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch
from celeba_scale import Size, both_layers, iterations
from measuring import Claim, at_most, verdict
from photographs import book
from torch import Tensor
from training import epoch_of, fresh, plain_loop, ratio, resident_steps, speeds_of

from fairnb.data import draw_faces
from fairnb.data.feeding import Feed
from fairnb.experiment import Experiment
from fairnb.heads import Heads
from fairnb.methods import BASE, METHODS
from fairnb.metrics import accuracy, underestimation_index
from fairnb.run.device import make_fabric
from fairnb.run.parameters import Parameters, Recipe, read
from fairnb.training import _Training

ROOT = Path(__file__).resolve().parents[1]
NOT_RUN = 77  # as automake's tests that were skipped
SEARCHED = ("dynamic weighting", "multi-task", "label thresholds")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--minutes", type=float, default=10.0, help="for all parts together")
    # For its own test: a CPU in the GPU's place, sizes that take seconds, and one part in this process.
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("not run: there is no GPU on this machine")
        return NOT_RUN
    if arguments.here:
        return verdict([claim for part in arguments.only for claim in PARTS[part][0](arguments.device, arguments.small)])
    name = torch.cuda.get_device_name() if arguments.device == "cuda" else "the CPU"
    print(f"{name}, PyTorch {torch.__version__}", flush=True)
    ends, rows = time.perf_counter() + 60 * arguments.minutes, []
    for part in arguments.only:
        begun = time.perf_counter()
        left = min(float(PARTS[part][1]), ends - begun)
        print(f"\n{part}", flush=True)
        rows.append((part, alone(part, arguments, left) if left > 0 else "no time left", time.perf_counter() - begun))
    print(f"\n{pd.DataFrame(rows, columns=['part', 'how it ended', 'seconds']).round(0).to_string(index=False)}")
    return int(any(how != "kept" for _, how, _ in rows))


def alone(part: str, arguments: argparse.Namespace, seconds: float) -> str:
    """Run a part in a process of its own, and end that with all that it has started when its time is over."""
    small = ["--small"] if arguments.small else []
    command = [sys.executable, __file__, "--only", part, "--here", "--device", arguments.device, *small]
    process = subprocess.Popen(command)
    try:
        return {0: "kept", 1: "fell short"}.get(process.wait(seconds), "failed")
    except subprocess.TimeoutExpired:
        return f"not finished within {seconds:.0f} s"
    finally:
        if process.poll() is None:
            for one in [*psutil.Process(process.pid).children(recursive=True), process]:
                one.kill()
            process.wait()


def steps(device: str, small: bool) -> list[Claim]:
    """ResNet-50 by `params/paper.yml`, on drawn faces: what images show decides nothing about speed."""
    words = ["data=drawn", "data_root=", "weights=", "precision=32-true" if small else "precision=bf16-mixed"]
    words += ["backbone=shufflenet_v2_x0_5", "resize=32", "image_size=32", "batch_size=8", "hidden=8"] if small else []
    recipe = Parameters(**read(ROOT / "params" / "paper.yml", words)).part(Recipe)
    count, turns = (2, 1) if small else (100, 3)
    fabric, faces = make_fabric(device, recipe.precision), draw_faces([count * recipe.batch_size, 64, 64])
    with tempfile.TemporaryDirectory() as scratch:
        cache = Path(scratch) / "cache"
        feed = Feed(faces.images, recipe.resize, recipe.image_size, cache=cache, fabric=fabric, form="cached")
        feed.prepare()
        own = _Training(fabric, fresh(recipe, faces), faces, recipe, Path(scratch), feed, "", False)
        loop = plain_loop(recipe, fabric.device, max(1, count // 3))
        ways = {"training": epoch_of(own), "step in memory": resident_steps(own, count), "plain float32 loop": loop}
        speeds = speeds_of(ways, turns)
    print(f"{recipe.backbone} at {recipe.image_size}, batch {recipe.batch_size}, {recipe.precision}: images a second,")
    print(f"median and range of {turns} turns of {count} steps")
    print(speeds.agg(["median", "min", "max"]).T.round(1).to_string(), flush=True)
    return [
        ratio(speeds, "training", "step in memory", 0.0 if small else 0.95),
        ratio(speeds, "step in memory", "plain float32 loop", 0.0 if small else 2.5),
    ]


def flights(device: str, small: bool) -> list[Claim]:
    return iterations(TINY if small else Size(), "bfloat16", device, rounds=2 if small else 15)


def layers(device: str, small: bool) -> list[Claim]:
    return both_layers(TINY if small else Size(), "bfloat16", device)


def tables(device: str, small: bool) -> list[Claim]:
    """The demo on test: on each device with a training and searches of its own, then both on the CPU's features."""
    quick: Any = {"drawn": (160, 80, 80), "min_positives": 1, "epochs": 1, "particles": 8, "iterations": 2} if small else {}
    quick |= {"backbone": "shufflenet_v2_x0_5", "resize": 34, "image_size": 32} if small else {}
    given, rows = Parameters(precision="32-true", **quick), []
    with tempfile.TemporaryDirectory() as runs:
        there, here = (
            Experiment.open(runs=runs, **given.but(run=run, device=where).model_dump())
            for run, where in (("there", device), ("here", "cpu"))
        )
        test, problem = here.features()["test"], here.problem(device=device)
        for method in (BASE.name, *SEARCHED):
            seen = here.heads_of(method).predict(test)
            other = there.heads_of(method)
            rows.append(("its own", method, *apart(here, seen, other.predict(there.features_for(other)["test"]))))
            other = here.heads_of(method) if method == BASE.name else METHODS[method].search(problem, given).heads
            on_device = Heads(other.weights.to(device)).predict(test.to(device)).cpu()
            rows.append(("the CPU's", method, *apart(here, seen, on_device)))
    columns = ["features", "method", "largest accuracy", "largest UEI", "mean UEI", "predictions"]
    table = pd.DataFrame(rows, columns=columns).sort_values("features", kind="stable").set_index(["features", "method"])
    print(f"the demo by {device} and by the CPU, test: differences per label, and the share of predictions that differ")
    print(table.to_string(float_format="{:.5f}".format), flush=True)
    same = table.loc["the CPU's"]
    return [
        at_most("the same heads: predictions that differ, share", same.predictions[BASE.name], 1e-4),
        at_most("label thresholds on the same features: likewise", same.predictions["label thresholds"], 1e-3),
        at_most(
            "multi-task after a training of its own: difference of mean UEI",
            table["mean UEI"]["its own", "multi-task"],
            0.01,
        ),
    ]


def apart(experiment: Experiment, seen: Tensor, other: Tensor) -> tuple[float, float, float, float]:
    """How far predictions on test, bool [L, N], are apart over the analysed labels: see the columns above."""
    kept, test = experiment.analysed, experiment.features()["test"]
    one, two = (test.tables(part)[kept] for part in (seen, other))
    accurate, uei = ((of(one) - of(two)).abs() for of in (accuracy, underestimation_index))
    means = [float(underestimation_index(part).mean()) for part in (one, two)]
    differ = (seen != other)[kept].double().mean()
    return float(accurate.max()), float(uei.max()), abs(means[0] - means[1]), float(differ)


def whole_book(device: str, small: bool) -> list[Claim]:
    """The demo book in a clone of this checkout."""
    with book("-p", f"device={device}") as (_, costs):
        return costs


TINY = Size(images=300, width=8, labels=3, particles=10)
# What each part runs, and its limit in seconds.
PARTS: dict[str, tuple[Callable[[str, bool], list[Claim]], int]] = {
    "training": (steps, 150), "iteration": (flights, 60), "layers": (layers, 60), "tables": (tables, 120),
    "book": (whole_book, 210),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
