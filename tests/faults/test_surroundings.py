"""Surroundings that differ from one's own: the same command has the same results, or says in a line what is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairnb.run.lock import alone
from fairnb.run.record import git_revision
from tests.faults.work import CHAPTERS, ROOT, project, results

PLAIN = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
PATH = 'Bob\'s "größte" Dateien – 写真 $HOME'
# What is done to the environment, None for a name that is taken away; the folder of the project; the working directory.
ODD: dict[str, tuple[dict[str, str | None], str, str]] = {
    "HOME unset": ({"HOME": None}, "root", "."),
    "HOME that cannot be written to": ({"HOME": "/proc/nowhere", "XDG_CACHE_HOME": None}, "root", "."),
    "a locale without UTF-8": ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "root", "."),
    "no git": ({"PATH": "/nonexistent"}, "root", "."),
    "OMP_NUM_THREADS=64": ({"OMP_NUM_THREADS": "64"}, "root", "."),
    "MPLBACKEND=Agg": ({"MPLBACKEND": "Agg"}, "root", "."),
    "blanks, quotes and letters outside ASCII in the folder": ({}, PATH, "."),
    "another working directory": ({}, "root", "notebooks"),
}
# Without the locale, in which such a path has no letters.
AT_ONCE = {
    name: value for odd, *_ in ODD.values() for name, value in odd.items() if name not in ODD["a locale without UTF-8"][0]
}
MANY = [pytest.param(*odd, name, marks=pytest.mark.soak, id=name) for name, odd in ODD.items()]
ONE = pytest.param(AT_ONCE, PATH, "notebooks", "all of these at once, but the locale", marks=pytest.mark.slow)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "fairnb.cli", *words]


def run(root: Path, environment: dict[str, str | None], at: str) -> None:
    """Both chapters, by the command, in a process of its own."""
    changed = {name: value for name, value in (os.environ | PLAIN | environment).items() if value is not None}
    words = command("run", "--run", "r", "--params", str(root / "given.yml"))
    done = subprocess.run(words, cwd=root / at, env=changed, capture_output=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr).decode(errors="replace")
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(("environment", "folder", "at", "name"), [ONE, *MANY])
def test_surroundings_change_no_result(written, tmp_path, tell, environment, folder, at, name):
    wanted, odd = (Path(shutil.copytree(written, tmp_path / place)) for place in ("as usual", folder))
    threads = {name: value for name, value in environment.items() if name == "OMP_NUM_THREADS"}
    run(wanted, threads, ".")  # whose number decides how sums are rounded
    run(odd, environment, at)
    lost = results(odd) != results(wanted)
    assert sorted(path.stem for path in (odd / "runs" / "r" / "chapters").glob("*.ipynb")) == sorted(CHAPTERS)
    tell("odd surroundings", name, went_on=1 - lost, lost=int(lost))


@pytest.mark.slow
def test_of_two_processes_one_works_and_the_other_says_so(tmp_path, tell):
    """Both are started at once, as by two terminals; the one that was refused goes on afterwards."""
    root = project(tmp_path / "root")
    words = command("train", "--run", "r", "--params", "given.yml", "-p", "epochs=8", "-p", "drawn=[600, 40, 40]")
    both = []
    for _ in range(2):
        both.append(subprocess.Popen(words, cwd=root, env=os.environ | PLAIN, stderr=subprocess.PIPE, encoding="utf-8"))
        time.sleep(0.2)
    ended = sorted((process.wait(300), process.communicate()[1]) for process in both)
    assert [status for status, _ in ended] == [0, 1], ended
    refused = [line for line in ended[1][1].splitlines() if line.startswith("fairnb: ")]
    assert len(refused) == 1
    assert "another process is at work in" in refused[0]
    subprocess.run(words, cwd=root, env=os.environ | PLAIN, check=True, capture_output=True)
    tell("a second process in the same run", "fairnb train", named=1)


def test_a_lock_that_was_left_behind_holds_nobody_up(tmp_path):
    (tmp_path / ".work.lock").touch()
    with alone(tmp_path):
        pass


def test_a_lock_s_file_stays_the_same_one(tmp_path):
    """Else one that has just opened it and one that makes it anew would both hold the lock."""
    seen = set()
    for _ in range(2):
        with alone(tmp_path):
            seen.add((tmp_path / ".work.lock").stat().st_ino)
    seen.add((tmp_path / ".work.lock").stat().st_ino)
    assert len(seen) == 1


def test_a_release_in_somebody_elses_repository_has_no_revision(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    place = tmp_path / "fairnb-0.2.0" / "fairnb" / "run" / "record.py"
    monkeypatch.setattr("fairnb.run.record.__file__", str(place))
    assert git_revision() == "unknown"
