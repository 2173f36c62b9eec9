"""Files that are either whole or not there: written beside, then renamed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor


def project_root() -> Path:
    """The folder that relative paths start from: the checkout around the working directory, or else the directory itself.

    So a notebook finds the same runs and data from its own folder as from the root.
    """
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "pyproject.toml").is_file()), here)


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` and rename it into place when the block ends well.

    A full disk or an interrupt leaves the old file as it was, and no half-written one.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def save_json(path: Path, content: Any) -> None:
    """Write JSON, indented, with a newline at its end."""
    with write_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def load_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: if it is not whole, with its path.
    """
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON (line {error.lineno}): move it away to start anew") from None


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index. Floats keep every digit, so that equal runs give equal bytes."""
    with write_beside(path) as beside:
        table.to_csv(beside, index=False)


def save_tensors(path: Path, tensors: dict[str, Tensor], **notes: str) -> None:
    """Write tensors as safetensors, with short notes in its header.

    Raises:
        OSError: if the disk takes no more, with the path.
    """
    from safetensors.torch import save_file

    with write_beside(path) as beside:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, beside, notes)
        except SafetensorError as error:
            raise OSError(f"{path} could not be written ({error}); what lay there before stays as it was") from None


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Map a safetensors file: its values are read where they are used, and a change to them stays in memory.

    Raises:
        ValueError: if the file is damaged, with its path.
    """
    from safetensors.torch import load_file

    with _whole(path):
        return load_file(path)


def load_notes(path: Path) -> dict[str, str]:
    """The short notes in a safetensors file's header.

    Raises:
        ValueError: if the file is damaged, with its path.
    """
    with _whole(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    """Name the file when safetensors finds it damaged."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read as safetensors ({error}): delete it to make it anew") from None
