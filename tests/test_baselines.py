import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fairnb.features import Features
from fairnb.heads import Heads, score_heads, uei_and_error
from fairnb.methods import METHODS
from fairnb.methods import soft_uei as gradient
from fairnb.methods.pick import pick
from fairnb.methods.problem import Problem, hold_out
from fairnb.methods.random_search import random_search
from fairnb.methods.soft_uei import smooth_uei, soft_uei
from fairnb.methods.thresholds import group_thresholds, label_thresholds
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.run.parameters import Parameters

BASELINES = ["label thresholds", "group thresholds", "soft UEI", "random search", "pymoo NSGA-II"]
QUICK = Parameters(particles=10, iterations=5, gradient_steps=20)


def make(images=60, columns=3, labels=2, seed=0):
    """Features that tell labels with noise, and heads that say yes too rarely."""
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(images, columns, generator=draw)
    group = torch.randint(2, (images,), generator=draw)
    truth = x[:, :labels] + 0.7 * torch.randn(images, labels, generator=draw) + 0.4 * group[:, None] > 0.6
    heads = torch.cat([torch.eye(labels, columns), torch.full((labels, 1), -1.4)], dim=1)
    return Problem(Features(x, truth, group, 2), heads)


def measures(predicted, features, label):
    table = contingency_table(predicted, features.labels[:, label], features.group, 2)
    return underestimation_index(table), accuracy(table)


def test_the_label_threshold_is_the_best_of_all():
    problem = make()
    features, search = problem.features, label_thresholds(problem)
    assert torch.equal(search.heads.last[:, :-1], problem.heads[:, :-1])
    for label in range(2):
        score = features.x[:, label]
        uei, acc = measures(score > torch.cat([torch.tensor([-9.0]), score]).unsqueeze(1), features, label)
        before = measures(score > 1.4, features, label)
        best = uei[acc >= before[1] - 0.05 - 1e-9].min()
        seen = measures(search.heads.predict(features)[label], features, label)
        assert seen[0] == pytest.approx(best.item())
        assert seen[1] >= before[1] - 0.05 - 1e-9


@pytest.mark.parametrize("name", [*BASELINES, "calibrated multi-task"])
def test_a_held_out_pick_searches_on_the_rest_and_picks_on_the_kept(name):
    problem = replace(make(images=300), seed=5)
    search = METHODS[name].search(problem, QUICK.but(held_out=0.4))
    rest, kept = hold_out(problem.features, 0.4, 5)
    for label in range(2):
        front, mask = search.fronts.positions[label : label + 1], search.fronts.mask[label]
        where = torch.tensor([label])
        for part, values in [
            (rest, search.fronts.objectives[label][mask]),
            (kept, torch.stack([search.uei[label], 1 - search.accuracy[label]], dim=1)[1:]),
        ]:
            seen = uei_and_error(score_heads(part, front, where))[0][mask]
            assert torch.allclose(seen.sort(0).values, values.sort(0).values)
    whole = METHODS[name].search(problem, QUICK)
    assert not torch.equal(whole.heads.weights, search.heads.weights)


def test_thresholds_for_each_group_are_the_best_of_all_pairs():
    problem = make(images=40)
    features, search = problem.features, group_thresholds(problem)
    assert search.heads.weights.shape == (2, 2, 4)
    assert search.heads.by_group
    tables = search.heads.tables(features)
    for label in range(2):
        score = features.x[:, label]
        cuts = torch.cat([torch.tensor([-9.0]), score])
        pairs = torch.tensor(list(itertools.product(cuts.tolist(), cuts.tolist())))
        uei, acc = measures(score > pairs[:, features.group], features, label)
        before = measures(score > 1.4, features, label)
        allowed = acc >= before[1] - 0.05 - 1e-9
        assert underestimation_index(tables[label]).item() == pytest.approx(uei[allowed].min().item(), abs=1e-9)
        assert accuracy(tables[label]) >= before[1] - 0.05 - 1e-9
        ends = search.fronts.objectives[label][search.fronts.mask[label]]
        assert ends[:, 0].min().item() == pytest.approx(uei.min().item(), abs=1e-9)
        assert (1 - ends[:, 1]).max().item() == pytest.approx(acc.max().item())


def test_thresholds_by_hand():
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0], [1.0], [2.0], [3.0], [4.0]])
    truth = torch.tensor([0, 0, 1, 1, 0, 1, 1, 1]).bool().unsqueeze(1)
    features = Features(x, truth, torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]), 2)
    problem = Problem(features, torch.tensor([[1.0, -3.5]]))  # says yes to the 4s only
    both = label_thresholds(replace(problem, tolerance=1.0)).heads
    assert both.last[0, 1].item() == pytest.approx(-2.5)  # 2 + 2 of 2 + 3: the nearest that one threshold comes
    apart = group_thresholds(replace(problem, tolerance=0.0)).heads
    assert apart.weights[:, 0, 1].tolist() == pytest.approx([-2.5, -1.5])
    assert float(underestimation_index(apart.tables(features))[0]) == 0


def test_images_with_the_same_score_are_not_told_apart():
    x = torch.tensor([[1.0], [1.0], [1.0], [2.0]])
    features = Features(x, torch.tensor([[1], [0], [0], [1]]).bool(), torch.tensor([0, 1, 0, 1]), 2)
    for find in (label_thresholds, group_thresholds):
        search = find(Problem(features, torch.tensor([[1.0, -1.5]]), tolerance=1.0))
        uei = underestimation_index(search.heads.tables(features))
        torch.testing.assert_close(uei, torch.stack([search.uei[0][search.picked[0]]]))


def test_the_smooth_uei_is_uei_where_chances_are_0_and_1():
    problem = make()
    features = problem.features
    member = torch.nn.functional.one_hot(features.group, 2).double() / 60
    predicted = Heads(problem.heads.unsqueeze(0)).predict(features)
    smooth = smooth_uei(predicted.double(), features.labels.T.double(), member)
    expected = underestimation_index(contingency_table(predicted, features.labels.T, features.group, 2))
    torch.testing.assert_close(smooth, expected, atol=1e-5, rtol=0)
    # by hand: of two images in each group one is positive; chances of 0.25 predict half of it in the first group
    member = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]]).double() / 4
    chance, truth = torch.tensor([0.25, 0.25, 0.5, 0.5]).double(), torch.tensor([1, 0, 0, 1]).double()
    by_hand = (((0.125**0.5 - 0.5) ** 2 + (0.375**0.5 - 0.5) ** 2) / 2) ** 0.5
    assert smooth_uei(chance, truth, member).item() == pytest.approx(by_hand, abs=1e-6)
    chance.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda p: smooth_uei(p, truth, member), chance)
    edge = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    smooth_uei(edge, truth, member).backward()
    assert edge.grad is not None
    assert bool(edge.grad.isfinite().all())


def test_the_gradient_finds_logistic_regression_without_uei_and_less_uei_with_it(monkeypatch):
    monkeypatch.setattr(gradient, "SNAPSHOT", 10**6)  # only where it ends
    problem = make(images=400)
    features, free = problem.features, replace(problem, tolerance=1.0)
    plain = soft_uei(free, shares=[0.0], temperatures=[1.0], steps=1500, learning_rate=0.05)
    for label in range(2):
        front = plain.fronts.positions[label, 0]
        expected = LogisticRegression(C=np.inf).fit(features.x.numpy(), features.labels[:, label].numpy())
        np.testing.assert_allclose(front[:-1], expected.coef_[0], atol=0.02)
        np.testing.assert_allclose(front[-1], expected.intercept_[0], atol=0.02)
    search = soft_uei(replace(problem, tolerance=0.03))
    before, after = Heads(problem.heads.unsqueeze(0)).tables(features), search.heads.tables(features)
    assert (underestimation_index(after) < underestimation_index(before) / 3).all()
    assert (accuracy(after) >= accuracy(before) - 0.03 - 1e-9).all()
    assert search.fronts.evaluations == 30 * 300


def test_random_search_keeps_the_best_of_what_it_draws():
    problem = replace(make(images=300), seed=1)
    features, start = problem.features, Heads(problem.heads.unsqueeze(0))
    few, again, many = (random_search(problem, evaluations=n, spread=1.0) for n in (301, 301, 1001))
    assert torch.equal(few.heads.weights, again.heads.weights)
    other = random_search(replace(problem, seed=2), evaluations=301, spread=1.0)
    assert not torch.equal(few.heads.weights, other.heads.weights)
    assert (many.fronts.hypervolume >= few.fronts.hypervolume).all()  # the first draws are the same
    base = underestimation_index(start.tables(features))
    assert (underestimation_index(many.heads.tables(features)) < base).all()
    one = random_search(problem, evaluations=1)
    assert torch.equal(one.heads.last, problem.heads)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_picks_by_the_rule_and_leaves_other_labels(name):
    searched = torch.tensor([True, False, True])
    problem = replace(make(images=200, labels=3), searched=searched)
    search = METHODS[name].search(problem, Parameters(particles=10, iterations=19, tolerance=0.02))
    assert all(torch.equal(each[1], problem.heads[1]) for each in search.heads.weights)
    tables = search.heads.tables(problem.features)
    for s, label in enumerate((0, 2)):
        place = search.picked[s]
        assert place == pick(search.uei[s], search.accuracy[s], 0.02)
        assert search.uei[s][place].item() == pytest.approx(underestimation_index(tables[label]).item(), abs=1e-9)
        assert search.accuracy[s][place].item() == pytest.approx(accuracy(tables[label]).item())


def test_a_method_without_its_library_is_refused(monkeypatch):
    monkeypatch.setattr("fairnb.methods.method.find_spec", lambda _: None)
    for method in METHODS.values():
        if method.library:
            with pytest.raises(ValueError, match=rf"needs {method.library}: pip install"):
                method.search(make(), QUICK)
        else:
            method.require()


def test_settings_that_say_nothing_are_refused():
    problem = make()
    with pytest.raises(ValueError, match="evaluations=0"):
        random_search(problem, evaluations=0)
    with pytest.raises(ValueError, match="shares"):
        soft_uei(problem, shares=[1.5])
    with pytest.raises(ValueError, match="temperatures"):
        soft_uei(problem, temperatures=[0.0])
    with pytest.raises(ValueError, match="steps=0"):
        soft_uei(problem, steps=0)
