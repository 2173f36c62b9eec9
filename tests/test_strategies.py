import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fairnb.features import Features
from fairnb.methods.strategies import dynamic_weighting, evaluate, hold_out, multi_task, pick, predict
from fairnb.metrics import accuracy, underestimation_index
from fairnb.swarm.mopso import Swarm

SWARM = Swarm(particles=30, iterations=30)


@pytest.fixture(scope="module")
def biased():
    """Features that tell four rare labels with noise, and heads that say yes far too rarely."""
    draw = torch.Generator().manual_seed(0)
    n, d, labels = 600, 8, 4
    group = torch.randint(2, (n,), generator=draw)
    x = torch.randn(n, d, generator=draw).relu()
    truth = x[:, :labels] + 0.5 * torch.randn(n, labels, generator=draw) + 0.3 * group[:, None] > 1.4
    heads = torch.cat([torch.eye(labels, d), torch.full((labels, 1), -1.9)], dim=1)
    return Features(x, truth, group, 2), heads


def test_predictions_and_tables_by_hand():
    features = Features(
        torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[1], [0], [1]]).bool(), torch.tensor([0, 1, 1]), 2
    )
    heads = torch.tensor([[1.0, -1.5]])  # positive above 1.5
    assert predict(features.x, heads).tolist() == [[False, True, True]]
    assert evaluate(features, heads).tolist() == [[[[0, 0], [1, 0]], [[0, 1], [0, 1]]]]


def test_pick_takes_the_lowest_uei_that_is_accurate_enough():
    uei, acc = torch.tensor([0.5, 0.3, 0.1, 0.2, 0.2]), torch.tensor([0.9, 0.95, 0.80, 0.86, 0.87])
    assert pick(uei, acc, tolerance=0.05) == 4  # of the two at 0.2 the more accurate
    assert pick(uei, acc, tolerance=0.1) == 2
    assert pick(uei, acc, tolerance=0.0) == 1
    assert pick(torch.tensor([0.1, 0.3]), torch.tensor([0.9, 0.99]), 0.05) == 0  # nothing beats the base model


def test_multi_task_lowers_uei_within_the_tolerance(biased):
    valid, heads = biased
    search = multi_task(valid, heads, SWARM, seed=1, tolerance=0.03)
    before, after = evaluate(valid, heads), evaluate(valid, search.heads)
    assert bool((underestimation_index(after) <= underestimation_index(before)).all())
    assert underestimation_index(after).mean() < underestimation_index(before).mean() / 2
    assert bool((accuracy(after) >= accuracy(before) - 0.03 - 1e-9).all())
    for label in range(4):
        assert search.uei[label][0].item() == pytest.approx(underestimation_index(before)[label].item())
        assert search.uei[label][search.picked[label]].item() == pytest.approx(underestimation_index(after)[label].item())


def test_dynamic_weighting_lowers_the_mean_within_the_tolerance(biased):
    valid, heads = biased
    search = dynamic_weighting(valid, heads, SWARM, seed=1, tolerance=0.03)
    before, after = evaluate(valid, heads), evaluate(valid, search.heads)
    assert underestimation_index(after).mean() < underestimation_index(before).mean()
    assert accuracy(after).mean() >= accuracy(before).mean() - 0.03 - 1e-9


def test_dynamic_objectives_are_equations_7_and_8(biased):
    """The front's objectives, recomputed in NumPy from its positions, label by label."""
    valid, heads = biased
    positions, values = dynamic_weighting(valid, heads, SWARM, seed=1, epsilon=0.02).fronts.pareto_front(0)
    x, y, s = valid.x.double().numpy(), valid.labels.numpy(), valid.group.numpy()
    for position, value in list(zip(positions, values, strict=True))[:5]:
        sums = [0.0, 0.0]
        for label, head in enumerate(position.double().numpy().reshape(heads.shape)):
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
    valid, heads = biased
    searched = torch.tensor([True, False, True, False])
    for find in (dynamic_weighting, multi_task):
        found = find(valid, heads, SWARM, searched=searched).heads
        assert torch.equal(found[~searched], heads[~searched])
        assert not torch.equal(found[searched], heads[searched])


def test_same_seed_same_heads(biased):
    valid, heads = biased
    for find in (dynamic_weighting, multi_task):
        assert torch.equal(find(valid, heads, SWARM, seed=3).heads, find(valid, heads, SWARM, seed=3).heads)


def test_a_label_that_is_never_predicted_is_found_a_way_out(biased):
    """Particles are scattered by how far the logits lie from 0: at spread 1 also a hopeless head is left behind."""
    valid, heads = biased
    hopeless = heads * 1e-3
    hopeless[:, -1] = -5.0
    search = multi_task(valid, hopeless, SWARM, tolerance=0.2, spread=1.0)
    assert bool((evaluate(valid, search.heads)[:, :, :, 1].sum((1, 2)) > 0).all())


def test_three_groups_work(biased):
    valid, heads = biased
    three = Features(valid.x, valid.labels, torch.arange(len(valid.x)) % 3, 3)
    assert evaluate(three, multi_task(three, heads, SWARM).heads).shape == (4, 3, 2, 2)


def test_bad_settings_are_named(biased):
    valid, heads = biased
    with pytest.raises(ValueError, match="epsilon=0"):
        dynamic_weighting(valid, heads, SWARM, epsilon=0)
    with pytest.raises(ValueError, match=r"tolerance=-0\.1"):
        multi_task(valid, heads, SWARM, tolerance=-0.1)
    with pytest.raises(ValueError, match="no label is searched"):
        multi_task(valid, heads, SWARM, searched=torch.zeros(4, dtype=torch.bool))


@pytest.mark.parametrize("find", [dynamic_weighting, multi_task])
def test_the_pick_can_be_made_on_images_that_the_search_did_not_see(biased, find):
    valid, heads = biased
    search = find(valid, heads, SWARM, seed=3, held_out=0.25)
    part, kept = hold_out(valid, 0.25, 3)
    assert (len(part.x), len(kept.x)) == (450, 150)
    rows = {tuple(row) for row in torch.cat([part.x, kept.x]).tolist()}
    assert rows == {tuple(row) for row in valid.x.tolist()}  # nobody is in both, nobody is lost
    tables = evaluate(kept, search.heads)
    uei = underestimation_index(tables) if find is multi_task else underestimation_index(tables).mean().unsqueeze(0)
    for s, place in enumerate(search.picked):
        assert search.uei[s][place].item() == pytest.approx(uei[s].item(), abs=1e-9)
        assert place == pick(search.uei[s], search.accuracy[s], 0.05)
    front = find(part, heads, SWARM, seed=3)
    assert torch.equal(front.fronts.objectives, search.fronts.objectives)  # the search saw the rest alone
    for share in (-0.1, 1.0, 0.0001):
        with pytest.raises(ValueError, match=f"held_out={share}"):
            find(valid, heads, SWARM, held_out=share)


def test_heads_for_each_group_answer_for_their_own(biased):
    valid, heads = biased
    both = torch.stack([heads, -heads])
    tables, one, other = (evaluate(valid, each) for each in (both, heads, -heads))
    assert torch.equal(tables[:, 0], one[:, 0])
    assert torch.equal(tables[:, 1], other[:, 1])


def test_both_layers_can_move(biased):
    """The hidden layer starts as the identity: features are positive, so it changes nothing until it moves."""
    valid, heads = biased
    hidden = torch.cat([torch.eye(8), torch.zeros(8, 1)], dim=1)
    search = dynamic_weighting(valid, heads, SWARM, hidden=hidden, seed=1, tolerance=0.03)
    before, after = evaluate(valid, heads), evaluate(valid, search.heads, search.hidden)
    assert torch.equal(evaluate(valid, heads, hidden), before)
    assert search.hidden is not None
    assert search.hidden.shape == hidden.shape
    assert not torch.equal(search.hidden, hidden)
    assert underestimation_index(after).mean() < underestimation_index(before).mean()
    assert accuracy(after).mean() >= accuracy(before).mean() - 0.03 - 1e-9
    assert search.uei[0][search.picked[0]].item() == pytest.approx(float(underestimation_index(after).mean()))


@pytest.mark.parametrize("settings", [{"steer": "bfloat16"}, {"whiten": True}, {"steer": "bfloat16", "whiten": True}])
@pytest.mark.parametrize("find", [dynamic_weighting, multi_task])
def test_what_is_reported_is_exact(biased, find, settings):
    """However the search is steered, its front is that of its heads, on the features as they are, in float32."""
    valid, heads = biased
    search = find(valid, heads, SWARM, seed=2, **settings)
    tables = evaluate(valid, search.heads)
    uei, acc = underestimation_index(tables), accuracy(tables)
    if find is multi_task:
        for label in range(4):
            assert search.uei[label][search.picked[label]].item() == uei[label].item()
            assert search.accuracy[label][search.picked[label]].item() == pytest.approx(acc[label].item(), abs=1e-12)
    assert uei.mean() < underestimation_index(evaluate(valid, heads)).mean()


def test_white_features_are_uncorrelated_and_heads_come_back(biased):
    from fairnb.methods.strategies import _Whitened

    valid, heads = biased
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
    valid, heads = biased
    with pytest.raises(ValueError, match="features of 8 columns do not fit a layer that reads 7"):
        multi_task(valid, heads[:, 1:], SWARM)
    with pytest.raises(ValueError, match="the hidden layer has 5 units, the heads 8 weights"):
        dynamic_weighting(valid, heads, SWARM, hidden=torch.zeros(5, 9))
    with pytest.raises(ValueError, match="whiten=True is for heads alone"):
        dynamic_weighting(valid, heads, SWARM, hidden=torch.zeros(8, 9), whiten=True)


def test_a_search_for_something_else_is_not_gone_on_with(biased, tmp_path):
    valid, heads = biased
    saved, swarm = tmp_path / "search.safetensors", Swarm(particles=20, iterations=25)
    dynamic_weighting(valid, heads, swarm, steer="bfloat16", saved=saved)
    assert saved.exists()
    other = Features(valid.x, ~valid.labels, valid.group, 2)
    for features, settings in ((valid, {"epsilon": 1.0, "steer": "bfloat16"}), (valid, {}), (other, {"steer": "bfloat16"})):
        with pytest.raises(ValueError, match="holds another search"):
            dynamic_weighting(features, heads, swarm, saved=saved, **settings)
    dynamic_weighting(valid, heads, swarm, steer="bfloat16", saved=saved)


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
