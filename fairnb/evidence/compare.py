"""Comparison of runs: every method in every run's folder, weighed by `fairnb.evidence.weigh`.

Runs that differ only in their seed are one method with several seeds. Methods of the same name with other parameters are
distinguished by these: `multi-task (noise=0)`. A base model trained with a mitigation is a method named after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fairnb import tables
from fairnb.evidence.outcome import Judge, Outcome
from fairnb.evidence.weigh import DRAWS, Evidence, weigh
from fairnb.features import Features, load_features, load_layer
from fairnb.heads import Heads
from fairnb.methods import METHODS, load_search
from fairnb.run.files import refuse_other_base
from fairnb.run.keys import digest
from fairnb.run.messages import some
from fairnb.run.parameters import Parameters, Recipe
from fairnb.run.record import load_run

ASIDE = {"seed", "mitigation"}  # parameters that distinguish no variants: repeated, or named otherwise
FEW_SEEDS = 4  # with fewer, the tails of Student's t are too long to find much


@dataclass(frozen=True, eq=False)
class Run:
    """Contents of a run's folder."""

    folder: Path
    parameters: dict[str, Any]
    stages: dict[str, dict[str, Any]]  # with the seconds of each
    labels: list[str]  # names of all L labels
    analysed: Tensor  # bool [L]
    features: dict[str, Features]  # of 'valid' and 'test'


def compare(folders: Sequence[Path], *, draws: int = DRAWS, say: Callable[[str], object] = print) -> Evidence:
    """Weigh every method of some runs, on their common analysed labels and seeds.

    Labels are compared with the base model trained for accuracy alone, if one of the runs has it.

    `say` receives notes on seeds left out because a method lacks them, and on too few seeds. Raises FileNotFoundError if a
    folder holds no finished base model and features, ValueError if the runs differ in test images, people or labels, share
    no label or seed, or have an older format.
    """
    runs = [read_run(folder) for folder in folders]
    first, known = runs[0], [run for run in runs if run.features["test"].person is not None]
    truths = [(run.labels, digest(run.features["test"].labels), digest(run.features["test"].group)) for run in runs]
    for run, truth_of_run in zip(runs, truths, strict=True):
        if truth_of_run != truths[0]:
            raise ValueError(f"{run.folder} and {first.folder} differ in test images or labels: compare them separately")
    for run in known[1:]:
        if digest(run.features["test"].people[1]) != digest(known[0].features["test"].people[1]):
            raise ValueError(f"{run.folder} and {known[0].folder} show different people on test: compare them separately")
    analysed = torch.stack([run.analysed for run in runs]).all(0)
    if not bool(analysed.any()):
        raise ValueError("no label is analysed in all of these runs")
    outcomes = outcomes_of(runs, analysed)
    of_method: dict[str, set[int]] = {}
    for one in outcomes:
        of_method.setdefault(one.method, set()).add(one.seed)
    if not (common := set.intersection(*of_method.values())):
        had = "; ".join(f"{method}: {some(map(str, sorted(seeds)))}" for method, seeds in of_method.items())
        raise ValueError(f"no seed is common to every method ({had}): compare runs of the same seeds")
    for seed in sorted(set.union(*of_method.values()) - common):
        say(f"seed {seed} is left out: it is missing for {some(name for name in of_method if seed not in of_method[name])}")
    if 1 < len(common) < FEW_SEEDS:
        say(f"{len(common)} seeds are few: intervals are wide, and hardly any label can count as changed; run 5 or more")
    truth = (known or runs)[0].features["test"].of_labels(analysed)
    names = [name for name, kept in zip(first.labels, analysed.tolist(), strict=True) if kept]
    return weigh([one for one in outcomes if one.seed in common], truth, names, reference=next(iter(of_method)), draws=draws)


def read_run(folder: Path) -> Run:
    """Read a run's folder; FileNotFoundError if it holds no finished base model and features, ValueError for damage."""
    needed = "run.json", "labels.csv", "base.safetensors", "features.safetensors"
    if missing := [name for name in needed if not (folder / name).exists()]:
        raise FileNotFoundError(f"{folder} is no finished run: there is no {some(missing)} (`fairnb run` makes them)")
    known, table = load_run(folder), tables.read(path := folder / "labels.csv", "method", "split", "label", "analysed")
    made = ["features", "pooled_features", *(method.file for name, method in METHODS.items() if name in known["stages"])]
    for name in made:
        refuse_other_base(folder / f"{name}.safetensors", folder / "base.safetensors")
    rows = table[(table.method == "base") & (table.split == "test")]
    features = load_features(folder / "features.safetensors")
    if len(rows) != features["test"].labels.shape[1] or rows.label.nunique() < len(rows) or rows.analysed.dtype != bool:
        raise ValueError(f"{path} is damaged (it lacks labels of the base model, or repeats one): delete it to make it anew")
    analysed = torch.tensor(rows.analysed.to_numpy())
    given = Parameters(**known["parameters"]).model_dump(mode="json")  # older runs lack some
    above = list(folder.resolve().parents)[: given["run"].count("/") + 1]  # of a sweep's run, more than one
    stages, trained = known["stages"], above[-1] / known.get("base_from", "") / "run.json"
    if (stages.get("base model") or {}).get("seconds") is None and trained.exists():  # shared with the run that trained it
        stages |= {"base model": load_run(trained.parent)["stages"].get("base model", {})}
    return Run(folder, given, stages, rows.label.tolist(), analysed, features)


def outcomes_of(runs: list[Run], analysed: Tensor, bases: dict[int, Outcome] | None = None) -> list[Outcome]:
    """All outcomes of the runs without duplicates, plain base models first; `bases` holds others' plain ones by seed."""
    found: dict[tuple[str, int], Outcome] = {}
    bases = dict(bases or {})
    for run in sorted(runs, key=lambda run: bool(run.parameters["mitigation"])):  # plain base models first
        seed, mitigation = run.parameters["seed"], run.parameters["mitigation"]
        judge = Judge(run.features, analysed, seed, run.parameters["tolerance"], bases.get(seed))
        heads = Heads(load_layer(run.folder / "base.safetensors").unsqueeze(0))
        name = f"{mitigation or 'base'}{_told_apart(run, runs, Recipe.names())}"
        own = judge.outcome(name, heads, _seconds(run, "base model"))
        if not mitigation:
            bases.setdefault(seed, own)
        found.setdefault((own.method, seed), own)
        for method in METHODS.values():
            if method.find is None or method.name not in run.stages:
                continue
            path, moved = run.folder / f"{method.file}.safetensors", run.folder / "pooled_features.safetensors"
            judge = replace(judge, base=bases.get(seed, own), pooled=load_features(moved) if moved.exists() else None)
            after = f" after {mitigation}" if mitigation else ""
            apart = _told_apart(run, [one for one in runs if method.name in one.stages], Recipe.names() | method.depends_on)
            one = judge.outcome(f"{method.name}{after}{apart}", load_search(path), _seconds(run, method.name))
            found.setdefault((one.method, seed), one)
    return list(found.values())


def _seconds(run: Run, stage: str) -> float:
    """Seconds of a stage; NaN if it was not made in this run."""
    return (run.stages.get(stage) or {}).get("seconds") or float("nan")


def _told_apart(run: Run, runs: list[Run], names: set[str] | frozenset[str]) -> str:
    """The parameters in which this run differs from others, in brackets."""
    own = run.parameters
    differ = [name for name in sorted(names - ASIDE) if any(other.parameters[name] != own[name] for other in runs)]
    return f" ({', '.join(f'{name}={own[name]}' for name in differ)})" if differ else ""
