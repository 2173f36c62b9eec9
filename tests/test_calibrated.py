from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn.functional import binary_cross_entropy_with_logits

from fairnb.evidence.ablations import ABLATIONS, Setting, ablate, against
from fairnb.evidence.outcome import Judge
from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods.calibrated import calibrated_multi_task, fit_near, group_directions, recalibrate
from fairnb.methods.multi_task import multi_task
from fairnb.methods.pick import pick
from fairnb.methods.problem import Problem
from fairnb.methods.thresholds import group_thresholds
from fairnb.metrics import accuracy, chance_index, contingency_table, underestimation_index
from fairnb.run.parameters import Settings, Swarm

SWARM, SETTINGS = Swarm(particles=30, iterations=30), Settings()


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


def setting(swarm, searched=(True, True, True)):
    """What ablations vary, and the test split that its models are judged on."""
    where, test = torch.tensor(searched), make(seed=1).features
    problem = replace(make(), searched=where)
    judge = Judge({"valid": problem.features, "test": test}, where)
    base = judge.outcome("base", Heads(problem.heads.unsqueeze(0)))
    return Setting(problem, replace(judge, base=base), swarm, SETTINGS), test


def test_it_lowers_uei_within_the_tolerance_and_holds_up_on_other_images():
    problem, test = make(), make(seed=1).features
    search = calibrated_multi_task(problem, SWARM)
    before, after = tables_of(problem.features, problem.heads), search.heads.tables(problem.features)
    assert (accuracy(after) >= accuracy(before) - 0.05 - 1e-9).all()
    assert (underestimation_index(after) < underestimation_index(before) / 3).all()
    wide = multi_task(problem, SWARM, SETTINGS)
    on_test = search.heads.tables(test)
    assert underestimation_index(on_test).mean() < underestimation_index(tables_of(test, problem.heads)).mean() / 2
    assert accuracy(on_test).mean() > accuracy(wide.heads.tables(test)).mean()
    again = calibrated_multi_task(problem, SWARM)
    assert torch.equal(search.heads.weights, again.heads.weights)
    for s in range(3):
        seen = search.uei[s][search.picked[s]].item()
        assert seen == pytest.approx(underestimation_index(after)[s].item(), abs=1e-9)


def test_indifference_trades_uei_below_chance_for_accuracy():
    problem = make()
    strict, loose = (calibrated_multi_task(problem, SWARM, indifference=share) for share in (0.0, 1.0))
    tables = [search.heads.tables(problem.features) for search in (strict, loose)]
    assert accuracy(tables[1]).mean() > accuracy(tables[0]).mean()
    assert (underestimation_index(tables[1]) <= 1.1 * chance_index(tables[0])).all()
    uei, acc = torch.tensor([0.5, 0.01, 0.02, 0.03]), torch.tensor([0.9, 0.86, 0.87, 0.89])
    assert [pick(uei, acc, 0.05, indifferent) for indifferent in (0.0, 0.02, 0.025, 0.04)] == [1, 2, 2, 3]


def test_only_the_threshold_and_the_groups_direction_move():
    problem = make()
    valid, heads = problem.features, problem.heads
    search = calibrated_multi_task(problem, SWARM)
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
    assert torch.equal(calibrated_multi_task(replace(problem, searched=searched), SWARM).heads.last[1], heads[1])


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
    search = calibrated_multi_task(problem, SWARM)
    spent, flown = search.fronts.evaluations, len(search.fronts.hypervolume) - 1
    assert SWARM.evaluations - SWARM.particles < spent <= SWARM.evaluations
    assert spent == cost + (flown + 1) * SWARM.particles
    few = calibrated_multi_task(problem, Swarm(particles=10, iterations=8))
    assert few.fronts.evaluations == cost + 3 * 10  # a quarter of the iterations stays


def test_three_groups_have_two_directions():
    problem = make()
    three = replace(problem.features, group=torch.arange(900) % 3, groups=3)
    assert group_directions(three)[0].shape == (2, 13)
    search = calibrated_multi_task(replace(problem, features=three), SWARM)
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


def test_bad_settings_are_named():
    problem = make(images=50)
    with pytest.raises(ValueError, match="indifference=-1"):
        calibrated_multi_task(problem, SWARM, indifference=-1)
    with pytest.raises(ValueError, match="spread=-1"):
        calibrated_multi_task(problem, SWARM, spread=-1)
    with pytest.raises(ValueError, match="no label is searched"):
        replace(problem, searched=torch.zeros(3, dtype=torch.bool))


def test_ablations_vary_what_they_say():
    on, test = setting(Swarm(particles=20, iterations=9), (True, True, False))
    names = ["perturbation", "grid", "particles at equal evaluations", "start", "tolerance", "images of the pick"]
    trials = {(trial.ablation, trial.setting): trial for trial in ablate(on, names)}
    assert all(trial.outcome.method == setting for (_, setting), trial in trials.items())
    rows = {place: trial.row for place, trial in trials.items()}
    assert {name for name, _ in rows} == set(names)
    assert all(len(ABLATIONS[name]) == sum(ablation == name for ablation, _ in rows) for name in names)
    own = [row for (_, setting), row in rows.items() if setting == "as in the chapters"]
    assert len({(row["uei"], row["seconds"]) for row in own}) == 1  # searched once
    assert len(own) == len(names)
    by_hand = multi_task(on.problem, on.swarm, SETTINGS).heads.tables(test)[:2]
    assert own[0]["uei"] == pytest.approx(underestimation_index(by_hand).mean().item())
    assert own[0]["accuracy"] == pytest.approx(accuracy(by_hand).mean().item())
    particles = [row for (name, _), row in rows.items() if name == "particles at equal evaluations"]
    assert all(row["evaluations"] == 200 for row in particles)
    others = [row["uei_valid"] for (_, setting), row in rows.items() if setting != "as in the chapters"]
    assert sum(value != own[0]["uei_valid"] for value in others) > len(others) / 2
    with pytest.raises(ValueError, match="did you mean 'grid'"):
        next(ablate(on, ["gird"]))
    with pytest.raises(ValueError, match="to move both layers, give the problem"):
        list(ablate(on, ["layers of dynamic weighting"]))


def test_the_calibrated_search_is_taken_apart():
    on, test = setting(Swarm(particles=20, iterations=19), (True, True, False))
    valid, heads = on.problem.features, on.problem.heads
    trials = {trial.setting: trial for trial in ablate(on, ["parts of the calibrated search"])}
    before = accuracy(tables_of(valid, heads))[:2]
    for trial in trials.values():
        lost = before - accuracy(trial.outcome.valid)
        assert (lost <= on.problem.tolerance + 1e-9).all()  # of the base model's accuracy, wherever the search began
    by_hand = group_thresholds(on.problem)
    plain = trials["group thresholds on the base model's"]
    assert torch.equal(plain.outcome.test, by_hand.heads.predict(test)[:2])
    indifferent = trials["group thresholds on the base model's, its pick"]
    assert indifferent.row["accuracy"] > 0
    assert accuracy(indifferent.outcome.valid).mean() > accuracy(plain.outcome.valid).mean()
    assert indifferent.outcome.needs_group
    assert not trials["label thresholds on them, its pick"].outcome.needs_group
    spent = {setting: trial.row["evaluations"] for setting, trial in trials.items()}
    assert spent["in all directions"] <= on.swarm.evaluations + on.swarm.particles
    from_base = calibrated_multi_task(on.problem, on.swarm, recalibrated=False)
    assert torch.equal(trials["from the base model's heads"].outcome.test, from_base.heads.predict(test)[:2])
    better, _ = recalibrate(valid.x, valid.labels[:, :2], heads[:2])
    fitted = torch.cat([better, heads[2:]])
    f, g = (underestimation_index(tables_of(valid, layer))[:2] for layer in (fitted, heads))
    taken, alone = (Heads(layer.unsqueeze(0)).predict(test)[:2] for layer in (fitted, heads))
    allowed = accuracy(tables_of(valid, fitted))[:2] >= before - on.problem.tolerance
    expected = torch.where(((f < g) & allowed).unsqueeze(1), taken, alone)
    assert torch.equal(trials["recalibrated heads, no search"].outcome.test, expected)


def test_the_tolerance_counts_from_the_base_model_wherever_the_swarms_begin():
    problem = replace(make(), tolerance=0.02)
    valid, heads = problem.features, problem.heads
    better, _ = recalibrate(valid.x, valid.labels, heads)
    search = multi_task(problem, SWARM, SETTINGS, begin=better)
    before = accuracy(tables_of(valid, heads))
    assert [acc[0].item() for acc in search.accuracy] == pytest.approx(before.tolist())
    assert (accuracy(search.heads.tables(valid)) >= before - 0.02 - 1e-9).all()
    other = multi_task(problem, SWARM, SETTINGS)
    assert not torch.equal(search.fronts.positions, other.fronts.positions)


def test_what_a_setting_is_compared_with():
    assert against("grid", "one cell") == "as in the chapters"
    assert against("images of the pick", "30 % held out") == "as in the chapters"
    assert (
        against("pick of every method", "soft UEI, 30 % held out")
        == against("pick of every method", "soft UEI")
        == "soft UEI"
    )
    for setting, other in {
        "soft UEI, indifferent": "calibrated multi-task, indifferent",
        "soft UEI, lowest UEI": "calibrated multi-task, lowest UEI",
        "calibrated multi-task, indifferent": "calibrated multi-task, lowest UEI",
    }.items():
        assert against("indifference of every method", setting) == other


def test_any_search_can_take_the_calibrated_pick():
    on, test = setting(SWARM)
    trials = {trial.setting: trial for trial in ablate(on, ["indifference of every method"])}
    assert trials["calibrated multi-task, indifferent"].row["accuracy"] == pytest.approx(
        accuracy(calibrated_multi_task(on.problem, SWARM).heads.tables(test)).mean().item()
    )
    for method, plain in {
        "multi-task": multi_task(on.problem, SWARM, SETTINGS),
        "group thresholds": group_thresholds(on.problem),
    }.items():
        assert torch.equal(trials[f"{method}, lowest UEI"].outcome.test, plain.heads.predict(test))
        lowest, even = (accuracy(trials[f"{method}, {pick}"].outcome.valid).mean() for pick in ("lowest UEI", "indifferent"))
        assert even > lowest


def test_a_search_from_the_base_models_heads_pays_for_no_fits_of_them():
    problem = make()
    cost = group_directions(problem.features)[1]
    search = calibrated_multi_task(problem, SWARM, recalibrated=False)
    assert search.fronts.evaluations == cost + len(search.fronts.hypervolume) * SWARM.particles
    assert not torch.equal(search.heads.weights, calibrated_multi_task(problem, SWARM).heads.weights)


def test_directions_are_varied_alone():
    on, _ = setting(Swarm(particles=20, iterations=59))
    trials = {trial.setting: trial for trial in ablate(on, ["directions", "equal UEI"])}
    two, lowest = trials["threshold and group"], trials["none: the lowest"]
    assert torch.equal(two.outcome.test, lowest.outcome.test)
    assert trials["all"].outcome.method == "all"
    assert abs(trials["all"].row["evaluations"] - on.swarm.evaluations) <= on.swarm.particles
    accuracies = [
        trials[name].outcome.valid for name in ("none: the lowest", "half of what chance shows", "all that chance shows")
    ]
    kept = [float(accuracy(tables).mean()) for tables in accuracies]
    assert kept == sorted(kept)
    assert all(trial.row["uei_chance"] > 0 for trial in trials.values())


def test_a_start_at_recalibrated_heads_is_paid_for():
    on, _ = setting(Swarm(particles=20, iterations=59))
    spent = {trial.setting: trial.row["evaluations"] for trial in ablate(on, ["start", "parts of the calibrated search"])}
    valid = on.problem.features
    cost = recalibrate(valid.x, valid.labels, on.problem.heads)[1]
    assert abs(spent["recalibrated heads"] - on.swarm.evaluations) <= 20
    assert spent["recalibrated heads, no search"] == cost + 1
    assert spent["label thresholds on them, its pick"] == cost + 901
