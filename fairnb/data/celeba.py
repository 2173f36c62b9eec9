"""CelebA and datasets in its layout: the official folder, the images in its zip, or Kaggle's CSV files.

torchvision's reader verifies the official checksums, so it accepts neither Kaggle's copy nor other data.
Liu, Luo, Wang and Tang, "Deep learning face attributes in the wild", ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fairnb.data.faces import Faces, choose_labels
from fairnb.data.images import ImageFolder, Images, ImageZip
from fairnb.run.messages import some
from fairnb.run.parameters import Data

# Folders of the files: beside each other (Kaggle, torchvision's `celeba`), or as on the official drive.
PLACES = (".", "celeba", "Anno", "Eval", "Img", "celeba/Anno", "celeba/Eval", "celeba/Img")
VALUES = {"1": True, "-1": False, "0": False}  # ±1 in the official file, 0/1 in others


def read_celeba(root: str | Path, sensitive: str = Data().sensitive, targets: Sequence[str] = ()) -> Faces:
    """Read a folder in CelebA's layout, with labels in the order of the header (see `choose_labels`).

    It holds `list_attr_celeba.txt` (or `.csv`), `list_eval_partition.txt` (or `.csv`) and either `img_align_celeba/` or
    `img_align_celeba.zip`; `identity_CelebA.txt` (or `.csv`) is optional. Raises FileNotFoundError for missing folders,
    files or images (counted), ValueError for a row that does not fit the header (with its line), an unknown attribute, or
    an empty split.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the folder that holds list_attr_celeba.txt (or .csv)")
    attribute_file, partition_file = _find(root, "list_attr_celeba"), _find(root, "list_eval_partition")
    header, names, values = read_attributes(attribute_file)
    kept, group_names = choose_labels(header, sensitive, targets)
    if twice := len(names) - len(set(names)):
        raise ValueError(f"{attribute_file} lists {twice:,} images twice")
    split = _read_numbers(partition_file, names, "split", ("0", "1", "2").__contains__, "0, 1 or 2")  # indices into SPLITS
    try:
        person = _read_numbers(_find(root, "identity_CelebA"), names, "person", str.isdigit, "a number")
    except FileNotFoundError:  # as in Kaggle's copy
        person = None
    table = torch.tensor(values, dtype=torch.bool)
    return Faces(
        _find_images(root, names), table[:, kept], table[:, header.index(sensitive)].long(), split,
        tuple(header[column] for column in kept), group_names, sensitive, person,
    )  # fmt: skip


def download_celeba(root: str | Path) -> Path:
    """Fetch the official files (about 1.4 GB) with torchvision; returns the folder for `read_celeba`.

    Raises ConnectionError if the drive refuses, as it often does (torchvision issue 2262), with instructions.
    """
    from torchvision.datasets import CelebA

    root = Path(root).expanduser()
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # URL, zip, checksum or quota: whatever the downloader raises
        raise ConnectionError(
            f"CelebA could not be fetched into {root} ({type(error).__name__}: {error}).\n"
            f"Put list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba.zip into {root / 'celeba'} by hand."
        ) from error
    return root / "celeba"


def _find(root: Path, name: str) -> Path:
    places = (root / place / f"{name}{ending}" for ending in (".txt", ".csv") for place in PLACES)
    if (found := next(filter(Path.is_file, places), None)) is None:
        raise FileNotFoundError(f"found neither {name}.txt nor {name}.csv in {root}")
    return found


def _find_images(root: Path, names: list[str]) -> Images:
    folders = [root / place / "img_align_celeba" for place in PLACES]
    for folder in folders:
        for path in (folder / "img_align_celeba", folder):  # Kaggle's copy nests it
            if path.is_dir():
                return ImageFolder(path, names)
    if (file := next((path for folder in folders if (path := folder.with_suffix(".zip")).is_file()), None)) is not None:
        return ImageZip(file, names)
    raise FileNotFoundError(f"found neither the folder img_align_celeba nor img_align_celeba.zip in {root}")


def _lines(path: Path) -> list[list[str]]:
    """The words of each line, blank lines kept so that an index is a line number."""
    separator = "," if path.suffix == ".csv" else None
    return [[word.strip() for word in line.split(separator)] for line in path.read_text().splitlines()]


def read_attributes(path: Path) -> tuple[list[str], list[str], list[list[bool]]]:
    """Header, image names and values of an attribute file, official (`.txt`) or Kaggle's (`.csv`)."""
    lines = _lines(path)
    official = path.suffix != ".csv"  # it opens with its number of rows
    if len(lines) < 1 + official:
        raise ValueError(f"{path} is empty")
    header = lines[1] if official else lines[0][1:]
    names, values = [], []
    for number, words in enumerate(lines[1 + official :], start=2 + official):
        if not any(words):
            continue
        if len(words) != len(header) + 1:
            raise ValueError(f"{path.name}, line {number}: {len(words) - 1} values for {len(header)} attributes")
        try:
            values.append([VALUES[word] for word in words[1:]])
        except KeyError as error:
            raise ValueError(f"{path.name}, line {number}: {error.args[0]!r} is none of 1, -1 and 0") from None
        names.append(words[0])
    if official and [str(len(names))] != lines[0]:
        raise ValueError(f"{path.name} says {' '.join(lines[0])} rows and has {len(names):,}: was it cut short?")
    return header, names, values


def _read_numbers(path: Path, names: list[str], what: str, fits: Callable[[str], bool], expected: str) -> Tensor:
    """The whole number beside each image's name, int64 [N]."""
    pairs = {}
    for number, words in enumerate(_lines(path), start=1):
        if not any(words) or (number == 1 and path.suffix == ".csv"):
            continue
        if len(words) != 2 or not fits(words[1]):
            raise ValueError(f"{path.name}, line {number}: expected an image and {expected}, found {' '.join(words)!r}")
        pairs[words[0]] = int(words[1])
    if missing := [name for name in names if name not in pairs]:
        raise ValueError(f"{path.name} has no {what} for {len(missing):,} images: {some(missing)}")
    return torch.tensor([pairs[name] for name in names])
