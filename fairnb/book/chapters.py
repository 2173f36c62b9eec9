"""Chapters: the numbered notebooks, executed by papermill with parameters that were checked first."""

from __future__ import annotations

import ast
import re
import time
from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from nbclient.exceptions import DeadKernelError
from papermill.exceptions import PapermillExecutionError

from fairnb.book.clock import Clock
from fairnb.book.sources import sources
from fairnb.run.keys import content_key, digest_files
from fairnb.run.messages import check_run_name, duration, unknown

Parameters = dict[str, Any]
PACKAGES = ("torch", "torchvision", "lightning-fabric", "numpy", "pandas", "scikit-learn", "matplotlib", "seaborn", "altair")


class Typed(str):
    """A value as it was typed on the command line; the parameter's default says how to read it."""


class ChapterError(RuntimeError):
    """A chapter's cell failed; the message says where, why, and where the executed notebook lies."""


def chapters(root: Path) -> dict[str, Path]:
    """Every chapter's notebook by name, in order.

    Raises:
        FileNotFoundError: if there is none.
    """
    found = {path.stem: path for path in sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))}
    if not found:
        raise FileNotFoundError(f"no chapters in {root / 'notebooks'}: call fairnb from a checkout of the project")
    return found


def choose(wanted: list[str], known: dict[str, Path]) -> list[str]:
    """Names of the chapters wanted, in the book's order: by name (`03_dynamic_weighting`) or number (`3`); all where empty.

    Raises:
        ValueError: for a chapter that is not there (nearest name).
    """
    by_number = {int(name[:2]): name for name in known}
    names = []
    for word in wanted:
        name = by_number.get(int(word) if word.isdecimal() else -1, word.removesuffix(".ipynb"))
        if name not in known:
            raise ValueError(unknown("chapter", word, known))
        names.append(name)
    return [name for name in known if name in names or not wanted]


def defaults(notebook: Path) -> Parameters:
    """Parameters of a notebook with their default values."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(entry["default"]) for name, entry in found.items()}


def read_parameters(file: Path | None, assignments: list[str]) -> Parameters:
    """Values from a YAML file, then from `key=value` words, which win and are read when the parameter's type is known.

    Raises:
        FileNotFoundError: if the file is not there.
        ValueError: if the file is no YAML mapping, or a word has no `=`.
    """
    values: Parameters = {}
    if file is not None:
        if not file.is_file():
            raise FileNotFoundError(f"no parameter file {file}")
        try:
            values = yaml.safe_load(file.read_text()) or {}
        except yaml.YAMLError as error:
            raise ValueError(f"{file} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict):
            raise ValueError(f"{file} must hold `name: value` lines")
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(f"-p {assignment}: expected key=value")
        values[key.strip()] = Typed(value)
    return values


def check_parameters(values: Parameters, known: dict[str, Parameters]) -> Parameters:
    """Refuse names that no chapter has and values of another type than the default's; returns the values to pass.

    Args:
        values: what was given.
        known: each chapter's parameters with their defaults.

    Raises:
        ValueError: with the nearest name, or the type wanted.
    """
    default = {name: value for parameters in known.values() for name, value in parameters.items()}
    checked = {}
    for name, value in values.items():
        if name not in default:
            raise ValueError(unknown("parameter", name, default))
        wanted = type(default[name])
        if isinstance(value, Typed):
            value = str(value) if wanted is str else _parse(value)
        if wanted is float and isinstance(value, int | str) and not isinstance(value, bool):
            value = _float(value)
        if wanted is str and value is None:
            value = ""
        if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
            raise ValueError(f"parameter {name!r} takes {wanted.__name__}, as {default[name]!r}: got {value!r}")
        checked[name] = value
    return checked


def whole_parameters(notebooks: dict[str, Path], values: Parameters) -> tuple[Parameters, dict[str, Parameters]]:
    """Every parameter of every chapter, with these values or the default; and each chapter's own, with the defaults.

    Raises:
        ValueError: for whatever can be known to be amiss before anything runs.
    """
    known = {name: defaults(path) for name, path in notebooks.items()}
    default = {name: value for parameters in known.values() for name, value in parameters.items()}
    merged = default | check_parameters(values, known)
    check_run_name(merged["run"])
    check_settings_together(merged)
    return merged, known


def run_chapters(
    root: Path, wanted: list[str], values: Parameters, say: Callable[[str], None] = print, *, afterwards: float = 0.0
) -> Path:
    """Execute chapters in order; returns the folder of the executed notebooks, `runs/<run>/chapters`.

    A chapter whose notebook, package, data and parameters are those of its executed copy is not executed again.

    Args:
        root: the checkout.
        wanted: chapters by name or number; all of them where empty.
        values: parameters; each chapter receives those it has.
        say: takes a line of progress, which tells what a chapter does and about how long all of it takes.
        afterwards: seconds that what follows the chapters takes, for that estimate.

    Raises:
        ValueError: for an unknown chapter or parameter, before anything runs.
        ChapterError: at the first cell that fails; its notebook is kept as far as it came.
    """
    notebooks = chapters(root)
    names = choose(wanted, notebooks)
    merged, known = whole_parameters(notebooks, values)
    folder = root / "runs" / merged["run"] / "chapters"
    folder.mkdir(parents=True, exist_ok=True)
    told = {name: nbformat.read(notebooks[name], as_version=4).metadata.get("fairnb", {}) for name in names}
    trained = (folder.parent / "history.csv").exists()
    clock = Clock({name: told[name].get("seconds", 0.0) for name in names}, afterwards, trained, say)
    for name in names:
        out, failed = folder / f"{name}.ipynb", folder / f"{name}.failed.ipynb"  # a failure leaves an older success alone
        given = {parameter: merged[parameter] for parameter in known[name]}
        key = content_key([notebooks[name].read_text(), given, _surroundings(root, notebooks[name], given)])
        if out.exists() and nbformat.read(out, as_version=4).metadata.get("made_of") == key:
            say(f"{name} is up to date")
            clock.skipped(name)
            continue
        say(f"{name}: {told[name].get('does', 'executing')} … {len(clock.left)} left, {clock.estimate}")
        start = time.perf_counter()
        try:
            papermill.execute_notebook(
                notebooks[name],
                failed,
                parameters={key: merged[key] for key in known[name] if key in values},
                kernel_name="python3",
                cwd=root,
                progress_bar=False,
                stderr_file=clock,
            )
        except PapermillExecutionError as error:
            reason = re.sub(r"\x1b\[[0-9;]*m", "", f"{error.ename}: {error.evalue}")
            raise ChapterError(f"{name}, cell {error.cell_index}: {reason}\nThe notebook is kept in {failed}") from None
        except DeadKernelError:
            raise ChapterError(f"{name}: its process was ended from outside, perhaps for want of memory") from None
        page = nbformat.read(failed, as_version=4)
        page.metadata["made_of"] = key
        nbformat.write(page, failed)
        failed.replace(out)
        seconds = time.perf_counter() - start
        clock.done(name, seconds)
        say(f"{name} done in {duration(seconds)}")
    return folder


def _surroundings(root: Path, notebook: Path, values: Parameters) -> list[Any]:
    """What a chapter's outcome depends on beside its cells and parameters: what it imports and reads, versions, the data."""
    cells = nbformat.read(notebook, as_version=4).cells
    try:
        code = sources("\n".join(cell.source for cell in cells if cell.cell_type == "code"), root)
    except SyntaxError:  # cells may hold what only IPython reads, such as %time: then all of it counts
        code = {path for folder in ("fairnb", "results") for path in (root / folder).rglob("*") if path.suffix != ".pyc"}
    files_of_project = digest_files(root, sorted(code))
    data = root / Path(values.get("data_root") or ".").expanduser()
    files = sorted(data.iterdir()) if values.get("data_root") and data.is_dir() else []
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [files_of_project, {name: version(name) for name in PACKAGES}, stats]


def check_settings_together(values: Parameters) -> None:
    """Refuse, before the first chapter runs, what would only fail in a later one.

    Raises:
        ValueError: with the value and what it must be.
    """
    from fairnb.data import check_source, draw_pairs, open_dataset  # these import torch, which takes seconds
    from fairnb.data.drawn.people import draw_people, read_statistics
    from fairnb.data.feeding import check_feed
    from fairnb.evidence.ablations import check_names
    from fairnb.methods.strategies import check_search, check_settings
    from fairnb.run.device import check_group, resolve
    from fairnb.swarm.mopso import Swarm
    from fairnb.training import Recipe

    for kind in (Recipe, Swarm):
        kind(**{field.name: values[field.name] for field in fields(kind) if field.name in values})
    if {"tolerance", "spread", "epsilon"} <= values.keys():
        check_settings(values["tolerance"], values["spread"], values["epsilon"])
        check_search(values["layers"], values["steer"], values["whiten"])
    check_names(values.get("ablate", []))
    resolve(values.get("device", "auto"))
    if "data" in values:
        check_group(values["devices"], values["num_nodes"])
        check_feed(values["feed"], values["workers"])
        check_source(values["data"], values["data_root"])
    if values.get("data") == "drawn":  # quickly opened, so that every mistake is found here
        names = ("data", "data_root", "sensitive", "targets", "max_images", "drawn", "drawn_seed")
        faces = open_dataset(**{name: values[name] for name in names})
        faces.analysed(values["not_analysed"], values["min_positives"])
        faces.images.read([0], values["resize"])
    if "people" in values:  # the page of the drawn faces
        draw_people(0, values["people"], values["drawn_seed"], read_statistics())
        draw_pairs(values["drawn_seed"], values["height"], values["width"])


def _parse(text: str) -> Any:
    """A word as YAML reads it: `3`, `[Bald, Young]`, `true`."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _float(value: int | str) -> float | str:
    """A number, also one like 1e-4, which YAML 1.1 takes for text; other text stays as it is."""
    try:
        return float(value)
    except ValueError:
        return str(value)
