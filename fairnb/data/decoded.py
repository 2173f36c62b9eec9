"""Images prepared once: decoded into a uint8 array on disk, or only checked. Both give the pixels of `read_images`."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from tqdm import tqdm

from fairnb.data.images import Images
from fairnb.run.files import load_json, save_json, write_beside
from fairnb.run.keys import content_key
from fairnb.run.messages import some

LOOKED_AT = 25  # images whose sizes decide the common one


def stored_shape(images: Images, size: int) -> tuple[int, int]:
    """Common height and width of the prepared images: their median's, its shorter side at most `size`.

    Images that differ are cropped at the centre. Where most are smaller than `size` they are not enlarged here, which would
    only take space, but in each batch. A size below 8, or no readable image, raises ValueError.
    """
    if size < 8:
        raise ValueError(f"images of {size} pixels are too small to show a face: give at least 8")
    shapes, unreadable = [], ""
    few = LOOKED_AT if images.block == 1 else 1  # drawn images are all alike
    for index in sorted({int(i) for i in np.linspace(0, len(images) - 1, few)}):
        try:
            shapes.append(images.read([index], size)[0].shape[1:])
        except (ValueError, OSError) as error:
            if images.block > 1:  # no single file is at fault
                raise
            unreadable = str(error)  # counted when all images are prepared
    if not shapes:
        raise ValueError(f"none of the images in {images.source} that were tried can be decoded: {unreadable}")
    height, width = (int(np.median(sides)) for sides in zip(*shapes, strict=True))
    scale = min(1.0, size / min(height, width))
    return (height, width) if scale == 1 else (max(size, int(height * scale)), max(size, int(width * scale)))


def shown_shape(stored: tuple[int, int], size: int) -> tuple[int, int]:
    """Height and width of images in batches: those of `stored_shape`, enlarged where the shorter side is below `size`."""
    scale = size / min(stored)
    return max(size, int(stored[0] * scale)), max(size, int(stored[1] * scale))


def enlarge(images: Tensor, shape: tuple[int, int]) -> Tensor:
    """Scale uint8 [B, H, W, 3] to `shape`, as by torchvision's `Resize`."""
    from torchvision.transforms.v2.functional import resize  # slow to import

    if images.shape[1:3] == shape:
        return images
    return resize(images.permute(0, 3, 1, 2), list(shape), antialias=True).permute(0, 2, 3, 1)  # it takes channels first


def read_images(images: Images, rows: Sequence[int], shape: tuple[int, int]) -> Tensor:
    """Read some images: uint8 [B, H, W, 3] of `shape`, cropped at the centre; ValueError if one cannot be decoded."""
    ready = torch.empty(len(rows), *shape, 3, dtype=torch.uint8)
    for place, image in zip(ready, images.read(rows, min(shape)), strict=True):
        place.permute(2, 0, 1).copy_(_cover(image, shape))
    return ready


def decode_images(images: Images, size: int, folder: str | Path) -> np.memmap:
    """Decode every image, or open the array of an earlier call: read-only, memory-mapped, uint8 [N, H, W, 3].

    `size` is that of the shorter side, at least 8, scaled as by torchvision's `Resize(size)`; smaller images keep theirs.
    Raises ValueError if images cannot be decoded (all of them counted, the first ones named with the reason), OSError if
    the disk has no room for the array; nothing is left behind.
    """
    shape = stored_shape(images, size)
    path = _array_file(images, shape, folder)
    if (array := _opened(path, images, shape)) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.parent / f".{path.stem}.lock"):  # of several processes, one decodes
            if (array := _opened(path, images, shape)) is None:
                _decode_into(path, images, shape)
    return np.load(path, mmap_mode="r") if array is None else array


def _opened(path: Path, images: Images, shape: tuple[int, int]) -> np.memmap | None:
    """The array of an earlier call; None if there is none, or its file has another header or size."""
    header = io.BytesIO()  # compared, not read: a damaged one raises errors of many kinds in Python's parser
    given = {"descr": "|u1", "fortran_order": False, "shape": (len(images), *shape, 3)}
    np.lib.format.write_array_header_1_0(header, given)
    try:
        with path.open("rb") as file:
            same = file.read(header.tell()) == header.getvalue()
    except FileNotFoundError:
        return None
    whole = same and path.stat().st_size == header.tell() + decoded_bytes(images, shape)
    return np.load(path, mmap_mode="r") if whole else None


def _decode_into(path: Path, images: Images, shape: tuple[int, int]) -> None:
    needed, free = decoded_bytes(images, shape), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path.parent} has {free / 1e9:.1f} GB free; the decoded images take {needed / 1e9:.1f} GB")
    with write_beside(path) as beside:
        array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=(len(images), *shape, 3))
        if hasattr(os, "posix_fallocate"):  # a disk that fills up later would crash the process
            with beside.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)

        def decode(rows: range) -> None:
            array[rows.start : rows.stop] = read_images(images, rows, shape).numpy()

        _each_block(images, decode, "preparing images")
        array.flush()


def is_decoded(images: Images, size: int, folder: str | Path) -> bool:
    """Whether the array of `decode_images` exists, and is whole."""
    shape = stored_shape(images, size)
    return _opened(_array_file(images, shape, folder), images, shape) is not None


def decoded_bytes(images: Images, shape: tuple[int, int]) -> int:
    """Bytes of the decoded array."""
    return len(images) * shape[0] * shape[1] * 3


def check_images(images: Images, folder: str | Path) -> None:
    """Check once that every image can be decoded, and record that in `folder`; raises ValueError as `decode_images`."""
    path = Path(folder) / f"checked-{content_key(images.fingerprint())}.json"
    note = {"images": len(images), "source": images.source}
    if images.block > 1 or _noted(path) == note["images"]:  # drawn images cannot be damaged
        return
    _each_block(images, lambda rows: images.read(rows, 8), "checking images")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, note)


def _noted(path: Path) -> int | None:
    """Number of images that a note of `check_images` says were checked; None without a note, or with a damaged one."""
    try:
        return load_json(path, "images")["images"]
    except (OSError, ValueError):
        return None


def _array_file(images: Images, shape: tuple[int, int], folder: str | Path) -> Path:
    key = content_key({"images": images.fingerprint(), "shape": shape, "form": "uint8 [N, H, W, 3]"})
    return Path(folder) / f"images-{key}.npy"


def _each_block(images: Images, work: Callable[[range], object], title: str) -> None:
    """Run `work` on blocks of rows, on every core; report how many images cannot be decoded, and name some."""
    unreadable: list[tuple[str, str]] = []

    def attempt(rows: range) -> None:
        try:
            work(rows)
        except (ValueError, OSError) as error:
            if images.block > 1:  # no single file is at fault
                raise
            unreadable.append((images.names[rows[0]], str(error)))

    blocks = [range(start, min(start + images.block, len(images))) for start in range(0, len(images), images.block)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pool runs in parallel: a single image is too small for that
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            list(tqdm(pool.map(attempt, blocks), title, len(blocks), unit="image", leave=False))
    finally:
        torch.set_num_threads(threads)
    if names := sorted(name for name, _ in unreadable):
        raise ValueError(f"{len(names):,} of {len(images):,} images cannot be decoded: {some(names)} ({min(unreadable)[1]})")


def _cover(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Scale uint8 [3, H, W] to cover `shape`, then crop its centre."""
    from torchvision.transforms.v2 import functional as F  # slow to import

    height, width = image.shape[1:]
    if (height, width) == shape:
        return image
    scale = max(shape[0] / height, shape[1] / width)
    size = [max(shape[0], round(height * scale)), max(shape[1], round(width * scale))]
    return F.center_crop(F.resize(image, size, antialias=True), list(shape))
