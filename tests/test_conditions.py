"""Side conditions of a pick: by hand, and against every candidate counted in plain NumPy."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import METHODS
from fairnb.methods.dynamic_weighting import dynamic_weighting, pick_together
from fairnb.methods.multi_task import multi_task
from fairnb.methods.pick import load_search, meets, pick, pick_each, save_search, unmet
from fairnb.methods.problem import Problem
from fairnb.metrics import lowest_rate, rate_gap, underestimation_index
from fairnb.run.files import load_tensors, save_tensors
from fairnb.run.parameters import Conditions, Parameters, Settings, Swarm

SWARM, SETTINGS = Swarm(particles=20, iterations=20), Settings()
ASKED: list[dict[str, Any]] = [
    {"max_fpr_gap": 0.02}, {"min_recall": 0.6}, {"max_fpr_gap": 0.04, "min_recall": 0.5}, {"min_recall": 0.95},
    {"no_label_worse": True}, {"no_label_worse": True, "max_fpr_gap": 0.03},
]  # fmt: skip


@pytest.fixture(scope="module")
def biased():
    """Features that tell four labels with noise, in one group less, and heads that say yes too rarely."""
    draw = torch.Generator().manual_seed(0)
    group = torch.randint(2, (600,), generator=draw)
    x = torch.randn(600, 6, generator=draw)
    x[:, -1] += 1.5 * group
    truth = x[:, :4] + (0.4 + 0.6 * group[:, None]) * torch.randn(600, 4, generator=draw) + 0.4 * group[:, None] > 0.9
    heads = torch.cat([torch.eye(4, 6), torch.tensor([[-1.6], [-1.1], [-0.5], [-2.2]])], dim=1)
    return Problem(Features(x, truth, group, 2), heads)


def counted(heads, part, label):
    """UEI, accuracy, gap of false positive rates and lowest recall of one label's heads [G or 1, D + 1]."""
    x, truth, group = part.x.double().numpy(), part.labels[:, label].numpy(), part.group.numpy()
    own = heads.double().numpy()[group if len(heads) > 1 else np.zeros_like(group)]
    said = (x * own[:, :-1]).sum(1) + own[:, -1] > 0
    cells = [(said[group == g], truth[group == g]) for g in range(part.groups)]
    overlap = sum(np.sqrt((s == v).sum() * (t == v).sum()) for s, t in cells for v in (False, True)) / len(x)
    recalls = [s[t].mean() for s, t in cells if t.any()]
    alarms = [s[~t].mean() for s, t in cells if not t.all()]
    uei = np.sqrt(max(0.0, 1 - overlap))
    return uei, (said == truth).mean(), max(alarms) - min(alarms), min(recalls)


def allowed(one, base, conditions, tolerance):
    """Whether a label's model, as `counted`, may be picked."""
    worse = conditions.no_label_worse and one[0] > base[0] + 1e-7
    within = one[1] >= base[1] - tolerance - 1e-9
    return within and one[2] <= conditions.max_fpr_gap + 1e-9 and one[3] >= conditions.min_recall - 1e-9 and not worse


def tables(*candidates):
    """Contingency tables [K, G, 2, 2] from (true negatives, false positives, false negatives, true positives)."""
    return torch.tensor(candidates).unflatten(-1, (2, 2))


def test_conditions_by_hand():
    candidates = tables(
        [(8, 0, 1, 1), (9, 0, 1, 0)],  # the base model: recall 1/2 and 0, no false positives
        [(6, 2, 0, 2), (9, 0, 0, 1)],  # recall 1, false positive rates 1/4 and 0
        [(7, 1, 1, 1), (8, 1, 0, 1)],  # recall 1/2 and 1, false positive rates 1/8 and 1/9
        [(8, 0, 2, 0), (9, 0, 1, 0)],  # predicts nothing: a higher UEI than the base model's
    )
    cases: list[tuple[dict[str, Any], list[bool]]] = [
        ({}, [True, True, True, True]),
        ({"max_fpr_gap": 0.25}, [True, True, True, True]),  # a limit may be reached
        ({"max_fpr_gap": 0.1}, [True, False, True, True]),
        ({"max_fpr_gap": 0.01}, [True, False, False, True]),
        ({"min_recall": 0.5}, [False, True, True, False]),
        ({"min_recall": 0.5, "max_fpr_gap": 0.1}, [False, False, True, False]),
        ({"no_label_worse": True}, [True, True, True, False]),
    ]
    for asked, wanted in cases:
        assert meets(candidates, Conditions(**asked)).tolist() == wanted, asked
    labels = torch.stack([candidates, candidates[[0, 3, 2, 1]]])  # two labels at once, each with its own base model
    assert meets(labels, Conditions(no_label_worse=True)).tolist() == [[True, True, True, False], [True, False, True, True]]


def test_a_group_without_a_rate_is_left_out():
    strict = Conditions(max_fpr_gap=0.01, min_recall=0.99)
    for one in ([(9, 0, 0, 1), (5, 0, 0, 0)], [(9, 0, 0, 1), (0, 0, 0, 5)], [(0, 0, 0, 0), (9, 0, 0, 1)]):
        assert meets(tables(one), strict).tolist() == [True]
    assert meets(tables([(9, 0, 0, 1), (4, 1, 0, 0)]), strict).tolist() == [False]
    assert meets(tables([(9, 0, 0, 1), (0, 0, 1, 4)]), strict).tolist() == [False]
    nan = float("nan")
    rates = torch.tensor([[0.2, 0.5, 0.4], [nan, 0.5, 0.4], [nan, nan, 0.4], [nan, nan, nan]])
    assert rate_gap(rates).tolist() == pytest.approx([0.3, 0.1, 0, 0])
    assert lowest_rate(rates).tolist() == pytest.approx([0.2, 0.4, 0.4, 1])


def test_only_candidates_that_meet_the_conditions_are_picked_or_else_the_base():
    uei, right = torch.tensor([0.5, 0.3, 0.1, 0.2, 0.2]), torch.tensor([0.9, 0.95, 0.80, 0.86, 0.87])
    for met, place in (([1, 1, 1, 1, 1], 4), ([1, 1, 1, 1, 0], 3), ([0, 1, 1, 0, 0], 1), ([0, 0, 1, 0, 0], 0), ([0] * 5, 0)):
        assert pick(uei, right, 0.05, met=torch.tensor(met).bool()) == place, met
    # below 0.35 all count as equal: the most accurate of those that may be picked
    assert pick(uei, right, 0.05, 0.35, torch.tensor([1, 0, 1, 1, 1]).bool()) == 4


@pytest.mark.parametrize("held_out", [0.0, 0.4])
@pytest.mark.parametrize("name", ["multi-task", "label thresholds", "group thresholds", "random search"])
def test_a_label_s_pick_has_the_lowest_uei_of_those_that_meet_the_conditions(biased, name, held_out):
    given = Parameters(particles=20, iterations=20, tolerance=0.03, held_out=held_out)
    search = METHODS[name].search(replace(biased, seed=1), given)
    kept = set()
    for asked in ASKED:
        problem = replace(biased, seed=1, held_out=held_out, tolerance=0.03, conditions=Conditions(**asked))
        again, part = pick_each(problem, search.fronts), problem.judge
        for label, head in enumerate(biased.heads):
            front = search.fronts.pareto_front(label)[0].unflatten(-1, (-1, 7))
            base, *others = [counted(one, part, label) for one in (head.unsqueeze(0), *front)]
            fit = [one for one in (base, *others) if allowed(one, base, problem.conditions, 0.03)]
            found = counted(again.heads.weights[:, label], part, label)
            assert found == pytest.approx(min(fit)[:1] + found[1:] if fit else base, abs=1e-7)
            assert not fit or allowed(found, base, problem.conditions, 0.03)
            assert again.met[label] == bool(fit)
            assert fit or again.picked[label] == 0
            kept.add(bool(fit))
        whole = METHODS[name].search(replace(biased, seed=1), given.but(**asked))  # asked from the first
        assert torch.equal(whole.heads.weights, again.heads.weights)
        assert (whole.picked, whole.met) == (again.picked, again.met)
    assert kept == {True, False}  # some conditions are met, some are not


@pytest.mark.parametrize("asked", ASKED, ids=str)
def test_one_candidate_must_meet_the_conditions_for_every_label(biased, asked):
    search = dynamic_weighting(replace(biased, seed=1, tolerance=0.1), SWARM, SETTINGS)
    problem = replace(biased, seed=1, tolerance=0.1, conditions=Conditions(**asked))
    again = pick_together(problem, search.fronts)
    candidates = [biased.heads, *search.fronts.pareto_front(0)[0].unflatten(-1, biased.heads.shape)]
    base, *_ = all_counted = [
        [counted(head.unsqueeze(0), biased.features, label) for label, head in enumerate(one)] for one in candidates
    ]
    fit = [  # the tolerance is of the mean accuracy
        np.mean([label[0] for label in one])
        for one in all_counted
        if all(allowed(label, own, problem.conditions, 1) for label, own in zip(one, base, strict=True))
        and np.mean([label[1] for label in one]) >= np.mean([label[1] for label in base]) - 0.1 - 1e-9
    ]
    assert again.met == [bool(fit)]
    picked = [counted(again.heads.weights[:, label], biased.features, label) for label in range(4)]
    lowest = min(fit, default=np.mean([label[0] for label in base]))
    assert np.mean([label[0] for label in picked]) == pytest.approx(lowest, abs=1e-7)
    if not fit:
        assert torch.equal(again.heads.last, biased.heads)
    whole = dynamic_weighting(problem, SWARM, SETTINGS)
    assert torch.equal(whole.heads.weights, again.heads.weights)


def test_dynamic_weighting_can_be_kept_from_making_a_label_worse(biased):
    even = biased.heads.clone()
    even[2] = multi_task(biased, SWARM, SETTINGS).heads.last[2]  # this label's counts are right from the start
    before = underestimation_index(Heads(even.unsqueeze(0)).tables(biased.features))
    rises = []
    for asked in (Conditions(), Conditions(no_label_worse=True)):
        heads = dynamic_weighting(replace(biased, heads=even, tolerance=0.1, conditions=asked), SWARM, SETTINGS).heads
        rises.append(float((underestimation_index(heads.tables(biased.features)) - before).max()))
    assert rises[0] > 0.001
    assert rises[1] <= 1e-9


def test_without_conditions_nothing_is_scored_again_and_the_pick_is_the_plain_rule(biased, monkeypatch):
    monkeypatch.setattr(Problem, "on_judge", lambda *_: pytest.fail("scored again"))
    search = multi_task(replace(biased, seed=2), SWARM, SETTINGS)
    assert search.met == [True] * 4
    for label, head in enumerate(biased.heads):
        base = counted(head.unsqueeze(0), biased.features, label)
        positions, values = search.fronts.pareto_front(label)
        fit = [(f, e, k) for k, (f, e) in enumerate(values.tolist()) if 1 - e >= base[1] - biased.tolerance - 1e-12]
        best = min(fit)  # along a front no two have the same UEI
        assert best[0] < base[0]
        assert torch.equal(search.heads.last[label], positions[best[2]])


def test_every_method_picks_again_what_it_picked(biased):
    given = Parameters(particles=10, iterations=10, gradient_steps=20, tolerance=0.03)
    for name, method in METHODS.items():
        if method.find and not method.library:
            search = method.search(biased, given)
            again = method.pick_again(biased, given, search.fronts)
            assert torch.equal(search.heads.weights, again.heads.weights), name
            assert (search.picked, search.met, search.fronts) == (again.picked, again.met, again.fronts), name
            assert again.fronts.evaluations == search.fronts.evaluations
            other = method.pick_again(biased, given.but(min_recall=0.999), search.fronts)
            assert not torch.equal(search.heads.weights, other.heads.weights), name


def test_where_nothing_meets_them_is_said(biased):
    names = ["Bald", "Young", "Smiling", "Hat"]
    hopeless = replace(biased, conditions=Conditions(min_recall=0.999, max_fpr_gap=0.001))
    search = multi_task(hopeless, SWARM, SETTINGS)
    assert torch.equal(search.heads.last, biased.heads)
    words = "the base model stays: no model meets the side conditions for {}"
    assert unmet(search, names) == words.format("Bald, Young, Smiling, Hat")
    assert unmet(replace(search, met=[True, False, True, True]), names) == words.format("Young")
    assert unmet(replace(search, met=[True] * 4), names) == ""
    together = dynamic_weighting(hopeless, SWARM, SETTINGS)
    assert unmet(together, names) == words.format("every label")


def test_a_file_keeps_what_was_met_and_an_older_one_loads(biased, tmp_path):
    path, old = tmp_path / "search.safetensors", tmp_path / "old.safetensors"
    search = multi_task(replace(biased, conditions=Conditions(min_recall=0.6)), SWARM, SETTINGS)
    assert set(search.met) == {True, False}
    save_search(path, search)
    assert load_search(path).met == search.met
    save_tensors(old, {name: part for name, part in load_tensors(path).items() if name != "met"})
    assert load_search(old).met == [True] * 4
    assert load_search(old).picked == search.picked
