"""Runs a sweep on Dask: on this machine's cores, on a cluster that is there, or on one that Dask starts."""

from __future__ import annotations

import os
import secrets
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil
import yaml
from pydantic import Field
from tqdm import tqdm

from fairnb.run.files import load_json, project_root, save_json, save_table, write_beside
from fairnb.run.lock import alone
from fairnb.run.messages import duration, some, unknown
from fairnb.run.parameters import Part
from fairnb.run.record import Record, load_run
from fairnb.sweep.plan import NOTE, TOKEN, Planned, SweepFile, plan

KIND = ("backbone", "image_size", "epochs")  # parameters of which trainings take about equally long
MEMORY = 2.5e9  # bytes that a worker should have free: a training of the demo takes up to two


class ClusterFile(Part):
    """The content of a file for `--cluster`: a class of dask-jobqueue or distributed, and its arguments."""

    cluster: str = Field(description="SLURMCluster, PBSCluster, LSFCluster, SGECluster, LocalCluster, SSHCluster …")
    jobs: int = Field(0, description="jobs to start; 0 starts those that the arguments ask for", ge=0)
    arguments: dict[str, Any] = Field({}, description="of the class, such as queue, cores, memory, walltime")


@dataclass(frozen=True)
class Where:
    """Where a sweep is done: at most one of these, else on as many workers as this machine carries."""

    workers: int = 0  # on this machine
    scheduler: str = ""  # address of a cluster that is there
    cluster: Path | None = None  # file of one that Dask starts

    def __post_init__(self) -> None:
        if bool(self.workers) + bool(self.scheduler) + bool(self.cluster) > 1:
            raise ValueError("--workers, --scheduler and --cluster exclude each other: each says where the runs are done")
        if self.cluster:
            read_cluster(self.cluster)


@dataclass
class Sweep:
    """A sweep under way: its runs, and what is known of them."""

    what: SweepFile
    root: Path = field(default_factory=project_root)
    say: Callable[[str], object] = print

    def __post_init__(self) -> None:
        self.planned = plan(self.what, self.root)
        self.runs = self.root / "runs"
        self.folder = self.runs / self.what.name
        self.notes = {one.parameters.run: one.note(self.runs) for one in self.planned}

    def left(self, retry_failed: bool = False) -> list[Planned]:
        """The runs that are still to be done, perhaps with those that failed."""
        keep = {"done"} if retry_failed else {"done", "failed"}
        return [one for one in self.planned if self.notes[one.parameters.run].get("state") not in keep]

    def tell(self, where: Where) -> None:
        """Say how many runs there are, how many trainings they need, what is done, and how long the rest may take."""
        from fairnb.experiment import training_of

        states = Counter(note.get("state", "left") for note in self.notes.values())
        trainings = {training_of(one.parameters).run for one in self.planned}
        there = {name for name in trainings if self.trained(name)}
        self.say(
            f"{self.what.name}: runs: {len(self.planned):,}, distinct trainings: {len(trainings):,} ({len(there):,} there); "
            f"done: {states['done']:,}, failed: {states['failed']:,}, left: {states['left']:,}"
        )
        left = self.left()
        seconds = [note["seconds"] for note in self._like() if note["state"] == "done"]
        if left and seconds:
            needed = {training_of(one.parameters).run for one in left} - there
            training = [made["seconds"] for made in self._trainings() if made["seconds"]]
            total = len(left) * median(seconds) + len(needed) * (median(training) if training else 0)
            without = " and the trainings" if needed and not training else ""
            workers = 1 if where.scheduler or where.cluster else min(where.workers or fitting(len(left)), len(left))
            on = "one worker" if workers == 1 else f"{workers} workers"
            by = f"{len(seconds):,} runs of this kind that are done"
            self.say(f"about {duration(total / workers)} on {on}{without}, by {by}")
        for run, note in self.notes.items():
            if note.get("state") == "failed":
                self.say(f"{run} failed: {note['message']}")

    def table(self) -> pd.DataFrame:
        """A row for each finished run and method, written to table.csv and table.parquet in the sweep's folder."""
        rows = []
        for one in self.planned:
            note = self.notes[one.parameters.run]
            for row in note["rows"] if note.get("state") == "done" else []:
                about = one.varied | row | {"run": one.parameters.run, "revision": note["revision"]}
                shown = [trial for trial in one.trials if trial.method == row["method"]]
                rows += [vars(trial) | about for trial in shown] if one.trials else [about]
        order = [(comparison, setting) for comparison, settings in self.what.comparisons.items() for setting in settings]
        if order:  # as in the file, and not as runs are shared
            rows.sort(key=lambda row: order.index((row["comparison"], row["setting"])))
        table = pd.DataFrame(rows)
        if rows:
            for name in [name for name in table if table[name].map(lambda value: isinstance(value, list)).any()]:
                table[name] = table[name].map(str)
            self.folder.mkdir(parents=True, exist_ok=True)
            save_json(self.folder / "sweep.json", {"about": self.what.about})
            save_table(self.folder / "table.csv", table)
            with write_beside(self.folder / "table.parquet") as beside:
                table.to_parquet(beside, index=False)
        return table

    def trained(self, name: str) -> bool:
        """Whether a training is there, with its features."""
        path = self.runs / name / "run.json"
        return path.exists() and "features" in load_json(path, "stages")["stages"]

    def _trainings(self) -> Iterator[dict[str, Any]]:
        """The base models' stages of all trainings of this kind that are there."""
        recipe = self.planned[0].parameters
        for path in self.runs.glob("trainings/*/run.json"):
            try:
                known = load_run(path.parent)
            except ValueError:  # damaged: it is named where it is needed
                continue
            given, stages = known["parameters"], known["stages"]
            if "base model" in stages and all(given.get(name) == getattr(recipe, name) for name in KIND):
                yield stages["base model"]

    def _like(self) -> Iterator[dict[str, Any]]:
        """Notes of finished runs that executed the same: of this sweep, else of others."""
        own = [note for note in self.notes.values() if note]
        others = map(load_json, self.runs.glob(f"*/*/{NOTE}"))
        yield from own or (note for note in others if note.get("work") == self.planned[0].work)


def run_sweep(sweep: Sweep, where: Where, *, retry_failed: bool = False) -> bool:
    """Do what is left of a sweep, and write its table; whether no run failed.

    Errors of single runs are noted and told. KeyboardInterrupt leaves what is finished; the same call continues.
    """
    left = sweep.left(retry_failed)
    for one in left:  # a run that is there, of other parameters, is found before anything starts
        Record.open(runs=sweep.runs, **one.parameters.model_dump())
    try:
        if left:
            with alone(sweep.folder), connected(where, len(left)) as client:
                _drive(sweep, left, client)
    finally:
        sweep.table()
    failed = [run for run, note in sweep.notes.items() if note.get("state") == "failed"]
    if failed:
        sweep.say(f"{len(failed)} of {len(sweep.planned)} runs failed ({some(failed, 3)}): --retry-failed does them again")
    return not failed


@contextmanager
def connected(where: Where, runs: int) -> Iterator[Any]:
    """A client of Dask on the cluster asked for; one that was started here is closed at the end."""
    from distributed import Client

    from fairnb.sweep.work import OneRunAtATime

    started = None
    if not where.scheduler:
        started = start_cluster(where.cluster) if where.cluster else start_local(where.workers or fitting(runs))
    try:
        with Client(started or where.scheduler, timeout="30s") as client:
            client.register_plugin(OneRunAtATime())
            print(f"Dask's dashboard is at {client.dashboard_link}", file=sys.stderr)  # which a book's pages leave out
            yield client
    finally:
        if started:
            started.close(timeout=10)


def fitting(runs: int) -> int:
    """Workers that this machine carries: one for each GPU, else for each core while there is memory."""
    import torch

    cores, memory = len(os.sched_getaffinity(0)), int(psutil.virtual_memory().available / MEMORY)
    return max(1, min(runs, torch.cuda.device_count() or min(cores, memory)))


def start_local(workers: int) -> Any:
    """Workers on this machine, which share out its cores, and its GPUs one each."""
    import torch
    from distributed import Nanny, Scheduler, SpecCluster

    threads, gpus = max(1, len(os.sched_getaffinity(0)) // workers), torch.cuda.device_count()
    # Dask would kill a worker that takes more than its share of the memory, in the middle of a training.
    common: dict[str, Any] = {"nthreads": threads, "memory_limit": 0, "silence_logs": "ERROR"}
    each = ({"env": {"CUDA_VISIBLE_DEVICES": str(i % gpus)}} if gpus else {} for i in range(workers))
    spec = {i: {"cls": Nanny, "options": common | own} for i, own in enumerate(each)}
    return SpecCluster(workers=spec, scheduler={"cls": Scheduler, "options": {"dashboard": True}}, silence_logs="ERROR")


def start_cluster(file: Path) -> Any:
    """The cluster that a YAML file describes."""
    wanted = read_cluster(file)
    made = _cluster_class(wanted.cluster)(**wanted.arguments)
    if wanted.jobs:
        made.scale(jobs=wanted.jobs) if hasattr(made, "job_script") else made.scale(wanted.jobs)
    return made


def job_script(file: Path) -> str:
    """The script that a batch system would be given for each job; empty if the cluster has none."""
    wanted = read_cluster(file)
    kind = _cluster_class(wanted.cluster)
    if not hasattr(kind, "job_script"):
        return ""
    with kind(**wanted.arguments) as made:
        return made.job_script()


def read_cluster(file: Path) -> ClusterFile:
    """Read a file for `--cluster`; a mistake raises ValueError."""
    if not file.is_file():
        raise FileNotFoundError(f"no file {file} of a cluster")
    try:
        return ClusterFile(**yaml.safe_load(file.read_text(encoding="utf-8")))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not a cluster's YAML: {' '.join(str(error).split())}") from None


def _cluster_class(name: str) -> Any:
    import dask_jobqueue
    import distributed

    places = dask_jobqueue, distributed
    known = {one: getattr(place, one) for place in places for one in dir(place) if one.endswith("Cluster")}
    if name not in known:
        raise ValueError(unknown("cluster", name, known))
    return known[name]


def _drive(sweep: Sweep, left: list[Planned], client: Any) -> None:
    """Submit trainings and the runs that need them, and note each run as it ends."""
    import dask
    from distributed import as_completed

    from fairnb.experiment import training_of
    from fairnb.sweep.work import Job, OneRunAtATime, files_of, perform, receive, sees, train

    sweep.folder.mkdir(parents=True, exist_ok=True)
    if not (token := sweep.folder / TOKEN).exists():
        token.write_text(secrets.token_hex(8), encoding="utf-8")
    notebooks = (sweep.root / "notebooks" / f"{name}.ipynb" for name in left[0].chapters)
    texts = {notebook.name: notebook.read_text(encoding="utf-8") for notebook in notebooks}
    jobs = [Job(one, str(sweep.root), token.read_text(encoding="utf-8"), {}) for one in left]
    if not (common := all(client.run(sees, jobs[0]).values())):
        jobs = [replace(job, notebooks=texts) for job in jobs]
    trainings: dict[str, Any] = {}
    pending: dict[Any, Planned | None] = {}  # runs by their futures, None for a training
    with dask.annotate(resources={"run": 1}, executor=OneRunAtATime.name):
        for job in jobs:
            if (name := training_of(job.planned.parameters).run) in trainings:
                continue
            if not sweep.trained(name):
                trainings[name] = client.submit(train, job, priority=1, pure=False)
                pending[trainings[name]] = None
            else:
                trainings[name] = None if common else client.scatter([files_of(sweep.root, name)], hash=False)[0]
        for job in jobs:
            needed = trainings[training_of(job.planned.parameters).run]
            pending[client.submit(perform, job, needed, pure=False)] = job.planned
    del trainings, needed  # Dask keeps each until the last run that needs it
    failed = 0
    with tqdm(total=len(jobs), desc=sweep.what.name, unit="run", smoothing=0.1) as bar:
        for future in as_completed(list(pending), raise_errors=False):
            planned = pending.pop(future)
            result = future.result() if future.status == "finished" else str(future.exception())
            if planned is None:
                receive(sweep.runs, result if isinstance(result, dict) else {})
                continue
            run = planned.parameters.run
            # perform notes all errors, so a text is Dask's: the run took several workers with it
            note, files = (
                ({"state": "failed", "message": result, "seconds": 0.0}, None) if isinstance(result, str) else result
            )
            sweep.notes[run] = note = {"key": planned.key} | note
            if files:
                receive(sweep.runs, files, planned)
            elif note["state"] == "failed":
                failed += 1
                (sweep.runs / run).mkdir(parents=True, exist_ok=True)
                save_json(sweep.runs / run / NOTE, note)
                bar.write(f"{run} failed: {note['message']}")
            running = min(len(client.scheduler_info(n_workers=-1)["workers"]), len(jobs) - bar.n - 1)
            bar.set_postfix(done=bar.n + 1 - failed, running=running, failed=failed, refresh=False)
            bar.update()
