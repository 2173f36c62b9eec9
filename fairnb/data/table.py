"""Tables of annotations as people have them: CSV and its kin, text between blanks, Parquet.

A table is a data frame with a row for each image, as written; its index holds the lines of the file, for messages.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from fairnb.run.messages import unknown

SEPARATORS = ",;\t|"
YES, NO = {"1", "true", "yes", "y", "t"}, {"-1", "0", "false", "no", "n", "f"}
MISSING = {"", "nan", "na", "n/a", "<na>", "none", "null", "?", "unknown"}
QUOTED = re.compile(r'"[^"]*"?')
LINE_END = re.compile("\r\n?")
MOST_WORDS = 60  # a column of more different words, such as remarks, is neither labels nor groups


def read_text(path: Path) -> str:
    """A text file in UTF-8 or UTF-16, without its byte order mark. Another encoding raises ValueError with the line."""
    raw = path.read_bytes()
    utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ValueError(f"{path.name}, line {line}: neither UTF-8 nor UTF-16: save the table in UTF-8") from None
    if "\0" in text:
        raise ValueError(f"{path.name} holds bytes of zero: it is no table in UTF-8 (or UTF-16 with a byte order mark)")
    return LINE_END.sub("\n", text)


def read_table(path: Path, separator: str | None = None, *, skip: int = 0) -> pd.DataFrame:
    """A table of text, or of a Parquet file, whose column of images is left out where it holds their bytes.

    The first line after `skip` others names the columns; `separator` is found out, or " " for any blanks. A line of another
    length, a column that is named twice or not at all, or an empty table raises ValueError.
    """
    return _read_parquet(path) if path.suffix == ".parquet" else named(path.name, *read_rows(path, separator, skip=skip))


def read_rows(path: Path, separator: str | None = None, *, skip: int = 0) -> tuple[list[str], pd.DataFrame]:
    """The fields of the first line after `skip` others, and those of the lines below that are not blank."""
    lines = read_text(path).split("\n")
    numbers = [number for number, line in enumerate(lines) if number >= skip and line and not line.isspace()]
    if not numbers:
        raise ValueError(f"{path.name} is empty")
    if lines[numbers[0]].startswith("#"):
        lines[numbers[0]] = lines[numbers[0]].lstrip("# \t")
    if separator is None:
        bare = lines[numbers[0]]
        if '"' in bare:  # a quoted name may hold separators, and go on in the next line
            bare = QUOTED.sub("", "\n".join(lines[numbers[0] :])).split("\n", 1)[0]
        counts = Counter(letter for letter in bare if letter in SEPARATORS)
        separator = counts.most_common(1)[0][0] if counts else (" " if " " in bare.strip() else ",")
    if separator == "\t":  # a line of tabs is a row without values
        numbers = [number for number, line in enumerate(lines) if number >= numbers[0] and line.strip(" ")]
    first, second = (len(lines[number].split()) for number in (numbers * 2)[:2])
    if separator == " " and second == first + 1:  # CelebA's first line leaves out the images
        lines[numbers[0]] = f"image {lines[numbers[0]]}"
    text = "\n".join(lines[number] for number in numbers)
    if separator == " ":
        text = text.replace("\t", " ")
        while "  " in text:
            text = text.replace("  ", " ")
        text = text.replace(" \n", "\n").replace("\n ", "\n").strip(" ")
    if '"' not in text and (table := _quickly(text, separator)) is not None:
        table.index = [number + 1 for number in numbers[1:]]
        return list(map(str.strip, text.split("\n", 1)[0].split(separator))), table
    return _exactly(path.name, "\n".join(lines[numbers[0] :]), separator, numbers[0])


def _quickly(text: str, separator: str) -> pd.DataFrame | None:
    """The fields of a text without quotes, below its first line, as categories; None if a line has another length."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    first, _, rest = text.partition("\n")
    if not rest:
        return None
    names = [str(i) for i in range(first.count(separator) + 1)]
    types = pa.schema([(name, pa.dictionary(pa.int32(), pa.string())) for name in names])
    try:
        table = arrow.read_csv(
            io.BytesIO(rest.encode(errors="surrogatepass")), arrow.ReadOptions(column_names=names),
            arrow.ParseOptions(delimiter=separator, quote_char=False), arrow.ConvertOptions(column_types=types),
        )  # fmt: skip
    except pa.ArrowInvalid:
        return None
    return table.to_pandas()


def _exactly(source: str, text: str, separator: str, before: int) -> tuple[list[str], pd.DataFrame]:
    """As `_quickly`, with quotes, and ValueError with the number of a line of another length or with a stray quote."""
    blanks = separator == " "
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    lines, rows = [], []
    try:
        for fields in reader:
            if any(field.strip() for field in fields) or (len(fields) > 1 and not blanks):
                lines.append(before + reader.line_num)
                rows.append([field for field in fields if field] if blanks else fields)
    except csv.Error as error:
        raise ValueError(f"{source}, line {before + reader.line_num}: {error} (is a quote left open?)") from None
    if not rows:
        raise ValueError(f"{source} is empty")
    header = [name.strip() for name in rows[0]]
    if odd := [place for place, row in enumerate(rows) if len(row) != len(header)]:
        raise ValueError(f"{source}, line {lines[odd[0]]}: {len(rows[odd[0]])} values for {len(header)} columns")
    return header, pd.DataFrame(rows[1:], columns=range(len(header)), index=lines[1:], dtype=object)


def named(source: str, header: Sequence[str], table: pd.DataFrame) -> pd.DataFrame:
    """Name the columns of a table that was read from the file `source`; ValueError as `read_table`."""
    if table.empty:
        raise ValueError(f"{source} is empty")
    nameless = [i for i, name in enumerate(header) if not name or name.startswith("Unnamed: ")]
    for i in nameless:  # row numbers, as pandas writes them, or the end of lines that end with a separator
        if not all(word.strip().isdigit() or not word.strip() for word in table.iloc[:, i].unique()):
            raise ValueError(f"{source}: column {i + 1} of its first line has no name")
    table = table.set_axis(list(header), axis=1).iloc[:, [i for i in range(len(header)) if i not in nameless]]
    table = table.set_axis([LINE_END.sub("\n", name).strip() for name in table.columns], axis=1)
    if twice := [name for name, times in Counter(table.columns).items() if times > 1]:
        raise ValueError(f"{source} names the column {twice[0]!r} twice")
    return table


def _read_parquet(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def is_held(field: pa.Field) -> bool:
        return pa.types.is_struct(field.type) and "bytes" in [inner.name for inner in field.type]

    try:
        file = pq.ParquetFile(path)
        flat = [field.name for field in file.schema_arrow if not is_held(field)]
        read = file.read(flat)
        read.validate(full=True)  # damaged text would fail later
        read = read.select([i for i, field in enumerate(read.schema) if not is_held(field)])
        lists = [i for i, field in enumerate(read.schema) if pa.types.is_nested(field.type)]
        for i in lists:  # as words, which are neither labels nor groups
            words = [None if value is None else str(value) for value in read.column(i).to_pylist()]
            read = read.set_column(i, read.field(i).name, pa.array(words, pa.string()))
        table = read.to_pandas()
    except (pa.ArrowException, OSError, UnicodeError) as error:
        raise ValueError(f"{path.name} is no whole Parquet file: {(str(error) or '?').splitlines()[0]}") from None
    if twice := [name for name, times in Counter(table.columns).items() if times > 1]:
        raise ValueError(f"{path.name} names the column {twice[0]!r} twice")
    table.index = range(1, len(table) + 1)
    return table


def placed(index: object) -> str:
    """A row's place for messages, from a table's index: the line of its file, or its image where files were joined."""
    return f"image {index}" if isinstance(index, str) else f"line {index}"


def column_of(table: pd.DataFrame, source: str, what: str, given: str, usual: Sequence[str]) -> str | None:
    """The column that is `given`, or else has one of the usual names, whatever their case; None if there is none."""
    if given:
        if given not in table:
            raise ValueError(f"{source}, {what}: {unknown('column', given, map(str, table.columns))}")
        return given
    lower = {str(name).lower(): name for name in table.columns}
    return next((lower[name] for name in usual if name in lower), None)


@dataclass(frozen=True, eq=False)
class Column:
    """One column's values as codes of distinct words: numbers are written alike, and missing ones are −1."""

    name: str
    codes: np.ndarray  # int [N], index into `words`, −1 where missing
    words: list[str]

    @classmethod
    def of(cls, name: str, values: pd.Series) -> Column:
        """Read a column of a table."""
        codes, found = pd.factorize(values)
        words = [alike(word) for word in found]
        distinct = list(dict.fromkeys(word for word in words if word.lower() not in MISSING))
        place = {word: i for i, word in enumerate(distinct)}
        again = np.array([*(place.get(word, -1) for word in words), -1])
        return cls(name, again[codes], distinct)

    @cached_property
    def numbers(self) -> np.ndarray | None:
        """Float64 [words], or None unless every word is a number."""
        try:
            return np.array([float(word) for word in self.words])
        except ValueError:
            return None

    def without(self, word: str) -> Column:
        """This column with one word counted as missing."""
        if word not in self.words:
            return self
        at = self.words.index(word)
        moved = np.array([*(i - (i > at) if i != at else -1 for i in range(len(self.words))), -1])
        return Column(self.name, moved[self.codes], [one for one in self.words if one != word])

    @cached_property
    def odd(self) -> list[str]:
        """The words that are neither yes nor no."""
        return [word for word in self.words if word.lower() not in YES | NO]

    def yes(self, above: float | None = None) -> np.ndarray:
        """Int8 [N]: 1 for yes or a number above `above`, 0 for no, −1 where missing."""
        if above is None:
            truth = [word.lower() in YES for word in self.words]
        else:
            truth = [float(word) > above for word in self.words]
        return np.array([*truth, -1], dtype=np.int8)[self.codes]

    def binned(self, edges: Sequence[float]) -> Column:
        """Numbers in bins, each from an edge up to the next, the last one open; those below the first are missing."""
        assert self.numbers is not None
        shown = [f"{edge:g}" for edge in edges]
        names = [f"{low} to {high}" for low, high in itertools.pairwise(shown)] + [f"{shown[-1]} and more"]
        place = np.array([*(np.searchsorted(edges, self.numbers, side="right") - 1), -1])
        return Column(self.name, place[self.codes], names)

    def ordered(self) -> Column:
        """This column with its words in order: numbers and ages such as 10-19 by their value, then words."""
        order = sorted(range(len(self.words)), key=lambda i: _order(self.words[i]))
        place = np.array([*np.argsort(order), -1]) if order else np.array([-1])
        return Column(self.name, place[self.codes], [self.words[i] for i in order])


def alike(value: object) -> str:
    """A value as a word: 1, 1.0 and ` 1` are the same, and so are all ends of lines."""
    word = LINE_END.sub("\n", str(value)).strip()
    if number := re.fullmatch(r"([+-]?\d{1,30})(\.0*)?", word):
        return str(int(number[1]))
    return word


def _order(word: str) -> tuple[bool, float, str]:
    number = re.match(r"-?\d+(\.\d+)?", word)
    return (number is None, float(number[0]) if number else 0.0, word)
