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
    """Read a folder in CelebA's layout.

    Args:
        root: folder with `list_attr_celeba.txt` (or `.csv`), `list_eval_partition.txt` (or `.csv`) and either
            `img_align_celeba/` or `img_align_celeba.zip`; `identity_CelebA.txt` (or `.csv`) is optional.
        sensitive: the attribute that defines the groups; never a target.
        targets: attributes to predict; empty for all but the sensitive one.

    Returns:
        The dataset, its labels in the order of the header. Groups are `not <sensitive>` and `<sensitive>`; for `Male`,
        `female` and `male`, as in the paper.

    Raises:
        FileNotFoundError: for missing folders, files or images (counted).
        ValueError: for a row that does not fit the header (with its line), an unknown attribute, or an empty split.
    """
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: give the folder that holds list_attr_celeba.txt (or .csv)")
    attribute_file = _find(root, "list_attr_celeba.txt", "list_attr_celeba.csv")
    partition_file = _find(root, "list_eval_partition.txt", "list_eval_partition.csv")
    header, names, values = read_attributes(attribute_file)
    kept, group_names = choose_labels(header, sensitive, targets)
    if len(set(names)) != len(names):
        raise ValueError(f"{attribute_file} lists {len(names) - len(set(names)):,} images twice")
    partition = _read_pairs(partition_file, ("0", "1", "2").__contains__, "0, 1 or 2")  # indices into SPLITS
    unassigned = [name for name in names if name not in partition]
    if unassigned:
        raise ValueError(f"{partition_file.name} has no split for {len(unassigned):,} images: {some(unassigned)}")
    person = _read_people(root, names)
    table = torch.tensor(values, dtype=torch.bool)
    return Faces(
        _find_images(root, names), table[:, kept], table[:, header.index(sensitive)].long(),
        torch.tensor([partition[name] for name in names]), tuple(header[column] for column in kept), group_names, sensitive,
        person,
    )  # fmt: skip


def download_celeba(root: str | Path) -> Path:
    """Fetch the official files (about 1.4 GB) with torchvision; returns the folder for `read_celeba`.

    The official drive often refuses automatic downloads (torchvision issue 2262).

    Raises ConnectionError if the download is refused, with instructions for filling the folder by hand.
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


def _find(root: Path, *names: str) -> Path:
    found = next((path for name in names for place in PLACES if (path := root / place / name).is_file()), None)
    if found is None:
        raise FileNotFoundError(f"found neither {' nor '.join(names)} in {root}")
    return found


def _find_images(root: Path, names: list[str]) -> Images:
    for place in PLACES:
        folder = root / place / "img_align_celeba"
        if (folder / "img_align_celeba").is_dir():  # Kaggle's copy nests it
            folder = folder / "img_align_celeba"
        if folder.is_dir():
            return ImageFolder(folder, names)
    for place in PLACES:
        if (path := root / place / "img_align_celeba.zip").is_file():
            return ImageZip(path, names)
    raise FileNotFoundError(f"found neither the folder img_align_celeba nor img_align_celeba.zip in {root}")


def _lines(path: Path) -> list[list[str]]:
    """The words of each line, blank lines kept so that an index is a line number."""
    separator = "," if path.suffix == ".csv" else None
    return [[word.strip() for word in line.split(separator)] for line in path.read_text().splitlines()]


def read_attributes(path: Path) -> tuple[list[str], list[str], list[list[bool]]]:
    """Header, image names and values of an attribute file, official (`.txt`) or Kaggle's (`.csv`)."""
    lines = _lines(path)
    first = 1 if path.suffix == ".csv" else 2  # the official file opens with its number of rows
    if len(lines) < first:
        raise ValueError(f"{path} is empty")
    header = lines[first - 1][1:] if path.suffix == ".csv" else lines[first - 1]
    names, values = [], []
    for number, words in enumerate(lines[first:], start=first + 1):
        if not any(words):
            continue
        if len(words) != len(header) + 1:
            raise ValueError(f"{path.name}, line {number}: {len(words) - 1} values for {len(header)} attributes")
        try:
            values.append([VALUES[word] for word in words[1:]])
        except KeyError as error:
            raise ValueError(f"{path.name}, line {number}: {error.args[0]!r} is none of 1, -1 and 0") from None
        names.append(words[0])
    if path.suffix != ".csv" and [str(len(names))] != lines[0]:
        raise ValueError(f"{path.name} says {' '.join(lines[0])} rows and has {len(names):,}: was it cut short?")
    return header, names, values


def _read_people(root: Path, names: list[str]) -> Tensor | None:
    """The number of the person on each image, int64 [N]; None if there is no such file, as in Kaggle's copy."""
    try:
        path = _find(root, "identity_CelebA.txt", "identity_CelebA.csv")
    except FileNotFoundError:
        return None
    people = _read_pairs(path, str.isdigit, "a number")
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"{path.name} has no person for {len(unknown):,} images: {some(unknown)}")
    return torch.tensor([people[name] for name in names])


def _read_pairs(path: Path, fits: Callable[[str], bool], expected: str) -> dict[str, int]:
    """The whole number beside each image's name."""
    pairs = {}
    for number, words in enumerate(_lines(path), start=1):
        if not any(words) or (number == 1 and path.suffix == ".csv"):
            continue
        if len(words) != 2 or not fits(words[1]):
            raise ValueError(f"{path.name}, line {number}: expected an image and {expected}, found {' '.join(words)!r}")
        pairs[words[0]] = int(words[1])
    return pairs
