"""From a table of attributes to labels and groups: what each column means, and what is done about gaps and small groups."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from fairnb.data.faces import SPLITS, Chosen, Faces
from fairnb.data.layouts import Annotated, deal
from fairnb.data.table import MOST_WORDS, NO, YES, Column, placed
from fairnb.run.messages import some, unknown
from fairnb.run.parameters import Data

RARE = 0.01  # share of values that are neither yes nor no, up to which they count as mistakes
SHARES = (70, 85)  # percent: where train and valid end, for people without a given split


def labelled(found: Annotated, data: Data) -> Faces:
    """Label images as the parameters of data say; ValueError for a name or value that cannot be read, or an empty group.

    What is left out or assumed stands in `Faces.told`.
    """
    table, told = Attributes(found.table, data, found.source, found.binary, found.above), list(found.told)
    if unlisted := getattr(found.images, "unlisted", ()):
        told.append(f"{len(unlisted):,} images are there and in no row of {found.source}: {some(unlisted, 3)}")
    split = found.split
    if split is None:
        split = deal(found.dealt_by, SHARES)
        told.append(
            f"no split is given: {'people' if found.person is not None else 'images'} are dealt to training, validation and "
            "test, 70, 15 and 15 in 100, by a hash of their names"
        )
    group, (names, labels) = table.groups(), table.labels(told)
    keep = _kept(found, data, table, group, {name: column < 0 for name, column in zip(names, labels.T, strict=True)}, told)
    group = _large(group, split, keep, data, told)
    rows = np.flatnonzero(keep & (group.codes >= 0))
    images = found.images if len(rows) == len(keep) else Chosen(found.images, torch.from_numpy(rows))
    return Faces(
        images, torch.from_numpy(labels[rows] > 0), torch.from_numpy(group.codes[rows]).long(),
        torch.from_numpy(split[rows]).long(), tuple(names), tuple(group.words), " and ".join(data.attributes),
        _numbered(found.person, rows), tuple(told),
    )  # fmt: skip


class Attributes:
    """The columns of a table of attributes as `data` says to read them, each when it is wanted.

    `source` is its file, for messages. With `binary` every column must hold yes and no; numbers `above` are yes. A name that
    is no column raises ValueError.
    """

    def __init__(
        self, table: pd.DataFrame, data: Data, source: str, binary: bool = False, above: float | None = None
    ) -> None:
        self.table, self.data, self.source, self.binary, self.above = table, data, source, binary, above
        self.known, self.doubtful = dict[str, Column](), False
        names = list(map(str, table.columns))
        wanted = [self.named(spec)[0] for spec in data.targets]
        for name in (*data.attributes, *wanted):
            if name not in names:
                raise ValueError(unknown("attribute", name, names))
        if both := [name for name in wanted if name in data.attributes]:
            raise ValueError(f"{both[0]!r} is sensitive: it cannot also be a target")
        self.names = [name for name in names if name not in data.attributes and (not wanted or name in wanted)]
        self.specs = {name: [spec for one, spec in zip(wanted, data.targets, strict=True) if one == name] for name in wanted}
        if odd := [name for name in data.bins if name not in names]:
            raise ValueError(f"bins: {unknown('attribute', odd[0], names)}")

    def named(self, spec: str) -> tuple[str, float | None]:
        """The attribute and the threshold of a target such as `Bald>0.5`."""
        parts = re.fullmatch(r"(.+?)\s*>\s*([-+]?[\d.]+)", spec)
        if parts is None or spec in self.table:
            return spec, None
        return parts[1], float(parts[2])

    def column(self, name: str) -> Column:
        """A column; 0 beside −1 and 1 is missing, since nobody can tell whether it says absent or unknown."""
        if name not in self.known:
            column = Column.of(name, self.table[name])
            if not column.odd and {"-1", "0"} <= set(column.words):
                column, self.doubtful = column.without("0"), True
            self.known[name] = column
        return self.known[name]

    def groups(self) -> Column:
        """The product of all sensitive attributes, in their order."""
        product = Column("", np.zeros(len(self.table), dtype=int), [""])
        merge, done = dict(self.data.merge), set[str]()
        for name in self.data.attributes:
            one = self._group(name)
            inner = {new: old for new, old in merge.items() if set(old) <= set(one.words)}
            done |= set(inner)
            one = _merged(one, inner)
            codes = np.where((product.codes < 0) | (one.codes < 0), -1, product.codes * len(one.words) + one.codes)
            words = [f"{before}, {word}" if before else word for before in product.words for word in one.words]
            product = Column(name, codes, words)
        outer = {new: old for new, old in merge.items() if new not in done}
        if odd := [word for old in outer.values() for word in old if word not in product.words]:
            raise ValueError(f"merge: {unknown('group', odd[0], product.words)}")
        return _merged(product, outer)

    def _group(self, name: str) -> Column:
        column = self.column(name)
        if name in self.data.bins:
            return self._binned(column)
        above = self.above
        if above is not None or self._yes_or_no(column):
            words = ["female", "male"] if name == "Male" else [f"not {name}", name]  # the paper's words for Male
            return Column(name, column.yes(above).astype(int), words)
        many = len(column.words) > MOST_WORDS
        if column.numbers is not None and (many or any("." in word for word in column.words)):
            raise ValueError(f"{name} holds numbers: say where its groups begin, such as bins={{{name}: [0, 30, 60]}}")
        if many:
            raise ValueError(f"{name} holds {len(column.words):,} different words: too many for groups")
        return column.ordered()

    def _yes_or_no(self, column: Column) -> bool:
        """Whether a column holds yes and no; ValueError for few other words among them, or any where all must be binary."""
        if not column.odd:
            return True
        rows = np.isin(column.codes, [column.words.index(word) for word in column.odd])
        known = {word.lower() for word in column.words} - {word.lower() for word in column.odd}
        if self.binary or (known & YES and known & NO and rows.mean() <= RARE):
            line = self.table.index[int(rows.argmax())]
            many = f" ({int(rows.sum()):,} values: {some(column.odd)})" if rows.sum() > 1 else ""
            raise ValueError(
                f"{self.source}, {placed(line)}, {column.name}: {column.odd[0]!r} is none of 1, -1, 0, yes, no{many}"
            )
        return False

    def _binned(self, column: Column) -> Column:
        if column.numbers is None:
            raise ValueError(f"bins: {column.name} holds words ({some(column.words, 3)}), not numbers")
        return column.binned(self.data.bins[column.name])

    def labels(self, told: list[str]) -> tuple[list[str], np.ndarray]:
        """Names and values of the labels: int8 [N, L], 1 for yes, 0 for no, −1 where missing; none is a ValueError."""
        if not self.names:
            raise ValueError(f"there is no label to predict beside {' and '.join(map(repr, self.data.attributes))}")
        found: dict[str, np.ndarray] = {}
        for name in self.names:
            for spec in self.specs.get(name, [name]):
                more = self._labels(name, spec, told)
                if twice := [label for label in more if label in found]:
                    raise ValueError(f"{self.source}: two labels are named {twice[0]!r}: rename a column")
                found |= more
        if not found:
            raise ValueError(f"none of {some(self.names)} can be a label: {told[-1]}")
        return list(found), np.stack(list(found.values()), axis=1)

    def _labels(self, name: str, spec: str, told: list[str]) -> dict[str, np.ndarray]:
        column = self.column(name)
        above = self.named(spec)[1] if spec != name else self.above
        if above is not None:
            if column.numbers is None:
                raise ValueError(f"{spec}: {name} holds words ({some(column.words, 3)}), not numbers")
            return {spec: column.yes(above)}
        if name not in self.data.bins:
            if self._yes_or_no(column):
                return {name: column.yes()}
            reason = ""
            if column.numbers is not None:
                reason = f"it holds numbers: as a label it needs a threshold ({name}>0) or bins"
            elif len(column.words) > MOST_WORDS:
                reason = f"it holds {len(column.words):,} different words"
            if reason and name in self.specs:
                raise ValueError(f"{name} cannot be a label: {reason}")
            if reason:
                told.append(f"{name} is not taken for a label: {reason}")
                return {}
        column = self._binned(column) if name in self.data.bins else column.ordered()
        words = column.words[1:] if len(column.words) == 2 else column.words  # of two words one says it all
        every = {word: np.where(column.codes < 0, -1, column.codes == i) for i, word in enumerate(column.words)}
        return {f"{name}={word}": every[word].astype(np.int8) for word in words}


def _merged(column: Column, merge: Mapping[str, Sequence[str]]) -> Column:
    """Join words under new names, each in the place of its first."""
    new = {word: name for name, old in merge.items() for word in old}
    words = [new.get(word, word) for word in column.words]
    distinct = list(dict.fromkeys(words))
    return Column(column.name, np.array([*map(distinct.index, words), -1])[column.codes], distinct)


def _kept(
    found: Annotated, data: Data, table: Attributes, group: Column, missing: Mapping[str, np.ndarray], told: list[str]
) -> np.ndarray:
    """The images whose missing values do not leave them out, bool [N]."""
    gaps = {name: at for name, at in missing.items() if at.any()}
    without = group.codes < 0
    if not gaps and not without.any():
        return ~without
    values = sum(int(at.sum()) for at in gaps.values())
    parts = [f"{values:,} values of labels ({some(gaps, 3)})"] if gaps else []
    parts += [f"the group of {int(without.sum()):,} images"] if without.any() else []
    what = f"{found.source}: {' and '.join(parts)} {'are' if gaps else 'is'} missing"
    if data.missing == "error":
        name, at = next(iter(gaps.items())) if gaps else (" and ".join(data.attributes), without)
        zero = ", where 0 stands beside 1 and -1 and may be unknown" if table.doubtful else ""
        raise ValueError(
            f"{what}, first in {placed(found.table.index[int(at.argmax())])}, {name}{zero}; missing=drop leaves such "
            "images out, missing=negative counts labels as absent"
        )
    rows = np.logical_or.reduce([without, *gaps.values()])
    if data.missing == "drop":
        told.append(f"{what}: these {int(rows.sum()):,} images are left out")
        return ~rows
    told.append(f"{what}: labels count as absent" + (", images without a group are left out" if without.any() else ""))
    return ~without


def _large(group: Column, split: np.ndarray, keep: np.ndarray, data: Data, told: list[str]) -> Column:
    """The groups with `min_images` in every split, others told and missing; ValueError for one that a split lacks."""
    counts = np.zeros((len(SPLITS), len(group.words)), dtype=int)
    rows = keep & (group.codes >= 0)
    np.add.at(counts, (split[rows], group.codes[rows]), 1)
    small = [i for i, least in enumerate(counts.min(0)) if least < data.min_images]
    for i in small:
        fewest = SPLITS[int(counts[:, i].argmin())]
        told.append(
            f"the group {group.words[i]!r} has {counts[:, i].min():,} images in {fewest}, fewer than "
            f"min_images={data.min_images}: its {counts[:, i].sum():,} images are left out"
        )
    left = [word for i, word in enumerate(group.words) if i not in small]
    if len(left) < 2:
        raise ValueError(f"{' and '.join(data.attributes)}: two groups are needed, and there is {some(left) or 'none'}")
    for i in sorted(set(range(len(group.words))) - set(small)):
        if empty := [name for name, n in zip(SPLITS, counts, strict=True) if n[i] == 0 and n.any()]:
            raise ValueError(
                f"no image of the group {group.words[i]!r} is in {', '.join(empty)}: leave out groups with few images by "
                "min_images, or join some by merge"
            )
    place = np.array([*(left.index(word) if word in left else -1 for word in group.words), -1])
    return Column(group.name, place[group.codes], left)


def _numbered(person: Sequence[object] | None, rows: np.ndarray) -> torch.Tensor | None:
    if person is None:
        return None
    try:
        numbers = np.array([int(str(one)) for one in person], dtype=np.int64)
    except (ValueError, OverflowError):
        numbers = np.unique(np.array([str(one) for one in person]), return_inverse=True)[1]
    return torch.from_numpy(numbers[rows])
