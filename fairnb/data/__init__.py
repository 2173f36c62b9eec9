"""Data: one dataset object for every layout of files, and the path of its images to the device.

>>> from fairnb.data import Data, open_dataset
>>> faces = open_dataset(Data(drawn=(8, 4, 4)))  # drawn on the spot; data="celeba" reads a folder
>>> faces.labels.shape, faces.group_names, tuple(faces.images[7].shape)  # bool [N, L]; images are read on access
(torch.Size([16, 39]), ('female', 'male'), (3, 64, 64))
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fairnb.data.decoded import decode_images
from fairnb.data.download import download_celeba
from fairnb.data.drawn.faces import draw, draw_faces, draw_pairs
from fairnb.data.faces import SPLITS, Faces
from fairnb.data.labelling import labelled
from fairnb.data.layouts import LAYOUTS
from fairnb.run.parameters import Data

__all__ = [
    "SPLITS", "Data", "Faces", "decode_images", "download_celeba", "draw_faces", "draw_pairs", "open_dataset", "read_celeba",
]  # fmt: skip


def read_celeba(root: str | Path, **given: Any) -> Faces:
    """The dataset in a folder of CelebA's layout; `given` holds other parameters of data, such as `sensitive`."""
    return open_dataset(Data(data="celeba", data_root=str(root), **given))


def open_dataset(data: Data, root: Path = Path()) -> Faces:
    """Open the dataset of a run, by its `Data` or all its `Parameters`; `data.data_root` is relative to `root`.

    Missing folders, files or images (counted) raise FileNotFoundError; a table, name or value that cannot be read, with its
    line, or an empty split or group raises ValueError.
    """
    if data.data == "drawn":
        found = draw(data.drawn, data.drawn_seed)
    else:
        folder = root / Path(data.data_root).expanduser()
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder {folder}: data_root is the folder of the dataset")
        found = LAYOUTS[data.data].read(folder, data)
    return labelled(found, data).limited(data.max_images)
