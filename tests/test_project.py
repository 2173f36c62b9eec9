"""What ties the project's files together: lists of dependencies, the version, and the commands that README promises."""

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch", "build": "python-build"}  # where conda-forge calls it otherwise


def test_environment_gives_the_same_list_as_pyproject():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [
        line for extra in project["optional-dependencies"].values() for line in extra if not line.startswith("fairnb[")
    ]
    wanted = [Requirement(line) for line in (*project["dependencies"], *extras)]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    by_pip = [line for entry in environment["dependencies"] if isinstance(entry, dict) for line in entry["pip"]]
    entries = [line for line in environment["dependencies"] if isinstance(line, str)] + by_pip
    parts = [re.fullmatch(r"([\w-]+)\s*(.*)", line) for line in entries]
    given = {part[1].lower(): part[2] for part in parts if part}
    assert given.pop("python") == project["requires-python"]
    given.pop("pip")
    names = {CONDA_NAMES.get(r.name.lower(), r.name.lower()): r for r in wanted}
    assert set(given) == set(names)
    for name, requirement in names.items():
        assert sorted(given[name].split(",")) == sorted(str(requirement.specifier).split(",")), name


def test_every_bound_has_its_reason():
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.findall(r'^  "[A-Za-z][\w-]*(?:[><=!].*?)"(,.*)$', text, re.MULTILINE)
    assert len(listed) > 15
    assert all("#" in rest for rest in listed)


def test_the_latest_version_is_the_one_that_the_changelog_tells_of():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    versions = re.findall(r"^## (\S+) \((\S+)\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == (citation["version"], str(citation["date-released"]))
    assert citation["version"] == project["version"]
    assert versions == sorted(versions, reverse=True)


def test_readme_opens_with_the_two_commands():
    readme = (ROOT / "README.md").read_text()
    assert readme.index("make book") < readme.index("make test") < readme.index("\n## ")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"book", "test", "lab"} <= set(targets)
    assert "make test" in (ROOT / ".ci" / "run").read_text()


def test_the_bibliography_has_what_is_cited_and_no_more():
    entries = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
    pages = [*(ROOT / "book").glob("*.md"), *(ROOT / "notebooks").glob("*.ipynb")]
    cited = ",".join(keys for page in pages for keys in re.findall(r"\{cite(?::t)?\}`([\w,]+)`", page.read_text()))
    assert set(cited.split(",")) == entries


@pytest.mark.parametrize("name", ["Bob's photographs", "a b", "Gesichter – größer", '"quoted"; true'])
def test_make_hands_a_name_over_as_one_word(tmp_path, name):
    for file in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "installed").touch()
    (stub := tmp_path / "fairnb").write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    stub.chmod(0o755)
    command = ["make", "-s", "book", f"BIN={tmp_path}", f"DATA={name}", f"RUN={name}", f"PARAMS={name}.yml"]
    seen = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.splitlines()
    assert seen == ["book", "--params", f"{name}.yml", "-p", "data=celeba", "-p", f"data_root={name}", "--run", name]


def test_text_is_utf_8_whatever_the_locale():
    """Every call that reads or writes text says so: a locale without UTF-8 is not asked."""
    silent = []
    for path in (ROOT / "fairnb").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            method = node.func.attr if isinstance(node.func, ast.Attribute) else ""
            name = node.func.id if isinstance(node.func, ast.Name) else method
            said = {word.arg for word in node.keywords}
            as_text = any(isinstance(given, ast.Constant) and given.value in ("r", "w", "a", "x") for given in node.args)
            if method in ("read_text", "write_text") or (name == "open" and as_text) or (name == "run" and "text" in said):
                silent += [] if "encoding" in said else [f"{path.relative_to(ROOT)}:{node.lineno}"]
    assert not silent
