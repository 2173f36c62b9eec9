"""Files beside a run's own, damaged: executed chapters, notes of checked images, a sweep's files, an exported folder."""

from __future__ import annotations

import random
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from fairnb.book.chapters import _made_of
from fairnb.data import read_celeba
from fairnb.data.decoded import check_images
from fairnb.evidence.swept import Swept
from fairnb.export.network import load, plain
from fairnb.run.files import load_json, save_json, save_table, save_tensors
from fairnb.run.keys import content_key
from fairnb.run.record import Record
from fairnb.sweep.drive import Sweep
from fairnb.sweep.plan import NOTE, SweepFile
from tests.conftest import CONFIG
from tests.faults.test_damage import DAMAGES

CUT = [name for name in DAMAGES if "flipped" not in name]


def test_a_damaged_executed_chapter_is_executed_again(tmp_path, tell):
    page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[])], metadata={"made_of": "key"})
    page.cells[0].outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": "0.123"})]
    page.metadata["whole"] = content_key(page.cells)
    save_json(path := tmp_path / "01_a.ipynb", page)
    assert _made_of(path) == "key"
    whole, cells = path.read_bytes(), page.cells
    for damage, do in DAMAGES.items():
        rounds = 200 if "flipped" in damage else 1
        for number in range(rounds):
            path.write_bytes(do(whole, random.Random(number)))
            if _made_of(path) == "key":  # only where nothing that is shown has changed
                assert load_json(path)["cells"] == cells
        tell("damaged", "an executed chapter", went_on=rounds)


def test_a_damaged_note_of_checked_images_is_made_anew(celeba, tmp_path, tell):
    images = read_celeba(celeba).images
    check_images(images, tmp_path)
    (path,) = tmp_path.glob("checked-*.json")
    whole = path.read_bytes()
    for damage in CUT:
        path.write_bytes(DAMAGES[damage](whole, random.Random(damage)))
        check_images(images, tmp_path)
        assert path.read_bytes() == whole
        tell("damaged", "checked-*.json", went_on=1)


@pytest.mark.parametrize("damage", CUT)
def test_a_sweeps_files_are_named(tmp_path, tell, damage, monkeypatch):
    (tmp_path / "notebooks").mkdir()
    what = SweepFile(name="s", stages=["multi-task"], grid={"seed": [0, 1]})
    sweep = Sweep(what, tmp_path, say=lambda _: None)
    runs = tmp_path / "runs"
    for one in sweep.planned:
        Record.open(runs=runs, **one.parameters.model_dump()).save()
        save_json(runs / one.parameters.run / NOTE, {"key": one.key, "state": "done", "rows": [], "seconds": 1.0})
    save_json(runs / "s" / "sweep.json", {"about": {}})
    save_table(runs / "s" / "table.csv", pd.DataFrame({"run": ["s/seed=0"], "setting": ["a"], "against": ["a"]}))
    reads = {
        runs / "s" / "seed=0" / NOTE: lambda: Sweep(what, tmp_path).notes,
        runs / "s" / "seed=0" / "run.json": lambda: Swept(runs / "s").datasets,
        runs / "s" / "sweep.json": lambda: Swept(runs / "s").about,
        runs / "s" / "table.csv": lambda: Swept(runs / "s").table,
    }
    for path, read in reads.items():
        read()
        whole = path.read_bytes()
        path.write_bytes(DAMAGES[damage](whole, random.Random(damage)))
        with pytest.raises(ValueError, match=path.name) as error:
            read()
        assert "\n" not in str(error.value)
        path.write_bytes(whole)
        tell("damaged", f"a sweep's {path.name}", named=1)


def test_a_configuration_may_be_sorted_anew_but_must_fit(tmp_path):
    save_tensors(tmp_path / "model.safetensors", plain(CONFIG).state_dict(), format="pt")
    save_json(tmp_path / "config.json", CONFIG | {"thresholds": dict(reversed(CONFIG["thresholds"].items()))})
    assert load(tmp_path)[0]["groups"] == ["x", "y"]
    save_json(tmp_path / "config.json", CONFIG | {"thresholds": {"x": [0.0, 0.5]}})
    with pytest.raises(
        ValueError, match=r"config\.json is damaged \(as a whole: .*thresholds fit neither labels nor groups"
    ):
        load(tmp_path)


@pytest.mark.parametrize("damage", CUT)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_an_exported_folder_is_named(tmp_path, tell, name, damage):
    save_json(tmp_path / "config.json", CONFIG)
    save_tensors(tmp_path / "model.safetensors", plain(CONFIG).state_dict(), format="pt")
    load(tmp_path)
    path: Path = tmp_path / name
    path.write_bytes(DAMAGES[damage](path.read_bytes(), random.Random(damage)))
    with pytest.raises(ValueError, match=f"{path} (is|cannot be read)"):
        load(tmp_path)
    tell("damaged", f"an exported folder's {name}", named=1)
