"""Any number of groups: metrics, searches, comparisons, and folders of every layout from data to chapters."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from fairnb.cli import app
from fairnb.evidence.outcome import Judge
from fairnb.evidence.swept import METHODS_COMPARED, Swept
from fairnb.evidence.weigh import weigh
from fairnb.experiment import Experiment
from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import METHODS, Problem
from fairnb.methods.calibrated import group_directions
from fairnb.methods.thresholds import group_thresholds
from fairnb.metrics import MEASURES, contingency_table, underestimation_index, underestimation_score
from fairnb.run.parameters import Parameters
from tests.conftest import RECIPE, make_celeba
from tests.test_layouts import make_fairface, make_hub, make_lfw, make_mask_hq, make_table, make_utkface

ROOT = Path(__file__).parents[1]
QUICK = Parameters(particles=8, iterations=6)


def make(groups: int, images: int = 400, labels: int = 2, seed: int = 0) -> Problem:
    """Features that tell labels and groups with noise, and heads that say yes too rarely."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(groups, (images,), generator=draw)
    x = torch.randn(images, 6, generator=draw)
    x[:, -1] += group
    truth = x[:, :labels] + 0.8 * torch.randn(images, labels, generator=draw) + 0.3 * group[:, None] > 1
    heads = torch.cat([torch.eye(labels, 6), torch.full((labels, 1), -1.8)], dim=1)
    return Problem(Features(x, truth, group, groups), heads)


def permuted(problem: Problem, order: list[int]) -> Problem:
    """The same people, their groups called otherwise."""
    return replace(problem, features=replace(problem.features, group=torch.tensor(order)[problem.features.group]))


def test_three_groups_are_measured_as_by_hand():
    truth = [1, 1, 0, 0, 1, 1, 1, 0, 1, 0, 0, 0]
    pred = [1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    group = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    table = contingency_table(torch.tensor(pred), torch.tensor(truth), torch.tensor(group))
    assert underestimation_score(table).tolist() == [1 / 2, 4 / 3, 0]
    shared = 0.0
    for g, value in itertools.product(range(3), (0, 1)):
        predicted = sum(p == value for p, of in zip(pred, group, strict=True) if of == g) / 12
        true = sum(t == value for t, of in zip(truth, group, strict=True) if of == g) / 12
        shared += math.sqrt(predicted * true)
    assert float(underestimation_index(table)) == pytest.approx(math.sqrt(1 - shared), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_splitting_groups_never_lowers_the_index(seed):
    problem = make(6, seed=seed)
    fine = Heads(problem.heads.unsqueeze(0)).tables(problem.features)
    coarse = fine.unflatten(1, (2, 3)).sum(2)
    assert (underestimation_index(fine) >= underestimation_index(coarse) - 1e-12).all()


@pytest.mark.parametrize("order", [[1, 2, 0], [2, 1, 0]])
def test_the_order_of_groups_changes_nothing_but_their_order(order):
    problem = make(3)
    other, place = permuted(problem, order), torch.tensor(order)
    tables, again = (Heads(p.heads.unsqueeze(0)).tables(p.features) for p in (problem, other))
    assert torch.equal(again[:, place], tables)
    for measure in MEASURES.values():
        torch.testing.assert_close(measure.of(again), measure.of(tables), equal_nan=True)
    for name in ("label thresholds", "group thresholds", "multi-task"):
        first, second = (METHODS[name].search(p, QUICK).heads.tables(p.features) for p in (problem, other))
        assert torch.equal(second[:, place], first), name


def test_thresholds_of_three_groups_are_the_best_of_all_combinations():
    problem = make(3, images=30, labels=1)
    search, valid = group_thresholds(problem), problem.features
    raw = (valid.x @ problem.heads[0, :-1]).tolist()
    cuts = [sorted({r for r, g in zip(raw, valid.group.tolist(), strict=True) if g == own} | {9.0}) for own in range(3)]
    points = []
    for cut in itertools.product(*cuts):
        said = torch.tensor([r >= cut[g] for r, g in zip(raw, valid.group.tolist(), strict=True)])
        table = valid.tables(said.unsqueeze(0))
        wrong = float((said != valid.labels[:, 0]).double().mean())
        points.append((round(float(underestimation_index(table)), 9), round(wrong, 9)))
    front = {p for p in points if not any(q[0] <= p[0] and q[1] <= p[1] and q != p for q in points)}
    places = search.fronts.along()[0]
    found = {(round(float(f[0]), 9), round(float(f[1]), 9)) for f in search.fronts.objectives[0][places]}
    assert found == front


def test_the_calibrated_search_has_a_direction_for_each_group_but_the_first():
    directions, _ = group_directions(make(7, images=700).features, 0)
    assert directions.shape == (6, 7)


def test_gaps_and_intervals_take_any_number_of_groups():
    problem = make(5, images=900)
    judge = Judge({"valid": problem.features, "test": make(5, images=900, seed=1).features}, torch.tensor([True, True]))
    base = judge.outcome("base", Heads(problem.heads.unsqueeze(0)))
    mended = judge.outcome("label thresholds", METHODS["label thresholds"].search(problem, QUICK), base=base)
    evidence = weigh([base, mended], judge.features["test"], ["a", "b"], draws=500)
    assert evidence.methods.tpr_gap.between(0, 1).all()
    assert (evidence.methods.uei_low < evidence.methods.uei_high).all()
    assert evidence.changes.mended.all()


def test_a_run_is_looked_at_by_other_groups(tmp_path):
    make_celeba(tmp_path / "data")
    given = RECIPE.model_dump() | {"data": "celeba", "data_root": str(tmp_path / "data"), "min_positives": 1, "epochs": 1}
    experiment = Experiment.open("one", runs=tmp_path / "runs", **given)
    assert experiment.another_attribute() == "Young"
    faces, features, judged = experiment.regrouped("Male", "Young")
    assert faces.group_names[3] == "male, Young"
    own = experiment.features()["test"]
    assert torch.equal(features["test"].x, own.x)
    young = own.labels[:, experiment.faces.label_names.index("Young")]
    assert torch.equal(features["test"].group, 2 * own.group + young)
    assert not judged[experiment.faces.label_names.index("Young")]
    tables = Heads(experiment.heads().unsqueeze(0)).tables(features["test"])
    assert torch.equal(tables.unflatten(1, (2, 2)).sum(2), Heads(experiment.heads().unsqueeze(0)).tables(own))


def test_a_folder_is_told_and_shown(tmp_path):
    make_fairface(tmp_path / "faces")
    page = tmp_path / "page.html"
    found = CliRunner().invoke(app, ["data", str(tmp_path / "faces"), "-p", "sensitive=race", "--page", str(page)])
    assert found.exit_code == 0, found.output
    words = found.output.split()
    assert "is read as fairface: 280 images, 7 labels" in found.output.replace("\n", " ")
    assert {"Latino_Hispanic", "service_test", "age=0-2"} <= set(words)
    assert "-p 'data=fairface'" in found.output
    html = page.read_text()
    assert html.count("<figure>") == 7 * 8
    assert "validation images are the test" in html
    bad = CliRunner().invoke(app, ["data", str(tmp_path)])
    assert bad.exit_code == 1
    (tmp_path / "nothing").mkdir()
    bad = CliRunner().invoke(app, ["data", str(tmp_path / "nothing")])
    assert "holds no table" in bad.output


def test_a_folder_without_a_usual_group_asks_for_one(tmp_path):
    make_table(tmp_path / "t")
    table = tmp_path / "t" / "faces.csv"
    table.write_text(table.read_text().replace("Male", "Chubby"))
    bad = CliRunner().invoke(app, ["data", str(tmp_path / "t")])
    assert bad.exit_code == 1
    assert "Say -p sensitive=" in " ".join(bad.output.split())
    assert "Chubby, Smiling" in " ".join(bad.output.split())


def test_a_sweep_of_several_groups_is_published_by_dataset(tmp_path):
    for name, sensitive in (("a", "Male"), ("b", "Young"), ("c", ("Male", "Young"))):
        given = RECIPE.model_dump() | {
            "drawn": [60, 80, 80],
            "resize": 34,
            "image_size": 32,
            "min_positives": 1,
            "epochs": 1,
            "sensitive": sensitive,
        }
        experiment = Experiment.open(f"s/{name}", runs=tmp_path / "runs", **given)
        experiment.search("label thresholds")
    runs = [f"s/{name}" for name in "abc"]
    pd.DataFrame({"run": runs, "method": "base"}).to_csv(tmp_path / "runs" / "s" / "table.csv", index=False)
    (tmp_path / "runs" / "s" / "sweep.json").write_text('{"about": {"data": "small"}}')
    swept = Swept(tmp_path / "runs" / "s")
    assert list(swept.datasets) == ["Male", "Young", "Male and Young"]
    found = CliRunner().invoke(app, ["compare", str(swept.folder), "--publish", str(tmp_path / "out")])
    assert found.exit_code == 0, found.output
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["Male", "Male and Young", "Young"]
    assert "label thresholds" in set(pd.read_csv(tmp_path / "out" / "Male and Young" / "methods.csv").method)
    assert METHODS_COMPARED not in swept.datasets


def make_official(root: Path) -> Path:
    """CelebA's official folder."""
    return make_celeba(root)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make_folder", "given"),
    [
        (make_official, {"data": "celeba"}),
        (make_mask_hq, {"data": "celebamask_hq"}),
        (make_fairface, {"data": "fairface", "sensitive": ["race"]}),
        (make_utkface, {"data": "utkface", "sensitive": ["gender"]}),
        (make_lfw, {"data": "lfw"}),
        (make_hub, {"data": "table", "sensitive": ["Male", "Young"]}),
        (make_table, {"data": "table"}),
    ],
)  # fmt: skip
def test_every_layout_goes_through_the_chapters(tmp_path, monkeypatch, make_folder, given):
    make_folder(tmp_path / "data")
    small: dict[str, object] = {
        "epochs": 1,
        "min_positives": 1,
        "particles": 6,
        "iterations": 3,
        "image_size": 24,
        "resize": 24,
    }
    small |= {"batch_size": 12, "hidden": 16, "run": "r", "data_root": str(tmp_path / "data"), "backbone": RECIPE.backbone}
    monkeypatch.chdir(tmp_path)
    for place in ("notebooks", "results"):
        (tmp_path / place).symlink_to(ROOT / place)
    (tmp_path / "pyproject.toml").touch()
    Experiment.open(**(small | given))
    for chapter in sorted((ROOT / "notebooks").glob("0[1-5]_*.ipynb")):
        space: dict[str, object] = {}
        for cell in nbformat.read(chapter, as_version=4).cells:
            if cell.cell_type == "code":  # in this process: a kernel for each would take minutes
                exec(compile(cell.source, chapter.name, "exec"), space)
            if "parameters" in cell.metadata.get("tags", []):
                space = {"run": "r"}
    plt.close("all")
    assert set(pd.read_csv("runs/r/labels.csv").method) >= {
        "base",
        "multi-task",
        "group thresholds",
        "calibrated multi-task",
    }
