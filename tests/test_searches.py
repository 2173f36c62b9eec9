import math
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from fairnb.features import Features
from fairnb.heads import Heads
from fairnb.methods import METHODS
from fairnb.methods.dynamic_weighting import dynamic_weighting
from fairnb.methods.flying import _Whitened
from fairnb.methods.multi_task import multi_task
from fairnb.methods.pick import pick
from fairnb.methods.problem import Problem, hold_out
from fairnb.metrics import accuracy, underestimation_index
from fairnb.run.parameters import Parameters, Pick, Settings, Swarm

SWARM, SETTINGS = Swarm(particles=30, iterations=30), Settings()


@pytest.fixture(scope="module")
def biased():
    """Features that tell four rare labels with noise, and heads that say yes far too rarely."""
    draw = torch.Generator().manual_seed(0)
    n, d, labels = 600, 8, 4
    group = torch.randint(2, (n,), generator=draw)
    x = torch.randn(n, d, generator=draw).relu()
    truth = x[:, :labels] + 0.5 * torch.randn(n, labels, generator=draw) + 0.3 * group[:, None] > 1.4
    heads = torch.cat([torch.eye(labels, d), torch.full((labels, 1), -1.9)], dim=1)
    return Problem(Features(x, truth, group, 2), heads)


def test_values_that_are_no_numbers_are_never_searched_or_picked(biased):
    x = biased.features.x.clone()
    x[[3, 5], 2] = torch.tensor([math.nan, math.inf])
    with pytest.raises(ValueError, match=r"^the features of 2 of 600 images are not finite numbers"):
        replace(biased, features=replace(biased.features, x=x))
    broken = biased.heads.clone()
    broken[0, 1] = math.nan
    for name in ("heads", "begin"):
        with pytest.raises(ValueError, match=f"^{name}: weights of the layer are not finite numbers$"):
            replace(biased, **{name: broken})
    with pytest.raises(ValueError, match=r"^the search ended in heads that are not finite numbers$"):
        biased.with_heads(broken)


@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"base"}))
@pytest.mark.parametrize("whiten", [False, True])
def test_a_layer_that_died_gives_finite_heads_or_a_refusal(biased, method, whiten):
    dead = replace(biased, features=replace(biased.features, x=torch.zeros_like(biased.features.x)))
    given = Parameters(particles=8, iterations=4, repository=10, gradient_steps=5, whiten=whiten)
    if METHODS[method].library and find_spec(METHODS[method].library) is None:
        pytest.skip("the library is not installed")
    if whiten and method in ("dynamic weighting", "multi-task"):
        with pytest.raises(ValueError, match=r"^the features are the same for every image"):
            METHODS[method].search(dead, given)
    else:
        assert bool(METHODS[method].search(dead, given).heads.weights.isfinite().all())


def tables_of(features, layer):
    return Heads(layer.unsqueeze(0)).tables(features)


def test_pick_takes_the_lowest_uei_that_is_accurate_enough():
    uei, acc = torch.tensor([0.5, 0.3, 0.1, 0.2, 0.2]), torch.tensor([0.9, 0.95, 0.80, 0.86, 0.87])
    assert pick(uei, acc, tolerance=0.05) == 4  # of the two at 0.2 the more accurate
    assert pick(uei, acc, tolerance=0.1) == 2
    assert pick(uei, acc, tolerance=0.0) == 1
    assert pick(torch.tensor([0.1, 0.3]), torch.tensor([0.9, 0.99]), 0.05) == 0  # nothing beats the base model


def test_multi_task_lowers_uei_within_the_tolerance(biased):
    search = multi_task(replace(biased, seed=1, tolerance=0.03), SWARM, SETTINGS)
    before, after = tables_of(biased.features, biased.heads), search.heads.tables(biased.features)
    assert bool((underestimation_index(after) <= underestimation_index(before)).all())
    assert underestimation_index(after).mean() < underestimation_index(before).mean() / 2
    assert bool((accuracy(after) >= accuracy(before) - 0.03 - 1e-9).all())
    for label in range(4):
        assert search.uei[label][0].item() == pytest.approx(underestimation_index(before)[label].item())
        assert search.uei[label][search.picked[label]].item() == pytest.approx(underestimation_index(after)[label].item())


def test_dynamic_weighting_lowers_the_mean_within_the_tolerance(biased):
    search = dynamic_weighting(replace(biased, seed=1, tolerance=0.03), SWARM, SETTINGS)
    before, after = tables_of(biased.features, biased.heads), search.heads.tables(biased.features)
    assert underestimation_index(after).mean() < underestimation_index(before).mean()
    assert accuracy(after).mean() >= accuracy(before).mean() - 0.03 - 1e-9


def test_dynamic_objectives_are_equations_7_and_8(biased):
    """The front's objectives, recomputed in NumPy from its positions, label by label."""
    valid = biased.features
    fronts = dynamic_weighting(replace(biased, seed=1), SWARM, Settings(epsilon=0.02)).fronts
    positions, values = fronts.pareto_front(0)
    x, y, s = valid.x.double().numpy(), valid.labels.numpy(), valid.group.numpy()
    for position, value in list(zip(positions, values, strict=True))[:5]:
        sums = [0.0, 0.0]
        for label, head in enumerate(position.double().numpy().reshape(biased.heads.shape)):
            predicted = x @ head[:-1] + head[-1] > 0
            overlap = sum(
                math.sqrt(np.mean((predicted == v) & (s == g)) * np.mean((y[:, label] == v) & (s == g)))
                for v in (False, True)
                for g in (0, 1)
            )
            uei, acc = math.sqrt(max(0.0, 1 - overlap)), np.mean(predicted == y[:, label])
            sums[0] += uei / (acc + 0.02)
            sums[1] -= acc / (uei + 0.02)
        np.testing.assert_allclose(value.numpy(), sums, rtol=1e-6)


def test_labels_not_searched_keep_their_heads(biased):
    searched, heads = torch.tensor([True, False, True, False]), biased.heads
    for find in (dynamic_weighting, multi_task):
        found = find(replace(biased, searched=searched), SWARM, SETTINGS).heads.last
        assert torch.equal(found[~searched], heads[~searched])
        assert not torch.equal(found[searched], heads[searched])


def test_same_seed_same_heads(biased):
    for find in (dynamic_weighting, multi_task):
        one, other = (find(replace(biased, seed=3), SWARM, SETTINGS).heads.weights for _ in range(2))
        assert torch.equal(one, other)


def test_a_label_that_is_never_predicted_is_found_a_way_out(biased):
    """Particles are scattered by how far the logits lie from 0: at spread 1 also a hopeless head is left behind."""
    hopeless = biased.heads * 1e-3
    hopeless[:, -1] = -5.0
    search = multi_task(replace(biased, heads=hopeless, tolerance=0.2), SWARM, Settings(spread=1.0))
    assert bool((search.heads.tables(biased.features)[:, :, :, 1].sum((1, 2)) > 0).all())


def test_three_groups_work(biased):
    three = replace(biased.features, group=torch.arange(600) % 3, groups=3)
    search = multi_task(replace(biased, features=three), SWARM, SETTINGS)
    assert search.heads.tables(three).shape == (4, 3, 2, 2)


def test_bad_settings_are_named(biased):
    with pytest.raises(ValueError, match="epsilon=0 must be above 0"):
        Settings(epsilon=0)
    with pytest.raises(ValueError, match=r"spread=-0\.1 must be at least 0"):
        Settings(spread=-0.1)
    for where in (Pick, lambda tolerance: replace(biased, tolerance=tolerance)):
        with pytest.raises(ValueError, match=r"tolerance=-0\.1 must"):
            where(tolerance=-0.1)
    with pytest.raises(ValueError, match="no label is searched"):
        replace(biased, searched=torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("find", [dynamic_weighting, multi_task])
def test_the_pick_can_be_made_on_images_that_the_search_did_not_see(biased, find):
    valid = biased.features
    search = find(replace(biased, seed=3, held_out=0.25), SWARM, SETTINGS)
    part, kept = hold_out(valid, 0.25, 3)
    assert (len(part.x), len(kept.x)) == (450, 150)
    rows = {tuple(row) for row in torch.cat([part.x, kept.x]).tolist()}
    assert rows == {tuple(row) for row in valid.x.tolist()}  # nobody is in both, nobody is lost
    tables = search.heads.tables(kept)
    uei = underestimation_index(tables) if find is multi_task else underestimation_index(tables).mean().unsqueeze(0)
    for s, place in enumerate(search.picked):
        assert search.uei[s][place].item() == pytest.approx(uei[s].item(), abs=1e-9)
        assert place == pick(search.uei[s], search.accuracy[s], 0.05)
    front = find(replace(biased, features=part, seed=3), SWARM, SETTINGS)
    assert torch.equal(front.fronts.objectives, search.fronts.objectives)  # the search saw the rest alone
    for share in (-0.1, 1.0, 0.0001):
        with pytest.raises(ValueError, match=f"held_out={share}"):
            replace(biased, held_out=share)


def test_both_layers_can_move(biased):
    """The hidden layer starts as the identity: features are positive, so it changes nothing until it moves."""
    hidden = torch.cat([torch.eye(8), torch.zeros(8, 1)], dim=1)
    search = dynamic_weighting(replace(biased, hidden=hidden, seed=1, tolerance=0.03), SWARM, SETTINGS)
    before, after = tables_of(biased.features, biased.heads), search.heads.tables(biased.features)
    assert torch.equal(Heads(biased.heads.unsqueeze(0), hidden).tables(biased.features), before)
    assert search.heads.hidden is not None
    assert search.heads.hidden.shape == hidden.shape
    assert not torch.equal(search.heads.hidden, hidden)
    assert underestimation_index(after).mean() < underestimation_index(before).mean()
    assert accuracy(after).mean() >= accuracy(before).mean() - 0.03 - 1e-9
    assert search.uei[0][search.picked[0]].item() == pytest.approx(float(underestimation_index(after).mean()))


@pytest.mark.parametrize("settings", [{"steer": "bfloat16"}, {"whiten": True}, {"steer": "bfloat16", "whiten": True}])
@pytest.mark.parametrize("find", [dynamic_weighting, multi_task])
def test_what_is_reported_is_exact(biased, find, settings):
    """However the search is steered, its front is that of its heads, on the features as they are, in float32."""
    search = find(replace(biased, seed=2), SWARM, Settings(**settings))
    tables = search.heads.tables(biased.features)
    uei, acc = underestimation_index(tables), accuracy(tables)
    if find is multi_task:
        for label in range(4):
            assert search.uei[label][search.picked[label]].item() == uei[label].item()
            assert search.accuracy[label][search.picked[label]].item() == pytest.approx(acc[label].item(), abs=1e-12)
    assert uei.mean() < underestimation_index(tables_of(biased.features, biased.heads)).mean()


def test_white_features_are_uncorrelated_and_heads_come_back(biased):
    valid, heads = biased.features, biased.heads
    white = _Whitened(valid.x)
    x = white.x
    torch.testing.assert_close(x.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(8), atol=1e-4, rtol=0)
    inside = white.enter(heads)
    torch.testing.assert_close(white.leave(inside), heads, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        x @ inside[:, :-1].T + inside[:, -1], valid.x @ heads[:, :-1].T + heads[:, -1], atol=1e-4, rtol=1e-4
    )


def test_layers_that_do_not_fit_are_named(biased):
    with pytest.raises(ValueError, match="features of 8 columns do not fit a layer that reads 7"):
        replace(biased, heads=biased.heads[:, 1:])
    with pytest.raises(ValueError, match="the hidden layer has 5 units, the heads 8 weights"):
        replace(biased, hidden=torch.zeros(5, 9))
    with pytest.raises(ValueError, match="whiten=True is for heads alone"):
        dynamic_weighting(replace(biased, hidden=torch.zeros(8, 9)), SWARM, Settings(whiten=True))
    with pytest.raises(ValueError, match="whiten=True is for heads alone"):
        Settings(layers="all", whiten=True)


def test_a_search_for_something_else_is_not_gone_on_with(biased, tmp_path):
    saved, swarm, rough = tmp_path / "search.safetensors", Swarm(particles=20, iterations=25), Settings(steer="bfloat16")
    problem = replace(biased, saved=saved)
    dynamic_weighting(problem, swarm, rough)
    assert saved.exists()
    other = replace(problem, features=replace(biased.features, labels=~biased.features.labels))
    for asked, settings in ((problem, rough.but(epsilon=1.0)), (problem, SETTINGS), (other, rough)):
        with pytest.raises(ValueError, match="holds another search"):
            dynamic_weighting(asked, swarm, settings)
    dynamic_weighting(problem, swarm, rough)


def test_a_search_is_gone_on_with_whatever_changed_that_it_does_not_take(biased, tmp_path):
    swarm = Swarm(particles=20, iterations=25)
    for find, settings in ((dynamic_weighting, {"gradient_steps": 7}), (multi_task, {"gradient_steps": 7, "epsilon": 1.0})):
        problem = replace(biased, saved=tmp_path / find.__name__)
        search = find(problem, swarm, SETTINGS)
        saved = problem.saved.read_bytes()
        again = find(problem, swarm, SETTINGS.but(**settings))
        assert torch.equal(again.heads.weights, search.heads.weights)
        assert problem.saved.read_bytes() == saved


def test_held_out_are_people():
    draw = torch.Generator().manual_seed(0)
    person = torch.randint(40, (300,), generator=draw)
    whole = Features(torch.arange(300.0).unsqueeze(1), torch.zeros(300, 1).bool(), torch.zeros(300).long(), 1, person)
    rest, kept = hold_out(whole, 0.3, seed=1)
    assert rest.person is not None
    assert kept.person is not None
    assert not set(rest.person.tolist()) & set(kept.person.tolist())
    assert sorted(rest.x[:, 0].tolist() + kept.x[:, 0].tolist()) == whole.x[:, 0].tolist()
    assert 80 < len(kept.x) <= 90
    one = replace(whole, person=torch.arange(300).clamp(max=180))  # one of many images, whom most shares cannot hold
    assert [len(hold_out(one, 0.3, seed=seed)[1].x) for seed in range(5)] == [90] * 5
    unknown = replace(whole, person=None)
    assert len(hold_out(unknown, 0.3, seed=1)[1].x) == 90
    with pytest.raises(ValueError, match="leaves none"):
        hold_out(replace(whole, person=torch.zeros(300).long()), 0.3, seed=1)
