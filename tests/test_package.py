"""The package as other programs meet it: its names, its types, and what is built of it."""

import ast
import inspect
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from functools import cached_property
from pathlib import Path
from typing import assert_type

import pytest
import torch
from docutils.core import publish_doctree
from docutils.nodes import document
from torch import Tensor

import fairnb
from fairnb.book.api import api_page, as_rest
from fairnb.book.chapters import surroundings

ROOT = Path(__file__).parents[1]
ELSEWHERE = """\
import torch
import fairnb
from fairnb.run.record import git_revision

table = fairnb.contingency_table(torch.tensor([1, 0]), torch.tensor([1, 1]), torch.tensor([0, 0]))
faces = fairnb.open_dataset(fairnb.Parameters(drawn=(8, 4, 4)))
found = fairnb.assess([1, 1, 0, 1], [1, 0, 0, 1], ["f", "f", "m", "m"], draws=0)
draw = torch.Generator().manual_seed(0)
truth = torch.rand(400, 1, generator=draw) < 0.4
scores = truth + 0.5 * torch.randn(400, 1, generator=draw) - 0.8
parts = [fairnb.Sample(truth[i::2], ["f", "m"] * 100, scores=scores[i::2]) for i in (0, 1)]
assert len(found.groups) == 2
assert fairnb.mitigate(*parts).thresholds.shape == (1,)
print(fairnb.__file__)
print(fairnb.underestimation_score(table).tolist(), tuple(faces.images[0].shape), git_revision())
"""


def test_names_are_few_and_there():
    assert len(fairnb.__all__) == len(set(fairnb.__all__)) < 20
    assert all(hasattr(fairnb, name) for name in fairnb.__all__)
    assert set(fairnb.__all__) <= set(dir(fairnb))
    with pytest.raises(AttributeError, match="'fairnb' has no attribute 'contingency'"):
        fairnb.contingency  # type: ignore[attr-defined]  # noqa: B018


def test_type_checkers_see_the_names_that_are_there():
    nodes = [node for node in ast.walk(ast.parse(Path(fairnb.__file__).read_text())) if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: node.module for node in nodes for alias in node.names if (node.module or "").startswith("fairnb.")}
    assert seen == {name: f"fairnb.{room}" for names in fairnb.ROAD.values() for name, room in names.items()}
    table = fairnb.contingency_table(torch.tensor([True]), torch.tensor([True]), torch.tensor([0]))
    assert_type(table, Tensor)  # by mypy


def test_the_package_itself_waits_for_nothing():
    code = "import sys, fairnb; dir(fairnb); sys.exit(bool({'torch', 'numpy', 'pandas'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def parsed(text: str) -> document:
    """reStructuredText as docutils reads it; warnings are errors."""
    return publish_doctree(text, settings_overrides={"halt_level": 2, "report_level": 5})


def test_the_page_has_every_name_and_its_docstring_is_valid():
    page = api_page()
    for name in fairnb.__all__:
        assert page.count(f".{name}\n") == 1
        thing = getattr(fairnb, name)
        members = [getattr(thing, key) for key in vars(thing) if key[0] != "_"] if isinstance(thing, type) else []
        for one in (thing, *members):
            if callable(one) or isinstance(one, property | cached_property):
                parsed(as_rest(inspect.getdoc(one) or ""))


@pytest.mark.parametrize(
    ("docstring", "shown"),
    [
        ("Rows of `x_`, *all* of `a\n b`s.", "Rows of x_, *all* of a bs."),
        ("UEI = Σ_{y,s} P[ŷ=y | S=s]_", "UEI = Σ_{y,s} P[ŷ=y | S=s]_"),
        ("First:\n\n    table = f(*given)\n\n    g(`x`)\n\nThen `y`.", "First:\n\ntable = f(*given)\n\ng(`x`)\n\nThen y."),
        (">>> f(*given)\n`1`", ">>> f(*given)\n`1`"),
        ("Whether it is: `x`.", "Whether it is: x."),
        ("F:\n\nArgs:\n    x_y: of `x`\n    *z: rest\n\nEnd.", "F:\n\nparam x_y\n\nof x\n\nparam *z\n\nrest\n\nEnd."),
    ],
)
def test_a_docstring_is_shown_as_it_is_written(docstring, shown):
    assert parsed(as_rest(docstring)).astext() == shown


def test_results_outside_the_checkout_depend_on_the_version(tmp_path):
    assert "fairnb" in surroundings(tmp_path, "from fairnb import METHODS")[1]
    assert "fairnb" not in surroundings(ROOT, "from fairnb import METHODS")[1]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with wheel and sdist, built of a copy of the project."""
    copy = tmp_path_factory.mktemp("built")
    for path in filter(Path.is_file, ROOT.iterdir()):
        shutil.copy(path, copy)
    for folder in ("fairnb", "tests", "results"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=shutil.ignore_patterns("__pycache__"))
    call(sys.executable, "-m", "build", "--no-isolation", copy)
    return copy / "dist"


def call(*words: str | Path, wrong: bool = False, **how) -> str:
    """What a command prints, errors included, and that it fails if it should."""
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **how)
    assert (done.returncode != 0) == wrong, done.stdout
    return done.stdout


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_alone(built):
    wheel, sdist = next(built.glob("*.whl")), next(built.glob("*.tar.gz"))
    assert call(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist).count("PASSED") == 2
    found = (path for path in (ROOT / "fairnb").rglob("*") if path.is_file() and path.suffix != ".pyc")
    package = {path.relative_to(ROOT).as_posix() for path in found}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == package
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    told = {name for name in files - package if ".egg-info/" not in name}
    assert package <= files
    by_hand = {"CHANGELOG.md", "CITATION.cff", "LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}
    assert told == by_hand | {"PKG-INFO", "setup.cfg"}


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(built, tmp_path):
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    install = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index")
    call(*install, "--target", installed, next(built.glob("*.whl")))
    git = ("git", "-c", "user.name=a", "-c", "user.email=b")
    call(*git, "init", "--quiet", cwd=tmp_path)  # the revision of a project around it is not the package's
    call(*git, "commit", "--quiet", "--allow-empty", "--message", "first", cwd=tmp_path)
    how = {"cwd": elsewhere, "env": os.environ | {"PYTHONPATH": str(installed)}}
    where, answer = call(sys.executable, "-c", ELSEWHERE, **how).splitlines()
    assert where == str(installed / "fairnb" / "__init__.py")
    assert answer == "[0.5] (3, 64, 64) unknown"
    command = (sys.executable, "-m", "fairnb.cli")
    assert "download" in call(*command, "--help", **how)
    assert "learning_rate = 0.001" in call(*command, "run", "--parameters", **how)
    for name in ("run", "book"):
        told = call(*command, name, wrong=True, **how)
        assert told == f"fairnb: no chapters in {elsewhere}/notebooks: call fairnb from a checkout of the project\n"
    assert not list(elsewhere.iterdir())
