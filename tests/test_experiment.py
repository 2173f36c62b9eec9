import dataclasses
import errno
import json
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fairnb import training
from fairnb.book import plots, tables
from fairnb.experiment import Experiment
from fairnb.methods.strategies import predict
from fairnb.run.files import load_tensors, save_json, write_beside
from fairnb.swarm.mopso import Swarm
from tests.conftest import RECIPE

SWARM = Swarm(particles=12, iterations=5)


def experiment(celeba, runs, run="one", recipe=RECIPE, **settings):
    settings = {"min_positives": 2, "device": "cpu", **settings}
    return Experiment(run, data="celeba", data_root=celeba, recipe=recipe, runs=runs, **settings)


def whole(celeba, runs, **settings):
    made = experiment(celeba, runs, **settings)
    made.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.01)
    made.multi_task(SWARM, tolerance=0.1, spread=0.1)
    return made


@pytest.fixture(scope="module")
def done(celeba, tmp_path_factory):
    return whole(celeba, tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_its_files(done):
    names = {path.name for path in done.folder.iterdir()}
    assert names == {
        "base.safetensors", "history.csv", "history_us.csv", "features.safetensors", "dynamic_weighting.safetensors",
        "multi_task.safetensors", "labels.csv", "groups.csv", "run.json",
    }  # fmt: skip
    labels, groups = done.labels(), done.groups()
    assert list(labels) == ["method", "split", "label", "analysed", "accuracy", "uei"]
    assert list(groups) == ["method", "split", "label", "group", "n", "positives", "predicted_positives", "us"]
    assert len(labels) == 3 * 2 * 4
    assert len(groups) == 2 * len(labels)
    assert labels.method.drop_duplicates().tolist() == ["base", "dynamic weighting", "multi-task"]
    known = done.provenance()
    assert set(known["seconds"]) == {"base model", "features", "dynamic weighting", "multi-task"}
    assert known["parameters"]["particles"] == 12
    assert known["peak_memory_gb"] > 0
    assert {"torch", "fairnb", "python"} <= set(known["versions"])


def test_tables_agree_with_each_other_and_with_the_heads(done):
    """US from the counts, and accuracy from the heads by plain NumPy."""
    groups = done.groups()
    us = (groups.predicted_positives / groups.n) / (groups.positives / groups.n)
    pd.testing.assert_series_equal(groups.us, us, check_names=False)
    search = done.multi_task(SWARM, tolerance=0.1, spread=0.1)
    test = done.features()["test"]
    right = (predict(test.x, search.heads).T.numpy() == test.labels.numpy()).mean(axis=0)
    labels = done.labels()
    rows = labels[(labels.method == "multi-task") & (labels.split == "test")]
    assert rows.accuracy.tolist() == pytest.approx(right.tolist())


def test_same_seed_same_tables_to_the_bit(celeba, done, tmp_path):
    again = whole(celeba, tmp_path)
    for name in ("labels.csv", "groups.csv"):
        assert (again.folder / name).read_bytes() == (done.folder / name).read_bytes()


def test_stages_are_loaded_not_repeated(done, celeba, monkeypatch):
    monkeypatch.setattr(training, "_Training", lambda *_: pytest.fail("computed again"))
    monkeypatch.setattr("fairnb.data.feeding.Feed.batches", lambda *_: pytest.fail("computed again"))
    before = {path: path.stat().st_mtime_ns for path in done.folder.glob("*.safetensors")}
    again = whole(celeba, done.root)
    assert {path: path.stat().st_mtime_ns for path in done.folder.glob("*.safetensors")} == before
    first, second = (e.multi_task(SWARM, tolerance=0.1, spread=0.1) for e in (done, again))
    assert torch.equal(first.heads, second.heads)
    assert first.picked == second.picked
    assert torch.equal(first.fronts.hypervolume, second.fronts.hypervolume)


def test_other_parameters_are_refused_and_nothing_is_touched(done, celeba):
    before = {path: path.read_bytes() for path in done.folder.iterdir()}
    with pytest.raises(ValueError, match="min_positives was 2, now 1"):
        experiment(celeba, done.root, min_positives=1)
    with pytest.raises(ValueError, match="particles was 12, now 13"):
        done.multi_task(Swarm(particles=13, iterations=5), tolerance=0.1, spread=0.1)
    with pytest.raises(ValueError, match=r"epsilon was 0\.01, now 0\.1"):
        done.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.1)
    assert {path: path.read_bytes() for path in done.folder.iterdir()} == before


def test_a_search_that_comes_first_notes_everything(celeba, tmp_path):
    whole(celeba, tmp_path)
    known = experiment(celeba, tmp_path).provenance()["parameters"]
    assert (known["backbone"], known["min_positives"], known["particles"], known["epsilon"]) == (
        RECIPE.backbone,
        2,
        12,
        0.01,
    )
    with pytest.raises(ValueError, match="min_positives was 2, now 1"):
        experiment(celeba, tmp_path, min_positives=1)


def test_other_images_are_refused(celeba, tmp_path):
    from tests.conftest import make_celeba

    experiment(celeba, tmp_path).base_model()
    with pytest.raises(ValueError, match="images or annotations are not the same"):
        experiment(make_celeba(tmp_path / "other", seed=9), tmp_path)


def test_runs_share_a_trained_base(done, celeba, monkeypatch):
    monkeypatch.setattr(training, "_Training", lambda *_: pytest.fail("trained again"))
    other = experiment(celeba, done.root, run="another name")
    assert torch.equal(other.base_model().heads, done.base_model().heads)
    assert other.provenance()["base_from"] == "one"
    assert (other.folder / "base.safetensors").exists()


def test_a_mistake_is_not_held_against_the_run(celeba, tmp_path):
    """Parameters that led to nothing are forgotten: the next try may put them right under the same name."""
    with pytest.raises(ValueError, match="unknown backbone"):
        experiment(celeba, tmp_path, recipe=dataclasses.replace(RECIPE, backbone="resnet8")).base_model()
    made = experiment(celeba, tmp_path)
    with pytest.raises(ValueError, match="epsilon=0"):
        made.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0)
    made.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.01)
    assert made.provenance()["parameters"]["epsilon"] == 0.01


def test_bad_names_and_settings(celeba, tmp_path):
    for run in ("", "a/b", "..", "cache"):
        with pytest.raises(ValueError, match="must be a plain folder name"):
            experiment(celeba, tmp_path, run=run)
    with pytest.raises(ValueError, match="min_positives=0"):
        experiment(celeba, tmp_path, min_positives=0)
    assert list(tmp_path.iterdir()) == []


def test_a_label_that_a_group_never_has_is_not_analysed(tmp_path):
    from tests.conftest import make_celeba

    root = make_celeba(tmp_path / "data")
    path = root / "list_attr_celeba.txt"
    lines = path.read_text().splitlines()
    rows = [line.split() for line in lines[2:]]
    for row in rows:
        if row[2] == "1":  # Male: never Smiling
            row[3] = "-1"
    path.write_text("\n".join([*lines[:2], *(" ".join(row) for row in rows)]) + "\n")
    made = whole(root, tmp_path / "runs", min_positives=1)
    labels, groups = made.labels(), made.groups()
    assert not labels[labels.label == "Smiling"].analysed.any()
    men = groups[(groups.label == "Smiling") & (groups.group == "male")]
    assert men.us.isna().all()
    assert (men.positives == 0).all()
    base, multi = (labels[(labels.method == m) & (labels.label == "Smiling")] for m in ("base", "multi-task"))
    assert base.uei.tolist() == multi.uei.tolist()  # its head stays the base model's


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    save_json(path, {"old": 1})

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(OSError, match="No space left"):
        save_json(path, {"new": 2})
    assert json.loads(path.read_bytes()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


def test_a_disk_that_takes_no_more_leaves_the_old_tensors(tmp_path):
    """A real refusal by the system: files of this process may not grow beyond 100 kB."""
    script = """
import resource, sys, torch
from pathlib import Path
from fairnb.run.files import save_tensors

path = Path(sys.argv[1])
save_tensors(path, {"a": torch.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
save_tensors(path, {"a": torch.zeros(1_000_000)})
"""
    path = tmp_path / "weights.safetensors"
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert f"OSError: {path} could not be written" in done.stderr
    assert torch.equal(load_tensors(path)["a"], torch.ones(10))
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_an_interrupt_leaves_no_half_file(tmp_path):
    path = tmp_path / "half"

    def interrupted():
        with write_beside(path) as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_summary_and_changes_by_hand():
    rows = [("base", 0.30, 0.90), ("base", 0.10, 0.80), ("multi-task", 0.10, 0.85), ("multi-task", 0.12, 0.80)]
    labels = pd.DataFrame(
        [(m, "test", "ab"[i % 2], True, acc, uei) for i, (m, uei, acc) in enumerate(rows)]
        + [("base", "test", "c", False, 0.0, 1.0), ("multi-task", "test", "c", False, 0.0, 1.0)],
        columns=["method", "split", "label", "analysed", "accuracy", "uei"],
    )
    change = tables.changes(labels, "multi-task")
    assert change.label.tolist() == ["b", "a"]  # the worst change first
    assert change.uei_change.tolist() == pytest.approx([0.02, -0.2])
    multi = tables.summary(labels).set_index("method").loc["multi-task"]
    assert multi.uei == pytest.approx(0.11)
    assert multi.accuracy_loss == pytest.approx(0.025)
    assert (multi.higher, multi.labels) == (1, 2)
    with pytest.raises(ValueError, match="unknown method"):
        tables.changes(labels, "thresholds")


def test_figures_show_what_they_were_given(done):
    plots.set_style()
    labels, groups = done.labels(), done.groups()
    test = groups[(groups.method == "base") & (groups.split == "test")]
    names = [n for n, kept in zip(done.faces.label_names, done.analysed, strict=True) if kept]
    search = done.multi_task(SWARM, tolerance=0.1, spread=0.1)
    dynamic = done.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.01)
    bars = plots.underestimation_scores(test, limit=50.0).axes[0]
    shown = sorted(round(bar.get_width(), 6) for container in bars.containers for bar in container)
    assert shown == sorted(round(us, 6) for us in test.us)
    assert len(plots.prevalence(done.faces.prevalence("train")).axes[0].containers) == 2
    assert len(plots.pareto_fronts(search, names).axes) >= len(names)
    comparison = plots.comparison(labels[(labels.split == "test") & labels.analysed]).axes[0]
    assert [text.get_text() for text in comparison.get_yticklabels()]
    assert len(comparison.collections) == 4  # a line a label, and a dot a method
    assert plots.learning_curves(done.base_model().history).axes[0].get_title() == "loss (BCE)"
    curves = plots.hypervolume_curves({"dynamic weighting": dynamic, "multi-task": search}).axes[0]
    gained = [bool((s.fronts.hypervolume[-1] > s.fronts.hypervolume[0]).any()) for s in (dynamic, search)]
    assert [np.asarray(line.get_ydata())[-1] for line in curves.lines] == [1.0] * sum(gained)
    plt.close("all")


def test_an_experiment_on_drawn_faces_with_another_sensitive_attribute(tmp_path):
    recipe = dataclasses.replace(RECIPE, resize=34, image_size=32, epochs=1)
    settings = {"sensitive": "Young", "targets": ["Male", "Smiling"], "min_positives": 2, "device": "cpu", "runs": tmp_path}
    run = Experiment("young", data="drawn", drawn=[64, 40, 40], recipe=recipe, **settings)
    run.multi_task(SWARM, tolerance=0.1, spread=0.1)
    assert set(run.groups().group) == {"not Young", "Young"}
    assert set(run.labels().label) == {"Male", "Smiling"}
    assert run.provenance()["parameters"]["drawn"] == [64, 40, 40]
    with pytest.raises(ValueError, match=r"drawn was \[64, 40, 40\], now \[64, 40, 41\]"):
        Experiment("young", data="drawn", drawn=[64, 40, 41], recipe=recipe, **settings)
    with pytest.raises(ValueError, match="drawn_seed was 0, now 1"):
        Experiment("young", data="drawn", drawn=[64, 40, 40], drawn_seed=1, recipe=recipe, **settings)


def test_both_layers_are_searched_on_what_they_read(celeba, tmp_path):
    run = experiment(celeba, tmp_path)
    with pytest.raises(ValueError, match="unknown layers 'both': choose from all, last"):
        run.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.01, layers="both")
    search = run.dynamic_weighting(SWARM, tolerance=0.1, spread=0.1, epsilon=0.01, layers="all")
    base = run.base_model()
    base.model.replace_heads(search.heads, search.hidden)
    logits = run.logits(base.model, "test")
    rows = run.labels().query("method == 'dynamic weighting' and split == 'test'").set_index("label")
    truth = run.features()["test"].labels
    for column, label in enumerate(run.faces.label_names):
        agreed = ((logits[:, column] > 0) == truth[:, column]).double().mean()
        assert rows.accuracy[label] == pytest.approx(float(agreed), abs=0.02)  # batches round otherwise than one product
    assert not (run.folder / "dynamic_weighting_search.safetensors").exists()
