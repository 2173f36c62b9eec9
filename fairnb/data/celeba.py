"""CelebA and everything laid out like it: official folder, images still in the zip, Kaggle's CSV files.

torchvision's own reader checks the official files' checksums, so it reads neither Kaggle's copy nor a dataset of one's
own in the same layout. Liu, Luo, Wang and Tang, "Deep learning face attributes in the wild", ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from fairnb.data.faces import SPLITS, Faces, choose_labels
from fairnb.data.images import ImageFolder, Images, ImageZip
from fairnb.run.messages import some

# Where the files lie below the folder given: beside each other (Kaggle, torchvision's own folder `celeba`),
# or in the folders of the official drive.
PLACES = (".", "celeba", "Anno", "Eval", "Img", "celeba/Anno", "celeba/Eval", "celeba/Img")
VALUES = {"1": True, "-1": False, "0": False}  # ±1 in the official file, 0/1 in others
PARTITIONS = {str(code): code for code in range(len(SPLITS))}


def read_celeba(root: str | Path, sensitive: str = "Male", targets: Sequence[str] = ()) -> Faces:
    """Read a folder in CelebA's layout.

    Args:
        root: folder with `list_attr_celeba.txt` (or `.csv`), `list_eval_partition.txt` (or `.csv`) and either
            `img_align_celeba/` or `img_align_celeba.zip`; `identity_CelebA.txt` (or `.csv`) is read where it is there.
        sensitive: the attribute that splits people into groups; it is never a target.
        targets: attributes to predict; empty for all but the sensitive one.

    Returns:
        The dataset, its labels in the order of the attribute file's header. Groups are `not <sensitive>` and
        `<sensitive>`; for `Male` they are called `female` and `male`, as in the paper.

    Raises:
        FileNotFoundError: a folder or file is not there, or images are missing (all of them counted).
        ValueError: a row does not fit the header (with its line), an unknown attribute, an empty split.
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

    partition = _read_partition(partition_file)
    unassigned = [name for name in names if name not in partition]
    if unassigned:
        raise ValueError(f"{partition_file.name} has no split for {len(unassigned):,} images: {some(unassigned)}")

    person = _read_people(root, names)
    table = torch.tensor(values, dtype=torch.bool)
    return Faces(
        images=_find_images(root, names),
        labels=table[:, kept],
        group=table[:, header.index(sensitive)].long(),
        split=torch.tensor([partition[name] for name in names]),
        label_names=tuple(header[column] for column in kept),
        group_names=group_names,
        sensitive=sensitive,
        person=person,
    )


def download_celeba(root: str | Path) -> Path:
    """Fetch the official files (about 1.4 GB) with torchvision; returns the folder that `read_celeba` takes.

    The official drive often refuses automatic downloads (torchvision issue 2262); the folder may then be filled by
    hand, from the official page or from Kaggle's copy.

    Raises:
        ConnectionError: if the download is refused, with what to do instead.
    """
    from torchvision.datasets import CelebA

    root = Path(root).expanduser()
    try:
        CelebA(str(root), split="all", download=True)
    except Exception as error:  # torchvision raises what its downloader raises: URL, zip, checksum, quota
        raise ConnectionError(
            f"CelebA could not be fetched into {root} ({type(error).__name__}: {error}).\n"
            f"Put list_attr_celeba.txt, list_eval_partition.txt and img_align_celeba.zip into {root / 'celeba'} by hand."
        ) from error
    return root / "celeba"


def _find(root: Path, *names: str) -> Path:
    for name in names:
        for place in PLACES:
            if (path := root / place / name).is_file():
                return path
    raise FileNotFoundError(f"found neither {' nor '.join(names)} in {root}")


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
    """The file's rows as words, blank ones kept so that a row's place is its line."""
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
    """A number for whoever each image shows, int64 [N]; None where there is no such file."""
    try:
        path = _find(root, "identity_CelebA.txt", "identity_CelebA.csv")
    except FileNotFoundError:
        return None  # Kaggle's copy has none
    people: dict[str, int] = {}
    for number, words in enumerate(_lines(path), start=1):
        if not any(words) or (number == 1 and path.suffix == ".csv"):
            continue
        if len(words) != 2 or not words[1].isdigit():
            raise ValueError(f"{path.name}, line {number}: expected an image and a number, found {' '.join(words)!r}")
        people[words[0]] = int(words[1])
    unknown = [name for name in names if name not in people]
    if unknown:
        raise ValueError(f"{path.name} has no person for {len(unknown):,} images: {some(unknown)}")
    return torch.tensor([people[name] for name in names])


def _read_partition(path: Path) -> dict[str, int]:
    """Split code of each image."""
    partition = {}
    for number, words in enumerate(_lines(path), start=1):
        if not any(words) or (number == 1 and path.suffix == ".csv"):
            continue
        if len(words) != 2 or words[1] not in PARTITIONS:
            raise ValueError(f"{path.name}, line {number}: expected an image and 0, 1 or 2, found {' '.join(words)!r}")
        partition[words[0]] = PARTITIONS[words[1]]
    return partition
