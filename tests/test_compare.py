import json
import shutil
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from fairnb.book.tables import beside, between, of_methods
from fairnb.cli import app
from fairnb.evidence.compare import compare
from fairnb.evidence.outcome import Judge
from fairnb.evidence.swept import Swept, publish, rows_of
from fairnb.experiment import Experiment
from fairnb.features import load_features, load_layer, save_features
from fairnb.heads import Heads
from fairnb.methods import METHODS, load_search
from fairnb.run.parameters import Conditions, Pick
from tests import conftest
from tests.conftest import make_celeba

RECIPE = conftest.LEARNS.but(epochs=1)
OWN = [name for name, method in METHODS.items() if not method.library]
SEARCH = {"particles": 8, "iterations": 3, "tolerance": 0.1, "spread": 0.1, "epsilon": 0.01, "gradient_steps": 5}


def opened(celeba, runs, run, **changed):
    given = {"data": "celeba", "data_root": celeba, "min_positives": 2, "device": "cpu"} | RECIPE.model_dump() | SEARCH
    return Experiment.open(run, runs=runs, **(given | changed))


def make(celeba, runs, run, **changed):
    made = opened(celeba, runs, run, **changed)
    made.search("dynamic weighting")
    made.search("multi-task")
    return made


@pytest.fixture(scope="module")
def runs(celeba, tmp_path_factory):
    """Two seeds of one run, one with other swarms, and one whose training was reweighed."""
    folder = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        made = make(celeba, folder, f"plain-{seed}", seed=seed)
        for name in OWN[1:]:
            made.search(name)
        make(celeba, folder, f"reweighed-{seed}", seed=seed, mitigation="reweighing")
    make(celeba, folder, "quiet", noise=0.0)
    return folder


def test_runs_that_differ_in_their_seed_are_one_method(runs):
    found = compare([runs / "plain-0", runs / "plain-1"], draws=400)
    methods: Any = found.methods.set_index("method")
    assert list(methods.index) == OWN
    assert (methods.seeds == 2).all()
    assert methods.needs_group.to_dict() == {name: name == "group thresholds" for name in methods.index}
    assert methods.evaluations["multi-task"] == 32
    assert methods.evaluations["random search"] == 32  # as many as the swarms'
    tables = [pd.read_csv(runs / f"plain-{seed}" / "labels.csv") for seed in (0, 1)]
    for method, row in methods.iterrows():
        for split, column in (("test", "uei"), ("valid", "uei_valid")):
            means = [t[(t.method == method) & (t.split == split) & t.analysed].uei.mean() for t in tables]
            assert row[column] == pytest.approx(sum(means) / 2), (method, split)
        assert row.uei_low <= row.uei <= row.uei_high
        assert row.accuracy_low <= row.accuracy <= row.accuracy_high
    assert methods.average_precision["base"] == pytest.approx(methods.average_precision["label thresholds"])


def test_a_mitigated_training_and_other_parameters_are_methods_of_their_own(runs):
    found: Any = compare([runs / name for name in ("reweighed-0", "plain-0", "quiet")], draws=400).methods
    assert found.method[0] == "base"  # first, and once, though two runs hold it
    names = set(found.method)
    assert {
        "reweighing",
        "multi-task after reweighing (noise=0.1)",
        "multi-task (noise=0.1)",
        "multi-task (noise=0.0)",
    } <= names
    assert (found.seeds == 1).all()
    both: Any = compare([runs / f"{kind}-{seed}" for kind in ("plain", "reweighed") for seed in (0, 1)], draws=400).methods
    assert {"reweighing", "multi-task", "multi-task after reweighing"} <= set(both.method)
    assert (both.seeds == 2).all()
    said: list[str] = []
    three = [runs / "plain-0", runs / "plain-1", runs / "reweighed-1"]
    mixed: Any = compare(three, draws=400, say=said.append).methods
    assert (mixed.seeds == 1).all()  # the seed that all have
    assert len(said) == 1
    assert said[0].startswith("seed 0 is left out: it is missing for reweighing")


def test_a_method_is_told_apart_only_by_what_it_depends_on(celeba, runs):
    made = make(celeba, runs, "other-epsilon", seed=0)
    made.search("label thresholds")
    other = json.loads((runs / "other-epsilon" / "run.json").read_text())
    other["parameters"]["epsilon"] = 0.5
    (runs / "other-epsilon" / "run.json").write_text(json.dumps(other))
    found = set(compare([runs / "plain-0", runs / "other-epsilon"], draws=400).methods.method)
    assert {"dynamic weighting (epsilon=0.01)", "dynamic weighting (epsilon=0.5)", "multi-task", "label thresholds"} <= found


def test_without_a_plain_training_areas_start_from_the_runs_own(runs):
    found: Any = compare([runs / "reweighed-0"], draws=400).methods.set_index("method")
    assert found.index[0] == "reweighing"
    both: Any = compare([runs / "reweighed-0", runs / "plain-0"], draws=400).methods.set_index("method")
    features, search, analysed = loaded(runs / "reweighed-0")
    for methods, name in ((found, "reweighed-0"), (both, "plain-0")):
        begun, heads = loaded(runs / name)[0], load_layer(runs / name / "base.safetensors")
        base = Judge(begun, analysed, tolerance=0.1).outcome("base", Heads(heads.unsqueeze(0)))
        by_hand = Judge(features, analysed, tolerance=0.1, base=base).outcome("searched", search)
        assert methods.area_valid["multi-task after reweighing"] == pytest.approx(by_hand.area[0])


def loaded(folder):
    table = pd.read_csv(folder / "labels.csv")
    analysed = table[(table.method == "base") & (table.split == "test")].analysed
    search = load_search(folder / "multi_task.safetensors")
    return load_features(folder / "features.safetensors"), search, torch.tensor(analysed.to_numpy(dtype=bool))


def test_people_are_drawn_where_one_run_knows_them(runs, tmp_path):
    known, other = tmp_path / "known", tmp_path / "other"
    for folder, divisor in ((known, 2), (other, 3)):
        shutil.copytree(runs / "plain-0", folder)
        splits = load_features(folder / "features.safetensors")
        who = {name: replace(part, person=torch.arange(len(part.x)) // divisor) for name, part in splits.items()}
        save_features(folder / "features.safetensors", who)
    people = len(who["test"].x) // 2
    for order in ([runs / "plain-1", known], [known, runs / "plain-1"]):
        assert set(compare(order, draws=400, say=str).methods.units) == {f"{people} people"}
    with pytest.raises(ValueError, match="show different people on test"):
        compare([known, other], draws=400)


def test_a_search_that_is_not_finished_is_left_out(runs, tmp_path):
    """Its file may be there before its stage is noted; its parameters can still change."""
    folder = tmp_path / "broken off"
    shutil.copytree(runs / "plain-0", folder)
    known = json.loads((folder / "run.json").read_text())
    del known["stages"]["soft UEI"]
    (folder / "run.json").write_text(json.dumps(known))
    assert set(compare([folder], draws=400).methods.method) == set(OWN) - {"soft UEI"}


def test_settings_of_a_sweep_are_compared_and_published(runs, tmp_path):
    settings = [("base", "plain", "base"), ("multi", "plain", "multi-task"), ("reweighing", "reweighed", "base")]
    rows = [("methods", name, "base", f"{run}-{seed}", method) for name, run, method in settings for seed in (0, 1)]
    rows += [("pick", "multi", "multi", f"plain-{seed}", "multi-task") for seed in (0, 1)]
    rows += [("pick", "dynamic", "multi", f"plain-{seed}", "dynamic weighting") for seed in (0, 1)]
    table = pd.DataFrame(rows, columns=["comparison", "setting", "against", "run", "method"])
    of_run = {run: pd.DataFrame(rows_of(runs / run)).set_index("method") for run in table.run.unique()}
    measured = [of_run[run].loc[method] for run, method in zip(table.run, table.method, strict=True)]
    table = table.assign(seed=[int(run[-1]) for run in table.run]).join(pd.DataFrame(measured).reset_index(drop=True))
    (sweep := runs / "a-sweep").mkdir()
    table.to_csv(sweep / "table.csv", index=False)
    (sweep / "sweep.json").write_text(json.dumps({"about": {"tuning": "none"}}))
    found = dict(Swept(sweep).evidence())
    plain = compare([runs / "plain-0", runs / "plain-1"], draws=400).methods.set_index("method")
    methods: Any = found["methods"].methods.set_index("method")
    assert list(methods.index) == ["base", "multi", "reweighing"]
    assert methods.uei["multi"] == plain.uei["multi-task"]
    assert methods.seconds["base"] == pytest.approx(plain.seconds["base"])
    publish(tmp_path / "new", [sweep], found, data="squares")
    known = json.loads((tmp_path / "new" / "provenance.json").read_text())
    assert (known["data"], known["tuning"], known["seeds"]) == ("squares", "none", 2)
    ablations = pd.read_csv(tmp_path / "new" / "ablations.csv")
    assert ablations.setting.tolist() == ["multi", "multi", "dynamic", "dynamic"]
    differences: Any = pd.read_csv(tmp_path / "new" / "ablation_differences.csv").set_index("setting")
    assert list(differences.index) == ["dynamic"]
    expected = plain.uei["dynamic weighting"] - plain.uei["multi-task"]
    assert differences.uei["dynamic"] == pytest.approx(expected, abs=1e-6)


def test_few_seeds_are_told(runs):
    said: list[str] = []
    compare([runs / "plain-0", runs / "plain-1"], draws=400, say=said.append)
    assert said == ["2 seeds are few: intervals are wide, and hardly any label can count as changed; run 5 or more"]
    compare([runs / "plain-0"], draws=400, say=said.append)
    assert len(said) == 1


def test_the_command_prints_the_table_and_writes_it(runs, tmp_path):
    done = CliRunner().invoke(app, ["compare", str(runs / "plain-0"), str(runs / "plain-1"), "--publish", str(tmp_path)])
    assert done.exit_code == 0, done.output
    methods = pd.read_csv(tmp_path / "methods.csv")
    for text in (*of_methods(methods).method, *of_methods(methods).UEI):
        assert text in done.output
    assert f"resampled {methods.units[0]} of the test split; seeds: 2." in done.output
    assert {path.name for path in tmp_path.iterdir()} == {"methods.csv", "changes.csv", "differences.csv", "provenance.json"}
    wanted = [
        "method", "seeds", "uei", "uei_low", "uei_high", "accuracy", "accuracy_low", "accuracy_high", "worsened",
        "needs_group", "evaluations", "seconds",
    ]  # fmt: skip
    assert set(wanted) <= set(methods)


def test_differences_as_people_read_them():
    measures = {"uei": -0.0104, "accuracy": 0.0, "tpr_gap": 0.2, "fpr_gap": float("nan")}
    ends = {
        f"{name}{end}": value + side for name, value in measures.items() for end, side in (("_low", -0.01), ("_high", 0.01))
    }
    one = {"method": "a", "against": "b"} | measures | ends
    table = between(pd.DataFrame([one, one | {"method": "b", "against": "a", "uei": 1.0}]), [("a", "b")])
    assert table.to_dict("records") == [
        {
            "method": "a", "less": "b", "UEI": "-0.0104 (-0.0204 to -0.0004)", "accuracy": "0.000 (-0.010 to +0.010)",
            "gap of TPR": "+0.200 (+0.190 to +0.210)", "gap of FPR": "–",
        }
    ]  # fmt: skip
    with pytest.raises(KeyError):
        between(pd.DataFrame([one]), [("a", "c")])


def test_what_costs_nothing_to_search_shows_no_evaluations(runs):
    table: Any = beside(compare([runs / "plain-0"], draws=500).methods).set_index("method")
    assert table.evaluations["base"] == "–"
    assert table.evaluations["multi-task"] != "–"


def test_what_cannot_be_compared_is_said_in_a_line(runs, tmp_path):
    def output(*words):
        done = CliRunner().invoke(app, ["compare", *map(str, words)])
        assert done.exit_code == 1
        return done.output

    assert "is neither a run nor a sweep with results: it has no table.csv" in output(tmp_path)
    old = tmp_path / "old"
    shutil.copytree(runs / "plain-0", old)
    known = json.loads((old / "run.json").read_text())
    (old / "run.json").write_text(json.dumps({name: known[name] for name in ("parameters", "base_key")}))
    assert "was made by an earlier version of fairnb" in output(old)
    other = make(make_celeba(tmp_path / "other", seed=1), tmp_path / "runs", "other")
    assert "differ in test images or labels" in output(runs / "plain-0", other.folder)
    assert "no seed is common" in output(runs / "plain-0", runs / "reweighed-1")


def test_a_search_of_both_layers_is_judged_by_its_own_features(celeba, tmp_path):
    made = opened(celeba, tmp_path, "both", layers="all")
    search = made.search("dynamic weighting")
    found: Any = compare([made.folder], draws=400).methods.set_index("method")
    pooled = made.pooled_features()["test"]
    assert search.heads.hidden is not None
    right = search.heads.predict(pooled) == pooled.labels.T
    assert found.accuracy["dynamic weighting"] == pytest.approx(right[made.analysed].double().mean().item())


def test_baselines_of_a_run_are_kept_and_their_settings_too(celeba, runs):
    made = make(celeba, runs, "plain-0")
    before = {path: path.stat().st_mtime_ns for path in made.folder.glob("*.safetensors")}
    search = made.search("group thresholds")
    assert search.heads.by_group
    assert {path: path.stat().st_mtime_ns for path in made.folder.glob("*.safetensors")} == before
    labels = made.labels()
    rows = labels[(labels.method == "group thresholds") & (labels.split == "test")]
    right = search.heads.predict(made.features()["test"]) == made.features()["test"].labels.T
    assert rows.accuracy.tolist() == pytest.approx(right.double().mean(1).tolist())
    for changed, message in (
        ({"iterations": 4}, "iterations was 3, now 4"),
        ({"gradient_steps": 6}, "gradient_steps was 5, now 6"),
        ({"tolerance": 0.2}, r"tolerance was 0\.1, now 0\.2"),
    ):
        with pytest.raises(ValueError, match=message):
            opened(celeba, runs, "plain-0", **changed)
    with pytest.raises(ValueError, match="did you mean 'label thresholds'"):
        made.search("label threshold")


def test_each_method_notes_what_it_took(celeba, tmp_path):
    made = opened(celeba, tmp_path, "one")
    swarm = {"particles", "iterations", "noise"}
    for method, taken in {
        "label thresholds": set(), "group thresholds": set(), "soft UEI": {"gradient_steps"},
        "random search": {"particles", "iterations"}, "calibrated multi-task": swarm,
        "multi-task": swarm | {"spread", "steer", "whiten"},
        "dynamic weighting": swarm | {"spread", "steer", "whiten", "epsilon", "layers"},
    }.items():  # fmt: skip
        made.search(method)
        asked = swarm | {"spread", "steer", "whiten", "epsilon", "layers", "gradient_steps"}
        assert set(made.record.stages[method]["takes"]) & asked == taken, method
        assert {"seed", "min_positives"} | Pick.names() | Conditions.names() <= set(made.record.stages[method]["takes"])


def test_the_introductions_table_is_that_of_the_fresh_photographs_and_of_the_run(runs, tmp_path, monkeypatch):
    from fairnb.book.pages import _summary

    evidence = compare([runs / "plain-0"], draws=400)
    photographs = tmp_path / "results" / "photographs-again"
    photographs.mkdir(parents=True)
    evidence.save(photographs)
    evidence.save(runs / "plain-0")
    table = _summary(tmp_path, runs / "plain-0")
    assert len(table) == 2 * 6
    base = of_methods(evidence.methods).iloc[0]
    row = ["base", base.UEI, base.accuracy, f"0 of {evidence.methods.labels[0]}", "unused"]
    assert table.iloc[0].tolist() == ["photographs", *row]
    assert table.iloc[6].tolist() == ["this run", *row]
