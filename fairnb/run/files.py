"""Atomic files: written under a temporary name, then renamed, so that each is either complete or absent.

What is damaged later, by a disk or a copy that broke off, is noticed when it is read and named in an error.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import platform
import shutil
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

HOST = platform.node().partition(".")[0]  # in names of half-written files, beside the process
ABANDONED = 24 * 3600.0  # seconds after which another machine's half-written file is taken for a killed process's
CHECKSUM = "crc32"  # note in the header of safetensors
_checked = set[tuple[str, int, int, int]]()  # files whose checksum was right: path, inode, size and time


def project_root() -> Path:
    """Root of relative paths: the checkout around the working directory (the same for notebooks), else that directory."""
    here = Path.cwd()
    return next((p for p in (here, *here.parents) if (p / "notebooks").is_dir() and (p / "pyproject.toml").is_file()), here)


@contextmanager
def write_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path for a file and rename it into place on success; a failure leaves the old file as it was.

    The content is on the disk before the name is: a power cut leaves the old file or the new one, never an empty one.
    A full disk, or a folder that cannot be written to, raises OSError with the path.
    """
    try:
        with _beside(path) as folder:
            yield (new := folder / path.name)
            _sync(new)
            os.replace(new, path)
            _sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        named, reason = getattr(error, "filename", None), getattr(error, "strerror", None) or error
        if named is not None and str(path.parent) not in str(named):  # another file, which the caller reads
            raise
        raise OSError(
            f"{path} could not be written ({reason}); an earlier file there is unchanged: repeat this when it can be"
        ) from error


@contextmanager
def naming(place: Path) -> Iterator[None]:
    """Name the place in an error of a disk that is full, fails or is read-only, where a library's own has no path."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise OSError(f"{place} could not be written ({error.strerror}): repeat this when it can be") from error


@contextmanager
def folder_beside(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder` and rename it into place on success; a failure leaves nothing.

    FileExistsError if `folder` is a file, or has something in it.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise FileExistsError(f"{folder} {'is a file' if folder.is_file() else 'is not empty'}: name a new folder")
    place = folder.resolve()
    place.parent.mkdir(parents=True, exist_ok=True)
    with _beside(place) as beside:
        try:
            yield beside
            for path in beside.iterdir():
                _sync(path)
            os.replace(beside, place)
        except OSError as error:
            if str(beside) not in str(error):
                raise
            raise OSError(str(error).replace(str(beside), str(place))) from error
        _sync_folder(place.parent)


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """Yield a hidden folder beside `path` and remove it at the end, with those that killed processes left for this path."""
    clear_halves(path.parent, glob.escape(path.name))
    folder = path.with_name(f".{path.name}.{HOST}.{os.getpid()}.part")
    try:
        folder.mkdir()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def clear_halves(folder: Path, pattern: str = "*") -> None:
    """Delete what killed processes left half-written in a folder, of all files or of some."""
    for left in filter(_abandoned, folder.glob(f".{pattern}.*.part")):
        left.unlink(missing_ok=True) if left.is_file() else shutil.rmtree(left, ignore_errors=True)


def _abandoned(half: Path) -> bool:
    """Whether the process that wrote there is gone; if it is another machine's, whether it began a day ago."""
    *_, host, pid, _ = half.name.split(".")
    if pid.isdecimal() and (host == HOST or half.is_file()):  # files are of earlier versions, which named no machine
        return int(pid) == os.getpid() or not psutil.pid_exists(int(pid))
    return time.time() - half.stat().st_mtime > ABANDONED


def _sync(path: Path) -> None:
    """Wait until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its file system can do so."""
    with suppress(OSError):
        _sync(folder)


def share(path: Path, target: Path) -> None:
    """Give a finished file a second name, on the same disk without a copy: no file is ever changed in place."""
    with write_beside(target) as beside:
        try:
            os.link(path, beside)
        except OSError:  # another disk, or one without links
            shutil.copyfile(path, beside)


def save_json(path: Path, content: Any) -> None:
    """Write indented JSON with a final newline."""
    with write_beside(path) as beside:
        beside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load_json(path: Path, *needed: str) -> Any:
    """Read a JSON file; ValueError with the path if it is invalid, or no object with the names that are needed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not valid JSON (line {error.lineno}): move it away to start anew") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text, so it is no JSON: move it away to start anew") from None
    if missing := [name for name in needed if not isinstance(content, dict) or name not in content]:
        raise ValueError(f"{path} is damaged, it has no {', '.join(missing)}: move it away to start anew")
    return content


def save_table(path: Path, table: pd.DataFrame) -> None:
    """Write a table as CSV without its index. Floats keep every digit, so that equal runs give equal bytes."""
    with write_beside(path) as beside:
        table.to_csv(beside, index=False)


def save_tensors(path: Path, tensors: dict[str, Tensor], **notes: str) -> None:
    """Write tensors as safetensors with short notes in the header, and a checksum by which damage is noticed."""
    from safetensors.torch import save_file

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with write_beside(path) as beside:
        beside.touch()
        usual = beside.stat().st_mode  # safetensors makes files that only their owner can read
        save_file(plain, beside, notes | {CHECKSUM: _checksum(plain, notes)})
        beside.chmod(usual)
        _sort_notes(beside)


def _sort_notes(path: Path) -> None:
    """Sort the notes in a header: safetensors writes them in any order, and equal content should give equal bytes."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        assert len(text) == length, "safetensors writes JSON in another way"
        file.seek(8)
        file.write(text)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Memory-map a safetensors file; changes stay in memory. A damaged file raises ValueError with its path."""
    return _load(path)[0]


def load_notes(path: Path) -> dict[str, str]:
    """Notes in the header of a safetensors file, its checksum among them. A damaged file raises ValueError with its path."""
    return _load(path)[1]


def checksum(path: Path) -> str:
    """The checksum that a safetensors file notes of itself; empty for an older one."""
    return load_notes(path).get(CHECKSUM, "")


def refuse_other_base(path: Path, base: Path) -> None:
    """Raise ValueError if a file, where it exists, notes the checksum of another base model than that of the file `base`."""
    if path.exists() and base.exists():
        own = checksum(base)
        if load_notes(path).get("base", own) != own:  # older files do not say
            raise ValueError(f"{path} was made from another base model than {base.name}: delete it to make it anew")


def _load(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and notes, after a look at the checksum: once in a process, since files are never changed in place."""
    from safetensors.torch import load_file

    try:
        with safe_open(path, "pt") as file:
            notes = file.metadata() or {}
        tensors, noted, stat = load_file(path), notes.get(CHECKSUM), path.stat()
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        raise ValueError(f"{path} cannot be read as safetensors ({reason}): delete it to make it anew") from None
    state = (str(path), stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if noted and state not in _checked:  # older files have none
        if _checksum(tensors, notes) != noted:
            raise ValueError(f"{path} is damaged, its checksum is another one: delete it to make it anew")
        _checked.add(state)
    return tensors, notes


def _checksum(tensors: dict[str, Tensor], notes: dict[str, str]) -> str:
    """CRC-32 of names, types, shapes, values and other notes. It finds accidents; SHA-256 takes twice as long."""
    import torch

    about = {name: [str(tensor.dtype), *tensor.shape] for name, tensor in tensors.items()}
    others = {name: note for name, note in notes.items() if name != CHECKSUM}
    value = zlib.crc32(json.dumps([about, others], sort_keys=True).encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, value)
    return f"{value:08x}"
