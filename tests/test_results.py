"""The committed results: whole, of one making, and marked for what they are."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairnb.book.pages import SUMMARISED
from fairnb.book.prose import sign
from fairnb.book.tables import ablation, in_brief
from fairnb.methods import METHODS, group_use
from fairnb.run.parameters import Parameters
from fairnb.sweep.plan import read_sweep

ABLATIONS = read_sweep(Path(__file__).parents[1] / "params" / "sweeps" / "ablations.yml").comparisons
RESULTS = sorted(path.parent for path in (Path(__file__).parents[1] / "results").glob("*/methods.csv"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda folder: folder.name)
def test_results_say_what_they_are_of(folder):
    known = json.loads((folder / "provenance.json").read_text())
    assert {"data", "date", "seeds", "git_revision", "machine", "versions", "parameters", "labels", "tuning"} <= set(known)
    assert known["seeds"] >= 5
    assert "/" not in json.dumps({name: known[name] for name in ("data", "parameters", "machine")})  # no path of a machine
    methods: Any = pd.read_csv(folder / "methods.csv").set_index("method")
    assert (methods.seeds == known["seeds"]).all()
    assert set(SUMMARISED) <= {name for name, method in METHODS.items() if not method.library} <= set(methods.index)
    for column in ("uei", "accuracy"):
        assert (methods[f"{column}_low"] <= methods[column]).all()
        assert (methods[column] <= methods[f"{column}_high"]).all()
    assert {name for name in methods.index if group_use(name) == "given"} == set(methods.index[methods.needs_group])
    changes = pd.read_csv(folder / "changes.csv")
    assert all(set(labels) == set(known["labels"]) for _, labels in changes.groupby("method").label)
    counted = changes.groupby("method").worsened.sum()
    assert all(methods.worsened[method] == count for method, count in counted.items())
    means = changes.groupby("method").uei.mean()
    assert all(methods.uei[method] == pytest.approx(value, abs=1e-5) for method, value in means.items())


ABLATED = [folder for folder in RESULTS if (folder / "ablations.csv").exists()]


@pytest.mark.parametrize("folder", ABLATED, ids=lambda folder: folder.name)
def test_ablations_are_whole(folder):
    rows = pd.read_csv(folder / "ablations.csv").assign(data=folder.name)
    changed = pd.read_csv(folder / "ablation_differences.csv")
    known = json.loads((folder / "provenance.json").read_text())
    for name, settings in ABLATIONS.items():
        table = ablation(rows, name)
        against = {setting: own.get("against", next(iter(settings))) for setting, own in settings.items()}
        needed = [setting for setting, own in settings.items() if not METHODS[own["method"]].library]
        assert set(needed) <= set(table.setting)
        assert table.setting.tolist() == [setting for setting in settings if setting in set(table.setting)]
        assert (table.seeds == known["seeds"]).all()
        assert (table.uei_low <= table.uei).all()
        own: Any = changed[changed.ablation == name].set_index("setting")
        assert set(own.index) == {setting for setting in table.setting if against[setting] != setting}
        means = table.set_index("setting").uei
        for setting, row in own.iterrows():
            assert row.against == against[setting]
            assert row.uei == pytest.approx(means[setting] - means[row.against], abs=1e-5)
            assert row.uei_low <= row.uei <= row.uei_high
    searched = rows[rows.setting == "as in the chapters"].groupby("seed").uei.nunique()
    assert (searched <= 2).all()  # the multi-task search's and dynamic weighting's


def test_settings_of_ablations_are_parameters_and_have_the_reference_that_they_should():
    given = {}
    for name, settings in ABLATIONS.items():
        for setting, own in settings.items():
            assert own["method"] in METHODS
            given[name, setting] = Parameters(**{key: own[key] for key in own if key not in ("method", "against")})
    for setting, own in ABLATIONS["pick of every method"].items():
        assert own["against"] == own["method"] == setting.removesuffix(", 30 % held out")
    for setting, own in ABLATIONS["indifference of every method"].items():
        ours = f"calibrated multi-task, {setting.split(', ')[1]}"
        assert own["against"] == (ours if setting != ours else "calibrated multi-task, lowest UEI")
    for setting in ABLATIONS[name := "particles at equal evaluations"]:
        swarm = given[name, setting]
        assert abs(swarm.evaluations - Parameters().evaluations) <= swarm.particles / 2


def test_the_photographs_are_there_with_every_peer():
    assert "photographs" in [folder.name for folder in RESULTS]
    folder = next(folder for folder in RESULTS if folder.name == "photographs")
    table: Any = pd.read_csv(folder / "methods.csv")
    peers = {
        "reweighing", "domain-independent", "fairlearn, equal odds", "fairlearn, equal true positive rates",
        "torchjd UPGrad", "pymoo NSGA-II", "jMetalPy SMPSO", "multi-task, held-out pick",
    }  # fmt: skip
    assert peers <= set(table.method)
    assert set(table.units) == {"654 people"}
    spent = table.set_index("method").evaluations
    for peer in ("random search", "pymoo NSGA-II", "jMetalPy SMPSO"):
        assert spent[peer] == spent["multi-task"]
    for areas in json.loads((folder / "provenance.json").read_text()).get("widths", {}).values():
        widths = sorted(areas, key=float)
        assert max(areas, key=lambda width: areas[width]) not in (widths[0], widths[-1])  # no box was too small to try


def test_an_ablation_by_hand():
    rows = pd.DataFrame(
        {
            "data": "d", "ablation": "a", "setting": ["x", "x", "y"], "seed": [0, 1, 0], "uei": [0.1, 0.3, 0.5],
            "accuracy": [0.9, 0.8, 0.7], "higher": [1, 2, 3], "uei_valid": 0.0, "uei_pick": [0.1, 0.2, 0.0],
            "area_valid": 0.5, "area_test": 0.4,
            "evaluations": 10, "seconds": [1.0, 3.0, 2.0],
        }
    )  # fmt: skip
    table: Any = ablation(rows, "a").set_index("setting")
    assert table.loc["x", ["seeds", "uei", "uei_low", "uei_high", "higher", "seconds"]].tolist() == [
        2,
        0.2,
        0.1,
        0.3,
        1.5,
        2.0,
    ]
    changed = pd.DataFrame(
        {
            "data": "d", "ablation": "a", "setting": ["y"], "uei": [-0.01], "uei_low": [-0.02], "uei_high": [0.001],
            "accuracy": [0.0], "accuracy_low": [-0.1], "accuracy_high": [0.1],
        }
    )  # fmt: skip
    brief = in_brief(ablation(rows, "a"), changed, "a").set_index("setting")
    assert brief["change of UEI"].to_dict() == {"x": "–", "y": "-0.010 (-0.020 to +0.001)"}
    assert table.uei_pick.tolist() == pytest.approx([0.15, 0.0])
    assert brief["area: validation, test"]["x"] == "0.500, 0.400"
    with pytest.raises(ValueError, match="unknown ablation 'b'"):
        ablation(rows, "b")


def test_what_pages_without_code_claim_is_borne_out():
    """Each of their sentences that asserts a direction, an existence or an absence, and what it rests on."""
    root = Path(__file__).parents[1]
    pages = (root / "book" / f"{name}.md" for name in ("measured", "intro", "reading_the_paper"))
    measured, intro, reading = (" ".join(page.read_text().split()) for page in pages)
    methods: Any = {folder.name: pd.read_csv(folder / "methods.csv").set_index("method") for folder in RESULTS}
    known = {folder.name: json.loads((folder / "provenance.json").read_text()) for folder in RESULTS}

    def table(folder: str, name: str, index: list[str]) -> pd.DataFrame:
        return pd.read_csv(root / "results" / folder / name).set_index(index)

    changed = {name: table(name, "ablation_differences.csv", ["ablation", "setting"]) for name in ("photographs", "drawn")}
    whitened, fresh = ("flight", "paper, whitened coordinates"), known["photographs-again"]
    of_measured = {
        "whitened coordinates cost accuracy": all(sign(one, whitened, "accuracy") < 0 for one in changed.values()),
        "on drawn faces they raise UEI": sign(changed["drawn"], whitened) > 0,
    }
    of_intro = {
        "No method was developed on the people of these": "Nobody on whom a method was developed" in fresh["data"],
        "they have several seeds": fresh["seeds"] > 1,
        "their intervals are over people and seeds": methods["photographs-again"].units.str.endswith("people").all(),
        "The photographs' labels come from a classifier": "classifier" in fresh["data"],
    }
    held = "images of the pick", "30 % held out"
    held_out = [sign(one, held, column) for one in changed.values() for column in ("uei", "accuracy")]
    swarms = [pd.read_csv(folder / "ablations.csv").groupby(["ablation", "setting"]).area_valid.mean() for folder in ABLATED]
    of_reading = {
        "on faces it is not seen to lower UEI": not any(sign(one, ("flight", "constricted")) for one in changed.values()),
        "It enlarges the area on validation": all(one[whitened] > one["flight", "as in the chapters"] for one in swarms),
        "costs accuracy on test": of_measured["whitened coordinates cost accuracy"],
        "has a higher UEI on test, and more accuracy": held_out == [1, 1, 1, 1],
    }
    for text, claims in ((measured, of_measured), (intro, of_intro), (reading, of_reading)):
        assert not [words for words in claims if words not in text]
        assert not [words for words, holds in claims.items() if not holds]


def test_no_result_is_of_the_papers_setting():
    """What the introduction's box says, as long as it is so."""
    assert not [folder.name for folder in RESULTS if "resnet50" in (folder / "provenance.json").read_text()]


def test_pages_say_what_was_found_at_the_papers_address():
    root = Path(__file__).parents[1]
    for name in ("book/intro.md", "book/reading_the_paper.md"):
        text = " ".join((root / name).read_text().split())
        assert re.search(r"held a README .*in November 2026", text), name
