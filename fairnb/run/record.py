"""The record of a run: the folder `runs/<run>/`, whose `run.json` holds all its parameters and is the source of truth.

    record = Record.open("mine", epsilon=0.1)   # begins the run, or continues it with its own parameters
    record.save(device="cpu")

A parameter can be changed until a finished stage depends on it: each stage notes the parameters it took.
"""

import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from fairnb.run.files import load_json, project_root, save_json
from fairnb.run.keys import digest_files
from fairnb.run.lock import alone
from fairnb.run.parameters import Machine, Parameters

FORMAT = 2  # of run.json
TABLES = ("labels.csv", "groups.csv", "history.csv", "history_us.csv")  # have no checksum of their own: it is noted here
MOVABLE = Machine.names() | {"run", "data_root"}  # no result depends on these, so they may change at any time


@dataclass
class Record:
    """Parameters and provenance of a run."""

    runs: Path  # folder of all runs
    parameters: Parameters
    known: dict[str, Any] = field(default_factory=dict)  # other entries of `run.json`: its begin, stages, versions, device
    given: frozenset[str] = frozenset()  # names of the parameters that were given when it was opened

    @property
    def folder(self) -> Path:
        """`runs/<run>`."""
        return self.runs / self.parameters.run

    @classmethod
    def open(cls, run: str = "demo", *, runs: str | Path = "runs", **given: Any) -> Self:
        """Begin a run, or continue it with its own parameters where `given` names no others; nothing is written yet.

        `run` is a folder name in `runs`, which is relative to the project's root. An invalid parameter, one that contradicts
        a finished stage, or a run of an older format raises ValueError.
        """
        runs, run = project_root() / runs, Parameters(run=run).run
        if not (runs / run / "run.json").exists():
            begun = datetime.now(UTC).isoformat(timespec="seconds")
            return cls(runs, Parameters(run=run, **given), {"begun": begun, "stages": {}}, frozenset(given))
        old = (known := load_run(runs / run)).pop("parameters")
        record = cls(runs, Parameters(**(old | given | {"run": run})), known, frozenset(given))
        new = record.parameters.model_dump(mode="json")
        taken = {name for stage in known["stages"].values() for name in stage["takes"]} - MOVABLE
        record.refuse([f"{key} was {old[key]!r}, now {new[key]!r}" for key in sorted(taken) if old.get(key) != new[key]])
        return record

    def refuse(self, differ: list[str]) -> None:
        """Raise ValueError if a continued run and the one asked for differ; `differ` lists how."""
        if differ:
            advice = "Give this run another name (run = …), or delete that folder; nothing was changed."
            raise ValueError(f"{self.folder} was made with other parameters: {'; '.join(differ)}.\n{advice}")

    @property
    def stages(self) -> dict[str, dict[str, Any]]:
        """Finished stages by name: seconds, revision, and the names of the parameters taken."""
        return self.known["stages"]

    def save(self, **entries: Any) -> None:
        """Write `run.json` with more entries; those that another process has written meanwhile are kept.

        Nothing is written where nothing is new, so that a finished run can be read from a disk that is read-only.
        """
        old, new = self._merged(entries)
        if new != old:
            with alone(self.folder, "record", wait=10):
                save_json(self.folder / "run.json", self._merged(entries)[1])

    def _merged(self, entries: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The content of `run.json`, and what it becomes with more entries."""
        path, own = self.folder / "run.json", self.parameters.model_dump(mode="json")
        old = load_json(path) if path.exists() else {}
        own |= {name: value for name, value in old.get("parameters", {}).items() if name not in self.given}
        self.known |= {name: value for name, value in old.items() if name != "parameters"} | entries
        named = {"run": self.parameters.run}  # a folder may have been renamed
        return old, {"format": FORMAT} | named | self.known | named | {"parameters": own | named}

    def note(self, stage: str, takes: Iterable[str], seconds: float | None) -> None:
        """Note a finished stage; `seconds` is None for one copied from another run."""
        taken = None if seconds is None else round(seconds, 3)
        made = {"seconds": taken, "revision": git_revision(), "takes": sorted(takes)}
        stages = load_json(self.folder / "run.json", "stages")["stages"] | {stage: made}
        self.save(stages=stages, tables=self.digests(*TABLES))

    def digests(self, *tables: str) -> dict[str, str]:
        """SHA-256 of tables that are there."""
        return digest_files(self.folder, [self.folder / name for name in tables])

    def changed(self, *tables: str) -> list[Path]:
        """Tables that are not as the last stage of this run, whoever did it, left them; see `changed`."""
        return changed(self.folder, load_run(self.folder), *tables)

    @contextmanager
    def timed(self, stage: str, takes: Iterable[str], also: Callable[[], dict[str, Any]] = dict) -> Iterator[None]:
        """Note a stage with its seconds and further entries, if it ends without error; no other process works meanwhile."""
        start = time.perf_counter()
        with alone(self.folder):
            yield
            self.note(stage, takes, time.perf_counter() - start)
            self.save(**also())


def load_run(folder: Path) -> dict[str, Any]:
    """Content of a run's `run.json`. A damaged file or an older format raises ValueError."""
    known = load_json(path := folder / "run.json", "parameters")
    if known.get("format") != FORMAT:
        raise ValueError(f"{folder} was made by an earlier version of fairnb: give this run another name, or delete it")
    try:
        if retired := known["parameters"].keys() - Parameters.model_fields.keys():
            raise ValueError(f"{min(retired)!r} is no parameter of this version of fairnb")
        Parameters(**known["parameters"])
        each = [(stage["seconds"], stage["revision"], stage["takes"]) for stage in known["stages"].values()]
        if strange := {one for *_, takes in each for one in takes} - known["parameters"].keys():
            raise ValueError(f"a stage takes {min(strange)!r}, which is no parameter")
        if not all(isinstance(seconds, int | float | None) for seconds, *_ in each):
            raise ValueError("seconds of a stage are no number")
        if not isinstance(known.get("base_from", ""), str):
            raise ValueError("base_from is no name")
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} is damaged, or of another version ({error}): move it away to start anew") from None
    return known


def changed(folder: Path, known: dict[str, Any], *names: str) -> list[Path]:
    """Tables of a run that are not as `known`, the content of its `run.json`, noted them; older runs noted none."""
    noted: dict[str, str] = known.get("tables", {})
    there = digest_files(folder, [folder / name for name in names])
    return [folder / name for name in names if name in noted and there.get(name) != noted[name]]


def git_revision() -> str:
    """Commit checked out, with `+` where files differ from it; 'unknown' for a package that is not in its repository."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # an installed package may lie in the repository of another project
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--dirty=+", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
