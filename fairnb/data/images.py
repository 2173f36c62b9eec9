"""Image files, in a folder, a zip or Parquet, read singly. Pillow decodes: torchvision deprecates its decoders in 0.29."""

from __future__ import annotations

import bisect
import contextlib
import copy
import functools
import hashlib
import itertools
import lzma
import os
import struct
import threading
import unicodedata
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fairnb.data.pixels import decode
from fairnb.run.messages import some

LOOKED_INTO = 256  # images of a folder whose content is part of its fingerprint, beside size and time of them all
ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".jp2"}  # of images

# What zipfile raises where bytes of a zip were changed.
DAMAGED_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, LookupError, UnicodeError,
    struct.error,
)  # fmt: skip


class Images(Protocol):
    """N pictures, read on access."""

    names: list[str]  # of each image, in order
    source: str  # their origin, for messages
    block: int  # the number best read at once

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as uint8 [3, H, W] in 0..255, as torchvision takes it."""

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """Several images at once; those that can be drawn at any size have `size` pixels on their shorter side."""

    def fingerprint(self) -> str:
        """Hex digest that changes with any image: the key of the decoded cache."""


class _Files(Images):
    """Image files, each read by itself at its own size."""

    block = 1
    unlisted: Sequence[str]  # images that are there and in no row

    def __len__(self) -> int:
        return len(self.names)

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """See `Images`."""
        return [self[row] for row in rows]


class ImageFolder(_Files):
    """Image files in a folder and those below it."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names, self.source = folder, names, str(folder)
        self.files, self.unlisted = _find(names, list_files(folder), self.source)

    def __getitem__(self, index: int) -> Tensor:
        return _decoded((self.folder / self.files[index]).read_bytes())

    def fingerprint(self) -> str:
        """See `Images`."""
        looked_at = {int(row) for row in np.linspace(0, len(self) - 1, LOOKED_INTO)}
        paths = [self.folder / file for file in self.files]
        return _digest(f"{name} {_state(paths[row], row in looked_at)}\n" for row, name in enumerate(self.names))


class ImageZip(_Files):
    """Image files inside a zip, in whatever folder there."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names, self.source = path, names, str(path)
        try:
            self.zip, self.opened_by = zipfile.ZipFile(path), os.getpid()
        except DAMAGED_ZIP as error:
            raise ValueError(f"{path} is not a whole zip file ({error}): was its download cut short?") from None
        self.members = dict[str, zipfile.ZipInfo]()
        for info in self.zip.infolist():
            name = _name_in_zip(info)
            if not name or name.endswith("/") or _hidden(name):  # a folder, or damaged
                continue
            if info.flag_bits & 1:
                raise ValueError(f"{path} is encrypted: unpack it with its password, and give the folder")
            if name in self.members:
                raise ValueError(f"{path} holds {name} twice")
            self.members[name] = info
        self.files, self.unlisted = _find(names, self.members, self.source)

    def __getitem__(self, index: int) -> Tensor:
        if self.opened_by != os.getpid():  # a fork shares its parent's place in the file
            self.zip, self.opened_by = copy.copy(self.zip), os.getpid()  # keeps the directory, 0.25 GB for CelebA
            self.zip.fp = self.path.open("rb")
        try:
            data = self.zip.read(self.members[self.files[index]])
        except DAMAGED_ZIP as error:
            raise ValueError(f"damaged in the zip: {error or type(error).__name__}") from None
        return _decoded(data)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "names": self.names}  # a worker that is not forked opens the file

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def fingerprint(self) -> str:
        """See `Images`."""
        members = ((name, self.members[file]) for name, file in zip(self.names, self.files, strict=True))
        return _digest(f"{name} {member.file_size} {member.CRC}\n" for name, member in members)


class ImageParquet(_Files):
    """Images as bytes in a column of Parquet files, as Hugging Face's hub has them; read a group of rows at a time."""

    unlisted = ()

    def __init__(self, places: list[tuple[Path, int]], column: str) -> None:
        """`places` holds the file and the row there of each image; `column` is a struct of `bytes` and perhaps `path`."""
        import pyarrow.parquet as pq

        self.places, self.column = places, column
        files = dict.fromkeys(path for path, _ in places)
        self.source = some([path.name for path in files], 2)
        ends = {path: pq.read_metadata(path) for path in files}
        self.starts = {
            path: list(itertools.accumulate((about.row_group(g).num_rows for g in range(about.num_row_groups)), initial=0))
            for path, about in ends.items()
        }
        self.names = [f"{path.stem}:{row}" for path, row in places]
        self._group = functools.lru_cache(2)(self._read_group)
        self._turn = threading.Lock()

    def _read_group(self, path: Path, group: int) -> Any:
        import pyarrow.parquet as pq

        return pq.ParquetFile(path).read_row_group(group, columns=[f"{self.column}.bytes"]).column(0)

    def __getitem__(self, index: int) -> Tensor:
        path, row = self.places[index]
        group = bisect.bisect_right(self.starts[path], row) - 1
        with self._turn:  # threads that decode neighbours wait for one reading
            found = self._group(path, group)[row - self.starts[path][group]].as_py()
        if not (found and found["bytes"]):
            raise ValueError("no bytes in its row")
        return _decoded(found["bytes"])

    def __getstate__(self) -> dict[str, Any]:
        return {"places": self.places, "column": self.column}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def fingerprint(self) -> str:
        """See `Images`."""
        files = (f"{path.name} {_state(path)}\n" for path in self.starts)
        return _digest(itertools.chain(files, (f"{path.name} {row}\n" for path, row in self.places)))


def _decoded(data: bytes) -> Tensor:
    """An image file as a viewer shows it, uint8 [3, H, W]; ValueError if it cannot be decoded."""
    return torch.from_numpy(decode(data)).permute(2, 0, 1)


def list_files(folder: Path) -> Iterator[str]:
    """Paths of the files below a folder, relative to it, through links, without hidden ones."""
    seen = set[str]()
    for here, folders, files in os.walk(folder, followlinks=True):
        if (real := os.path.realpath(here)) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _hidden(name))
        below = os.path.relpath(here, folder)
        yield from (name if below == "." else f"{below}/{name}" for name in files if not _hidden(name))


def is_image(name: str) -> bool:
    """Whether a file's name ends as an image's."""
    return PurePosixPath(name).suffix.lower() in ENDINGS


def _hidden(name: str) -> bool:
    """Files that systems leave beside others: `__MACOSX/`, `._0001.jpg`, `.DS_Store`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _name_in_zip(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & 0x800:  # zipfile took it for the code page of DOS
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return name.replace("\\", "/")


def _state(path: Path, look: bool = True) -> str:
    """Size and time of a file, and a hash of what it holds: all of it up to 64 kB, else 16 pieces from begin to end."""
    stat, digest = path.stat(), hashlib.sha256()
    if look:
        with path.open("rb") as file:
            for start in range(0, stat.st_size, max(4096, stat.st_size // 15)):
                file.seek(start)
                digest.update(file.read(4096))
    return f"{stat.st_size} {stat.st_mtime_ns} {digest.hexdigest() if look else ''}"


def _digest(lines: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _find(names: list[str], present: Iterable[str], source: str) -> tuple[list[str], list[str]]:
    """The file of each name, as it is called there, and the images there that no name means.

    A name may lack folders before it or have some too many, and differ in its ending (.png for .jpg), in case, or in how
    accents are composed. FileNotFoundError if files are missing, ValueError if a name leaves the folder or means several.
    """
    present = list(present)
    there = dict.fromkeys(present)
    found = [name if name in there else None for name in names]
    if None in found:
        names = [_plain(name) for name in names]
        files = [name for name in present if is_image(name) or not PurePosixPath(name).suffix]
        depths = range(1 + max(name.count("/") for name in names))
        tails: dict[str, list[str]] = {}
        for file in files:
            parts = _key(file).split("/")
            for depth in depths[: len(parts)]:
                tails.setdefault("/".join(parts[-1 - depth :]), []).append(file)
        found = [name if name in there else _meant(name, tails, source) for name in names]
    if missing := [name for name, file in zip(names, found, strict=True) if file is None]:
        images = [name for name in present if is_image(name)]
        holds = f"it holds {len(images):,} others: {some(images, 3)}" if images else "it holds no images"
        raise FileNotFoundError(
            f"{len(missing):,} of {len(names):,} images are missing from {source}: {some(missing)}; {holds}"
        )
    files = [file for file in found if file is not None]
    meant = set(files)
    return files, sorted(name for name in present if name not in meant and is_image(name))


def _plain(name: str) -> str:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the image {name!r} leaves the dataset's folder: name it relative to that folder")
    return str(path)


def _key(name: str) -> str:
    """A path without its ending, case and composition of accents."""
    name = unicodedata.normalize("NFC", name).casefold()
    return name.removesuffix(PurePosixPath(name).suffix) if is_image(name) else name


def _meant(name: str, tails: dict[str, list[str]], source: str) -> str | None:
    wanted = _key(name)
    while wanted not in tails and "/" in wanted:
        wanted = wanted.partition("/")[2]
    files = tails.get(wanted, [])
    exact = [file for file in files if file.endswith(name)] or files
    if len(exact) > 1:
        raise ValueError(f"{name} means several images in {source}: {some(exact, 3)}; keep one")
    return exact[0] if exact else None
