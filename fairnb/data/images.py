"""Image files, in a folder or a zip, read singly. Pillow decodes: torchvision's decoders are deprecated since 0.29."""

from __future__ import annotations

import copy
import hashlib
import io
import os
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fairnb.run.messages import some


class Images(Protocol):
    """N pictures, read on access."""

    names: list[str]  # of each image, in order
    source: str  # their origin, for messages
    block: int  # the number best read at once

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Tensor:
        """Image `index` as uint8 [H, W, 3] in 0..255."""

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """Several images at once; those that can be drawn at any size have `size` pixels on their shorter side."""

    def fingerprint(self) -> str:
        """Hex digest that changes with any image: the key of the decoded cache."""


class _Files(Images):
    """Image files, each read by itself at its own size."""

    block = 1

    def __len__(self) -> int:
        return len(self.names)

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """See `Images`."""
        return [self[row] for row in rows]


class ImageFolder(_Files):
    """Image files in one folder."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder, self.names, self.source = folder, names, str(folder)
        _refuse_missing(names, {path.name for path in folder.iterdir()}, self.source)

    def __getitem__(self, index: int) -> Tensor:
        return _decode((self.folder / self.names[index]).read_bytes())

    def fingerprint(self) -> str:
        """See `Images`."""
        stats = ((name, (self.folder / name).stat()) for name in self.names)
        return _digest(f"{name} {stat.st_size} {stat.st_mtime_ns}\n" for name, stat in stats)


class ImageZip(_Files):
    """Image files inside a zip, in whatever folder there."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path, self.names, self.source = path, names, str(path)
        try:
            self.zip, self.opened_by = zipfile.ZipFile(path), os.getpid()
        except zipfile.BadZipFile as error:
            raise ValueError(f"{path} is not a whole zip file ({error}): was its download cut short?") from None
        self.members = {Path(info.filename).name: info for info in self.zip.infolist() if not info.is_dir()}
        _refuse_missing(names, self.members.keys(), self.source)

    def __getitem__(self, index: int) -> Tensor:
        if self.opened_by != os.getpid():  # a fork shares its parent's place in the file
            self.zip, self.opened_by = copy.copy(self.zip), os.getpid()  # keeps the directory, 0.25 GB for CelebA
            self.zip.fp = self.path.open("rb")
        try:
            data = self.zip.read(self.members[self.names[index]])
        except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:
            raise ValueError(f"damaged in the zip: {error}") from None
        return _decode(data)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "names": self.names}  # a worker that is not forked opens the file

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def fingerprint(self) -> str:
        """See `Images`."""
        return _digest(f"{name} {self.members[name].file_size} {self.members[name].CRC}\n" for name in self.names)


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _decode(data: bytes) -> Tensor:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))
    except UnidentifiedImageError:
        raise ValueError("not an image") from None  # Pillow's own message names a buffer
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # from plugins, for broken files
        raise ValueError(str(error) or type(error).__name__) from None


def _refuse_missing(names: list[str], present: set[str] | object, source: str) -> None:
    if missing := [name for name in names if name not in present]:  # type: ignore[operator]
        raise FileNotFoundError(f"{len(missing):,} of {len(names):,} images are missing from {source}: {some(missing)}")
