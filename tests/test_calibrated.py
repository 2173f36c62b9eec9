from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import METHODS
from fairnb.methods.calibrated import calibrated_multi_task, group_directions
from fairnb.methods.multi_task import multi_task
from fairnb.methods.pick import pick
from fairnb.methods.problem import Problem
from fairnb.methods.recalibration import fit_near, recalibrate
from fairnb.methods.thresholds import group_thresholds
from fairnb.metrics import accuracy, chance_index, contingency_table, underestimation_index
from fairnb.run.parameters import Parameters, Settings, Swarm
from fairnb.sweep.plan import read_sweep

GIVEN = Parameters(particles=30, iterations=30)
SWARM, SETTINGS = GIVEN.part(Swarm), GIVEN.part(Settings)
ABLATIONS = read_sweep(Path(__file__).parents[1] / "params" / "sweeps" / "ablations.yml").comparisons


def make(images=900, columns=12, labels=3, seed=0):
    """Features that tell labels and groups with noise, and heads that say yes too rarely, in one group above all."""
    draw = torch.Generator().manual_seed(seed)
    group = torch.randint(2, (images,), generator=draw)
    x = torch.randn(images, columns, generator=draw)
    x[:, -1] += 1.5 * group
    truth = x[:, :labels] + 0.8 * torch.randn(images, labels, generator=draw) + 0.8 * group[:, None] > 1
    heads = torch.cat([torch.eye(labels, columns), torch.full((labels, 1), -1.8)], dim=1)
    return Problem(Features(x, truth, group, 2), heads)


def tables_of(features, layer):
    return Heads(layer.unsqueeze(0)).tables(features)


def found(problem, method="calibrated multi-task", **given):
    return METHODS[method].search(problem, GIVEN.but(**given))


def ablated(problem, name, **given):
    """The search of each setting of an ablation whose method is the package's own."""
    searches = {}
    for setting, own in ABLATIONS[name].items():
        if not METHODS[own["method"]].library:
            changed = {key: value for key, value in own.items() if key not in ("method", "against")}
            searches[setting] = found(problem, own["method"], **(given | changed))
    return searches


def test_it_lowers_uei_within_the_tolerance_and_holds_up_on_other_images():
    problem, test = make(), make(seed=1).features
    search = found(problem)
    before, after = tables_of(problem.features, problem.heads), search.heads.tables(problem.features)
    assert (accuracy(after) >= accuracy(before) - 0.05 - 1e-9).all()
    assert (underestimation_index(after) < underestimation_index(before) / 3).all()
    wide = multi_task(problem, SWARM, SETTINGS)
    on_test = search.heads.tables(test)
    assert underestimation_index(on_test).mean() < underestimation_index(tables_of(test, problem.heads)).mean() / 2
    assert accuracy(on_test).mean() > accuracy(wide.heads.tables(test)).mean()
    again = found(problem)
    assert torch.equal(search.heads.weights, again.heads.weights)
    for s in range(3):
        seen = search.uei[s][search.picked[s]].item()
        assert seen == pytest.approx(underestimation_index(after)[s].item(), abs=1e-9)


def test_indifference_trades_uei_below_chance_for_accuracy():
    problem = make()
    strict, loose = (found(problem, indifference=share) for share in (0.0, 1.0))
    tables = [search.heads.tables(problem.features) for search in (strict, loose)]
    assert accuracy(tables[1]).mean() > accuracy(tables[0]).mean()
    assert (underestimation_index(tables[1]) <= 1.1 * chance_index(tables[0])).all()
    uei, acc = torch.tensor([0.5, 0.01, 0.02, 0.03]), torch.tensor([0.9, 0.86, 0.87, 0.89])
    assert [pick(uei, acc, 0.05, indifferent) for indifferent in (0.0, 0.02, 0.025, 0.04)] == [1, 2, 2, 3]


def test_only_the_threshold_and_the_groups_direction_move():
    problem = make()
    valid, heads = problem.features, problem.heads
    search = found(problem)
    better, _ = recalibrate(valid.x, valid.labels, heads)
    along = group_directions(valid)[0][0]
    moved = search.heads.last - better
    for row in moved[:, :-1]:
        assert torch.nn.functional.cosine_similarity(row, along[:-1], dim=0).abs() > 0.999 or row.norm() < 1e-5
    logits = valid.x @ along[:-1] + along[-1]
    assert logits.std().item() == pytest.approx(1, abs=1e-3)
    assert logits.mean().item() == pytest.approx(0, abs=1e-3)
    assert logits[valid.group == 1].mean() > logits[valid.group == 0].mean() + 0.5
    searched = torch.tensor([True, False, True])
    assert torch.equal(found(replace(problem, searched=searched)).heads.last[1], heads[1])


def test_recalibration_is_logistic_regression_with_a_prior():
    problem = make(images=400, columns=5)
    valid, heads = problem.features, problem.heads
    truth = valid.labels.T.float()
    far, steps = fit_near(valid.x, truth, heads, reach=1e4)
    near, _ = fit_near(valid.x, truth, heads, reach=1e-4)
    assert 5 < steps < 200
    for label in range(3):
        expected = LogisticRegression(C=np.inf).fit(valid.x.numpy(), valid.labels[:, label].numpy())
        np.testing.assert_allclose(far[label, :-1], expected.coef_[0], atol=0.02)
        np.testing.assert_allclose(far[label, -1], expected.intercept_[0], atol=0.02)
    torch.testing.assert_close(near[:, :-1], heads[:, :-1], atol=1e-3, rtol=0)
    # the same prior in scikit-learn, around 0: weights of variance τ², C = τ²
    reach, variance = 0.7, float(valid.x.var(0, correction=0).sum())
    held, _ = fit_near(valid.x, truth, torch.zeros_like(heads), reach=reach)
    ridge = LogisticRegression(C=reach**2 / variance).fit(valid.x.numpy(), valid.labels[:, 0].numpy())
    np.testing.assert_allclose(held[0, :-1], ridge.coef_[0], atol=0.01)

    def loss(layer):
        return binary_cross_entropy_with_logits(valid.x @ layer[:, :-1].T + layer[:, -1], valid.labels.float())

    recalibrated, more = recalibrate(valid.x, valid.labels, heads)
    assert loss(far) < loss(recalibrated) < loss(heads)
    assert more > 30 * 2  # five folds at six reaches, and once more
    assert more < SWARM.evaluations / 2


def test_the_fits_are_paid_from_the_evaluations_of_the_flight():
    problem = make()
    valid = problem.features
    cost = recalibrate(valid.x, valid.labels, problem.heads)[1] + group_directions(valid)[1]
    search = found(problem)
    spent, flown = search.fronts.evaluations, len(search.fronts.hypervolume) - 1
    assert SWARM.evaluations - SWARM.particles < spent <= SWARM.evaluations
    assert spent == cost + (flown + 1) * SWARM.particles
    few = found(problem, particles=10, iterations=8)
    assert few.fronts.evaluations == cost + 3 * 10  # a quarter of the iterations stays


def test_three_groups_have_two_directions():
    problem = make()
    three = replace(problem.features, group=torch.arange(900) % 3, groups=3)
    assert group_directions(three)[0].shape == (2, 13)
    search = found(replace(problem, features=three))
    before, after = tables_of(three, problem.heads), search.heads.tables(three)
    assert (underestimation_index(after) < underestimation_index(before)).all()


def test_chance_index_is_what_chance_shows():
    """Predictions whose counts match in the long run: every error as likely one way as the other."""
    draw = torch.Generator().manual_seed(0)
    seen, said = [], []
    for _ in range(400):
        group = torch.randint(2, (800,), generator=draw)
        truth = torch.rand(800, generator=draw) < torch.tensor([0.2, 0.4])[group]
        wrong = torch.rand(800, generator=draw)
        share = torch.tensor([0.2, 0.4])[group]
        # as many positives missed as negatives taken for positives
        predicted = torch.where(truth, wrong > 0.1 / share, wrong < 0.1 / (1 - share))
        table = contingency_table(predicted, truth, group, 2)
        seen.append(underestimation_index(table))
        said.append(chance_index(table))
    root_mean_square = torch.stack(seen).square().mean().sqrt()
    torch.testing.assert_close(torch.stack(said).mean(), root_mean_square, rtol=0.05, atol=0)
    assert float(chance_index(torch.tensor([[[5, 0], [0, 3]], [[2, 0], [0, 0]]]))) == 0


def test_a_bad_setting_is_named():
    with pytest.raises(ValueError, match="spread=-1"):
        calibrated_multi_task(make(images=50), SWARM, spread=-1)


@pytest.mark.parametrize("name", ["perturbation", "self-adaptation", "grid", "start", "images of the pick"])
def test_ablations_vary_what_they_say(name):
    problem = make()
    plain, *others = ablated(problem, name, particles=20, iterations=19).values()
    by_hand = multi_task(problem, Swarm(particles=20, iterations=19), SETTINGS)
    assert torch.equal(plain.heads.weights, by_hand.heads.weights)
    assert not any(torch.equal(plain.heads.weights, other.heads.weights) for other in others)


def test_the_calibrated_search_is_taken_apart():
    problem = replace(make(), searched=torch.tensor([True, True, False]))
    valid, heads = problem.features, problem.heads
    searches = ablated(problem, "parts of the calibrated search", particles=20, iterations=19)
    seen = {setting: search.heads.tables(valid) for setting, search in searches.items()}
    before = accuracy(tables_of(valid, heads))
    for tables in seen.values():  # of the base model's accuracy, wherever the search began
        assert (accuracy(tables) >= before - problem.tolerance - 1e-9).all()
    plain, indifferent = (f"group thresholds on the base model's{pick}" for pick in ("", ", its pick"))
    assert torch.equal(searches[plain].heads.weights, group_thresholds(problem).heads.weights)
    assert accuracy(seen[indifferent]).mean() > accuracy(seen[plain]).mean()
    assert searches[indifferent].heads.by_group
    assert not searches["label thresholds on them, its pick"].heads.by_group
    from_base = calibrated_multi_task(replace(problem, indifference=0.5), Swarm(particles=20, iterations=19))
    assert torch.equal(searches["from the base model's heads"].heads.weights, from_base.heads.weights)
    better, _ = recalibrate(valid.x, valid.labels[:, :2], heads[:2])
    fitted = torch.cat([better, heads[2:]])
    f, g = (underestimation_index(tables_of(valid, layer)) for layer in (fitted, heads))
    allowed = accuracy(tables_of(valid, fitted)) >= before - problem.tolerance
    expected = torch.where(((f < g) & allowed).unsqueeze(1), fitted, heads)
    assert torch.equal(searches["recalibrated heads, no search"].heads.last, expected)


def test_the_tolerance_counts_from_the_base_model_wherever_the_swarms_begin():
    problem = make()
    valid, heads = problem.features, problem.heads
    search = found(problem, "multi-task", start="recalibrated", tolerance=0.02)
    before = accuracy(tables_of(valid, heads))
    assert [acc[0].item() for acc in search.accuracy] == pytest.approx(before.tolist())
    assert (accuracy(search.heads.tables(valid)) >= before - 0.02 - 1e-9).all()
    begin, cost = recalibrate(valid.x, valid.labels, heads)
    by_hand = multi_task(replace(problem, begin=begin, paid=cost, tolerance=0.02), SWARM, SETTINGS)
    assert torch.equal(search.heads.weights, by_hand.heads.weights)


def test_any_search_can_take_the_calibrated_pick():
    problem = make()
    searches = ablated(problem, "indifference of every method")
    kept = {setting: accuracy(search.heads.tables(problem.features)).mean() for setting, search in searches.items()}
    ours = searches["calibrated multi-task, indifferent"].heads.weights
    assert torch.equal(ours, found(problem).heads.weights)
    by_hand = {"multi-task": multi_task(problem, SWARM, SETTINGS), "group thresholds": group_thresholds(problem)}
    for method, plain in by_hand.items():
        assert torch.equal(searches[f"{method}, lowest UEI"].heads.weights, plain.heads.weights)
        assert kept[f"{method}, indifferent"] > kept[f"{method}, lowest UEI"]


def test_a_search_from_the_base_models_heads_pays_for_no_fits_of_them():
    problem = make()
    cost = group_directions(problem.features)[1]
    search = found(problem, start="base")
    assert search.fronts.evaluations == cost + len(search.fronts.hypervolume) * SWARM.particles
    assert not torch.equal(search.heads.weights, found(problem).heads.weights)


def test_directions_are_varied_alone():
    problem, swarm = make(), {"particles": 20, "iterations": 59}
    two, _, every = ablated(problem, "directions", **swarm).values()
    even, lowest, loose = ablated(problem, "equal UEI", **swarm).values()
    assert torch.equal(two.heads.weights, lowest.heads.weights)
    assert abs(every.fronts.evaluations - 1200) <= 20
    kept = [float(accuracy(search.heads.tables(problem.features)).mean()) for search in (lowest, even, loose)]
    assert kept == sorted(kept)


def test_a_start_at_recalibrated_heads_is_paid_for():
    problem = make()
    swarm = {"start": "recalibrated", "particles": 20, "iterations": 59}
    cost = recalibrate(problem.features.x, problem.features.labels, problem.heads)[1]
    spent = {name: found(problem, name, **swarm).fronts.evaluations for name in ("multi-task", "dynamic weighting")}
    assert all(abs(evaluations - 1200) <= 20 for evaluations in spent.values())
    assert found(problem, "random search", **swarm).fronts.evaluations == 1200
    assert found(problem, "label thresholds", **swarm).fronts.evaluations == cost + 901
    (alone,) = (own for setting, own in ABLATIONS["parts of the calibrated search"].items() if "no search" in setting)
    assert found(problem, **alone).fronts.evaluations == cost + 1
