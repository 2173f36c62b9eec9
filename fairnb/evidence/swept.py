"""The results of a sweep: a row per method of each run, its comparisons of settings, and their publication."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from fairnb.evidence.compare import Run, compare, outcomes_of, read_run
from fairnb.evidence.outcome import Outcome
from fairnb.evidence.weigh import DIGITS, DRAWS, Evidence, weigh
from fairnb.metrics import accuracy, chance_index, underestimation_index
from fairnb.run.files import load_json, save_json, save_table
from fairnb.run.parameters import Data, Parameters
from fairnb.run.record import MOVABLE, load_run
from fairnb.tables import read_csv

FEWER_DRAWS = 2000  # for comparisons of settings, whose single labels nobody looks at
METHODS_COMPARED = "methods"  # the comparison that is published label by label
SEEDS = {"seed", "mitigation"}  # parameters that no published result is of


def rows_of(folder: Path) -> list[dict[str, Any]]:
    """A row for each method of one run: means over the analysed labels, on test unless stated otherwise.

    `uei_chance` is the UEI expected by chance at these errors, `higher` counts the labels whose UEI is above the base
    model's, by chance or not; the other columns are as in `fairnb.evidence.weigh.Evidence.methods`.
    """
    run, rows, before = read_run(folder), [], None
    test = run.features["test"].of_labels(run.analysed)
    for method, one in _by_method(run, run.analysed).items():
        tables = test.tables(one.test)
        uei = underestimation_index(tables)
        before = uei if before is None else before  # the base model is first
        rows.append({
            "method": method, "uei_valid": float(underestimation_index(one.valid).mean()),
            "accuracy_valid": float(accuracy(one.valid).mean()), "uei": float(uei.mean()),
            "accuracy": float(accuracy(tables).mean()), "uei_chance": float(chance_index(tables).mean()),
            "higher": int((uei > before).sum()), "labels": len(uei), "uei_pick": one.promised, "area_valid": one.area[0],
            "area_test": one.area[1], "evaluations": one.evaluations, "seconds": one.seconds,
        })  # fmt: skip
    return rows


def _by_method(run: Run, analysed: Tensor, bases: dict[int, Outcome] | None = None) -> dict[str, Outcome]:
    """Outcomes of a run by the registered method, "base" first, whatever the mitigation of its training."""
    base, *others = outcomes_of([run], analysed, bases)
    return {"base": base} | {one.method.split(" after ")[0]: one for one in others}


@dataclass(frozen=True, eq=False)
class Swept:
    """The finished runs of a sweep's folder, `runs/<sweep>`."""

    folder: Path

    @cached_property
    def table(self) -> pd.DataFrame:
        """`table.csv`; FileNotFoundError if there is none."""
        if not (path := self.folder / "table.csv").exists():
            raise FileNotFoundError(f"{self.folder} is neither a run nor a sweep with results: it has no {path.name}")
        return read_csv(path, dtype={"setting": str, "against": str})

    @cached_property
    def runs(self) -> list[Path]:
        """Folders of the finished runs."""
        return [self.folder.parent / run for run in self.table.run.unique()]

    @cached_property
    def about(self) -> dict[str, Any]:
        """Notes of the sweep's file for the provenance."""
        return load_json(self.folder / "sweep.json", "about")["about"]

    @cached_property
    def datasets(self) -> dict[str, list[Path]]:
        """Folders of the runs of each dataset, named by the values that differ; the name of a single one is "methods"."""
        given = {folder: Parameters(**load_run(folder)["parameters"]).part(Data) for folder in self.runs}
        names = sorted(Data.names() - {"min_positives", "not_analysed"})
        differ = [name for name in names if len({str(getattr(one, name)) for one in given.values()}) > 1]
        found: dict[str, list[Path]] = {}
        for folder, one in given.items():
            values = [getattr(one, name) for name in differ]
            words = [" and ".join(map(str, value)) if isinstance(value, tuple) else str(value) for value in values]
            found.setdefault(", ".join(words) or METHODS_COMPARED, []).append(folder)
        return found

    def evidence(self, more: Callable[[Run], list[Outcome]] = lambda _: []) -> Iterator[tuple[str, Evidence]]:
        """Each comparison of the sweep by name, or its methods where it has none, once for each dataset.

        `more` adds outcomes of a run to those of its methods.
        """
        if "comparison" not in self.table:
            for name, folders in self.datasets.items():
                yield name, compare(folders)
            return
        runs = {folder: read_run(folder) for folder in self.runs}
        analysed = torch.stack([run.analysed for run in runs.values()]).all(0)
        found, bases = {}, dict[int, Outcome]()
        for folder, run in sorted(runs.items(), key=lambda pair: bool(pair[1].parameters["mitigation"])):  # plain ones first
            found[folder] = _by_method(run, analysed, bases)
            if not run.parameters["mitigation"]:
                bases.setdefault(run.parameters["seed"], found[folder]["base"])
        first = next(iter(runs.values()))
        truth = first.features["test"].of_labels(analysed)
        names = [name for name, kept in zip(first.labels, analysed.tolist(), strict=True) if kept]
        for comparison, rows in self.table.groupby("comparison", sort=False):
            name = str(comparison)
            places = zip(rows.run, rows.method, rows.setting, strict=True)
            compared = [replace(found[self.folder.parent / run][method], method=setting) for run, method, setting in places]
            draws = DRAWS if name == METHODS_COMPARED else FEWER_DRAWS
            if name == METHODS_COMPARED:
                plain = (run for run in runs.values() if not run.parameters["mitigation"])
                seeds = {run.parameters["seed"]: run for run in plain}
                compared += [one for run in seeds.values() for one in more(run)]
            yield name, weigh(compared, truth, names, reference=rows.setting.iloc[0], draws=draws)

    def differences(self, evidence: dict[str, Evidence]) -> pd.DataFrame:
        """The difference of each setting from the one that it is compared with: `ablation_differences.csv`."""
        tables = []
        for name, found in evidence.items():
            rows = self.table[self.table.comparison == name].drop_duplicates("setting")
            pairs = rows[rows.setting != rows.against][["setting", "against"]].rename(columns={"setting": "method"})
            own = pairs.merge(found.differences, on=["method", "against"])
            tables.append(own.rename(columns={"method": "setting"}).assign(ablation=name))
        return pd.concat(tables, ignore_index=True)


def publish(folder: Path, sources: Sequence[Path], evidence: dict[str, Evidence], *, data: str = "") -> None:
    """Write results with their provenance: of plain runs, or of a sweep, whose evidence is given by comparison.

    `folder` receives methods.csv, changes.csv and differences.csv of the comparison of methods, ablations.csv and
    ablation_differences.csv of the others, and provenance.json; of a sweep over several datasets, a folder for each does.
    Files of comparisons that are not here stay. `data` says what the results are of, unless the sweep's file does.
    """
    swept = [Swept(path) for path in sources if not (path / "run.json").exists()]
    for one in swept:
        if "comparison" not in one.table and len(one.datasets) > 1:
            for name, folders in one.datasets.items():
                inside = folder / re.sub(r"^\.+|[/\\\0]", "-", name)  # a name is no path
                publish(inside, folders, {METHODS_COMPARED: evidence[name]}, data=one.about.get("data", data))
            return
    runs = [run for one in swept for run in one.runs] + [path for path in sources if (path / "run.json").exists()]
    folder.mkdir(parents=True, exist_ok=True)
    if METHODS_COMPARED in evidence:
        evidence[METHODS_COMPARED].save(folder)
    others = {name: found for name, found in evidence.items() if name != METHODS_COMPARED}
    for one in (one for one in swept if "comparison" in one.table):
        rows = one.table[one.table.comparison.isin(others)].rename(columns={"comparison": "ablation"})
        if not rows.empty:
            columns = ["ablation", "setting", "seed", *(c for c in rows.loc[:, "uei_valid":"seconds"] if c != "labels")]
            save_table(folder / "ablations.csv", rows[columns].round(DIGITS))
            save_table(folder / "ablation_differences.csv", one.differences(others).round(DIGITS))
    known = [load_run(run) for run in runs]
    stages = [stage for one in known for stage in one["stages"].items()]
    revisions = {"base models": {one["git_revision"] for one in known}, "methods": {made["revision"] for _, made in stages}}
    first, about = read_run(runs[0]), {name: value for one in swept for name, value in one.about.items()}
    kept = zip(first.labels, first.analysed.tolist(), strict=True)
    save_json(folder / "provenance.json", {
        "data": data or ("drawn faces" if first.parameters["data"] == "drawn" else "images in CelebA's layout"), **about,
        "date": datetime.now(UTC).date().isoformat(),
        "seeds": len({one["parameters"]["seed"] for one in known}),
        "git_revision": {name: sorted(found) for name, found in revisions.items()},
        "machine": {"cores": os.cpu_count(), **known[0]["device"]}, "versions": known[0]["versions"],
        "parameters": {name: value for name, value in first.parameters.items() if name not in MOVABLE | SEEDS},
        "labels": [name for name, is_kept in kept if is_kept],
        "minutes": round(sum(made["seconds"] or 0 for _, made in stages) / 60, 1),
    })  # fmt: skip
