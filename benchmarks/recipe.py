"""The quick recipe beside the former one: what its training costs, and whether the bias shows as clearly.

    .venv/bin/python benchmarks/recipe.py [--seeds 5] [--keep folder]
    .venv/bin/python benchmarks/recipe.py --params params/photographs.yml -p data_root=<folder in CelebA layout>
    .venv/bin/python benchmarks/recipe.py --tried                      # every recipe that was tried, one seed each

Trains an epoch of either recipe in turns, in float32 and, where the machine computes in it, in bfloat16, and compares the
CPU seconds of whole trainings: those of an epoch with its validation, times the epochs. Then trains the quick recipe with
several seeds, runs both of the paper's searches, and looks at what the book is about. Prints tables, and exits 1 where a
claim falls short.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from fairnb.book.tables import summary
from fairnb.experiment import Experiment
from fairnb.run.device import resolve
from fairnb.run.parameters import Parameters, read

ROOT = Path(__file__).resolve().parents[1]
# What `results/` was measured with, and 12 epochs on photographs.
FORMER: dict[str, Any] = {
    "backbone": "resnet18", "hidden": 512, "dropout": 0.5, "resize": 66, "image_size": 64, "epochs": 8, "batch_size": 64,
    "learning_rate": 5e-4, "schedule": "constant",
}  # fmt: skip
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
    parser.add_argument("--keep", type=Path, help="folder that keeps the trainings for the next time")
    parser.add_argument("--tried", action="store_true")
    arguments = parser.parse_args()
    given = Parameters(**read(arguments.params, arguments.p))
    former = FORMER | ({"epochs": 12} if given.data != "drawn" else {})
    with tempfile.TemporaryDirectory() as scratch:
        runs = (arguments.keep or Path(scratch)).resolve()
        if arguments.tried:
            named = {", ".join(f"{k}={v}" for k, v in tried.items()): tried for tried in TRIED}
            rows = [shows(given.but(run=name, **FORMER | tried), runs) for name, tried in named.items()]
            print(pd.DataFrame(rows).to_string(index=False, float_format="{:.3f}".format))
            return 0
        claims = costs(given, former, runs, arguments.turns)
        seeds = pd.DataFrame([shows(given.but(run=f"seed {seed}", seed=seed), runs) for seed in range(arguments.seeds)])
    print(seeds.to_string(index=False, float_format="{:.4f}".format), end="\n\n")
    name = "drawn" if given.data == "drawn" else "photographs"
    known = pd.read_csv(ROOT / "results" / name / "methods.csv").set_index("method").accuracy["base"]
    change = seeds.accuracy.mean() - known
    claims += [
        ("labels with US below 0.8, share", seeds.low.min(), "≥ 1/3", seeds.low.min() >= 1 / 3),
        ("dynamic weighting / base, UEI", (seeds.dynamic / seeds.uei).max(), "< 1", bool((seeds.dynamic < seeds.uei).all())),
        ("multi-task / base, UEI", (seeds.multi / seeds.uei).max(), "≤ 0.5", bool((seeds.multi <= seeds.uei / 2).all())),
        ("accuracy that multi-task loses", seeds.loss.max(), "≤ 0.05", seeds.loss.max() <= 0.05),
        ("base accuracy less the former's", change, "≥ -0.005", change >= -0.005),
    ]
    table = pd.DataFrame(claims, columns=["what (the worst seed's; the last, a mean)", "seen", "claimed", "holds"])
    print(table.to_string(index=False, float_format="{:.3f}".format))
    return int(not table.holds.all())


def costs(given: Parameters, former: dict[str, Any], runs: Path, turns: int) -> list[tuple[str, float, str, bool]]:
    """CPU seconds of a training by the quick recipe, as a share of one by the former."""
    claims = []
    for precision in dict.fromkeys(["32-true", resolve(given.device)[1]]):
        spent: dict[str, list[float]] = {"former": [], "quick": []}
        for turn in range(turns):
            for name, whole in (("former", given.but(**former)), ("quick", given)):
                one = whole.but(run=f"{precision}-{name}-{turn}", epochs=1, precision=precision, seed=1000 + turn)
                spent[name].append(whole.epochs * train(one, runs / "costs")[1])
        seconds = {name: median(values) for name, values in spent.items()}
        print(f"{precision}: former {seconds['former']:.0f} CPU seconds, quick {seconds['quick']:.0f}")
        share = seconds["quick"] / seconds["former"]
        claims.append((f"CPU seconds of a training, share of the former's, {precision}", share, "≤ 1/3", share <= 1 / 3))
    return claims


def train(given: Parameters, runs: Path) -> tuple[Experiment, float]:
    """A trained run, and the CPU seconds of its training once the images are there."""
    experiment = Experiment.open(runs=runs, **given.model_dump())
    experiment.feed.prepare()
    start = time.process_time()
    experiment.base_model()
    return experiment, time.process_time() - start


def shows(given: Parameters, runs: Path) -> dict[str, Any]:
    """What one training shows of underestimation, and what the searches make of it, on test."""
    experiment, seconds = train(given, runs)
    experiment.search("dynamic weighting")
    experiment.search("multi-task")
    groups, labels = experiment.groups(), experiment.labels()
    analysed = set(labels.label[labels.analysed])
    base = groups[(groups.method == "base") & (groups.split == "test") & groups.label.isin(analysed)]
    means = summary(labels).set_index("method")
    return {
        "run": given.run, "CPU seconds": seconds, "accuracy": means.accuracy["base"], "uei": means.uei["base"],
        "low": (base.groupby("label").us.min() < 0.8).mean(), "dynamic": means.uei["dynamic weighting"],
        "multi": means.uei["multi-task"], "loss": means.accuracy_loss["multi-task"],
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
