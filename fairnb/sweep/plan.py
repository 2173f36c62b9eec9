"""The plan of a sweep: one YAML file, read and checked, as a list of runs with complete parameters."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from fairnb.book.chapters import chapters, choose, data_state, read_page, surroundings
from fairnb.methods import method_named
from fairnb.run.files import load_json
from fairnb.run.keys import content_key
from fairnb.run.messages import unknown
from fairnb.run.parameters import Data, Parameters, Part, read, read_yaml, schema
from fairnb.run.record import MOVABLE

NOTE = "swept.json"  # file in a run's folder: what a sweep made there
TOKEN = ".token"  # file in a sweep's folder, by which a worker knows whether it sees the same disk
LONGEST = 80  # characters of a run's folder name


class SweepFile(Part):
    """The content of `params/sweeps/*.yml`: which runs there are, and what each executes."""

    name: str = Field("", description="results go to runs/<name>/")
    params: str = Field("", description="file of parameters where every run begins; none takes the defaults")
    chapters: tuple[str, ...] = Field((), description="notebooks that each run executes, by number or name")
    stages: tuple[str, ...] = Field((), description='methods that each run searches, without notebooks; "base" trains alone')
    set: dict[str, Any] = Field({}, description="parameters of all runs")
    grid: dict[str, list[Any]] = Field({}, description="values of parameters, in every combination")
    zip: dict[str, list[Any]] = Field({}, description="values of parameters that change together, lists of equal length")
    runs: list[dict[str, Any]] = Field([], description="single runs: their parameters")
    comparisons: dict[str, dict[str, dict[str, Any]]] = Field(
        {}, description="by name, then setting: its method, parameters, and the setting it is compared with (against)"
    )
    about: dict[str, Any] = Field({}, description="notes for the provenance of published results, such as data and tuning")

    @model_validator(mode="after")
    def _whole(self) -> SweepFile:
        if bool(self.chapters) + bool(self.stages) + bool(self.comparisons) != 1:
            raise ValueError("a sweep needs one of chapters, stages and comparisons: what its runs execute")
        if self.runs and self.comparisons:
            raise ValueError("runs and comparisons exclude each other: give single runs as settings of a comparison")
        own = [*self.runs, *(setting for settings in self.comparisons.values() for setting in settings.values())]
        named = [name for part in (self.set, self.grid, self.zip) for name in part]
        named += {name for one in own for name in one if name in self.set or (self.comparisons and name in named)}
        if twice := [name for name in named if named.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice: give each parameter once, in set, grid, zip or runs")
        if "run" in named or any("run" in one for one in own):
            raise ValueError("run is not a parameter of a sweep: its runs are named by what they vary")
        if "/" in self.name:
            raise ValueError(f"name={self.name!r} must be a plain folder name")
        if empty := [name for name, values in (self.grid | self.zip).items() if not values]:
            raise ValueError(f"{empty[0]} has no values")
        if len(lengths := {name: len(values) for name, values in self.zip.items()}) and len(set(lengths.values())) > 1:
            raise ValueError(f"the lists of zip differ in length: {json.dumps(lengths)}")
        return self


@dataclass(frozen=True)
class Trial:
    """A setting of a comparison: the method of a run that shows it."""

    comparison: str
    setting: str
    method: str
    against: str  # the setting that it is compared with


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    parameters: Parameters  # complete; `run` is <sweep>/<folder>
    chapters: tuple[str, ...]
    stages: tuple[str, ...]
    varied: dict[str, Any]  # the values of what the sweep varies
    key: str  # of all that its results depend on: parameters, code, versions, data
    trials: tuple[Trial, ...] = ()

    @property
    def work(self) -> list[str]:
        """What it executes, and at which size: runs of equal work take about equally long."""
        given = self.parameters
        return [*self.chapters, *self.stages, f"{given.data} {given.drawn} {given.max_images} {given.evaluations}"]

    def note(self, runs: Path) -> dict[str, Any]:
        """What a sweep noted of this run; empty if it is still to be done."""
        path = runs / self.parameters.run / NOTE
        known = load_json(path) if path.exists() else {}
        return known if known.get("key") == self.key else {}


def sweep_schema() -> str:
    """JSON schema of `params/sweeps/*.yml`."""
    each = Parameters.model_json_schema()["properties"]
    given: dict[str, Any] = {name: {"$ref": f"../schema.json#/properties/{name}"} for name in sorted(each)}
    one = {"type": "object", "properties": given}
    many = {"type": "object", "properties": {name: {"type": "array", "items": value} for name, value in given.items()}}
    parts = {"set": one, "grid": many, "zip": many, "runs": {"type": "array", "items": one}}
    words = {name: field.description for name, field in SweepFile.model_fields.items()}
    return schema(SweepFile, **{name: part | {"description": words[name]} for name, part in parts.items()})


def read_sweep(file: Path, *, params: Path | None = None, words: Sequence[str] = (), name: str | None = None) -> SweepFile:
    """Read a sweep's file; `params` and `name` take the place of those in it, `words`, each `key=value`, add to its `set`.

    A mistake raises ValueError in a line.
    """
    content, own = {"name": file.stem} | read_yaml(file), read(None, list(words))
    try:
        what = SweepFile(**content)
        if twice := [key for key in own if key in what.set]:
            raise ValueError(f"{twice[0]} is named twice, in set and by -p")
        return what.but(set=what.set | own, params=str(params or what.params), name=name or what.name)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def plan(what: SweepFile, root: Path) -> list[Planned]:
    """Every run of a sweep, checked: a mistake in any raises ValueError before one starts."""
    try:
        return list(_runs(what, root))
    except ValueError as error:
        raise ValueError(f"sweep {what.name}: {error}") from None


def _runs(what: SweepFile, root: Path) -> Iterator[Planned]:
    notebooks = chapters(root) if what.chapters else {}
    names = tuple(choose(list(what.chapters), notebooks)) if what.chapters else ()
    pages = [read_page(notebooks[name]) for name in names]
    code = "\n".join(c.source for page in pages for c in page.cells if c.cell_type == "code")
    around = surroundings(root, code or "from fairnb.experiment import Experiment")
    begin = read(root / what.params, []) if what.params else {}
    points = [dict(zip(what.grid, values, strict=True)) for values in itertools.product(*what.grid.values())]
    rows = [dict(zip(what.zip, values, strict=True)) for values in zip(*what.zip.values(), strict=True)] or [{}]
    points = [point | row for point in points for row in rows]
    given: list[tuple[dict[str, Any], Trial | None]] = [(own, None) for own in what.runs]
    if what.comparisons:
        given += [(point | own, trial) for point in points for own, trial in _trials(what)]
    elif points != [{}] or not what.runs:
        given = [*((point, None) for point in points), *given]
    varied = sorted({name for own, _ in given for name in own})
    found: dict[str, tuple[Parameters, dict[str, Any], list[Trial]]] = {}
    for own, trial in given:
        parameters = Parameters(**(begin | what.set | own | {"run": what.name}))
        *_, trials = found.setdefault(content_key(parameters.model_dump(mode="json")), (parameters, own, []))
        trials += [trial] if trial else []
    folders, states = set[str](), dict[str, str]()
    for parameters, own, trials in found.values():
        stages = tuple(dict.fromkeys(trial.method for trial in trials)) or what.stages
        for stage in stages:
            method_named(stage).require()
        given_all = parameters.model_dump(mode="json")
        made = {name: value for name, value in given_all.items() if name not in MOVABLE}
        texts = [notebooks[name].read_text(encoding="utf-8") for name in names]
        data = parameters.part(Data)
        if (which := content_key(data.model_dump(mode="json"))) not in states:
            here = data.data == "drawn" or (root / Path(data.data_root).expanduser()).is_dir()  # or only on the workers
            states[which] = data_state(data, root) if here else ""
        key = content_key([made, stages, texts, around, states[which]])
        folder = re.sub(r"[^\w.=,+-]+", "-", ",".join(f"{name}={given_all[name]}" for name in own)) or "one"
        if len(folder) > LONGEST or folder in folders:
            folder = f"{folder[:LONGEST]}-{content_key([made, stages])[:6]}"
        folders.add(folder)
        yield Planned(
            parameters.but(run=f"{what.name}/{folder}"), names, stages, {name: given_all[name] for name in varied}, key,
            tuple(trials),
        )  # fmt: skip


def _trials(what: SweepFile) -> Iterator[tuple[dict[str, Any], Trial]]:
    """The settings of all comparisons: the parameters of each, and what it shows."""
    for comparison, settings in what.comparisons.items():
        for setting, own in settings.items():
            if "method" not in own:
                raise ValueError(f"{comparison}, {setting}: no method is named")
            against = own.get("against", next(iter(settings)))
            if against not in settings:
                raise ValueError(f"{comparison}, {setting}: {unknown('setting', against, settings)}")
            trial = Trial(comparison, setting, own["method"], against)
            yield {name: value for name, value in own.items() if name not in ("method", "against")}, trial
