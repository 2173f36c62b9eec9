"""The committed results: whole, of one making, and marked for what they are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairnb.ablations import ABLATIONS
from fairnb.pages import SUMMARISED
from fairnb.tables import METHODS, ablation

RESULTS = sorted(path.parent for path in (Path(__file__).parents[1] / "results").glob("*/methods.csv"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_say_what_they_are_of(folder):
    known = json.loads((folder / "provenance.json").read_text())
    assert {"data", "date", "seeds", "git_revision", "machine", "versions", "parameters", "labels", "tuning"} <= set(known)
    assert known["seeds"] >= 5
    assert "/" not in json.dumps({name: known[name] for name in ("data", "parameters", "machine")})  # no path of a machine
    methods: Any = pd.read_csv(folder / "methods.csv").set_index("method")
    assert (methods.seeds == known["seeds"]).all()
    assert set(SUMMARISED) <= set(METHODS) <= set(methods.index)
    for column in ("uei", "accuracy"):
        assert (methods[f"{column}_low"] <= methods[column]).all()
        assert (methods[column] <= methods[f"{column}_high"]).all()
    changes = pd.read_csv(folder / "changes.csv")
    assert all(set(labels) == set(known["labels"]) for _, labels in changes.groupby("method").label)
    counted = changes.groupby("method").worsened.sum()
    assert all(methods.worsened[method] == count for method, count in counted.items())
    means = changes.groupby("method").uei.mean()
    assert all(methods.uei[method] == pytest.approx(value, abs=1e-5) for method, value in means.items())


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_ablations_are_whole(folder):
    rows = pd.read_csv(folder / "ablations.csv").assign(data=folder.name)
    known = json.loads((folder / "provenance.json").read_text())
    for name, settings in ABLATIONS.items():
        table = ablation(rows, name)
        assert table.setting.tolist() == list(settings)
        assert (table.seeds == known["seeds"]).all()
        assert (table.uei_low <= table.uei).all()
    own = rows[rows.setting == "as in the chapters"].groupby("seed").uei.nunique()
    assert (own <= 2).all()  # the multi-task search's and dynamic weighting's


def test_the_photographs_are_there_with_every_peer():
    assert "photographs" in [folder.name for folder in RESULTS]
    methods = set(pd.read_csv(next(f for f in RESULTS if f.name == "photographs") / "methods.csv").method)
    peers = {
        "reweighing", "domain-independent", "fairlearn, equal odds", "fairlearn, equal true positive rates",
        "torchjd UPGrad", "pymoo NSGA-II", "jMetalPy SMPSO", "multi-task, held-out pick",
    }  # fmt: skip
    assert peers <= methods


def test_an_ablation_by_hand():
    rows = pd.DataFrame(
        {
            "data": "d", "ablation": "a", "setting": ["x", "x", "y"], "seed": [0, 1, 0], "uei": [0.1, 0.3, 0.5],
            "accuracy": [0.9, 0.8, 0.7], "worsened": [1, 2, 3], "uei_valid": 0.0, "area_valid": 0.5, "area_test": 0.4,
            "evaluations": 10, "seconds": [1.0, 3.0, 2.0],
        }
    )  # fmt: skip
    table: Any = ablation(rows, "a").set_index("setting")
    assert table.loc["x", ["seeds", "uei", "uei_low", "uei_high", "worsened", "seconds"]].tolist() == [
        2,
        0.2,
        0.1,
        0.3,
        1.5,
        2.0,
    ]
    with pytest.raises(ValueError, match="unknown ablation 'b'"):
        ablation(rows, "b")
