import errno
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from fairnb import training
from fairnb.book import plots, tables, training_plots
from fairnb.evidence.compare import read_run
from fairnb.experiment import Experiment, training_of
from fairnb.methods import Problem
from fairnb.methods.multi_task import multi_task
from fairnb.methods.recalibration import recalibrate
from fairnb.run.files import load_notes, load_tensors, save_json, save_tensors, write_beside
from fairnb.run.lock import alone
from fairnb.run.parameters import Conditions, Parameters, Settings, Swarm
from fairnb.tables import group_rows
from fairnb.yours import Sample, assess, mitigate
from fairnb.yours.predictions import read_predictions
from tests.conftest import RECIPE, make_celeba, names_in

SEARCH = {"particles": 12, "iterations": 5, "tolerance": 0.1, "spread": 0.1, "epsilon": 0.01}


def experiment(celeba, runs, run="one", **changed):
    given = {"data": "celeba", "data_root": celeba, "min_positives": 2, "device": "cpu"} | RECIPE.model_dump() | SEARCH
    return Experiment.open(run, runs=runs, **(given | changed))


def whole(celeba, runs, **changed):
    made = experiment(celeba, runs, **changed)
    made.search("dynamic weighting")
    made.search("multi-task")
    return made


@pytest.fixture(scope="module")
def done(celeba, tmp_path_factory):
    return whole(celeba, tmp_path_factory.mktemp("runs"))


def test_predictions_are_assessed_to_the_last_digit(done):
    for method in ("base", "multi-task"):
        known = read_predictions([path := done.predictions(method)], ["Male"])
        path.unlink()
        found = assess(known.truth, known.scores, known.group, draws=0)
        groups, labels = (
            table[(table.method == method) & (table.split == "test")] for table in (done.groups(), done.labels())
        )
        for ours, theirs in ((found.groups, groups), (found.labels, labels)):
            shared = [name for name in theirs if name in ours]
            assert len(shared) > 2
            pd.testing.assert_frame_equal(ours[shared], theirs[shared].reset_index(drop=True), check_exact=True)


def test_features_and_head_are_mitigated_as_in_the_run(done):
    features, faces = done.features(), done.faces
    left = [name for name, kept in zip(faces.label_names, done.analysed.tolist(), strict=True) if not kept]
    parts = [
        Sample(one.labels, [faces.group_names[code] for code in one.group], features=one.x, names=faces.label_names)
        for one in features.values()
    ]
    how: dict[str, Any] = SEARCH | {"min_positives": 1, "not_analysed": left}
    for method in ("multi-task", "dynamic weighting"):
        found = mitigate(*parts, head=done.heads(), method=method, **how)
        assert torch.equal(found.head, done.search(method).heads.last)


def test_a_run_leaves_its_files(done):
    assert {*names_in(done.folder)} == {
        "base.safetensors", "history.csv", "history_us.csv", "features.safetensors", "dynamic_weighting.safetensors",
        "multi_task.safetensors", "labels.csv", "groups.csv", "run.json",
    }  # fmt: skip
    labels, groups = done.labels(), done.groups()
    assert list(labels) == ["method", "split", "label", "analysed", "accuracy", "uei"]
    assert list(groups) == ["method", "split", "label", "group", "n", "positives", "predicted_positives", "us"]
    assert len(labels) == 3 * 2 * 4
    assert len(groups) == 2 * len(labels)
    assert labels.method.drop_duplicates().tolist() == ["base", "dynamic weighting", "multi-task"]
    known = json.loads((done.folder / "run.json").read_text())
    assert set(known["stages"]) == {"base model", "features", "dynamic weighting", "multi-task"}
    assert all(stage["seconds"] >= 0 and stage["revision"] for stage in known["stages"].values())
    assert done.seconds("base model") == known["stages"]["base model"]["seconds"] > 0
    assert set(known["parameters"]) == set(Parameters.model_fields)  # complete
    assert known["parameters"]["particles"] == 12
    assert known["peak_memory_gb"] > 0
    assert {"torch", "fairnb", "python"} <= set(known["versions"])


def test_tables_agree_with_each_other_and_with_the_heads(done):
    """US from the counts, and accuracy from the heads by plain NumPy."""
    groups = done.groups()
    us = (groups.predicted_positives / groups.n) / (groups.positives / groups.n)
    pd.testing.assert_series_equal(groups.us, us, check_names=False)
    search = done.search("multi-task")
    test = done.features()["test"]
    right = (search.heads.predict(test).T.numpy() == test.labels.numpy()).mean(axis=0)
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
    again = whole(celeba, done.folder.parent)
    assert {path: path.stat().st_mtime_ns for path in done.folder.glob("*.safetensors")} == before
    first, second = (e.search("multi-task") for e in (done, again))
    assert torch.equal(first.heads.weights, second.heads.weights)
    assert first.picked == second.picked
    assert torch.equal(first.fronts.hypervolume, second.fronts.hypervolume)


def test_other_parameters_are_refused_and_nothing_is_touched(done, celeba):
    before = {path: path.read_bytes() for path in done.folder.iterdir()}
    for changed, message in (
        ({"min_positives": 1}, "min_positives was 2, now 1"),
        ({"particles": 13}, "particles was 12, now 13"),
        ({"epsilon": 0.1}, r"epsilon was 0\.01, now 0\.1"),
        ({"epochs": 3, "seed": 1}, "epochs was 2, now 3; seed was 0, now 1"),
    ):
        with pytest.raises(ValueError, match=f"one was made with other parameters: {message}"):
            experiment(celeba, done.folder.parent, **changed)
        with pytest.raises(ValueError, match=message):  # those not given stay the run's own
            Experiment.open("one", runs=done.folder.parent, **changed)
    assert {path: path.read_bytes() for path in done.folder.iterdir()} == before


def test_what_no_stage_took_may_be_changed_and_is_noted(celeba, tmp_path):
    made = experiment(celeba, tmp_path)
    made.search("label thresholds")
    changed = experiment(celeba, tmp_path, epsilon=0.5, particles=13, workers=0)  # label thresholds know no swarm
    noted = json.loads((made.folder / "run.json").read_text())["parameters"]
    assert (noted["epsilon"], noted["particles"], noted["workers"]) == (0.5, 13, 0)
    assert changed.search("dynamic weighting").fronts.evaluations == 13 * (5 + 1)
    with pytest.raises(ValueError, match=r"epsilon was 0\.5, now 0\.01"):
        Experiment.open("one", runs=tmp_path, epsilon=0.01)
    with pytest.raises(ValueError, match=r"tolerance was 0\.1, now 0\.2"):
        Experiment.open("one", runs=tmp_path, tolerance=0.2)
    again = Experiment.open("one", runs=tmp_path, gradient_steps=20, devices=2)  # taken by no stage
    assert (again.parameters.gradient_steps, again.parameters.devices) == (20, 2)
    assert again.parameters.epsilon == 0.5


def test_a_run_goes_on_with_its_own_parameters_by_its_name_alone(tmp_path):
    given = RECIPE.model_dump() | SEARCH | {"resize": 34, "epochs": 1, "min_positives": 2, "device": "cpu"}
    given |= {"sensitive": "Young", "targets": ["Smiling", "Male"], "drawn": [64, 40, 40]}
    made = Experiment.open("young", runs=tmp_path, **given)
    before = made.parameters
    for _ in ("begun", "trained", "searched"):
        again = Experiment.open("young", runs=tmp_path)
        assert again.parameters == before
        assert (again.faces.sensitive, again.faces.label_names) == ("Young", ("Male", "Smiling"))
        again.search("multi-task") if again.record.stages else again.base_model()
    assert set(again.groups().group) == {"not Young", "Young"}
    assert set(again.record.stages) == {"base model", "features", "multi-task"}
    assert again.base_model().history.epoch.tolist() == [1]


@pytest.mark.parametrize("moment", ["_write_results", "_merge"])
def test_a_search_is_not_lost_where_its_rows_were_not_written(celeba, done, tmp_path, monkeypatch, moment):
    made = experiment(celeba, tmp_path)
    made.features()

    def breaks(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(Experiment, moment, breaks)
        with pytest.raises(OSError, match="No space left"):
            made.search("dynamic weighting")
    path = made.folder / "dynamic_weighting.safetensors"
    saved = path.read_bytes()
    assert "dynamic weighting" not in json.loads((made.folder / "run.json").read_text())["stages"]
    with monkeypatch.context() as watched:
        watched.setattr("fairnb.methods.flying.mopso", lambda *_, **__: pytest.fail("searched again"))
        again = Experiment.open("one", runs=tmp_path)
        search = again.search("dynamic weighting")
    assert path.read_bytes() == saved
    assert torch.equal(search.heads.weights, done.search("dynamic weighting").heads.weights)
    rows, others = (e.labels().query("method == 'dynamic weighting'").reset_index(drop=True) for e in (again, done))
    pd.testing.assert_frame_equal(rows, others)
    assert "epsilon" in again.record.stages["dynamic weighting"]["takes"]
    assert not (made.folder / "dynamic_weighting_search.safetensors").exists()


def test_a_search_by_other_parameters_is_not_taken_for_ones_own(celeba, tmp_path, monkeypatch):
    """Saved, but not noted as finished, and then a parameter was changed."""
    made = experiment(celeba, tmp_path, epsilon=0.5)
    made.features()
    with monkeypatch.context() as broken:
        broken.setattr(Experiment, "_write_results", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            made.search("dynamic weighting")
    changed = Experiment.open("one", runs=tmp_path, epsilon=0.01).search("dynamic weighting")
    own = experiment(celeba, tmp_path, run="two").search("dynamic weighting")
    assert torch.equal(changed.fronts.objectives, own.fronts.objectives)


def test_what_another_base_model_made_is_not_taken_for_this_one_s(celeba, done, tmp_path):
    """The base model is deleted and trained anew, on a machine that rounds in another way."""
    folder = Path(shutil.copytree(done.folder, tmp_path / "one"))
    weights = {name: value * 1.01 for name, value in load_tensors(done.folder / "base.safetensors").items()}
    weights["head.bias"] += 9.0  # predicts more labels
    save_tensors(folder / "base.safetensors", weights, recipe=load_notes(done.folder / "base.safetensors")["recipe"])
    for name in ("multi_task", "features"):
        with pytest.raises(ValueError, match=rf"{name}\.safetensors was made from another base model .* delete it"):
            experiment(celeba, tmp_path).search("multi-task")
        with pytest.raises(ValueError, match=r"was made from another base model"):
            read_run(folder)
        (folder / f"{name}.safetensors").unlink()
    made = experiment(celeba, tmp_path)
    assert made.search("multi-task").heads.weights.shape == done.search("multi-task").heads.weights.shape
    assert not torch.equal(made.features()["valid"].x, done.features()["valid"].x)
    labels = made.labels()
    assert not labels[labels.method == "base"].equals(done.labels()[done.labels().method == "base"])


def test_a_run_of_an_older_format_is_refused_in_a_line(celeba, tmp_path):
    made = experiment(celeba, tmp_path)
    path = made.folder / "run.json"
    known = json.loads(path.read_text())
    del known["format"]
    path.write_text(json.dumps(known))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="was made by an earlier version of fairnb: give this run another name") as error:
        experiment(celeba, tmp_path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == before


def test_a_run_whose_folder_was_renamed_goes_by_its_new_name(celeba, tmp_path):
    experiment(celeba, tmp_path).folder.rename(tmp_path / "another")
    again = Experiment.open("another", runs=tmp_path)
    assert again.parameters.run == "another"
    known = json.loads((again.folder / "run.json").read_text())
    assert known["run"] == known["parameters"]["run"] == "another"


def test_one_process_at_a_time_works_in_a_run_and_others_may_read(celeba, done, tmp_path, monkeypatch):
    shutil.copytree(done.folder, tmp_path / "one")
    run = experiment(celeba, tmp_path)
    with alone(run.folder):
        run.search("multi-task")  # there, so nothing is to be done
        with pytest.raises(ValueError, match=r"^another process is at work in .*: wait for it, or choose another run$"):
            run.search("label thresholds")
    monkeypatch.setattr("fairnb.run.record.alone", lambda *_, **__: pytest.fail("a finished run was written to"))
    experiment(celeba, tmp_path).search("multi-task")


def test_other_versions_and_another_precision_are_told(celeba, done, tmp_path, capsys, monkeypatch):
    shutil.copytree(done.folder, tmp_path / "one")
    file = tmp_path / "one" / "run.json"
    capsys.readouterr()
    experiment(celeba, tmp_path)
    assert not capsys.readouterr().out
    known = json.loads(file.read_text(encoding="utf-8"))
    save_json(file, known | {"versions": known["versions"] | {"fairnb": "0.0.1"}})
    experiment(celeba, tmp_path)
    assert re.match(r"^one was begun with fairnb 0\.0\.1 \(now .*\): what is added may", capsys.readouterr().out)
    later = experiment(celeba, tmp_path, "two")  # an older version's training is not taken for its own
    monkeypatch.setattr("fairnb.experiment.train_base", lambda *_, **__: pytest.fail("trains for itself"))
    with pytest.raises(pytest.fail.Exception, match="trains for itself"):
        later.base_model()
    save_json(file, known | {"device": known["device"] | {"precision": "bf16-mixed"}, "base_key": "another"})
    with pytest.raises(ValueError, match="it was trained on cpu in bf16-mixed, and this would be cpu in 32-true"):
        experiment(celeba, tmp_path)


def test_other_images_are_refused(celeba, tmp_path):
    experiment(celeba, tmp_path).base_model()
    with pytest.raises(ValueError, match="images or annotations are not the same"):
        experiment(make_celeba(tmp_path / "other", seed=9), tmp_path)
    moved = Path(shutil.copytree(celeba, tmp_path / "moved"))  # with their dates
    assert experiment(moved, tmp_path).record.known["data_root"] == str(moved)


def test_runs_share_a_trained_base(done, celeba, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "_Training", lambda *_: pytest.fail("trained again"))
    other = experiment(celeba, done.folder.parent, run="another name", min_positives=1)
    monkeypatch.setattr("fairnb.data.feeding.Feed.batches", lambda *_: pytest.fail("computed again"))
    assert torch.equal(other.base_model().heads, done.base_model().heads)
    assert other.record.known["base_from"] == "one"
    other.features()
    for name in ("base.safetensors", "features.safetensors", "history.csv", "history_us.csv"):
        assert (other.folder / name).samefile(done.folder / name)
    assert set(other.record.stages) == {"base model", "features"}
    shutil.copytree(other.folder, tmp_path / training_of(other.parameters).run)  # trainings/<key>, as a sweep trains
    assert experiment(celeba, tmp_path, run="a sweep/a run").base_model().heads.equal(done.base_model().heads)


def test_what_every_search_takes_reaches_it(celeba, done):
    problem = Problem(done.features()["valid"], done.heads(), done.analysed, tolerance=0.1)
    begin, paid = recalibrate(problem.valid.x, problem.valid.labels, problem.heads)
    cases: list[tuple[str, Any, dict[str, Any]]] = [
        ("held_out", 0.3, {"held_out": 0.3}), ("indifference", 1.0, {"indifference": 1.0}), ("search_seed", 7, {"seed": 7}),
        ("start", "recalibrated", {"begin": begin, "paid": paid}),
    ]  # fmt: skip
    for name, value, changed in cases:
        run = experiment(celeba, done.folder.parent, run=f"taken/{name}", **{name: value})
        search = run.search("multi-task")
        wanted = multi_task(replace(problem, **changed), run.parameters.part(Swarm), run.parameters.part(Settings))
        assert torch.equal(search.heads.weights, wanted.heads.weights), name
        assert name in run.record.stages["multi-task"]["takes"]
        assert run.record.known["base_from"] == "one"


def test_another_pick_needs_no_other_search(celeba, done, capsys):
    for asked in ({"max_fpr_gap": 0.05}, {"no_label_worse": True, "tolerance": 0.2}, {"min_recall": 0.999}):
        for method in ("multi-task", "dynamic weighting"):
            again = done.pick_again(method, **asked)
            said = capsys.readouterr().out
            run = f"picked/{method} {'-'.join(asked)}"
            own = experiment(celeba, done.folder.parent, run=run, **asked).search(method)
            assert torch.equal(again.heads.weights, own.heads.weights)
            assert (again.picked, again.met) == (own.picked, own.met)
            words = ", ".join(f"{name}={value}" for name, value in asked.items())
            assert (f"{method} ({words}): the base model stays: no model meets" in said) != all(again.met)
            assert ("the base model stays" in capsys.readouterr().out) != all(own.met)
    assert torch.equal(again.heads.last, done.heads())  # a recall that nothing has
    assert again.met == [False]
    with pytest.raises(ValueError, match="unknown parameter of a pick 'max_fpr': did you mean 'max_fpr_gap'"):
        done.pick_again("multi-task", max_fpr=0.1)
    with pytest.raises(ValueError, match="unknown parameter of a pick 'particles'"):
        done.pick_again("multi-task", particles=3)


def test_a_run_older_than_a_parameter_goes_on_with_its_default_alone(celeba, done, tmp_path):
    folder, newer = Path(shutil.copytree(done.folder, tmp_path / "one")), Conditions.names()
    known = json.loads((folder / "run.json").read_text())
    known["parameters"] = {name: value for name, value in known["parameters"].items() if name not in newer}
    for stage in known["stages"].values():
        stage["takes"] = [name for name in stage["takes"] if name not in newer]
    (folder / "run.json").write_text(json.dumps(known))
    for path in (folder / "multi_task.safetensors", folder / "dynamic_weighting.safetensors"):
        save_tensors(path, {name: part for name, part in load_tensors(path).items() if name != "met"})
    before = {path: path.read_bytes() for path in folder.iterdir()}
    for _ in ("as it was written", "as it is continued"):
        with pytest.raises(ValueError, match=r"one was made with other parameters: max_fpr_gap was 1\.0, now 0\.1\."):
            Experiment.open("one", runs=tmp_path, max_fpr_gap=0.1)
        again = Experiment.open("one", runs=tmp_path)
        for method in ("dynamic weighting", "multi-task"):
            assert torch.equal(again.search(method).heads.weights, done.search(method).heads.weights)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {"run.json"}  # complete again


def test_a_mistake_is_not_held_against_the_run(celeba, tmp_path):
    """Parameters that led to nothing are forgotten: the next try may put them right under the same name."""
    with pytest.raises(ValueError, match="unknown backbone"):
        experiment(celeba, tmp_path, backbone="resnet8").base_model()
    with pytest.raises(ValueError, match="epsilon=0 must be above 0"):
        experiment(celeba, tmp_path, epsilon=0)
    made = experiment(celeba, tmp_path)
    made.search("dynamic weighting")
    assert made.parameters.epsilon == 0.01
    assert made.parameters.backbone == RECIPE.backbone


def test_bad_names_and_settings(celeba, tmp_path):
    for run in ("", "a//b", "a/..", "/a", "..", "cache", "trainings"):
        with pytest.raises(ValueError, match=r"must be a plain folder name|is the folder of"):
            experiment(celeba, tmp_path, run=run)
    with pytest.raises(ValueError, match="min_positives=0"):
        experiment(celeba, tmp_path, min_positives=0)
    with pytest.raises(ValueError, match="did you mean 'epsilon'"):
        experiment(celeba, tmp_path, epsilom=0.1)
    assert list(tmp_path.iterdir()) == []
    made = experiment(celeba, tmp_path)
    with pytest.raises(ValueError, match="did you mean 'label thresholds'"):
        made.search("label threshold")
    with pytest.raises(ValueError, match="is the model before any search"):
        made.search("base")
    assert made.record.stages == {}


def test_a_label_that_a_group_never_has_is_not_analysed(tmp_path):
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
    (other := tmp_path / "other").touch()
    assert path.stat().st_mode == other.stat().st_mode  # a colleague may read it, where other files may be read


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


def test_names_stay_text_in_a_runs_tables(tmp_path):
    run: Any = SimpleNamespace(folder=tmp_path, _mend_tables=lambda: None)
    names, groups = ["0", "007", "NA", "nan", "None", "True", "1e3"], ["0", 'A$B, "C"']
    counts = torch.tensor([[[5, 0], [2, 2]], [[5, 1], [0, 0]]]).expand(len(names), 2, 2, 2)  # the second has no positives
    for method in ("multi-task", "base"):
        Experiment._merge(run, "groups.csv", group_rows(method, {"test": counts}, names, groups))
    table = Experiment.groups(run)
    assert table.label.unique().tolist() == names
    assert table.group.unique().tolist() == groups
    assert table.method.unique().tolist() == ["base", "multi-task"]
    assert table.us[table.group == "0"].eq(0.5).all()
    assert table.us[table.group != "0"].isna().all()
    assert table.positives.sum() == 2 * len(names) * 4


def test_figures_show_what_they_were_given(done):
    plots.set_style()
    labels, groups = done.labels(), done.groups()
    test = groups[(groups.method == "base") & (groups.split == "test")]
    names = [n for n, kept in zip(done.faces.label_names, done.analysed, strict=True) if kept]
    search = done.search("multi-task")
    dynamic = done.search("dynamic weighting")
    bars = plots.underestimation_scores(test, limit=50.0).axes[0]
    shown = sorted(round(bar.get_width(), 6) for container in bars.containers for bar in container)
    assert shown == sorted(round(us, 6) for us in test.us)
    assert len(plots.prevalence(done.faces.prevalence("train")).axes[0].containers) == 2
    assert len(plots.pareto_fronts(search, names).axes) >= len(names)
    comparison = plots.comparison(labels[(labels.split == "test") & labels.analysed]).axes[0]
    assert [text.get_text() for text in comparison.get_yticklabels()]
    assert len(comparison.collections) == 4  # a line a label, and a dot a method
    assert training_plots.learning_curves(done.base_model().history).axes[0].get_title() == "loss (BCE)"
    curves = plots.hypervolume_curves({"dynamic weighting": dynamic, "multi-task": search}).axes[0]
    gained = [bool((s.fronts.hypervolume[-1] > s.fronts.hypervolume[0]).any()) for s in (dynamic, search)]
    assert [np.asarray(line.get_ydata())[-1] for line in curves.lines] == [1.0] * sum(gained)
    plt.close("all")


def test_an_experiment_on_drawn_faces_with_another_sensitive_attribute(tmp_path):
    given = RECIPE.model_dump() | SEARCH | {"resize": 34, "image_size": 32, "epochs": 1, "min_positives": 2, "device": "cpu"}
    given |= {"sensitive": "Young", "targets": ["Male", "Smiling"], "data": "drawn", "drawn": [64, 40, 40]}
    run = Experiment.open("young", runs=tmp_path, **given)
    run.search("multi-task")
    assert set(run.groups().group) == {"not Young", "Young"}
    assert set(run.labels().label) == {"Male", "Smiling"}
    assert json.loads((run.folder / "run.json").read_text())["parameters"]["drawn"] == [64, 40, 40]
    with pytest.raises(ValueError, match=r"drawn was \[64, 40, 40\], now \[64, 40, 41\]"):
        Experiment.open("young", runs=tmp_path, **(given | {"drawn": [64, 40, 41]}))
    with pytest.raises(ValueError, match="drawn_seed was 0, now 1"):
        Experiment.open("young", runs=tmp_path, **given, drawn_seed=1)


def test_both_layers_are_searched_on_what_they_read(celeba, tmp_path):
    with pytest.raises(ValueError, match="unknown layers 'both': choose from all, last"):
        experiment(celeba, tmp_path, layers="both")
    run = experiment(celeba, tmp_path, layers="all")
    search = run.search("dynamic weighting")
    again = run.pick_again("dynamic weighting").heads
    assert torch.equal(again.weights, search.heads.weights)
    assert torch.equal(again.hidden, search.heads.hidden)
    base = run.base_model()
    base.model.replace_heads(search.heads.last, search.heads.hidden)
    logits = run.logits(base.model, "test")
    rows = run.labels().query("method == 'dynamic weighting' and split == 'test'").set_index("label")
    truth = run.features()["test"].labels
    for column, label in enumerate(run.faces.label_names):
        agreed = ((logits[:, column] > 0) == truth[:, column]).double().mean()
        assert rows.accuracy[label] == pytest.approx(float(agreed), abs=0.02)  # batches round otherwise than one product
    assert not (run.folder / "dynamic_weighting_search.safetensors").exists()
