"""Runs beside each other: every method in every run's folder, as outcomes that `fairnb.evidence` weighs.

    evidence = compare([Path("runs/a"), Path("runs/b")])
    print(evidence.methods)

Runs that differ in nothing but their seed are the same method with several seeds. A method whose run has other parameters
than its namesakes is told from them by these: `multi-task (noise=0)`. A base model whose training was mitigated counts as a
method of its own, named after the mitigation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fairnb.evidence.weigh import DRAWS, Evidence, Outcome, outcome, weigh
from fairnb.features import Features, load_features, load_layer
from fairnb.methods.strategies import load_search
from fairnb.run.files import load_json
from fairnb.run.keys import digest
from fairnb.run.messages import some
from fairnb.swarm.mopso import Swarm
from fairnb.tables import METHODS, file_name
from fairnb.training import Recipe

ASIDE = ("seed", "mitigation")  # parameters that name no variant of a method: repeated, or named otherwise
FEW_SEEDS = 4  # with fewer, Student's t has tails beyond which hardly anything lies
RECIPE = {field.name for field in fields(Recipe)} - set(ASIDE)
# What else a method depends on; a baseline on the tolerance, and on what is noted under its own name.
SEARCHED = {field.name for field in fields(Swarm)} | {"tolerance"}
DEPENDS = {
    "dynamic weighting": SEARCHED | {"spread", "steer", "whiten", "epsilon", "layers"},
    "multi-task": SEARCHED | {"spread", "steer", "whiten"},
    "calibrated multi-task": SEARCHED,
}


@dataclass(frozen=True, eq=False)
class Run:
    """What lies in a run's folder.

    Attributes:
        folder: where it lies.
        parameters: that it was made with.
        seconds: of its stages.
        labels: names of all L labels.
        analysed: bool [L], those that are judged.
        features: of 'valid' and 'test'.
    """

    folder: Path
    parameters: dict[str, Any]
    seconds: dict[str, float]
    labels: list[str]
    analysed: Tensor
    features: dict[str, Features]


def compare(folders: Sequence[Path], *, draws: int = DRAWS, say: Callable[[str], object] = print) -> Evidence:
    """Weigh every method of some runs, on the labels that all of them analyse and the seeds that every method has.

    Labels are compared with the base model that was trained for accuracy alone, where one of the runs has it.

    Args:
        folders: of runs whose test images are the same.
        draws: of the bootstrap.
        say: told which seeds are left out because a method lacks them, and where there are few.

    Raises:
        FileNotFoundError: if a folder holds no finished base model and features.
        ValueError: if runs were judged on other test images, people or labels, or no seed is common.
    """
    runs = [_read(folder) for folder in folders]
    first = runs[0]
    for run in runs[1:]:
        if _truth(run) != _truth(first):
            raise ValueError(
                f"{run.folder} and {first.folder} were judged on different test images or labels: compare them apart"
            )
    known = [run for run in runs if run.features["test"].person is not None]
    for run in known[1:]:
        if digest(run.features["test"].people[1]) != digest(known[0].features["test"].people[1]):
            raise ValueError(f"{run.folder} and {known[0].folder} show different people on test: compare them apart")
    analysed = torch.stack([run.analysed for run in runs]).all(0)
    if not bool(analysed.any()):
        raise ValueError("no label is analysed in all of these runs")
    outcomes = _outcomes(runs, analysed)
    methods = list(dict.fromkeys(one.method for one in outcomes))
    of_method = {method: {one.seed for one in outcomes if one.method == method} for method in methods}
    common = set.intersection(*of_method.values())
    if not common:
        had = "; ".join(f"{method}: {some(map(str, sorted(seeds)))}" for method, seeds in of_method.items())
        raise ValueError(f"no seed is common to every method ({had}): compare runs of the same seeds")
    for seed in sorted(set.union(*of_method.values()) - common):
        say(f"seed {seed} is left out: it is not there for {some([m for m in methods if seed not in of_method[m]])}")
    if 1 < len(common) < FEW_SEEDS:
        say(f"{len(common)} seeds tell little of others: intervals are wide, and hardly a label can count; 5 tell more")
    test = (known or runs)[0].features["test"]
    truth = replace(test, labels=test.labels[:, analysed])
    names = [name for name, kept in zip(first.labels, analysed.tolist(), strict=True) if kept]
    return weigh([one for one in outcomes if one.seed in common], truth, names, reference=methods[0], draws=draws)


def _read(folder: Path) -> Run:
    needed = ["run.json", "labels.csv", "base.safetensors", "features.safetensors"]
    missing = [name for name in needed if not (folder / name).exists()]
    if missing:
        raise FileNotFoundError(f"{folder} is no finished run: there is no {some(missing)} (`fairnb run` makes them)")
    known, table = load_json(folder / "run.json"), pd.read_csv(folder / "labels.csv")
    rows = table[(table.method == "base") & (table.split == "test")]
    analysed = torch.tensor(rows.analysed.to_numpy(dtype=bool))
    features = load_features(folder / "features.safetensors")
    return Run(folder, known["parameters"], known["seconds"], rows.label.tolist(), analysed, features)


def _truth(run: Run) -> tuple[object, ...]:
    test = run.features["test"]
    return tuple(run.labels), digest(test.labels), digest(test.group)


def _outcomes(runs: list[Run], analysed: Tensor) -> list[Outcome]:
    """Everything that the runs hold, plain base models first; what is there twice, once."""
    plain_first = sorted(runs, key=lambda run: bool(run.parameters.get("mitigation")))
    found: dict[tuple[str, int], Outcome] = {}
    bases: dict[int, Outcome] = {}
    for run in plain_first:
        seed, mitigation = run.parameters["seed"], run.parameters.get("mitigation", "")
        tolerance = run.parameters.get("tolerance", 0.05)
        heads = load_layer(run.folder / "base.safetensors")
        own = outcome(
            f"{mitigation or 'base'}{_told_apart(run, runs, RECIPE)}", seed, run.features, heads, analysed,
            base=bases.get(seed), tolerance=tolerance, seconds=run.seconds.get("base model", float("nan")),
        )  # fmt: skip
        if not mitigation:
            bases.setdefault(seed, own)
        found.setdefault((own.method, seed), own)
        for method in METHODS[1:]:
            path = run.folder / f"{file_name(method)}.safetensors"
            if not path.exists():
                continue
            search = load_search(path)
            moved = run.folder / "pooled_features.safetensors"
            splits = run.features if search.hidden is None else load_features(moved)
            after = f" after {mitigation}" if mitigation else ""
            name = f"{method}{after}{_told_apart(run, runs, RECIPE | DEPENDS.get(method, {'tolerance', method}))}"
            one = outcome(
                name, seed, splits, search.heads, analysed,
                search=search, base=bases.get(seed, own), tolerance=tolerance, seconds=run.seconds.get(method, float("nan")),
            )  # fmt: skip
            found.setdefault((name, seed), one)
    return list(found.values())


def _told_apart(run: Run, runs: list[Run], names: set[str]) -> str:
    """The parameters by which this run differs from others, in brackets."""
    differ = [
        f"{name}={run.parameters[name]}"
        for name in sorted(names & run.parameters.keys())
        if any(other.parameters.get(name, run.parameters[name]) != run.parameters[name] for other in runs)
    ]
    return f" ({', '.join(differ)})" if differ else ""
