"""Images decoded once: a uint8 array at the working size on disk, memory-mapped, keyed by what made it."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F
from tqdm import tqdm

from fairnb.data.images import Images
from fairnb.files import content_key, write_beside
from fairnb.messages import some


def decode_images(images: Images, size: int, folder: str | Path) -> np.ndarray:
    """Decode every image at its working size, or open what an earlier call decoded.

    The shorter side becomes `size`, as torchvision's `Resize(size)` does. The first image sets the shape; one of another
    aspect ratio is scaled to cover it and cut at its centre.

    Args:
        images: N pictures.
        size: pixels of the shorter side, at least 8.
        folder: where the cache lies; made if it is not there.

    Returns:
        A read-only memory-mapped array, uint8 [N, H, W, 3]: channels last, as a batch in that memory format wants it.

    Raises:
        ValueError: if images cannot be decoded (all of them counted, the first ones named with the reason).
        OSError: if the disk has no room for the array; nothing is left behind.
    """
    if size < 8:
        raise ValueError(f"images of {size} pixels are too small to show a face: give at least 8")
    folder = Path(folder)
    made = {"images": images.fingerprint(), "size": size, "form": "uint8 [N, H, W, 3]"}
    path = folder / f"images-{content_key(made)}.npy"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _decode_all(images, _working_shape(images, size), path)
    return np.load(path, mmap_mode="r")


def _working_shape(images: Images, size: int) -> tuple[int, int]:
    """Height and width of the array: the first readable image's aspect ratio, its shorter side made `size`."""
    for index in range(len(images)):
        try:
            height, width = images[index].shape[1:]
        except (ValueError, OSError):
            continue  # counted with all the others when they are decoded
        scale = size / min(height, width)
        return max(size, int(height * scale)), max(size, int(width * scale))
    raise ValueError(f"none of the {len(images):,} images in {images.source} can be decoded")


def _decode_all(images: Images, shape: tuple[int, int], path: Path) -> None:
    needed, free = len(images) * shape[0] * shape[1] * 3, shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(f"{path.parent} has {free / 1e9:.1f} GB free; the decoded images take {needed / 1e9:.1f} GB")
    unreadable: list[tuple[str, str]] = []

    def decode(rows: range) -> None:
        try:
            for row, image in zip(rows, images.read(rows, min(shape)), strict=True):
                array[row] = _cover(image, shape).permute(1, 2, 0).numpy()
        except (ValueError, OSError) as error:
            if images.block > 1:  # no single file is at fault
                raise
            unreadable.append((images.names[rows[0]], str(error)))

    with write_beside(path) as beside, ThreadPoolExecutor(os.cpu_count()) as pool:
        array = np.lib.format.open_memmap(beside, mode="w+", dtype=np.uint8, shape=(len(images), *shape, 3))
        if hasattr(os, "posix_fallocate"):  # or a disk that fills up later would end the process in mid-air
            with beside.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, beside.stat().st_size)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # the pool is the parallelism: an image is too small to share out
        try:
            blocks = [range(start, min(start + images.block, len(images))) for start in range(0, len(images), images.block)]
            for _ in tqdm(pool.map(decode, blocks), "preparing images", len(blocks), leave=False):
                pass
        finally:
            torch.set_num_threads(threads)
        if unreadable:
            names = [name for name, _ in sorted(unreadable)]
            reason = min(unreadable)[1]
            raise ValueError(f"{len(names):,} of {len(images):,} images cannot be decoded: {some(names)} ({reason})")
        array.flush()


def _cover(image: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Scale uint8 [3, H, W] until it covers `shape`, then cut its centre to it."""
    height, width = image.shape[1:]
    scale = max(shape[0] / height, shape[1] / width)
    size = [max(shape[0], round(height * scale)), max(shape[1], round(width * scale))]
    return F.center_crop(F.resize(image, size, antialias=True), list(shape))
