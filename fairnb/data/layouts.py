"""Where public datasets keep their annotations and images: each layout is read as one table with a row for each image.

CelebA: Liu, Luo, Wang and Tang, "Deep learning face attributes in the wild", ICCV 2015. CelebAMask-HQ: Lee, Liu, Wu and Luo,
CVPR 2020. FairFace: Karkkainen and Joo, WACV 2021. UTKFace: Zhang, Song and Qi, CVPR 2017. LFW's attributes: Kumar, Berg,
Belhumeur and Nayar, ICCV 2009.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
import pandas as pd

from fairnb.data.images import ImageFolder, ImageParquet, Images, ImageZip, is_image, list_files
from fairnb.data.table import column_of, read_rows, read_table, read_text
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Data

T = TypeVar("T")
# Folders of CelebA's files: beside each other (Kaggle, torchvision's `celeba`), or as on the official drive.
PLACES = (".", "celeba", "Anno", "Eval", "Img", "celeba/Anno", "celeba/Eval", "celeba/Img")
SPLIT_WORDS = {
    0: ("0", "train", "training"), 1: ("1", "valid", "validation", "val", "dev"), 2: ("2", "test", "testing", "eval"),
}  # fmt: skip
USUAL = {
    "image": ("file", "image", "image_id", "path", "filename", "file_name", "image_path", "img"),
    "split": ("split", "partition"),
    "person": ("person", "identity", "celeb_id", "person_id"),
}
TABLES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True, eq=False)
class Annotated:
    """What a layout says of N images."""

    table: pd.DataFrame  # the attributes, as written; its index holds the lines of their file
    images: Images  # in the rows' order
    source: str  # the file of the attributes, for messages
    split: np.ndarray | None = None  # int [N], index into SPLITS
    person: Sequence[object] | None = None  # [N], the person shown
    told: tuple[str, ...] = ()  # what was done to the data and is not in its files
    binary: bool = False  # every attribute must be yes or no
    above: float | None = None  # numbers above it are yes
    dealt_by: Sequence[str] = ()  # [N], names by which images are dealt if there is no split


@dataclass(frozen=True)
class Layout:
    """How a dataset lies on a disk."""

    name: str
    read: Callable[[Path, Data], Annotated]
    marks: tuple[str, ...]  # patterns of files by which a folder is known


LAYOUTS: dict[str, Layout] = {}


def _layout(*marks: str) -> Callable[[Callable[[Path, Data], Annotated]], Callable[[Path, Data], Annotated]]:
    def known(read: Callable[[Path, Data], Annotated]) -> Callable[[Path, Data], Annotated]:
        LAYOUTS[read.__name__] = Layout(read.__name__, read, marks)
        return read

    return known


def layout_of(root: Path) -> str:
    """The name of the layout that a folder has; ValueError if it holds neither a table nor files of a known one."""
    for layout in LAYOUTS.values():
        if any(next(root.glob(f"{place}{mark}"), None) for mark in layout.marks for place in ("", "*/", "*/*/")):
            return layout.name
    raise ValueError(f"{root} holds no table ({', '.join(TABLES)}) and none of the files of a known dataset")


@_layout("list_attr_celeba.txt", "list_attr_celeba.csv")
def celeba(root: Path, data: Data) -> Annotated:
    """CelebA: the official folder, the images in its zip, or Kaggle's CSV files.

    torchvision's reader verifies the official checksums, so it accepts neither Kaggle's copy nor other data.
    """
    file, partition = _named(root, "list_attr_celeba"), _named(root, "list_eval_partition")
    table = read_attributes(file)
    names = list(table["image"])
    within = [f"{place}/img_align_celeba" for place in PLACES]
    images = find_images(root, names, [f"{folder}{inner}" for folder in within for inner in ("/img_align_celeba", "")])
    try:
        people = _named(root, "identity_CelebA")
        person = _looked_up(*_pairs(people), names, people, "person")
    except FileNotFoundError:  # as in Kaggle's copy
        person = None
    attributes, split = table.drop(columns="image"), _splits(partition, names)
    return Annotated(attributes, images, file.name, split, person, binary=True)


@_layout("CelebAMask-HQ-attribute-anno.txt")
def celebamask_hq(root: Path, data: Data) -> Annotated:
    """CelebAMask-HQ, with the splits of CelebA that its mapping leads to (`list_eval_partition.txt` beside it or given)."""
    file = _named(root, "CelebAMask-HQ-attribute-anno")
    table = read_attributes(file)
    names = list(table["image"])
    images = find_images(root, names, [f"{place}/CelebA-HQ-img" for place in (".", "CelebAMask-HQ")])
    told: tuple[str, ...] = ()
    split = None
    try:
        mapping, partition = _named(root, "CelebA-HQ-to-CelebA-mapping"), _named(root, "list_eval_partition")
    except FileNotFoundError as error:
        told = (f"{error}: people are dealt anew instead of as in CelebA",)
    else:
        _, rows = read_rows(mapping, " ")
        original = dict(zip(rows.iloc[:, 0], rows.iloc[:, -1], strict=True))
        stems = [PurePosixPath(name).stem for name in names]
        if missing := [stem for stem in stems if stem not in original]:
            raise ValueError(f"{mapping.name} does not tell the CelebA image of {len(missing):,} images: {some(missing)}")
        split = _splits(partition, [original[stem] for stem in stems])
    return Annotated(table.drop(columns="image"), images, file.name, split, told=told, binary=True, dealt_by=names)


@_layout("fairface_label_train.csv")
def fairface(root: Path, data: Data) -> Annotated:
    """FairFace, whose test labels are not public: its validation is the test here, and a part of training validates."""
    files = [_named(root, f"fairface_label_{part}") for part in ("train", "val")]
    train, test = (read_table(file) for file in files)
    table = pd.concat([train, test])
    names = list(map(str.strip, table["file"]))
    dealt = deal(names[: len(train)], (85, 100))  # 0 or 1
    split = np.concatenate([dealt, np.full(len(test), 2)])
    told = (
        f"FairFace has no test labels: its {len(test):,} validation images are the test, and {int((dealt == 1).sum()):,} of "
        f"its {len(train):,} training images, chosen by a hash of their names, are the validation",
    )
    images = find_images(root, names, [".", "fairface-img-margin025-trainval", "fairface-img-margin125-trainval"])
    return Annotated(table.drop(columns="file"), images, f"{files[0].name} and {files[1].name}", split, told=told)


@_layout("*.chip.jpg", "*chip.jpg")
def utkface(root: Path, data: Data) -> Annotated:
    """UTKFace, whose labels are in the file names: age, gender, race, date and time. Broken names are left out, and told."""
    words = ("White", "Black", "Asian", "Indian", "Others")
    names = sorted(name for name in list_files(root) if is_image(name))
    fields = [re.match(r"(\d+)_([01])_([0-4])_\d+\s*\.?jpg", PurePosixPath(name).name) for name in names]
    kept = [(name, found) for name, found in zip(names, fields, strict=True) if found]
    broken = [PurePosixPath(name).name for name, found in zip(names, fields, strict=True) if not found]
    rows = [(found[1], ("Male", "Female")[int(found[2])], words[int(found[3])]) for _, found in kept]
    table = pd.DataFrame(rows, columns=["age", "gender", "race"], index=range(1, len(rows) + 1))
    told = (f"{len(broken):,} names lack a field and are left out: {some(broken)}",) if broken else ()
    names = [name for name, _ in kept]
    images = ImageFolder(root, names)
    images.unlisted = []  # they are told
    return Annotated(table, images, "the file names", told=told, dealt_by=names)


@_layout("lfw_attributes.txt")
def lfw(root: Path, data: Data) -> Annotated:
    """LFW with the scores of its attribute classifiers: above 0 is yes. People are dealt to splits by their names."""
    file = _named(root, "lfw_attributes")
    table = read_table(file, "\t", skip=1)  # after a comment
    people = [name.strip().replace(" ", "_") for name in table["person"]]
    numbers = table["imagenum"].astype(int)
    names = [f"{person}/{person}_{number:04d}.jpg" for person, number in zip(people, numbers, strict=True)]
    images = find_images(root, names, [".", "lfw", "lfw-deepfunneled", "lfw_funneled"])
    told = ("its attributes are scores of classifiers: above 0 counts as yes",)
    return Annotated(
        table.drop(columns=["person", "imagenum"]), images, file.name, person=people, told=told, above=0.0, dealt_by=people
    )


@_layout(*(f"*{ending}" for ending in TABLES))
def table(root: Path, data: Data) -> Annotated:
    """A table of your own, CSV, TSV or Parquet, or several alike (`train.csv`, `test.csv`): see the parameters of data.

    Hugging Face's Parquet files hold the images, too; `train-00000-of-00019.parquet` tells the split by its name.
    """
    files = _tables(root, data.table)
    parts = [read_table(file) for file in files]
    source = some([file.name for file in files], 2)
    if len({tuple(part.columns) for part in parts}) > 1:
        raise ValueError(f"{source} do not have the same columns: name one by table")
    whole, inside = pd.concat(parts), _holds_images(files[0], data.image)
    column = None if inside else column_of(whole, source, "image", data.image, USUAL["image"])
    split_by, person_by = (column_of(whole, source, what, getattr(data, what), USUAL[what]) for what in ("split", "person"))
    split, told = None, tuple[str, ...]()
    if split_by:
        split = read_split(whole[split_by], source)
    elif len(files) > 1:
        split = np.repeat([_split_of(file.stem) for file in files], [len(part) for part in parts])
    if inside:
        places = [(file, row) for file, part in zip(files, parts, strict=True) for row in range(len(part))]
        images: Images = ImageParquet(places, inside)
        names = images.names
    elif column is None:
        hint = "is its first line missing?" if any(is_image(str(name)) for name in whole) else "name one by image"
        listed = some(map(str, whole.columns), 12)
        raise ValueError(f"{source} has no column of images ({', '.join(USUAL['image'])}) among {listed}: {hint}")
    else:
        names = [str(name).strip() for name in whole[column]]
        again = _repeats(whole.assign(**{column: names}), column, source)
        told = (f"{int(again.sum()):,} rows of {source} repeat an image and are left out",) if again.any() else ()
        whole, names = whole[~again], [name for name, twice in zip(names, again, strict=True) if not twice]
        split = None if split is None else split[~again]
        images = find_images(root, names, ["."])
    person = list(whole[person_by].astype(str)) if person_by else None
    attributes = whole.drop(columns=[name for name in (column, split_by, person_by) if name])
    return Annotated(attributes, images, source, split, person, told, dealt_by=person or names)


def read_split(values: pd.Series, source: str) -> np.ndarray:
    """Splits as indices into SPLITS, int [N], from words or numbers."""
    codes, words = pd.factorize(values)
    known = {word: code for code, found in SPLIT_WORDS.items() for word in found}
    place = [known.get(re.sub(r"\.0$", "", str(word).strip().lower())) for word in words]
    if codes.min() < 0 or None in place:
        row = next(i for i, code in enumerate(codes) if code < 0 or place[code] is None)
        expected = "a split: 0, 1, 2 or train, valid, test"
        raise ValueError(f"{source}, line {values.index[row]}: expected {expected}, found {str(values.iloc[row])!r}")
    return np.array(place)[codes]


def deal(names: Sequence[str], shares: Sequence[int]) -> np.ndarray:
    """Deal names by a hash, the same on every machine: int [N], between which of `shares`, in percent, each one falls."""
    from hashlib import sha256

    dealt = {name: int.from_bytes(sha256(str(name).encode()).digest()[:8], "big") % 100 for name in dict.fromkeys(names)}
    return np.searchsorted(shares, [dealt[name] for name in names], side="right")


def find_images(root: Path, names: list[str], folders: Sequence[str]) -> Images:
    """The images in the first of `folders` (below `root`) that holds any, or in a zip of its name or in `root`."""
    empty = []
    for folder in dict.fromkeys(root / folder for folder in folders):
        if folder.is_dir():
            if any(map(is_image, list_files(folder))):
                return ImageFolder(folder, names)
            empty.append(folder)
    beside = [path for folder in folders if (path := (root / folder).with_name(f"{(root / folder).name}.zip")).is_file()]
    zips = beside or sorted(root.glob("*.zip"))
    if not zips:
        looked = some([f"the folder {folder}" for folder in dict.fromkeys(PurePosixPath(f).name for f in folders) if folder])
        found = f"{some(map(str, empty))} holds no images" if empty else f"found neither {looked or 'images'} nor its zip"
        raise FileNotFoundError(f"{found} in {root}")
    if len(zips) == 1:
        return ImageZip(zips[0], names)
    errors = []
    for path in zips:
        try:
            return ImageZip(path, names)
        except FileNotFoundError as error:
            errors.append(str(error))
    raise FileNotFoundError(f"no zip holds all images; {errors[0]}")


def _named(root: Path, name: str) -> Path:
    places = (root / place / f"{name}{ending}" for ending in (".txt", ".csv") for place in (*PLACES, "CelebAMask-HQ"))
    if (found := next(filter(Path.is_file, places), None)) is None:
        raise FileNotFoundError(f"found neither {name}.txt nor {name}.csv in {root}")
    return found


def read_attributes(file: Path, image: str = "") -> pd.DataFrame:
    """An attribute file of CelebA, official (`.txt`, with or without its first line, a count) or Kaggle's; images first.

    They stand in the column `image`, where there is one, or have a usual name, or come first. ValueError if one is listed
    twice.
    """
    table = _official(file) if file.suffix == ".txt" else read_table(file)
    given = image if image in table else ""
    image = column_of(table, file.name, "image", given, USUAL["image"]) or table.columns[0]
    table = table[[image, *(name for name in table if name != image)]].rename(columns={image: "image"})
    table["image"] = list(map(str.strip, table["image"]))
    if twice := int(table["image"].duplicated().sum()):
        raise ValueError(f"{file} lists {twice:,} images twice")
    return table


def _official(file: Path) -> pd.DataFrame:
    first = read_text(file)[:100].partition("\n")[0].strip()
    if "," in first or ";" in first:  # a CSV by another name
        return read_table(file)
    table = read_table(file, " ", skip=int(first.isdecimal()))
    if first.isdecimal() and int(first) != len(table):
        raise ValueError(f"{file.name} says {first} rows and has {len(table):,}: was it cut short?")
    return table


def _pairs(file: Path) -> tuple[list[str], pd.Series]:
    """An image's name and the word behind it in each line; ValueError for an image with two different ones."""
    header, rows = read_rows(file, None if file.suffix == ".csv" else " ")
    if file.suffix != ".csv" or is_image(header[0]):  # there is no header
        rows = pd.concat([pd.DataFrame([header], index=[1], columns=rows.columns), rows])
    if rows.shape[1] != 2:
        raise ValueError(
            f"{file.name}, line {rows.index[0]}: expected an image and a number, found {' '.join(rows.iloc[0])!r}"
        )
    names, words = (list(map(str.strip, rows.iloc[:, i])) for i in range(2))
    if len(known := dict(zip(names, words, strict=True))) < len(names):
        for line, name, word in zip(rows.index, names, words, strict=True):
            if known[name] != word:
                raise ValueError(f"{file.name}, line {line}: {name} stands there twice, with {word} and {known[name]}")
    return names, pd.Series(words, rows.index, dtype=object)


def _splits(file: Path, names: Sequence[str]) -> np.ndarray:
    """The split of each image in CelebA's list of them."""
    listed, words = _pairs(file)
    return np.array(_looked_up(listed, read_split(words, file.name).tolist(), names, file, "split"))


def _looked_up(listed: list[str], values: Iterable[T], names: Sequence[str], file: Path, what: str) -> list[T]:
    known = dict(zip(listed, values, strict=True))
    if missing := [name for name in names if name not in known]:
        raise ValueError(f"{file.name} has no {what} for {len(missing):,} images: {some(missing)}")
    return [known[name] for name in names]


def _tables(root: Path, wanted: str) -> list[Path]:
    """The table that `wanted` names (a pattern, too), or the one that lies in `root`, or the Parquet files of one folder."""
    if wanted:
        if PurePosixPath(wanted).is_absolute() or ".." in PurePosixPath(wanted).parts:
            raise ValueError(f"table={wanted!r} leaves data_root: name it relative to that folder")
        if found := sorted(path for path in root.glob(wanted) if path.is_file()):
            return found
        raise FileNotFoundError(f"no table {wanted} in {root}")
    for place in ("*", "*/*", "*/*/*"):
        found = sorted(path for path in root.glob(place) if path.suffix in TABLES and path.is_file())
        if len(found) == 1 or (found and all(_split_of(path.stem) is not None for path in found)):
            return sorted(found, key=lambda path: (_split_of(path.stem) or 0, path))
        if found:
            raise ValueError(f"{root} holds {len(found)} tables: name one by table, such as {found[0].relative_to(root)}")
    raise FileNotFoundError(f"no table ({', '.join(TABLES)}) in {root}")


def _split_of(stem: str) -> int | None:
    word = re.split(r"[-_.]", stem.lower())
    return next((code for code, words in SPLIT_WORDS.items() if set(words[1:]) & set(word)), None)


def _holds_images(file: Path, given: str) -> str:
    """The column of a Parquet file that holds images' bytes; empty if there is none."""
    if file.suffix != ".parquet":
        return ""
    import pyarrow as pa
    import pyarrow.parquet as pq

    structs = [field for field in pq.read_schema(file) if pa.types.is_struct(field.type)]
    held = [field.name for field in structs if "bytes" in [inner.name for inner in field.type]]
    if given and given not in pq.read_schema(file).names:
        raise ValueError(f"{file.name}, image: {unknown('column', given, pq.read_schema(file).names)}")
    return given if given in held else (held[0] if held and not given else "")


def _repeats(table: pd.DataFrame, column: str, source: str) -> np.ndarray:
    """The rows that say the same of an image as one before, bool [N]; ValueError for two that disagree."""
    again = table.duplicated().to_numpy()
    if (odd := table[column].duplicated().to_numpy() & ~again).any():
        row = int(odd.argmax())
        name = table[column].iloc[row]
        first = table.index[int((table[column] == name).to_numpy().argmax())]
        raise ValueError(f"{source}, lines {first} and {table.index[row]}: two rows for the image {name} disagree")
    return again
