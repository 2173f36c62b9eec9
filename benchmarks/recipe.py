"""The quick recipe beside the former one: what its training costs, and whether the bias shows as clearly.

    .venv/bin/python benchmarks/recipe.py [--seeds 5]
    .venv/bin/python benchmarks/recipe.py --params params/photographs.yml -p data_root=<folder in CelebA layout>
    .venv/bin/python benchmarks/recipe.py --tried                      # every recipe that was tried, one seed each

Trains an epoch of either recipe in turns, in float32 and, where the machine computes in it, in bfloat16, and compares the
CPU seconds of whole trainings: those of an epoch with its validation, times the epochs. Then trains the quick recipe with
several seeds, runs both of the paper's searches, and looks at what the book is about: a sweep, `runs/recipe-…`. Prints
tables, and exits 1 where a claim falls short.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from measuring import Claim, at_least, at_most, verdict
from phenomenon import phenomenon, swept

from fairnb.experiment import Experiment
from fairnb.run.device import resolve
from fairnb.run.parameters import Parameters, read

ROOT = Path(__file__).resolve().parents[1]
# What `results/` was measured with until revision 86212cd, and 12 epochs on photographs.
FORMER: dict[str, Any] = {
    "backbone": "resnet18", "hidden": 512, "dropout": 0.5, "resize": 66, "image_size": 64, "epochs": 8, "batch_size": 64,
    "learning_rate": 5e-4, "schedule": "constant",
}  # fmt: skip
FORMER_ACCURACY = {"drawn": 0.873898, "celeba": 0.872543}  # of its base models there, means of five seeds
CYCLE = {"schedule": "one-cycle"}
# Each beside what of the former recipe it changes.
TRIED: list[dict[str, Any]] = [
    {"epochs": 8},
    {"backbone": "shufflenet_v2_x1_0", "learning_rate": 4e-3, **CYCLE},
    {"backbone": "shufflenet_v2_x1_0", "hidden": 128, "dropout": 0.1, "batch_size": 16, "learning_rate": 3e-3, **CYCLE},
    {"backbone": "squeezenet1_1", "hidden": 128, "dropout": 0.1, "batch_size": 32, "learning_rate": 1e-3, **CYCLE},
    {"resize": 42, "image_size": 40, "epochs": 4, "hidden": 128, "learning_rate": 2e-3, **CYCLE},
    {"resize": 50, "image_size": 48, "epochs": 4, "learning_rate": 1e-3, **CYCLE},
    {"epochs": 2, "hidden": 128, "dropout": 0.1, "batch_size": 32, "learning_rate": 1e-3, **CYCLE},
    {"resize": 58, "image_size": 56, "epochs": 3, "hidden": 128, "dropout": 0.1, "batch_size": 32, "learning_rate": 1e-3}
    | CYCLE,
    {"resize": 58, "image_size": 56, "epochs": 3, "hidden": 128, "dropout": 0.1, "batch_size": 32, "learning_rate": 2e-3}
    | CYCLE,
    {"resize": 58, "image_size": 56, "epochs": 3, "hidden": 256, "dropout": 0.0, "batch_size": 32, "learning_rate": 1e-3}
    | CYCLE,
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, help="the demo's where none is given")
    parser.add_argument("-p", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--turns", type=int, default=3, help="epochs of either recipe whose CPU seconds are compared")
    parser.add_argument("--tried", action="store_true")
    arguments = parser.parse_args()
    given = Parameters(**read(arguments.params, arguments.p))
    file = {"params": str(arguments.params.resolve())} if arguments.params else {}
    what: dict[str, Any] = file | {"set": read(None, arguments.p)}
    if arguments.tried:
        seen = swept(ROOT, name=f"recipes-{given.data}", runs=[FORMER | tried for tried in TRIED], **what)
        print(seen.to_string(index=False, float_format="{:.3f}".format))
        return 0
    claims = costs(given, FORMER | ({"epochs": 12} if given.data != "drawn" else {}), arguments.turns)
    seen = swept(ROOT, name=f"recipe-{given.data}", grid={"seed": list(range(arguments.seeds))}, **what)
    print(seen.to_string(index=False, float_format="{:.4f}".format), end="\n\n")
    change = seen.accuracy.mean() - FORMER_ACCURACY[given.data]
    return verdict([*claims, *phenomenon(seen), at_least("base accuracy compared with the former's, mean", change, -0.005)])


def costs(given: Parameters, former: dict[str, Any], turns: int) -> list[Claim]:
    """CPU seconds of a training by the quick recipe, as a share of one by the former."""
    claims = []
    for precision in dict.fromkeys(["32-true", resolve(given.device)[1]]):
        spent: dict[str, list[float]] = {"former": [], "quick": []}
        for turn in range(turns):
            for name, whole in (("former", given.but(**former)), ("quick", given)):
                spent[name].append(whole.epochs * training(whole.but(epochs=1, precision=precision, seed=1000 + turn)))
        seconds = {name: median(values) for name, values in spent.items()}
        print(f"{precision}: former {seconds['former']:.0f} CPU seconds, quick {seconds['quick']:.0f}")
        share = seconds["quick"] / seconds["former"]
        claims.append(at_most(f"CPU seconds of a training, share of the former's, {precision}", share, 1 / 3))
    return claims


def training(given: Parameters) -> float:
    """CPU seconds of a training once the images are there."""
    with tempfile.TemporaryDirectory() as runs:
        experiment = Experiment.open(runs=runs, **given.model_dump())
        experiment.feed.prepare()
        start = time.process_time()
        experiment.base_model()
        return time.process_time() - start


if __name__ == "__main__":
    sys.exit(main())
