"""Data: one dataset object, however the images are laid out, and its images on their way to the device.

>>> faces = open_dataset("drawn", drawn=[4, 2, 2])  # drawn on the spot; "celeba" reads a folder
>>> faces.labels.shape, faces.group_names, tuple(faces.images[7].shape)  # bool [N, L]; an image is read when asked for
(torch.Size([8, 39]), ('female', 'male'), (3, 64, 64))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fairnb.data.celeba import download_celeba, read_celeba
from fairnb.data.decoded import decode_images
from fairnb.data.drawn.faces import draw_faces, draw_pairs
from fairnb.data.faces import SPLITS, Faces
from fairnb.run.messages import unknown

__all__ = [
    "DATASETS",
    "DRAWN",
    "SPLITS",
    "Faces",
    "check_source",
    "decode_images",
    "download_celeba",
    "draw_faces",
    "draw_pairs",
    "open_dataset",
    "read_celeba",
]

READERS = {"celeba": read_celeba}
DATASETS = ("drawn", *READERS)
DRAWN = (6000, 2000, 3000)  # faces for train, valid and test that show the phenomenon in minutes on a CPU


def open_dataset(
    data: str,
    data_root: str | Path = "",
    sensitive: str = "Male",
    targets: Sequence[str] = (),
    max_images: int = 0,
    drawn: Sequence[int] = DRAWN,
    drawn_seed: int = 0,
) -> Faces:
    """Open a dataset by its name.

    Args:
        data: one of `DATASETS`: "drawn" draws faces, the others read a folder.
        data_root: the folder to read; relative to the working directory. Empty for "drawn".
        sensitive: the attribute that splits people into groups.
        targets: attributes to predict; empty for all but the sensitive one.
        max_images: at most so many images of each split; 0 takes all of them.
        drawn: for "drawn", how many faces to train, validate and test on.
        drawn_seed: for "drawn", the seed of the faces.

    Raises:
        ValueError: for an unknown name, a `data_root` too few or too many, and whatever is found amiss in the data.
        FileNotFoundError: see the reader.
    """
    check_source(data, data_root)
    if data == "drawn":
        return draw_faces(drawn, drawn_seed, sensitive=sensitive, targets=targets).limited(max_images)
    return READERS[data](data_root, sensitive, targets).limited(max_images)


def check_source(data: str, data_root: str | Path) -> None:
    """Refuse a dataset that is not there, or a folder too few or too many.

    Raises:
        ValueError: with what to do.
    """
    if data not in DATASETS:
        raise ValueError(unknown("data", data, DATASETS))
    if data == "drawn" and str(data_root):
        raise ValueError(
            f"data_root={str(data_root)!r} is given, but data='drawn' reads no folder: say data=celeba to read it"
        )
    if data != "drawn" and not str(data_root):
        raise ValueError(f"data={data!r} needs data_root, the folder in CelebA's layout (make book DATA=<folder>)")
