"""The tables of faults and of generated input that the book shows: of the tests that there are, and without a loss."""

import re
from pathlib import Path

import pandas as pd

from tests import told

ROOT = Path(__file__).parents[1]
PROPERTY = re.compile(r"@fuzzed\(\s*\d+,\s+(\d+),.*?\ndef test_(\w+)", re.DOTALL)


def shown(name: str) -> pd.DataFrame:
    assert f"results/{name}" in (ROOT / "book" / "measured.md").read_text(encoding="utf-8")
    return pd.read_csv(ROOT / "results" / name)


def test_no_fault_lost_a_result():
    table = shown("faults.csv")
    assert (table["results lost"] == 0).all()
    assert (table["rounds"] == table["went on by itself"] + table["named in a line"]).all()


def test_every_property_was_tried_on_many_examples():
    files = sorted((ROOT / "tests" / "fuzz").glob("test_*.py"))
    slow = {name.replace("_", " "): int(count) for file in files for count, name in PROPERTY.findall(file.read_text())}
    assert sum(slow.values()) >= 10_000  # of `pytest -m slow`
    table = shown("fuzzed.csv").set_index("what must hold").examples
    assert {*table.index} == {*slow}
    assert table.sum() > 10 * sum(slow.values())


def test_rows_of_tests_that_were_not_run_stay(tmp_path, monkeypatch):
    for rows in ([("a", 1), ("b", 2)], [("b", 3), ("c", 4), ("b", 5)]):
        monkeypatch.setattr(told, "ROWS", told.defaultdict(list))
        for word, count in rows:
            told.tell("t.csv", what_it_is=word, count=count)
        told.write(tmp_path)
    assert pd.read_csv(tmp_path / "t.csv").values.tolist() == [["a", 1], ["b", 8], ["c", 4]]
