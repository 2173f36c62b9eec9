"""Disks that are full, turn read-only or lose power: one line names the file, and the same command goes on."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import random
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from fairnb.book.chapters import run_chapters
from fairnb.run.files import folder_beside, load_json, save_json, save_table, save_tensors, share
from tests.faults.work import GIVEN, done, few_or_many, places, project, results, whole

# The step of a writing that fails, and the error that the system gives there.
STEPS = {
    "disk full when content is written out": ("fsync", errno.ENOSPC),
    "disk full when a name is made": ("mkdir", errno.ENOSPC),
    "folder that is read-only": ("mkdir", errno.EROFS),
    "folder that may not be written to": ("replace", errno.EACCES),
    "disk that fails": ("fsync", errno.EIO),
}


class FirstTime:
    """Lets a function of `os` fail the first time that it is called for a file or folder of a run."""

    def __init__(self, step: str) -> None:
        self.name, self.code = STEPS[step]
        self.real: Callable[..., Any] = getattr(os, self.name)
        self.failed: list[str] = []

    def __call__(self, *args: Any, **more: Any) -> Any:
        path = Path(
            os.readlink(f"/proc/self/fd/{args[0]}") if self.name == "fsync" else args[-1 if self.name == "replace" else 0]
        )
        name = path.name.removeprefix(".").rsplit(".", 3)[0] if path.suffix == ".part" else path.name
        if name not in self.failed and not path.is_dir():
            self.failed.append(name)
            raise OSError(self.code, os.strerror(self.code), *([str(path)] if self.name == "mkdir" else []))
        return self.real(*args, **more)


@pytest.mark.parametrize(
    "step", [pytest.param(step, marks=getattr(pytest.mark, "soak" if "disk" in step else "slow")) for step in STEPS]
)
def test_each_file_cannot_be_written_once(searched, tmp_path, tell, step, monkeypatch):
    root, first, lost = project(tmp_path / "root"), FirstTime(step), 0
    monkeypatch.setattr(os, first.name, first)
    for attempt in range(40):
        before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
        try:
            whole(root)
            break
        except OSError as error:
            said = str(error)
        assert len(first.failed) == attempt + 1
        assert os.strerror(first.code) in said
        path = next(Path(word) for word in re.split(r"[ ']", said) if first.failed[-1] in Path(word).parts)
        assert "\n" not in said
        assert (path.read_bytes() if path.is_file() else None) == before.get(path)
    written = {Path(name).name for name in results(searched)}
    assert written <= {*first.failed} | {"base.safetensors"}  # every file had its turn
    lost = int(results(root) != results(searched))
    tell(step, "each file of a run", named=len(first.failed) - lost, lost=lost)


def test_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    """A power cut after a renaming finds the content; the name is then on the disk, too."""
    calls: list[tuple[str, str]] = []
    sync, replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        sync(descriptor)

    def rename(source: Path, target: Path) -> None:
        assert source.exists()
        calls.append(("replace", target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", rename)
    save_json(tmp_path / "a.json", {})
    save_table(tmp_path / "b.csv", pd.DataFrame({"x": [1]}))
    save_tensors(tmp_path / "c.safetensors", {"x": torch.ones(3)}, one="1", two="2")
    share(tmp_path / "a.json", tmp_path / "d.json")
    for name in ("a.json", "b.csv", "c.safetensors", "d.json"):
        assert calls[:3] == [("fsync", name), ("replace", name), ("fsync", tmp_path.name)]
        del calls[:3]
    with folder_beside(tmp_path / "e") as folder:
        (folder / "f").touch()
    assert calls == [("fsync", "f"), ("replace", "e"), ("fsync", tmp_path.name)]


def test_equal_tensors_and_notes_give_equal_bytes(tmp_path):
    for name in "abcdefgh":
        save_tensors(
            tmp_path / name, {"x": torch.ones(3), "y": torch.zeros(0, dtype=torch.bool)}, one="é\n", two="2", three="3"
        )
    assert len({(tmp_path / name).read_bytes() for name in "abcdefgh"}) == 1


def test_what_a_killed_process_left_goes_with_the_next_writing(tmp_path):
    host = platform.node().partition(".")[0]
    gone, alive, elsewhere = f".a.json.{host}.999999999.part", f".a.json.{host}.1.part", ".a.json.another.999999999.part"
    for name in (gone, alive, elsewhere, f".a.json.{host}.{os.getpid()}.part", f".b.json.{host}.999999999.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.json").write_text("half")
    save_json(tmp_path / "a.json", {})
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", alive, elsewhere, f".b.json.{host}.999999999.part"}
    os.utime(tmp_path / elsewhere, (0, 0))
    save_json(tmp_path / "a.json", {})
    assert not (tmp_path / elsewhere).exists()


def _mount(place: Path, *options: str) -> bool:
    return subprocess.run(["mount", *options, "tmpfs", str(place)], capture_output=True).returncode == 0


def _on_its_own_disk(do: Callable[[Path], Any], place: str, kilobytes: int, seconds: float, root: Path) -> None:
    """Work whose results go to a disk of their own, which is small, or turns read-only after some seconds; then again."""
    ctypes.CDLL(None).unshare(0x00020000)  # mounts of this process alone
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    (root / place).mkdir(parents=True)
    assert _mount(root / place, "-t", "tmpfs", "-o", f"size={kilobytes}k")

    def turn() -> None:
        time.sleep(seconds)
        while not _mount(root / place, "-o", "remount,ro"):  # busy while a file is being written
            time.sleep(0.002)

    turning = threading.Thread(target=turn, daemon=True)
    if seconds:
        turning.start()
    said = ""
    try:
        do(root)
    except (OSError, ValueError) as error:
        said = str(error)
    if seconds:
        turning.join()
    assert _mount(root / place, "-o", "remount,rw,size=100m")
    do(root)
    save_json(root / "seen.json", [said, results(root)])


def _may_mount(folder: Path) -> bool:
    command = ["unshare", "-m", "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def _ended(work: Callable[[Path], None], root: Path, wanted: dict[str, str]) -> str:
    """How a round of work on a disk of its own ended; what it says must name the place in one line."""
    done(work, root)
    said, found = load_json(root / "seen.json")
    assert not said or (str(root / "runs") in said and "\n" not in said), said
    return "lost" if found != wanted else "named" if said else "went_on"


@pytest.mark.parametrize("fault", ["a disk of random size gets full", "a disk turns read-only at a random moment"])
@few_or_many(1, 20)
def test_a_real_disk(searched, tmp_path, tell, rounds, fault):
    if not _may_mount(tmp_path):
        pytest.skip("file systems cannot be mounted here")
    counts, draw, begin = dict.fromkeys(("went_on", "named", "lost"), 0), random.Random(rounds), places(tmp_path)
    wanted = results(searched)
    needed = sum(path.stat().st_size for path in (searched / "runs").rglob("*") if path.is_file()) // 1024
    while sum(counts.values()) < rounds:
        root = begin()
        size, seconds = (draw.randrange(8, 2 * needed), 0.0) if "size" in fault else (100_000, draw.uniform(0.05, 2.5))
        counts[_ended(partial(_on_its_own_disk, whole, "runs", size, seconds), root, wanted)] += 1
    tell(fault, "a run", **counts)


def _execute(root: Path) -> None:
    run_chapters(root, [], GIVEN | {"run": "r"})


@few_or_many(0, 10)
def test_chapters_on_a_disk_that_gets_full(written, tmp_path, tell, rounds):
    """Papermill writes them as they are executed, and its errors name no file."""
    if not _may_mount(tmp_path):
        pytest.skip("file systems cannot be mounted here")
    counts, draw = dict.fromkeys(("went_on", "named", "lost"), 0), random.Random(rounds)
    done(_execute, usual := Path(shutil.copytree(written, tmp_path / "usual")))
    wanted = results(usual)
    for turn in range(rounds):
        root = Path(shutil.copytree(written, tmp_path / f"{turn}"))
        small = partial(_on_its_own_disk, _execute, "runs/r/chapters", draw.randrange(4, 40), 0.0)
        counts[_ended(small, root, wanted)] += 1
    tell("a disk of random size gets full", "executed chapters", **counts)
