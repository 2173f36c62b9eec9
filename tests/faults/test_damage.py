"""Each kind of file of a run and its cache, damaged: made anew, or named in a line, and deleted then made anew."""

from __future__ import annotations

import importlib
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairnb.experiment import Experiment
from fairnb.training import _Training
from tests.faults.work import METHODS, opened, project, results, whole

DAMAGES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "emptied": lambda _, __: b"",
    "cut in half": lambda content, _: content[: len(content) // 2],
    "filled with random bytes": lambda content, draw: draw.randbytes(len(content)),
    "a byte flipped": lambda content, draw: _flipped(content, draw.randrange(len(content)), draw.randrange(1, 256)),
}
RESULTS = [
    "run.json", "labels.csv", "groups.csv", "base.safetensors", "history.csv", "history_us.csv", "features.safetensors",
    "dynamic_weighting.safetensors", "multi_task.safetensors",
]  # fmt: skip
ROUNDS = {name: 12 if "byte" in name else 2 for name in DAMAGES}  # the others have no chance in them
damaged = pytest.mark.parametrize(
    ("damage", "rounds"),
    [pytest.param("a byte flipped", 1, marks=pytest.mark.slow)]
    + [pytest.param(name, rounds, marks=pytest.mark.soak) for name, rounds in ROUNDS.items()],
)
HEADER = 128  # bytes before the pixels of a decoded array


def _flipped(content: bytes, place: int, by: int) -> bytes:
    return content[:place] + bytes([content[place] ^ by]) + content[place + 1 :]


def outcome(root: Path, path: Path, wanted: dict[str, str]) -> str:
    """Whether the run goes on by itself, names the damaged file so that it can be deleted, or has lost a result."""
    said = ""
    try:
        whole(root)
    except (ValueError, OSError) as error:
        said = str(error)
        assert path.name in said or f"{path.parent} was made with other parameters" in said
        assert said.count("\n") <= 1  # the advice has a line of its own
        assert re.search("delete (it|that)|move it away", said)
        path.unlink()
        whole(root)
    return "lost" if results(root) != wanted else "named" if said else "went_on"


def rounds_of(rounds: int, begin: Callable[[], Path], name: str, damage: str, wanted: dict[str, str]) -> dict[str, int]:
    counts = dict.fromkeys(("went_on", "named", "lost"), 0)
    for number in range(rounds):
        root = begin()
        (path,) = root.glob(f"runs/*/{name}")
        path.write_bytes(DAMAGES[damage](path.read_bytes(), random.Random(f"{name} {damage} {number}")))
        counts[outcome(root, path, wanted)] += 1
        shutil.rmtree(root)
    return counts


@pytest.fixture
def copies(tmp_path: Path) -> Callable[[Path], Callable[[], Path]]:
    """Makes copies of a project, always at the same place, that of the whole one."""

    def of(like: Path) -> Callable[[], Path]:
        return lambda: Path(shutil.copytree(like, tmp_path / "root"))

    return of


@damaged
@pytest.mark.parametrize("name", RESULTS)
def test_a_file_of_a_finished_run_is_damaged(searched, copies, tell, name, damage, rounds):
    tell("damaged", name, **rounds_of(rounds, copies(searched), name, damage, results(searched)))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A project whose training stopped after two epochs, and one whose search stopped after 50 iterations."""
    training = project(tmp_path_factory.mktemp("training") / "root")
    with pytest.MonkeyPatch.context() as patch:
        keep = _Training._keep

        def stop(self):
            keep(self)
            if len(self.course.rows) == 2:
                raise KeyboardInterrupt

        patch.setattr(_Training, "_keep", stop)
        with pytest.raises(KeyboardInterrupt):
            opened(training).features()
    return training


@damaged
def test_a_checkpoint_is_damaged(stopped, searched, copies, tell, damage, rounds):
    tell(
        "damaged",
        "checkpoint.safetensors",
        **rounds_of(rounds, copies(stopped), "checkpoint.safetensors", damage, results(searched)),
    )


@damaged
def test_a_saved_search_is_damaged(trained, searched, copies, tell, damage, rounds, monkeypatch):
    root, mopso = copies(trained)(), importlib.import_module("fairnb.swarm.mopso")  # not the function
    with monkeypatch.context() as patch:
        save = mopso.save_tensors

        def stop(path, *tensors, **notes):
            save(path, *tensors, **notes)
            raise KeyboardInterrupt

        patch.setattr(mopso, "save_tensors", stop)
        with pytest.raises(KeyboardInterrupt):
            opened(root).search(METHODS[0])
    like = root.rename(root.with_name("stopped"))
    name = "dynamic_weighting_search.safetensors"
    tell("damaged", name, **rounds_of(rounds, copies(like), name, damage, results(searched)))


@damaged
def test_the_cache_is_damaged(trained, searched, copies, tell, damage, rounds):
    """Decoded images are found again by their file's size and header; a pixel that changed is not."""
    counts = dict.fromkeys(("went_on", "named", "lost"), 0)
    for number in range(rounds):
        root = copies(trained)()
        (path,) = root.glob("runs/cache/images-*.npy")
        before = path.read_bytes()
        draw = random.Random(f"cache {damage} {number}")
        header = 128
        path.write_bytes(
            _flipped(before, draw.randrange(header), 3) if "flipped" in damage else DAMAGES[damage](before, draw)
        )
        shutil.rmtree(root / "runs" / "r")
        whole(root)
        counts["went_on" if results(root) == results(searched) else "lost"] += 1
        assert path.read_bytes() == before
        shutil.rmtree(root)
    tell("damaged", "images-*.npy (its header)" if "flipped" in damage else "images-*.npy", **counts)


@damaged
def test_a_sibling_is_damaged(searched, copies, tell, damage, rounds):
    """A new run of the same recipe does not take what is damaged, and trains for itself."""
    counts = dict.fromkeys(("went_on", "named", "lost"), 0)
    wanted = {name: digest for name, digest in results(searched).items() if "/r/" in name and "json" not in name}
    for number in range(rounds):
        root, draw = copies(searched)(), random.Random(f"sibling {damage} {number}")
        path = root / "runs" / "r" / draw.choice(["base.safetensors", "history.csv", "features.safetensors", "run.json"])
        path.write_bytes(DAMAGES[damage](path.read_bytes(), draw))
        experiment = opened(root, "new")
        for method in METHODS:
            experiment.search(method)
        shutil.rmtree(root / "runs" / "r")  # another name of the new run's files at most
        found = results(root)
        counts["went_on" if all(found[name.replace("/r/", "/new/")] == wanted[name] for name in wanted) else "lost"] += 1
        shutil.rmtree(root)
    tell("damaged", "a file of a sibling run", **counts)


@pytest.mark.slow
def test_a_sibling_without_weights(searched, copies):
    root = copies(searched)()
    (root / "runs" / "r" / "base.safetensors").unlink()
    assert opened(root, "new").base_model().heads.equal(opened(root, "new").heads())
    assert opened(root, "new").record.known["base_from"] == "new"


@pytest.mark.slow
def test_a_run_is_read_by_its_name(searched, copies):
    """What the tests above compare is there at all."""
    found = results(searched)
    assert {f"runs/r/{name}" for name in RESULTS} <= set(found)
    assert Experiment.open("r", runs=searched / "runs").labels().method.nunique() == 3
