"""Data: one dataset object, however the images are laid out.

faces = open_dataset("celeba", "~/data/celeba", sensitive="Male")
faces.labels            # bool [N, L]
faces.group             # int64 [N], 0..G-1
faces.images[17]        # uint8 [3, H, W], read now
decode_images(faces.images, size=256, folder="runs/cache")  # uint8 [N, H, W, 3], memory-mapped
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairnb.data.celeba import download_celeba, read_celeba
from fairnb.data.decoded import decode_images
from fairnb.data.faces import SPLITS, Faces
from fairnb.messages import unknown

__all__ = ["DATASETS", "SPLITS", "Faces", "decode_images", "download_celeba", "open_dataset", "read_celeba"]

DATASETS = {"celeba": read_celeba}


def open_dataset(
    data: str, data_root: str | Path, sensitive: str = "Male", targets: Sequence[str] = (), max_images: int = 0
) -> Faces:
    """Open a dataset by the name of its reader.

    Args:
        data: one of `DATASETS`.
        data_root: the folder that the reader takes; relative to the working directory.
        sensitive: the attribute that splits people into groups.
        targets: attributes to predict; empty for all but the sensitive one.
        max_images: at most so many images of each split; 0 takes all of them.

    Raises:
        ValueError: for an unknown name, an empty `data_root`, and whatever the reader finds amiss.
        FileNotFoundError: see the reader.
    """
    if data not in DATASETS:
        raise ValueError(unknown("data", data, DATASETS))
    if not str(data_root):
        raise ValueError(f"data={data!r} needs data_root, the folder in CelebA's layout (make book DATA=<folder>)")
    return DATASETS[data](data_root, sensitive, targets).limited(max_images)
