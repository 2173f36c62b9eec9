"""Command lines of any words: an answer, or a line or two with exit status 1 or 2; and no file but those that were named."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from hypothesis import example
from hypothesis import strategies as st
from typer.testing import CliRunner

from fairnb.cli import app
from fairnb.run.parameters import Machine, Parameters
from tests.conftest import make_celeba
from tests.fuzz import LINES, folder, fuzzed, listing

PLAIN = [
    "t.csv",
    "faces",
    "mine.yml",
    "missing",
    "",
    "..",
    "broken.zip",
    "out",
    "faces/list_attr_celeba.txt",
    "deep/in/it",
    ".",
]
SAFE = sorted(set(Parameters.model_fields) - Machine.names() - {"data", "data_root"})  # a fuzzer starts no processes
ODD = st.sampled_from(["-1", "0", "a=b", "--help", "0.5", "{label}"])
WORD = st.one_of(
    st.sampled_from(PLAIN), st.sampled_from(["-1", "0", "a=b", "--help", "0.5", "{label}"]), st.text("ab/.=-,", max_size=5)
)
GIVEN = st.builds(
    "{}={}".format, st.sampled_from(SAFE), st.one_of(WORD, st.just("1"), st.sampled_from(["Male", "[Male, Young]"]))
)
OPTIONS = {
    "run": ["--params", "-p", "--run", "--parameters"], "book": ["--params", "-p", "--run"],
    "train": ["--params", "-p", "--run"],
    "sweep": ["--params", "-p", "--run", "--workers", "--cluster", "--status", "--retry-failed"],
    "compare": ["--publish"], "data": ["-p", "--page"],
    "assess": [
        "--group", "--truth", "--score", "--kind", "--threshold", "--image", "--person", "--bins", "--products", "--html",
        "--csv", "--fail-below",
    ],
    "export": ["--to", "--method", "--input", "--license"], "predict": ["--out", "--groups", "--group"],
}  # fmt: skip
FLAGS = {"--parameters", "--status", "--retry-failed", "--products"}
LAST = {  # so that nothing is trained, and nothing outside is asked
    "run": ["-p", "data=celeba", "-p", "data_root=nowhere"], "train": ["-p", "data=celeba", "-p", "data_root=nowhere"],
    "book": ["-p", "data=celeba", "-p", "data_root=nowhere"], "sweep": ["--dry-run"], "assess": ["--draws", "5"],
}  # fmt: skip
MADE = {"run": ["runs"], "book": ["runs"], "train": ["runs"], "sweep": ["runs"]}  # folders that a command may write to
USUAL: dict[str, list[str]] = {  # the beginning of most command lines, so that their options are looked at
    "run": ["1"], "book": [], "train": [], "sweep": ["mine.yml"], "compare": ["faces"], "data": ["faces"],
    "assess": ["t.csv", "--group", "g"], "export": ["faces", "--to", "out"], "predict": ["faces", "faces", "--out", "out"],
}  # fmt: skip
USAGE = 2  # exit status of typer's own refusals


@st.composite
def commands(draw) -> list[str]:
    name = draw(st.sampled_from(sorted(OPTIONS)))
    words = list(draw(st.sampled_from([USUAL[name]] * 4 + [[]]))) or draw(st.lists(WORD, max_size=2))
    for option in draw(st.lists(st.sampled_from(OPTIONS[name]), max_size=4)):
        value = GIVEN if option == "-p" else st.sampled_from(["Male", "g", "Young"]) if option == "--group" else WORD
        words += [option] if option in FLAGS else [option, draw(value)]
    return [name, *words, *LAST.get(name, [])]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return make_celeba(tmp_path_factory.mktemp("pictures") / "faces", "zip")


@contextmanager
def workplace(pictures: Path) -> Iterator[Path]:
    """A folder with some data, as working directory, inside one whose files are looked at too."""
    before = Path.cwd()
    with folder() as outside:
        (work := outside / "work").mkdir()
        (work / "faces").mkdir()
        for path in pictures.iterdir():
            os.link(path, work / "faces" / path.name)
        (work / "t.csv").write_text(
            "image,g,Male,a,a_score,b,b_score\n"
            + "\n".join(f"{i}.jpg,{'xy'[i % 2]},{i % 3 % 2},{i % 2},{i / 9},1,{i % 2}" for i in range(9))
            + "\n"
        )
        (work / "mine.yml").write_text(yaml.safe_dump({"name": "mine", "stages": ["base"], "grid": {"seed": [0, 1]}}))
        (work / "broken.zip").write_bytes(b"PK\3\4")
        os.chdir(work)
        try:
            yield outside
        finally:
            os.chdir(before)


HERE: list[Path] = []  # the fixture's folder: hypothesis's examples take no fixtures


@pytest.fixture(autouse=True)
def _pictures(pictures):
    HERE[:] = [pictures]


@fuzzed(20, 40, words=commands())
@example(words=["data", "faces"])
@example(words=["data", "faces", "--page", "../above.html"])
@example(words=["assess", "t.csv", "--group", "g", "--html", "out.html", "--csv", "tables"])
@example(words=["assess", "t.csv", "--group", "a_score"])
@example(words=["assess", "t.csv", "--group", "Male", "--bins", "Male", "--threshold", "nan"])
@example(words=["compare", ""])
@example(words=["run", "--run", "../x"])
@example(words=["sweep", "mine.yml", "--run", "../x", "--dry-run"])
def test_any_command_line_is_done_or_refused_in_a_line(words):
    with workplace(HERE[0]) as outside:
        before = listing(outside)
        result = CliRunner().invoke(app, words)
        after = listing(outside)
    if not isinstance(result.exception, SystemExit | None):
        raise result.exception
    assert result.exit_code in (0, 1, USAGE), result.output
    if result.exit_code == 1:
        assert result.stderr.strip().startswith("fairnb: ")
        assert len(result.stderr.strip().splitlines()) <= LINES, result.stderr
    named = [os.path.normpath(f"work/{word}") for word in words if word] + [
        f"work/{word}" for word in MADE.get(words[0], [])
    ]
    named += [f"work/{Path(word).name or 'work'}.html" for word in words[1:] if words[0] == "data"]
    for name in (name for name in after.keys() | before.keys() if after.get(name) != before.get(name)):
        assert any(name == one or name.startswith(f"{one}/") for one in named), (words, name)
