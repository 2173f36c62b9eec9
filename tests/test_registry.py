"""A method and a measure are declared once: a toy of each, in ten lines, is seen wherever methods and measures are."""

import matplotlib.pyplot as plt
import pytest
import torch

from fairnb.book import plots
from fairnb.book.tables import beside, of_methods, summary
from fairnb.evidence.compare import compare
from fairnb.experiment import Experiment
from fairnb.methods import METHODS, Method, group_use, picked_from
from fairnb.metrics import MEASURES, Measure
from tests.conftest import RECIPE


def toy_search(problem, given):
    """Every head's bias raised by 1, or left."""
    raised = problem.start.clone()
    raised[:, -1] += 1
    values = torch.stack([problem.base[:, 0] / 2, problem.base[:, 1]], dim=1)
    return picked_from(problem, list(raised.unsqueeze(1)), list(values.unsqueeze(1)), 2)


TOY = Method("toy", toy_search, frozenset(), "unused", "#000000", "X")
PREDICTED = Measure(lambda table: table[..., 1].double().sum((-2, -1)), "predicted", 0.0, bounds=(0, 1e9), per_label=True)


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(METHODS, "toy", TOY)
    monkeypatch.setitem(MEASURES, "predicted", PREDICTED)


def test_a_toy_method_and_a_toy_measure_are_seen_everywhere(registered, celeba, tmp_path):
    given = {"data": "celeba", "data_root": celeba, "min_positives": 2, "device": "cpu", **RECIPE.model_dump()}
    experiment = Experiment.open("r", runs=tmp_path, **given)
    search = experiment.search("toy")
    assert (experiment.folder / "toy.safetensors").exists()
    labels = experiment.labels()
    assert set(labels.method) == {"base", "toy"}
    test = experiment.features()["test"]
    rows = labels[(labels.method == "toy") & (labels.split == "test")]
    assert rows.predicted.tolist() == search.heads.predict(test).sum(1).tolist()
    assert summary(labels).method.tolist() == ["base", "toy"]
    found = compare([experiment.folder], draws=400).methods
    assert {"predicted", "predicted_low", "predicted_high", "predicted_valid"} <= set(found)
    assert found.predicted[1] == pytest.approx(rows.predicted[rows.analysed].mean())  # not clamped to [0, 1]
    assert of_methods(found).group.tolist() == ["unused", "unused"] == [group_use(name) for name in found.method]
    assert beside(found).shape[0] == 2
    drawn = plots.comparison(labels[(labels.split == "test") & labels.analysed])
    assert "toy" in [text.get_text() for text in drawn.legends[0].get_texts()]
    plt.close("all")
