"""Data: one dataset object for every layout of files, and the path of its images to the device.

>>> from fairnb.data import Data, open_dataset
>>> faces = open_dataset(Data(drawn=(4, 2, 2)))  # drawn on the spot; data="celeba" reads a folder
>>> faces.labels.shape, faces.group_names, tuple(faces.images[7].shape)  # bool [N, L]; images are read on access
(torch.Size([8, 39]), ('female', 'male'), (64, 64, 3))
"""

from __future__ import annotations

from pathlib import Path

from fairnb.data.celeba import download_celeba, read_celeba
from fairnb.data.decoded import decode_images
from fairnb.data.drawn.faces import draw_faces, draw_pairs
from fairnb.data.faces import SPLITS, Faces
from fairnb.run.parameters import Data

__all__ = [
    "SPLITS", "Data", "Faces", "decode_images", "download_celeba", "draw_faces", "draw_pairs", "open_dataset", "read_celeba",
]  # fmt: skip
READERS = {"celeba": read_celeba}


def open_dataset(data: Data, root: Path = Path()) -> Faces:
    """Open the dataset of a run; `data.data_root` is relative to `root`. Raises ValueError, and as the reader does."""
    if data.data == "drawn":
        faces = draw_faces(data.drawn, data.drawn_seed, sensitive=data.sensitive, targets=data.targets)
    else:
        faces = READERS[data.data](root / Path(data.data_root).expanduser(), data.sensitive, data.targets)
    return faces.limited(data.max_images)
