"""Predictions of an exported model for a folder or a zip of images."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from fairnb.data.feeding import BATCH
from fairnb.data.images import ImageFolder, Images, ImageZip
from fairnb.data.labelling import Attributes
from fairnb.data.layouts import read_attributes
from fairnb.export.network import FromPixels, load, squares, thresholds
from fairnb.run.device import resolve
from fairnb.run.files import save_table, write_beside
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Data


def predict(
    folder: Path, images: Path, *, groups: Path | None = None, columns: Sequence[str] = ()
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores of every image in a folder, with those below it, or in a zip, by the model that `export` wrote to `folder`.

    The first table has a row for each image: its path in `image`, and for each label `<label>_score`, float32, the logit
    less the threshold; above 0 predicts the label. The second has the images that cannot be decoded, with the reason.
    `groups` is a table with the group of each image in `columns`, for a model that needs it.

    FileNotFoundError: no exported model, or no images. ValueError: a group that is missing or unknown, or given in vain.
    """
    config, network = load(folder)
    pictures, names = open_images(images)
    if config["needs_group"] != (groups is not None):
        named = " and ".join(config["sensitive"])
        raise ValueError(
            f"{folder} has a threshold for each group by {named}: give --groups TABLE --group COLUMN"
            if config["needs_group"]
            else f"{folder} has the same thresholds for all groups: leave out --groups"
        )
    group = torch.zeros(len(pictures), dtype=torch.int64)
    if groups is not None:
        group = groups_of(names, groups, columns, config)
    scores, failed = _scores(config, network, pictures)
    rows = [row for row in range(len(pictures)) if row not in failed]
    by_label = (scores - thresholds(config)[group[rows]]).numpy()
    table = pd.DataFrame(by_label, columns=[f"{label}_score" for label in config["labels"]])
    table.insert(0, "image", [names[row] for row in rows])
    return table, pd.DataFrame({"image": [names[row] for row in failed], "reason": list(failed.values())})


def save_predictions(path: Path, table: pd.DataFrame, failed: pd.DataFrame) -> str:
    """Write the scores as CSV, or as Parquet by the file's ending, and return a line about it.

    Images without a row are listed, with the reasons, in `<name>_failed.csv` beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        with write_beside(path) as beside:
            table.to_parquet(beside, index=False)
    else:
        save_table(path, table)
    beside = path.with_name(f"{path.stem}_failed.csv")
    beside.unlink(missing_ok=True)
    if failed.empty:
        return f"{len(table):,} images are in {path}"
    save_table(beside, failed)
    return (
        f"{len(table):,} images are in {path}; {len(failed):,} cannot be decoded and have no row: {some(failed.image)} "
        f"({failed.reason[0]}); {beside} lists them"
    )


def open_images(path: Path) -> tuple[Images, list[str]]:
    """All images of a folder, with those below it, or of a zip, and their paths in it; FileNotFoundError if there are none.

    The paths in a zip are those below the folder that holds all of it, as for that folder itself.
    """
    reader: Any = ImageFolder if path.is_dir() else ImageZip
    if not path.exists() or (path.is_file() and path.suffix.lower() != ".zip"):
        raise FileNotFoundError(f"{path} is neither a folder nor a zip of images")
    names = list(reader(path, []).unlisted)
    if not names:
        raise FileNotFoundError(f"{path} holds no images")
    top = "" if path.is_dir() else posixpath.commonpath([posixpath.dirname(name) for name in names])
    return reader(path, names), [posixpath.relpath(name, top or ".") for name in names]


def groups_of(names: Sequence[str], table: Path, columns: Sequence[str], config: dict[str, Any]) -> Tensor:
    """The group of each image by a table, int64 [N], index into the model's groups.

    `columns` are those of the model's attributes, in their order, as the model's own data had them; or one column that holds
    the names of the groups. Images are found by their path, or else by their file's name. ValueError as of `predict`.
    """
    read, known = read_attributes(table), config["groups"]
    if odd := [name for name in columns if name not in read]:
        raise ValueError(f"{table.name}: {unknown('column', odd[0], read.columns)}")
    if not columns:
        raise ValueError(f"{table.name}: name the column of groups by --group")
    by_path = dict(zip(read["image"], _codes(read, columns, config, table.name), strict=True))
    by_name: dict[str, int] = {}
    for path, code in by_path.items():
        name = PurePosixPath(path).name
        by_name[name] = code if by_name.get(name, code) == code else -1  # two images of this name differ
    same = Counter(PurePosixPath(name).name for name in names)
    group = [
        by_path.get(name, by_name.get(last, -1) if same[last] == 1 else -1)
        for name, last in ((name, PurePosixPath(name).name) for name in names)
    ]
    if missing := [name for name, code in zip(names, group, strict=True) if code < 0]:
        raise ValueError(
            f"{table.name} tells no group ({', '.join(known)}) of {len(missing):,} of {len(names):,} images: {some(missing)}"
        )
    return torch.tensor(group)


def _codes(read: pd.DataFrame, columns: Sequence[str], config: dict[str, Any], source: str) -> list[int]:
    """Each row's group, an index into the model's groups; −1 where it is missing or none of them."""
    known, attributes = config["groups"], config["sensitive"]
    place = {name: code for code, name in enumerate(known)}
    words = read[columns[0]].astype(str).str.strip()
    if len(columns) == 1 and words.isin(known).any():
        return words.map(place).fillna(-1).astype(int).tolist()
    if len(columns) != len(attributes):
        wanted = f"{', '.join(attributes)}, in this order, or for one column of {', '.join(known)}"
        raise ValueError(f"{source}: give --group for each of {wanted}")
    chosen = read[list(columns)].set_axis(attributes, axis=1)
    data = Data(sensitive=attributes, bins=config["bins"], merge=config["merge"])
    column = Attributes(chosen, data, source).groups()
    return [place.get(column.words[code], -1) if code >= 0 else -1 for code in column.codes]


@torch.inference_mode()
def _scores(config: dict[str, Any], network: FromPixels, pictures: Images) -> tuple[Tensor, dict[int, str]]:
    """Logits float32 [n, L] of the images that can be decoded, in order, and the others' numbers with the reasons."""
    device, failed, found = resolve()[0], dict[int, str](), []
    network = network.to(device)

    def read(row: int) -> Tensor | str:
        try:
            return squares(pictures, [row], config)
        except (ValueError, OSError) as error:
            return str(error)

    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(None, "predicting", len(pictures), unit="image", leave=False) as bar,
    ):
        for first in range(0, len(pictures), BATCH):
            rows = range(first, min(first + BATCH, len(pictures)))
            each = dict(zip(rows, pool.map(read, rows), strict=True))
            failed |= {row: one for row, one in each.items() if isinstance(one, str)}
            if batch := [one for one in each.values() if isinstance(one, Tensor)]:
                found.append(network(torch.cat(batch).to(device)).cpu())
            bar.update(len(rows))
    if not found:
        reason = next(iter(failed.values()))
        raise ValueError(f"none of the {len(pictures):,} images in {pictures.source} can be decoded: {reason}")
    return torch.cat(found), failed
