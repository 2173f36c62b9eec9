"""Chapters: the numbered notebooks, executed by papermill with validated parameters."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fairnb.book.clock import Clock
from fairnb.book.sources import sources
from fairnb.run.files import load_json, naming, save_json
from fairnb.run.keys import content_key, digest_files
from fairnb.run.lock import alone
from fairnb.run.messages import duration, unknown
from fairnb.run.parameters import Data, Machine, Pages, Parameters, Recipe
from fairnb.run.record import Record

OPENS_RUN = "opens-run"  # tag of the cell that opens the run
PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "pandas", "scikit-learn", "matplotlib", "seaborn", "altair")


class ChapterError(RuntimeError):
    """A failed cell; the message names it, the reason and the executed notebook."""


def chapters(root: Path) -> dict[str, Path]:
    """Every chapter's notebook by name, in order; FileNotFoundError if there is none."""
    if found := {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}:
        return found
    raise FileNotFoundError(f"no chapters in {root / 'notebooks'}: call fairnb from a checkout of the project")


def choose(wanted: list[str], known: dict[str, Path]) -> list[str]:
    """Chapters by name (`03_dynamic_weighting`) or number (`3`), in order, or all; ValueError for an unknown one."""
    by_number = {int(name[:2]): name for name in known}
    names = {by_number.get(int(word) if word.isdecimal() else -1, word.removesuffix(".ipynb")): word for word in wanted}
    if odd := [word for name, word in names.items() if name not in known]:
        raise ValueError(unknown("chapter", odd[0], known))
    return [name for name in known if name in names or not wanted]


def read_page(path: Path) -> Any:
    """A notebook. A damaged one raises ValueError."""
    import nbformat  # takes seconds by what it imports, and runs without chapters need it not

    try:
        page = nbformat.read(path, as_version=4)
        cell_parameters(page)
    except (ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0][:100]
        raise ValueError(f"{path} is no whole notebook ({reason}): take it anew from the repository") from None
    return page


def cell_parameters(page: Any) -> list[str]:
    """Names of the parameters in the notebook's cell tagged `parameters`; ValueError if that cell is not Python."""
    source = next((cell.source for cell in page.cells if "parameters" in cell.metadata.get("tags", [])), "")
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"its cell of parameters is not Python: {error}") from None
    assigned = [node for node in body if isinstance(node, ast.Assign | ast.AnnAssign)]
    names = (name for node in assigned for name in ast.walk(node) if isinstance(name, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def run_chapters(
    root: Path, wanted: list[str], values: dict[str, Any], say: Callable[[str], None] = print, *, afterwards: float = 0.0
) -> Path:
    """Execute chapters in order; returns the folder of the executed notebooks, `runs/<run>/chapters`.

    The run is begun, or continued, with `values`; chapters open it. A chapter is skipped if its notebook, package, data and
    parameters are those of its executed copy. `say` receives the task of each chapter, and an estimate of the time left,
    `afterwards` the seconds of the steps after the chapters.

    Raises ValueError for an unknown chapter or parameter, before anything runs, and ChapterError at the first cell that
    fails; its notebook is kept up to there.
    """
    notebooks = chapters(root)
    names = choose(wanted, notebooks)
    record = Record.open(runs=root / "runs", **({"run": "demo"} | values))
    data = data_state(record.parameters.part(Data), root) if record.stages else _check(record.parameters, root)
    record.save()
    folder, pages = record.folder / "chapters", {name: read_page(notebooks[name]) for name in names}
    about = {name: page.metadata.get("fairnb", {}) for name, page in pages.items()}
    clock = Clock(
        {name: about[name].get("seconds", 0.0) for name in names}, afterwards, (record.folder / "history.csv").exists(), say
    )
    with alone(folder):
        for name, page in pages.items():
            out, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"  # a failure keeps an earlier success
            own, given = cell_parameters(page), record.parameters.model_dump(mode="json")
            of_run = set(given) - Machine.names() - Pages.names() if opens_run(page) else set()
            made_with = {one: given[one] for one in sorted(of_run | (set(own) & set(given)))}
            code = "\n".join(cell.source for cell in page.cells if cell.cell_type == "code")
            around = [*surroundings(root, code), data if opens_run(page) else ""]
            key = content_key([notebooks[name].read_text(encoding="utf-8"), made_with, around])
            if _made_of(out) == key:
                say(f"{name} is up to date")
                clock.skipped(name)
                continue
            say(f"{name}: {about[name].get('does', 'executing')} … {len(clock.left)} left, {clock.estimate}")
            start = time.perf_counter()
            usual = Parameters().model_dump(mode="json")
            changed = {one: given[one] for one in own if one in given and (one in values or given[one] != usual[one])}
            with naming(failed):
                _execute(notebooks[name], failed, changed, root, clock)
            done = load_json(failed, "metadata", "cells")
            about_it = done["metadata"] | {"made_of": key, "whole": content_key(done["cells"])}
            save_json(failed, done | {"metadata": about_it})
            failed.replace(out)
            clock.done(name, seconds := time.perf_counter() - start)
            say(f"{name} done in {duration(seconds)}")
            record = Record.open(record.parameters.run, runs=root / "runs")  # a cell may have been edited
    return folder


def _made_of(executed: Path) -> str | None:
    """The key in an executed notebook; None if there is none, or it was damaged since."""
    try:
        page = load_json(executed, "metadata", "cells")
        return page["metadata"]["made_of"] if page["metadata"]["whole"] == content_key(page["cells"]) else None
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _execute(notebook: Path, out: Path, given: dict[str, Any], root: Path, clock: Clock) -> None:
    """Let papermill execute a notebook; ChapterError if a cell fails, or its process is killed."""
    import papermill  # slow to import, and not needed to reject a mistake
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    how: Any = {"kernel_name": "python3", "cwd": root, "progress_bar": False, "stderr_file": clock}
    try:
        papermill.execute_notebook(notebook, out, parameters=given, **how)
    except PapermillExecutionError as error:
        reason = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
        raise ChapterError(f"{notebook.stem}, cell {error.cell_index}: {reason}\nThe notebook is kept in {out}") from None
    except DeadKernelError:
        raise ChapterError(f"{notebook.stem}: its process was killed, perhaps for lack of memory") from None


def opens_run(page: Any) -> bool:
    """Whether one of its cells opens the run."""
    return any(OPENS_RUN in cell.metadata.get("tags", []) for cell in page.cells)


def surroundings(root: Path, code: str) -> list[Any]:
    """Dependencies of code beside its parameters: the files that it imports and reads, and versions."""
    try:
        files = sources(code, root)
    except SyntaxError:  # cells may hold IPython syntax, such as %time: then every file counts
        files = {path for folder in ("fairnb", "results") for path in (root / folder).rglob("*") if path.suffix != ".pyc"}
    packages = PACKAGES if (root / "fairnb").is_dir() else (*PACKAGES, "fairnb")  # the package itself may be installed
    return [digest_files(root, sorted(files)), {name: version(name) for name in packages}]


def _check(parameters: Parameters, root: Path) -> str:
    """As `data_state`; ValueError, before the first chapter runs, for values that would fail in a later one."""
    from fairnb.data import open_dataset  # these import torch, which takes seconds
    from fairnb.run.device import resolve
    from fairnb.training import refuse_unfit

    resolve(parameters.device)
    refuse_unfit(parameters.part(Recipe))
    faces = open_dataset(parameters.part(Data), root)
    faces.analysed(parameters.not_analysed, parameters.min_positives)
    if parameters.data != "drawn":  # photographs are looked at when all are decoded
        return faces.fingerprint()
    faces.images.read([0], parameters.resize)
    return ""


def data_state(data: Data, root: Path) -> str:
    """The fingerprint of photographs with their annotations; empty for drawn faces, made of parameters and code alone."""
    from fairnb.data import open_dataset  # imports torch, which takes seconds

    return "" if data.data == "drawn" else open_dataset(data, root).fingerprint()
