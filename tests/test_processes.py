"""Trainings as users run them: killed, interrupted, and shared among processes. All of it in processes of their own."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import nn

from fairnb import training
from fairnb.data import read_celeba
from fairnb.data.feeding import Feed
from fairnb.experiment import Experiment
from fairnb.model import MultiLabelNet, build_model
from fairnb.run.device import join_group, make_fabric
from fairnb.run.files import load_tensors
from fairnb.training import FILES, train_base
from tests import conftest

ROOT = Path(__file__).parents[1]
RECIPE = conftest.RECIPE.but(epochs=12)
pytestmark = pytest.mark.slow


def start(*words, **settings):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, __file__, *map(str, words)], env=environment, text=True, **settings)


def assert_same_files(one: Path, other: Path) -> None:
    weights, same = load_tensors(one / "base.safetensors"), load_tensors(other / "base.safetensors")
    assert all(torch.equal(tensor, same[name]) for name, tensor in weights.items())
    assert (one / "history_us.csv").read_bytes() == (other / "history_us.csv").read_bytes()


@pytest.mark.parametrize("form", ["cached", "files"])
def test_killed_at_any_moment_a_training_ends_with_the_same_weights(celeba, tmp_path, form):
    assert start("train", celeba, tmp_path / "whole", form).wait() == 0
    draw, kills, states, longest = random.Random(0 if form == "files" else 1), 0, set(), 1.8
    folder = tmp_path / "killed"
    while kills < 5 or (True not in states and kills < 12):  # a busy machine takes its time to the first checkpoint
        process = start("train", celeba, folder, form, stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        time.sleep(draw.uniform(0.3, longest))
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
        states.add((folder / "checkpoint.safetensors").exists())
        longest *= 1 if True in states else 2
    assert kills >= 3
    assert True in states  # it had something to go on from
    assert start("train", celeba, folder, form).wait() == 0
    assert_same_files(folder, tmp_path / "whole")
    assert conftest.names_in(folder) == sorted(FILES)


def project(folder: Path) -> Path:
    """A checkout as far as `fairnb train` needs one."""
    folder.mkdir()
    for name in ("notebooks", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def command(celeba: Path, devices: int, epochs: int = 36) -> list[str]:
    settings = {
        "data": "celeba", "data_root": celeba, "run": "r", "backbone": RECIPE.backbone, "hidden": 8, "resize": 20,
        "image_size": 16, "min_positives": 2, "epochs": epochs, "batch_size": 32, "device": "cpu", "devices": devices,
        "precision": "32-true",
    }  # fmt: skip
    words = [word for name, value in settings.items() for word in ("-p", f"{name}={value}")]
    return [sys.executable, "-m", "fairnb.cli", "train", *words]


@pytest.mark.parametrize("devices", [1, 2])
def test_ctrl_c_saves_and_the_same_command_goes_on(celeba, tmp_path, devices):
    root = project(tmp_path / "root")
    words: dict[str, Any] = {
        "cwd": root,
        "env": os.environ | {"PYTHONPATH": str(ROOT)},
        "text": True,
        "start_new_session": True,
    }
    process = subprocess.Popen(command(celeba, devices), stderr=subprocess.PIPE, **words)
    while not (root / "runs" / "r" / "checkpoint.safetensors").exists():
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert told.count("fairnb: stopped in epoch") == 1
    assert "the same command, or cell, resumes there" in told
    assert "Traceback" not in told
    done = subprocess.run(command(celeba, devices), capture_output=True, **words)
    assert done.returncode == 0, done.stderr
    assert "36 epochs in" in done.stdout
    assert (root / "runs" / "r" / "labels.csv").exists()


def test_two_processes_save_once_and_make_the_tables_of_one(celeba, tmp_path):
    process = start("experiment", celeba, tmp_path, cwd=tmp_path)
    assert process.wait() == 0
    writers = (tmp_path / "writers").read_text().splitlines()
    assert set(writers) == {"0"}
    run = tmp_path / "runs" / "two"
    alone = tmp_path / "runs" / "alone"
    shutil.copytree(run, alone, ignore=shutil.ignore_patterns("features*", "labels.csv", "groups.csv"))
    one = Experiment.open("alone", runs=tmp_path / "runs", device="cpu")
    assert one.parameters.run == "alone"
    features = one.features()
    for name in ("labels.csv", "groups.csv"):
        assert (alone / name).read_bytes() == (run / name).read_bytes()
    kept = pd.read_csv(run / "history.csv").query("best").epoch.item()
    columns = ["label", "group", "n", "positives", "predicted_positives", "us"]
    by_epoch = pd.read_csv(run / "history_us.csv")
    validated = by_epoch[by_epoch.epoch == kept][columns].reset_index(drop=True)
    of_base = one.groups().query("method == 'base' and split == 'valid'")[columns].reset_index(drop=True)
    pd.testing.assert_frame_equal(validated, of_base)  # what the epoch was judged by is the model that was saved
    saved = load_tensors(run / "features.safetensors")
    assert all(torch.equal(features[split].x, saved[f"{split}.x"]) for split in features)


def test_sharing_a_batch_does_not_change_the_step(celeba, tmp_path):
    """Without batch norm and dropout, two processes with unequal shares of the last batch train as one does."""
    for processes in (1, 2):
        assert start("plain", celeba, tmp_path / str(processes), processes).wait() == 0
    one, two = (load_tensors(tmp_path / str(n) / "base.safetensors") for n in (1, 2))
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=1e-3, atol=1e-5)


def main(what: str, celeba: str, folder: str, *more: str) -> None:
    """What the tests above start."""
    if what == "train":
        faces = read_celeba(celeba)
        feed = Feed(
            faces.images, 20, 16, cache=Path(folder).parent / "cache", fabric=make_fabric("cpu", "32-true"), form=more[0],
            workers=0 if more[0] == "cached" else 1,
        )  # fmt: skip
        build_model(RECIPE.backbone, 1)  # imports what is slow to import
        print("ready", flush=True)
        train_base(faces, RECIPE, folder, feed)
    elif what == "experiment":
        fabric, real = join_group("cpu", "32-true", devices=2), training.save_tensors

        def save(path, tensors, **notes):
            with (Path(folder) / "writers").open("a") as file:
                file.write(f"{fabric.global_rank}\n")
            real(path, tensors, **notes)

        training.save_tensors = save
        given = {"data": "celeba", "data_root": celeba} | RECIPE.model_dump()
        made = Experiment.open("two", runs=f"{folder}/runs", fabric=fabric, **given)
        made.base_model()
        made.features()
    else:
        fabric = join_group("cpu", "32-true", devices=int(more[0]))

        def small(backbone, labels, *_, **__):
            torch.manual_seed(0)
            body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten())
            return MultiLabelNet(body, 32, 8, labels, dropout=0.0)

        training.build_model = small
        faces = read_celeba(celeba).limited(95)
        recipe = RECIPE.but(epochs=4, batch_size=22)
        train_base(faces, recipe, folder, Feed(faces.images, 20, 16, cache=f"{folder}/cache", fabric=fabric))


if __name__ == "__main__":
    main(*sys.argv[1:])
