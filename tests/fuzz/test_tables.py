"""Tables of annotations: whatever bytes a file holds."""

from __future__ import annotations

import csv
import io
import itertools

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import assume, example
from hypothesis import strategies as st

from fairnb.data.table import SEPARATORS, Column, read_rows, read_table
from tests.fuzz import folder, fuzzed, result_or_line

LETTERS = "ab1-?.%\\'\"`#,;\t| \n\r\x0b\x0c\x1c\x85\xa0\u2028\u202e\ufefféאあ😀"
TEXT = st.text(LETTERS, max_size=60)
ENCODINGS = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252", "shift-jis"])
FIELD = st.text(st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=8).map(str.strip)


@st.composite
def tables(draw, field=FIELD):
    """A header of distinct names, rows of as many fields, and a dialect."""
    name = field.filter(lambda one: one and one[0] != "#" and not one.startswith("Unnamed: "))
    names = draw(st.lists(name, min_size=2, max_size=5, unique=True))
    rows = draw(st.lists(st.lists(field, min_size=len(names), max_size=len(names)), min_size=1, max_size=5))
    dialect = {
        "delimiter": draw(st.sampled_from(SEPARATORS)), "lineterminator": draw(st.sampled_from(["\n", "\r\n", "\r"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
    }  # fmt: skip
    if dialect["quoting"] == csv.QUOTE_MINIMAL:  # then nobody can tell which letter separates, or where a line ends
        dialect["lineterminator"] = "\r\n"
        names = [name.translate(dict.fromkeys(map(ord, SEPARATORS), "_")) for name in names]
        assume(len(set(names)) == len(names))
    return names, rows, dialect


def written(names, rows, dialect) -> str:
    csv.writer(text := io.StringIO(newline=""), **dialect).writerows([names, *rows])
    return text.getvalue()


@fuzzed(100, 200, table=tables(), encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_what_the_csv_module_writes_is_read_as_it_was(table, encoding):
    names, rows, _ = table
    with folder() as here:
        (file := here / "t.csv").write_bytes(written(*table).encode(encoding))
        found = read_table(file)
    assert list(found.columns) == names
    assert [[str(word) for word in row] for row in found.to_numpy().tolist()] == rows


@fuzzed(200, 1500, text=TEXT, encoding=ENCODINGS, separator=st.sampled_from([None, " ", ","]), skip=st.integers(0, 3))
def test_any_text_is_a_table_or_a_line(text, encoding, separator, skip):
    with folder() as here:
        (file := here / "t.csv").write_bytes(text.encode(encoding, errors="replace"))
        found = result_or_line(lambda: read_table(file, separator, skip=skip), "t.csv")
        rows = result_or_line(lambda: read_rows(file, separator, skip=skip), "t.csv")
    if found is not None and rows is not None:
        assert len(found) == len(rows[1]) > 0
        assert found.columns.is_unique
        assert found.index.is_monotonic_increasing


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
VALUES = st.one_of(WORDS, st.none(), st.booleans(), st.integers(), st.floats(), st.lists(st.integers(), max_size=2))


@fuzzed(
    50,
    500,
    values=st.lists(VALUES, max_size=8),
    damage=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3),
)
def test_a_parquet_file_is_read_or_named(values, damage):
    """Columns of any type, and files of which some bytes were changed."""
    with folder() as here:
        file = here / "t.parquet"
        try:
            pq.write_table(pa.table({"image": list(map(str, range(len(values)))), "a": values}), file)
        except (pa.ArrowException, OverflowError):  # of mixed types
            pq.write_table(pa.table({"image": ["x"] * len(values), "a": list(map(str, values))}), file)
        data = bytearray(file.read_bytes())
        for place, value in damage:
            data[place % len(data)] = value
        file.write_bytes(data)
        found = result_or_line(lambda: read_table(file), "t.parquet")
        if found is not None and "a" in found:
            assert len(Column.of("a", found["a"]).codes) == len(found)


@fuzzed(100, 500, data=st.binary(max_size=80), ending=st.sampled_from([".csv", ".txt", ".tsv", ".parquet"]))
def test_any_bytes_are_a_table_or_a_line(data, ending):
    with folder() as here:
        (file := here / f"t{ending}").write_bytes(data)
        result_or_line(lambda: read_table(file), file.name)


@fuzzed(100, 300, text=st.text('yz,"\n', max_size=30), blanks=st.booleans())
@example(text=",", blanks=False)
@example(text='y,z\n,\n"y",z', blanks=False)  # a row without values, beside quotes
@example(text='y,z\n1,"z\n2,y\n', blanks=False)  # a quote left open, which swallowed the rest
def test_no_line_is_dropped(text, blanks):
    """Every letter of a file is in its table, or the file is refused; and the two ways to read one agree."""
    with folder() as here:
        (file := here / "t.csv").write_text(text.replace(",", " ") if blanks else text)
        found = result_or_line(lambda: read_rows(file, " " if blanks else ","), "t.csv")
        file.write_text("y,z\n" + text)
        quickly = result_or_line(lambda: read_rows(file, ","), "t.csv")
        file.write_text('"y",z\n' + text)
        exactly = result_or_line(lambda: read_rows(file, ","), "t.csv")
    if found is not None:
        words = [*found[0], *itertools.chain(*found[1].astype(str).to_numpy().tolist())]
        assert sorted(c for word in words for c in word if c in "yz") == sorted(c for c in text if c in "yz")
    assert (quickly is None) == (exactly is None)
    if quickly is not None and exactly is not None:
        assert quickly[0] == exactly[0]
        assert quickly[1].astype(str).to_numpy().tolist() == exactly[1].astype(str).to_numpy().tolist()
        assert list(quickly[1].index) == list(exactly[1].index)


@fuzzed(100, 800, values=st.lists(st.one_of(WORDS, st.floats().map(str), st.integers().map(str)), max_size=10))
@example(values=["9" * 400])
def test_a_column_keeps_every_value(values):
    column = Column.of("a", pd.Series(values, dtype=object))
    for one in (column, column.ordered()):
        assert len(one.codes) == len(values)
        for code, value in zip(one.codes, values, strict=True):
            value = value.replace("\r\n", "\n").replace("\r", "\n").strip()
            assert code < 0 or one.words[code] == value or float(one.words[code]) == float(value)
    assert column.numbers is None or len(column.numbers) == len(column.words)
    if not column.odd:
        assert ((column.yes() < 0) == (column.codes < 0)).all()
