"""Folders of runs whose tables and record were edited: compared as before, or refused in a line that names the file."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example
from hypothesis import strategies as st

from fairnb.evidence.compare import compare
from fairnb.experiment import Experiment
from fairnb.export.network import load, plain
from fairnb.run.files import save_json, save_tensors
from fairnb.tables import read
from tests.conftest import CONFIG, RECIPE, make_celeba
from tests.fuzz import folder, fuzzed, result_or_line

MADE: list[Path] = []  # the fixture's folder: hypothesis's examples take no fixtures
CELL = st.one_of(
    st.sampled_from(["", "base", "test", "valid", "True", "False", "nan", "0.5", "x", "0"]), st.text(max_size=4)
)
PLACE = st.integers(0, 200)
EDITS = st.one_of(
    st.tuples(st.just("cell"), PLACE, PLACE, CELL), st.tuples(st.just("row gone"), PLACE),
    st.tuples(st.just("row twice"), PLACE), st.tuples(st.just("column gone"), PLACE),
    st.tuples(st.just("header"), PLACE, CELL),
)  # fmt: skip
VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=3), st.lists(st.integers(), max_size=2), st.just({})
)


@pytest.fixture(scope="module", autouse=True)
def _made(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    given: dict[str, Any] = {
        "data": "celeba",
        "data_root": make_celeba(root / "data"),
        "min_positives": 2,
        "device": "cpu",
        "particles": 4,
    }
    made = Experiment.open("one", runs=root, **(given | RECIPE.model_dump() | {"epochs": 1, "iterations": 1}))
    made.search("label thresholds")
    MADE[:] = [made.folder]


def edited(text: str, edits) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    for kind, *where in edits:
        if kind == "cell" and len(rows) > 1:
            row = rows[1 + where[0] % (len(rows) - 1)]
            row[where[1] % len(row)] = where[2]
        elif kind == "row gone" and len(rows) > 1:
            del rows[1 + where[0] % (len(rows) - 1)]
        elif kind == "row twice" and len(rows) > 1:
            rows.append(list(rows[1 + where[0] % (len(rows) - 1)]))
        elif kind == "column gone" and len(rows[0]) > 1:
            rows = [[cell for i, cell in enumerate(row) if i != where[0] % len(rows[0])] for row in rows]
        elif kind == "header":
            rows[0][where[0] % len(rows[0])] = where[1]
    csv.writer(written := io.StringIO(), lineterminator="\n").writerows(rows)
    return written.getvalue()


@fuzzed(0, 12, edits=st.lists(EDITS, min_size=1, max_size=3), name=st.sampled_from(["labels.csv", "groups.csv"]))
@example(edits=[("column gone", 0)], name="labels.csv")
@example(edits=[("row gone", 6)], name="labels.csv")
@example(edits=[("row twice", 6)], name="labels.csv")
def test_an_edited_table_is_compared_or_named(edits, name):
    with folder() as here:
        shutil.copytree(MADE[0], run := here / "one")
        (run / name).write_text(edited((run / name).read_text(), edits), encoding="utf-8")
        result_or_line(lambda: read(run / name), name)
        found = result_or_line(lambda: compare([run], draws=400, say=lambda _: None), name, str(run), "analysed")
        if found is not None:
            assert found.methods.method.tolist() == ["base", "label thresholds"]


@pytest.mark.slow
def test_a_run_of_a_sweep_is_compared_from_its_own_folder(monkeypatch, tmp_path):
    """Its record says that it lies two folders deep, which a relative path does not show."""
    shutil.copytree(MADE[0], run := tmp_path / "sweep" / "one")
    known = json.loads((run / "run.json").read_text())
    known |= {"run": "sweep/one", "parameters": known["parameters"] | {"run": "sweep/one"}}
    (run / "run.json").write_text(json.dumps(known))
    monkeypatch.chdir(tmp_path / "sweep")
    assert len(compare([Path("one")], draws=400, say=lambda _: None).methods) == 2


@fuzzed(0, 10, path=st.lists(PLACE, min_size=1, max_size=3), value=VALUE)
@example(path=[1], value=None)
@example(path=[1], value="a/b/c/d/e/f/g/h")
def test_an_edited_record_is_compared_or_named(path, value):
    with folder() as here:
        shutil.copytree(MADE[0], run := here / "one")
        edit(run / "run.json", path, value)
        result_or_line(lambda: compare([run], draws=400, say=lambda _: None), "run.json", str(run))


def edit(file: Path, path: list[int], value: Any) -> None:
    """Give another value to an entry of a JSON file, at some depth."""
    known = inside = json.loads(file.read_text())
    for place in path[:-1]:
        below = list(inside)[place % len(inside)] if inside else None
        if not isinstance(inside.get(below), dict) or not inside[below]:
            break
        inside = inside[below]
    inside[list(inside)[path[-1] % len(inside)]] = value
    file.write_text(json.dumps(known))


@fuzzed(15, 50, path=st.lists(PLACE, min_size=1, max_size=2), value=VALUE)
def test_an_edited_configuration_of_an_exported_model_is_read_or_named(path, value):
    with folder() as here:
        save_json(here / "config.json", CONFIG)
        save_tensors(here / "model.safetensors", plain(CONFIG).state_dict(), format="pt")
        edit(here / "config.json", path, value)
        found = result_or_line(lambda: load(here), "config.json", str(here))
        if found is not None:
            assert found[1](torch.zeros(1, 32, 32, 3)).shape == (1, len(found[0]["labels"]))
