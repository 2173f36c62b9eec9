"""Parameters, from files, words and code: read as their types, or refused in a line."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml
from hypothesis import example
from hypothesis import strategies as st

from fairnb.run.parameters import PARTS, Parameters, Part, read, read_yaml
from fairnb.sweep.drive import read_cluster
from fairnb.sweep.plan import SweepFile, plan, read_sweep
from tests.fuzz import folder, fuzzed, result_or_line

ROOT = Path(__file__).parents[2]
FIELDS = sorted(Parameters.model_fields)
ODD = [
    "",
    "true",
    "010",
    "1e-4",
    "-1",
    "null",
    "[a, b]",
    "{a: b}",
    "[",
    "1_000",
    "nan",
    "inf",
    "0x1",
    "&a [*a]",
    "drawn",
    "..",
]
WORD = st.one_of(
    st.text(max_size=6), st.sampled_from([*ODD, "!!python/name:os.system"]), st.integers().map(str), st.floats().map(str)
)
LEAF = st.one_of(
    WORD, st.none(), st.booleans(), st.integers(), st.floats(), st.just(10**400), st.dates(), st.binary(max_size=3)
)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORD, inner, max_size=3)),
    max_leaves=5,
)
NAME = st.one_of(st.sampled_from(FIELDS), st.sampled_from(FIELDS), WORD)
YAML = st.text("ab1:-[]{}&*!|>%@`\"'#,? \n\t\0é\ud800\x85", max_size=30)


@fuzzed(150, 1200, values=st.dictionaries(NAME, VALUE, max_size=3), kind=st.sampled_from([Parameters, *PARTS]))
@example(values={"drawn": "&a [*a]"}, kind=Parameters)
@example(values={"sensitive": "[a, [b"}, kind=Parameters)
@example(values={"bins": "{a: &x [*x]}"}, kind=Parameters)
@example(values={"seed": "9" * 5000}, kind=Parameters)
@example(values={"epochs": 10**400}, kind=Parameters)
def test_values_are_parameters_or_refused(values: dict[str, Any], kind: type[Part]):
    found = result_or_line(lambda: kind(**values), "=", *values, "data", "parameter")
    if found is None:
        return
    assert set(values) <= set(kind.model_fields)
    assert kind(**found.model_dump(mode="json")) == found  # as run.json brings it back
    for name, field in kind.model_fields.items():
        value = getattr(found, name)
        assert not isinstance(value, float) or math.isfinite(value)
        assert field.annotation not in (int, float, bool) or type(value) is field.annotation


@fuzzed(100, 800, text=YAML)
@example(text="? [a]\n: b")
@example(text="[" * 600)
@example(text="a: &x [*x]")
@example(text="- a")
@example(text="!!python/object/apply:os.system [touch pwned]")
def test_any_yaml_is_names_with_values_or_a_line(text):
    with folder() as here:
        (file := here / "mine.yml").write_bytes(text.encode(errors="surrogatepass"))
        found = result_or_line(lambda: read_yaml(file), "mine.yml")
        assert found is None or isinstance(found, dict)
        if found is not None:
            result_or_line(lambda: Parameters(**found), "=", "parameter", *map(str, found))
        cluster = result_or_line(lambda: read_cluster(file), "mine.yml")
        assert cluster is None or cluster.cluster
        assert sorted(path.name for path in here.iterdir()) == ["mine.yml"]


@fuzzed(
    40,
    250,
    values=st.dictionaries(st.sampled_from(FIELDS), VALUE, max_size=3),
    words=st.lists(st.text(max_size=8), max_size=2),
)
def test_a_file_and_words_are_read_alike(values, words):
    """What YAML writes is read as it would be from code; what a word says wins."""
    with folder() as here:
        (file := here / "mine.yml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        found = result_or_line(lambda: read(file, words), "mine.yml", *words, "-p")
        if found is None:
            return
        for word in words:
            assert "=" in word
        result_or_line(lambda: Parameters(**found), "=", "parameter", *map(str, found))


GIVEN, MANY = st.dictionaries(NAME, VALUE, max_size=2), st.dictionaries(NAME, st.lists(VALUE, max_size=2), max_size=2)
SETTING = st.dictionaries(st.sampled_from(["method", "against", "seed"]), st.one_of(WORD, st.just("multi-task")), max_size=3)
COMPARED = st.dictionaries(WORD, st.dictionaries(WORD, SETTING, max_size=2), max_size=2)
PARTS_OF_SWEEP: dict[str, Any] = {
    "name": WORD, "params": WORD, "chapters": st.just([9]), "stages": st.sampled_from([["multi-task"], ["base"]]),
    "set": GIVEN, "grid": st.one_of(MANY, st.just({"seed": [0, 1]})), "zip": MANY, "runs": st.lists(GIVEN, max_size=2),
    "comparisons": COMPARED,
}  # fmt: skip
SWEEP = st.fixed_dictionaries({}, optional={name: st.one_of(VALUE, part) for name, part in PARTS_OF_SWEEP.items()})


@fuzzed(25, 100, content=SWEEP, name=st.one_of(st.none(), WORD))
@example(content={"name": "../x", "stages": ["base"]}, name=None)
@example(content={"stages": ["base"]}, name="..")
@example(content={"stages": ["base"], "params": "../../etc/passwd"}, name=None)
@example(
    content={"stages": ["base"], "set": {"epochs": 2}, "grid": {"seed": [0, 1], "sensitive": ["../a", "../b"]}}, name="mine"
)
def test_a_sweeps_file_is_a_plan_or_a_line(content, name):
    """Every run of a plan lies in its own folder below the sweep's."""
    with folder() as here:
        (file := here / "mine.yml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
        what = result_or_line(lambda: read_sweep(file, name=name), "mine.yml")
        if what is None:
            return
        assert isinstance(what, SweepFile)
        planned = result_or_line(lambda: plan(what, ROOT), f"sweep {what.name}", "no parameter file", "chapter", what.params)
        folders = [one.parameters.run for one in planned or []]
        assert len(set(folders)) == len(folders)
        for run in folders:
            assert run.startswith(f"{what.name}/")
            assert Path(ROOT / "runs" / run).resolve().parent == (ROOT / "runs" / what.name).resolve()
            assert (ROOT / "runs" / run).resolve().is_relative_to(ROOT / "runs")
