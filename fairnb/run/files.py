"""Atomic files: written under a temporary name, then renamed, so that each is either complete or absent."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def project_root() -> Path:
    """Root of relative paths: the checkout around the working directory (the same for notebooks), else that directory."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "pyproject.toml").is_file()), here)


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` and rename it into place on success; a failure leaves the old file as it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` and rename it into place on success; a failure leaves nothing.

    FileExistsError if `folder` is a file, or has something in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} {'is a file' if folder.is_file() else 'is not empty'}: name a new folder")
    place = folder.resolve()
    beside = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        beside.mkdir(parents=True)
        yield beside
        os.replace(beside, place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def share(path: Path, target: Path) -> None:
    """Give a finished file a second name, on the same disk without a copy: no file is ever changed in place."""
    with write_beside(target) as beside:
        beside.unlink(missing_ok=True)  # of a process that was killed: copying would write into another run's file
        try:
            os.link(path, beside)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, beside)


def save_json(path: Path, content: Any) -> None:
    """Write indented JSON with a final newline."""
    with write_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_json(path: Path) -> Any:
    """Read a JSON file; invalid JSON raises ValueError with the path."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON (line {error.lineno}): move it away to start anew") from None


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index. Floats keep every digit, so that equal runs give equal bytes."""
    with write_beside(path) as beside:
        table.to_csv(beside, index=False)


def save_tensors(path: Path, tensors: dict[str, Tensor], **notes: str) -> None:
    """Write tensors as safetensors with short notes in the header. A full disk raises OSError with the path."""
    from safetensors.torch import save_file

    with write_beside(path) as beside:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside, notes)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written ({error}); an earlier file there is unchanged") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map a safetensors file; changes stay in memory. A damaged file raises ValueError with its path."""
    from safetensors.torch import load_file

    with _whole(path):
        return load_file(path)


def load_notes(path: Path) -> dict[str, str]:
    """Notes in the header of a safetensors file. A damaged file raises ValueError with its path."""
    with _whole(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Add the path to safetensors' errors."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): delete it to make it anew") from None
