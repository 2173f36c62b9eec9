"""The work of a sweep, as a worker of Dask does it: a training that several runs share, and a run.

A worker whose `runs/` is the sweep's own leaves its results there. Another one, on a machine without that disk, works in its
scratch folder, or in the checkout that FAIRNB_ROOT names, is sent the trained model, and sends its results back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from distributed import Reschedule, WorkerPlugin, get_client, get_worker
from distributed.threadpoolexecutor import ThreadPoolExecutor
from filelock import FileLock

from fairnb.book.chapters import ChapterError, run_chapters
from fairnb.evidence.swept import rows_of
from fairnb.experiment import SHARED, Experiment, training_of
from fairnb.run.files import save_json, share, write_beside
from fairnb.run.record import git_revision
from fairnb.sweep.plan import NOTE, TOKEN, Planned

Files = dict[str, bytes]  # by their paths in `runs/`
LOG = "log.txt"
ROOM = 5e8  # bytes; a disk with less counts as full once something could not be written
TRIM, MMAP = -1, -3  # names of mallopt's thresholds


@dataclass(frozen=True)
class Job:
    """A run to do, and how a worker knows whether it sees the sweep's own disk."""

    planned: Planned
    root: str  # of the project, where the sweep was started
    token: str  # the content of `TOKEN`
    notebooks: dict[str, str]  # the texts of its chapters by file name, for workers without the checkout


class OneRunAtATime(WorkerPlugin):
    """Lets every worker take one task of a sweep at a time, with all of the worker's threads."""

    name = "fairnb-one-run-at-a-time"

    async def setup(self, worker: Any) -> None:
        """Declare the resource and the thread that each task asks for, and let the allocator keep its memory.

        OpenMP keeps a team of threads for each thread that computes: tasks in turns on two took 1.5 times as long. Dask
        has glibc return memory at once, for frames that come and go; tensors of the same sizes are wanted again and again.
        """
        worker.executors.setdefault(self.name, ThreadPoolExecutor(1, thread_name_prefix=self.name))
        await worker.set_resources(run=1)
        with contextlib.suppress(AttributeError):  # other C libraries have no such call
            for threshold in (TRIM, MMAP):
                ctypes.CDLL(None).mallopt(threshold, 1 << 25)


def sees(job: Job) -> bool:
    """Whether this worker sees the sweep's own disk."""
    token = Path(os.environ.get("FAIRNB_ROOT") or job.root) / "runs" / job.planned.parameters.run.split("/")[0] / TOKEN
    return token.is_file() and token.read_text(encoding="utf-8") == job.token


def train(job: Job) -> Files | str | None:
    """Train the base model that runs share, and save its features; its files, where they must be sent, or what failed."""
    wanted = training_of(job.planned.parameters)
    try:
        with _at(job, wanted.run) as (root, common):
            # Another sweep may train the same; this one then finds it done.
            with FileLock(root / "runs" / wanted.run / ".sweep.lock"):
                Experiment.open(runs=root / "runs", **wanted.model_dump()).features()
            return None if common else files_of(root, wanted.run)
    except Exception as error:
        _leave_if_full(error)
        return f"its training failed: {_told(error)}"


def perform(job: Job, trained: Files | str | None) -> tuple[dict[str, Any], Files | None]:
    """Do a run: what is noted of it, and its files where they must be sent. A failure is noted, too."""
    planned, start = job.planned, perf_counter()
    run, host = planned.parameters.run, platform.node()
    note: dict[str, Any] = {"key": planned.key, "work": planned.work, "host": host, "revision": git_revision()}
    if isinstance(trained, str):
        return note | {"state": "failed", "message": trained, "seconds": 0.0}, None
    try:
        with _at(job, run) as (root, common):
            runs = root / "runs"
            receive(runs, trained or {})
            given = planned.parameters.model_dump()
            if planned.chapters:
                run_chapters(root, list(planned.chapters), given)
            else:
                experiment = Experiment.open(runs=runs, **given)
                experiment.features()
                for method in planned.stages:
                    if method != "base":
                        experiment.search(method)
            rows = rows_of(runs / run) if (runs / run / "features.safetensors").exists() else []
            note |= {"state": "done", "seconds": round(perf_counter() - start, 3), "rows": rows}
            save_json(runs / run / NOTE, note)
            return note, None if common else files_of(root, run)
    except Exception as error:
        _leave_if_full(error)
        return note | {"state": "failed", "message": _told(error), "seconds": round(perf_counter() - start, 3)}, None


def _leave_if_full(error: Exception) -> None:
    """Retire this worker if its own disk has no room, so that another one does its task; unless it is the last one."""
    worker = get_worker()
    own = os.environ.get("FAIRNB_ROOT") or worker.local_directory
    others = len(get_client().scheduler_info(n_workers=-1)["workers"]) > 1
    if isinstance(error, OSError) and shutil.disk_usage(own).free < ROOM and others:
        get_client().retire_workers([worker.address], close_workers=True, remove=True)
        raise Reschedule


@contextlib.contextmanager
def _at(job: Job, name: str) -> Iterator[tuple[Path, bool]]:
    """The project's root on this worker, whether it is the sweep's own; with a log in the run."""
    own, worker, common = os.environ.get("FAIRNB_ROOT"), get_worker(), sees(job)
    root = Path(own or job.root)
    if not common and not own:
        root = Path(worker.local_directory) / "fairnb"
    if not common and not (root / "notebooks").is_dir():
        (root / "notebooks").mkdir(parents=True)
        (root / "pyproject.toml").touch()  # marks the root of a project
        for notebook, text in job.notebooks.items():
            (root / "notebooks" / notebook).write_text(text, encoding="utf-8")
    log = root / "runs" / name / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(root), log.open("a", encoding="utf-8") as file:
        torch.set_num_threads(worker.state.nthreads)
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(worker.state.nthreads)  # for notebooks' kernels
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            try:
                yield root, common
            except Exception:
                traceback.print_exc()
                raise


def files_of(root: Path, name: str) -> Files:
    """What a worker sends: all files of a run but those that it shares with its training."""
    folder, trains = root / "runs" / name, name.startswith("trainings/")
    found = (path for path in folder.rglob("*") if path.is_file() and "/." not in str(path.relative_to(root)))  # none hidden
    return {str(p.relative_to(root / "runs")): p.read_bytes() for p in found if trains or p.name not in SHARED}


def receive(runs: Path, files: Files, planned: Planned | None = None) -> None:
    """Write what a worker sent, a run's beside the files that it shares with its training; its note comes last."""
    if planned:
        trained = runs / training_of(planned.parameters).run
        (runs / planned.parameters.run).mkdir(parents=True, exist_ok=True)
        for shared in filter(Path.exists, (trained / name for name in SHARED)):
            share(shared, runs / planned.parameters.run / shared.name)
    for name in sorted(files, key=lambda name: name.endswith(NOTE)):
        _write(runs / name, files[name])


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_beside(path) as beside:
        beside.write_bytes(content)


def _told(error: Exception) -> str:
    """An error in words, with its kind where nobody foresaw it; the whole of it is in the log."""
    return str(error) if isinstance(error, ValueError | OSError | ChapterError) else f"{type(error).__name__}: {error}"
