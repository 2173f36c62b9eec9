"""The committed results: whole, of one making, and marked for what they are."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairnb.ablations import ABLATIONS, OF_METHODS, against
from fairnb.evidence import AIM
from fairnb.pages import SUMMARISED
from fairnb.tables import METHODS, ablation, group_use, in_brief, with_range

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
        assert table.setting.tolist()[: len(settings)] == list(settings)
        assert (table.seeds == known["seeds"]).all()
        assert (table.uei_low <= table.uei).all()
        own: Any = changed[changed.ablation == name].set_index("setting")
        assert set(own.index) <= set(table.setting)
        changing = {setting for setting in table.setting if against(name, setting) != setting}
        assert len(changing) >= (len(table) / 2 if name in OF_METHODS else len(settings) - 1)
        assert set(own.index) == changing
        means = table.set_index("setting").uei
        for setting, row in own.iterrows():
            assert row.against == against(name, setting)
            assert row.uei == pytest.approx(means[setting] - means[row.against], abs=1e-5)
            assert row.uei_low <= row.uei <= row.uei_high
    searched = rows[rows.setting == "as in the chapters"].groupby("seed").uei.nunique()
    assert (searched <= 2).all()  # the multi-task search's and dynamic weighting's


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
    for areas in json.loads((folder / "provenance.json").read_text())["widths"].values():
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


def test_readme_shows_the_results():
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    results: Any = {folder.name: pd.read_csv(folder / "methods.csv").set_index("method") for folder in RESULTS}
    once, again = results["photographs"], results["photographs-again"]
    cells = [with_range(table.loc[again.index], column) for table in (once, again) for column in ("uei", "accuracy")]
    rows = [
        f"| {method} | {' | '.join(cell[method] for cell in cells)} | {group_use(method)} |"
        for method in again.index
        if not method.startswith("fairlearn") and not method.endswith("pick")
    ]
    missing = [row for row in rows if row not in readme]
    assert not missing, "\n".join(["README's table is not that of results/; it should say", *rows])


def test_readme_tells_what_the_results_show():
    root = Path(__file__).parents[1]
    readme = " ".join((root / "README.md").read_text().split())
    ours = "calibrated multi-task"
    named = ["label thresholds", "group thresholds", "multi-task", ours]

    def less(folder: str, other: str) -> Any:
        table = pd.read_csv(root / "results" / folder / "differences.csv")
        return table[(table.method == ours) & (table.against == other)]

    def change(folder: str, other: str) -> str:
        return with_range(less(folder, other), "uei", signed=True).item()

    once: Any = pd.read_csv(root / "results" / "photographs" / "methods.csv").set_index("method")
    rise = once.highest_rise[[name for name in once.index if f"| {name} |" in readme]]
    wider = (once.fpr_gap - once.fpr_gap["base"])[named]
    label = -less("photographs", "label thresholds").accuracy.item()
    torchjd = -less("photographs-again", "torchjd UPGrad").accuracy.item()
    table = pd.read_csv(root / "results" / "photographs" / "ablation_differences.csv")
    picked = table[table.ablation == "indifference of every method"].set_index("setting")
    even = {column: with_range(picked, column, signed=True) for column in ("uei", "accuracy")}
    soft, multi = (
        {column: cells[f"{name}, indifferent"] for column, cells in even.items()} for name in ("soft UEI", "multi-task")
    )
    for told in [
        f"soft UEI less it is {soft['uei']} in UEI and {soft['accuracy']} in accuracy",
        f"multi-task {multi['uei']} and {multi['accuracy']}.",
        f"It reaches {once.uei[ours]:.3f} at {once.accuracy[ours]:.3f} ",
        f"cannot tell it from group thresholds, {change('photographs', 'group thresholds')} in UEI",
        f"Label thresholds keep {label:.3f} more accuracy.",
        f"by {change('photographs-again', 'group thresholds')} from group thresholds",
        f"by {change('photographs-again', 'multi-task')} from the multi-task search; torchjd has a higher UEI",
        f"keeps {torchjd:.3f} more accuracy.",
        f"between {rise.min():.3f} ({rise.idxmin()}) and {rise.max():.3f} ({rise.idxmax()})",
        f"is {rise[ours]:.3f} with the calibrated search, where less than {AIM.rise} was wanted",
        *(f"{value:.3f} with {method.replace(ours, 'the calibrated search')}" for method, value in wider.items()),
    ]:
        assert told in readme
