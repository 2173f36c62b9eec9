"""A clock that is set back, and files whose times say nothing."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.faults.work import opened, project, results, whole


@pytest.mark.slow
def test_the_clock_runs_backwards(searched, tmp_path, tell, monkeypatch):
    now, real = [time.time()], time.time

    def earlier() -> float:
        now[0] -= 60
        return now[0]

    root = project(tmp_path / "root")
    monkeypatch.setattr(time, "time", earlier)
    whole(root)
    monkeypatch.setattr(time, "time", real)
    stages = opened(root).record.stages
    assert all(0 <= stage["seconds"] < 600 for stage in stages.values())
    lost = int(results(root) != results(searched))
    tell("clock set back at every look", "a run", went_on=1 - lost, lost=lost)


@pytest.mark.slow
@pytest.mark.parametrize("year", [1970, 2100])
def test_the_times_of_files_are_wrong(searched, tmp_path, tell, year, monkeypatch):
    root = shutil.copytree(searched, tmp_path / "root")
    for path in root.rglob("*"):
        os.utime(path, ns=((year - 1970) * 365 * 24 * 3600 * 10**9,) * 2)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")}
    whole(root)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*.safetensors")} == before  # nothing was made again
    lost = int(results(root) != results(searched))
    tell(f"files of the year {year}", "a run", went_on=1 - lost, lost=lost)
