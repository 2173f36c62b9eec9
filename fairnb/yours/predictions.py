"""Tables of predictions on a disk: CSV, TSV or Parquet, one file or several that are joined by image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fairnb.data.labelling import Attributes
from fairnb.data.layouts import USUAL, read_attributes
from fairnb.data.table import column_of, placed, read_table
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Data

TRUTH, SCORE = "{label}", "{label}_score"  # names of columns


@dataclass(frozen=True, eq=False)
class Predictions:
    """Arguments of `fairnb.yours.assess`, with rows in the order of the first file."""

    truth: pd.DataFrame  # 0 and 1, a column per label
    scores: pd.DataFrame  # of the same columns
    group: pd.DataFrame  # words, a column per attribute
    person: pd.Series | None
    told: tuple[str, ...]  # which images were left out


def read_predictions(
    files: Sequence[Path], groups: Sequence[str], *, truth: str = TRUTH, score: str = SCORE, image: str = "",
    person: str = "",
) -> Predictions:  # fmt: skip
    """Read the labels, scores and groups of one table, or of several joined by image.

    Columns of labels and of scores are named by `truth` and `score`, in which `{label}` stands for a label's name; `groups`
    name the sensitive attributes, `person` who is shown, `image` the images; the usual names of these two are known. An
    image that is not in every file is left out, and told. A name that is no column, two columns of one name, or a value that
    is missing or cannot be read raises ValueError with its line or image.
    """
    if not all("{label}" in pattern for pattern in (truth, score)):
        raise ValueError(f"truth={truth!r} and score={score!r} must hold {{label}}, which stands for a label's name")
    table, told = _joined(files, image)
    names = list(map(str, table.columns))
    source = " and ".join(path.name for path in files)
    if odd := [name for name in groups if name not in names]:
        raise ValueError(f"{source}: {unknown('column (group)', odd[0], names)}")
    who = column_of(table, source, "person", person, USUAL["person"])
    shape = re.compile("(.+)".join(map(re.escape, score.split("{label}"))))
    matches = (match[1] for name in names if (match := shape.fullmatch(name)))
    labels = [label for label in matches if truth.format(label=label) in names and label not in groups]
    if not labels or truth == score:
        raise ValueError(
            f"{source}: no column is named {score!r} and has its truth, {truth!r}, beside it; there are {some(names, 12)}"
        )
    true = _truth(table, source, groups, [truth.format(label=label) for label in labels])
    scores = pd.DataFrame({label: _numbers(table, source, score.format(label=label)) for label in labels})
    return Predictions(
        pd.DataFrame(true, columns=labels), scores, table[list(groups)].reset_index(drop=True),
        None if who is None else table[who].reset_index(drop=True), tuple(told),
    )  # fmt: skip


def _joined(files: Sequence[Path], image: str) -> tuple[pd.DataFrame, list[str]]:
    """One table of all columns, whose index tells a row's line or image, and what was left out."""
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"no file {path}")
    if len(files) == 1:
        return read_table(files[0]), []
    tables = [read_attributes(path, image).set_index("image") for path in files]
    for i, later in enumerate(tables):
        for path, earlier in zip(files, tables[:i], strict=False):
            if both := [name for name in later if name in earlier]:
                raise ValueError(
                    f"the column {both[0]!r} is in {path.name} and in {files[i].name}: rename it, or leave one out"
                )
    images = tables[0].index
    for later in tables[1:]:
        images = images[images.isin(later.index)]
    if not len(images):
        shown = ", ".join(f"{path.name} has {table.index[0]!r}" for path, table in zip(files, tables, strict=True))
        raise ValueError(f"no image is in all of these files: {shown}; name the column of images by --image")
    left = {path.name: len(table) - len(images) for path, table in zip(files, tables, strict=True)}
    told = [f"{count:,} images of {name} are not in every file and are left out" for name, count in left.items() if count]
    return pd.concat([one.loc[images] for one in tables], axis=1), told


def _truth(table: pd.DataFrame, source: str, groups: Sequence[str], columns: list[str]) -> np.ndarray:
    data = Data(sensitive=tuple(groups), targets=tuple(columns))
    values = Attributes(table, data, source, binary=True).labels([])[1]
    if (gaps := values < 0).any():
        row, column = np.argwhere(gaps)[0].tolist()
        raise ValueError(
            f"{source}: {int(gaps.sum()):,} labels are missing, first in {placed(table.index[row])}, {columns[column]}"
        )
    return values


def _numbers(table: pd.DataFrame, source: str, name: str) -> np.ndarray:
    values = pd.to_numeric(table[name].astype(object), errors="coerce")
    if (gaps := values.isna()).any():
        row, more = int(gaps.to_numpy().argmax()), int(gaps.sum())
        place = placed(table.index[row])
        raise ValueError(f"{source}, {place}, {name}: {table[name].iloc[row]!r} is no number ({more:,} such values here)")
    return values.to_numpy(dtype=float)
