import dataclasses

import moocore
import numpy as np
import pytest
import torch

from fairnb.mopso import Swarm, hypervolume, mopso, non_dominated


def zdt1(x):
    g = 1 + 9 * x[..., 1:].mean(-1)
    return torch.stack([x[..., 0], g * (1 - (x[..., 0] / g).sqrt())], dim=-1)


def fly(objectives=zdt1, swarms=2, dimensions=6, seed=0, bounds=(0.0, 1.0), **settings):
    swarm = Swarm(**{"particles": 40, "iterations": 60, **settings})
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(swarms, swarm.particles, dimensions, generator=draw)
    reference = torch.full((swarms, 2), 1.1, dtype=torch.float64)
    return mopso(objectives, start, swarm, generator=draw, bounds=bounds, reference=reference)


@pytest.mark.parametrize("ties", [False, True])
def test_non_dominated_agrees_with_moocore(ties):
    draw = torch.Generator().manual_seed(0)
    points = torch.rand(20, 50, 2, generator=draw, dtype=torch.float64)
    points = (points * 8).round() if ties else points
    for one, keep in zip(points, non_dominated(points), strict=True):
        expected = moocore.is_nondominated(one.numpy(), keep_weakly=False)
        # of equal points one is kept, whichever: compare what is kept, not which
        assert {tuple(p) for p in one[keep].tolist()} == {tuple(p) for p in one.numpy()[expected]}
        assert int(keep.sum()) == int(expected.sum())


def test_points_without_a_value_are_never_kept():
    points = torch.tensor([[torch.inf, 0.0], [1.0, 1.0], [torch.inf, torch.inf]])
    assert non_dominated(points).tolist() == [False, True, False]


def test_hypervolume_agrees_with_moocore():
    draw = torch.Generator().manual_seed(1)
    points = torch.rand(20, 30, 2, generator=draw, dtype=torch.float64) * 1.5  # some beyond the reference
    ours = hypervolume(points, torch.ones(20, 2, dtype=torch.float64))
    theirs = [moocore.hypervolume(one.numpy(), ref=np.ones(2)) for one in points]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def test_hypervolume_by_hand():
    reference = torch.tensor([[1.0, 1.0]])
    assert hypervolume(torch.tensor([[[0.5, 0.5], [0.25, 0.75], [torch.inf, torch.inf]]]), reference).item() == 0.3125
    assert hypervolume(torch.tensor([[[2.0, -5.0], [-5.0, 2.0]]]), reference).item() == 0.0  # worse than the reference


def test_fronts_are_non_dominated_inside_bounds_and_near_the_true_one():
    fronts = fly()
    for s in range(2):
        positions, values = fronts.pareto_front(s)
        assert 20 <= len(values) <= 100
        assert bool(non_dominated(values).all())
        assert bool(((positions >= 0) & (positions <= 1)).all())
        assert torch.equal(zdt1(positions).double(), values)
        assert bool((values[1:, 0] >= values[:-1, 0]).all())
    assert bool((fronts.hypervolume[-1] > 0.80).all())  # the true front's is 0.872 below (1.1, 1.1)
    assert fronts.hypervolume.shape == (61, 2)


def test_same_seed_same_fronts():
    one, other, third = fly(seed=5), fly(seed=5), fly(seed=6)
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(one.objectives, other.objectives)
    assert not torch.equal(one.objectives, third.objectives)


def test_swarms_do_not_touch_each_other():
    """What the second swarm is after has no say in what the first one finds."""

    def second_upside_down(x):
        values = zdt1(x)
        return torch.stack([values[0], -values[1]])

    assert torch.equal(fly().objectives[0], fly(second_upside_down).objectives[0])


def test_a_small_repository_keeps_its_ends():
    fronts = fly(repository=7)
    assert int(fronts.mask.sum(1).max()) <= 7
    large = fly(repository=200)
    assert fronts.objectives[0, fronts.mask[0], 0].min() < 0.1
    assert int(large.mask.sum(1).min()) > 7


def test_the_first_front_is_that_of_the_start():
    fronts = fly(iterations=0)
    draw = torch.Generator().manual_seed(0)
    values = zdt1(torch.rand(2, 40, 6, generator=draw)).double()
    for s in range(2):
        expected = values[s][non_dominated(values[s])]
        assert torch.equal(fronts.pareto_front(s)[1], expected[expected[:, 0].argsort()])
    assert fronts.evaluations == 40


def test_undefined_objectives_are_never_remembered():
    def partly_undefined(x):
        values = zdt1(x)
        return values.masked_fill(x[..., :1] < 0.5, torch.nan)

    fronts = fly(partly_undefined)
    assert bool((fronts.positions[fronts.mask][:, 0] >= 0.5).all())
    assert bool(fronts.objectives[fronts.mask].isfinite().all())


def test_nothing_defined_is_an_empty_front():
    fronts = fly(lambda x: torch.full((*x.shape[:-1], 2), torch.nan), iterations=3)
    assert not bool(fronts.mask.any())


def test_positions_are_free_without_bounds():
    def parabolas(x):  # the Pareto set is the segment from 0 to 2 on every axis
        return torch.stack([x.square().sum(-1), (x - 2).square().sum(-1)], dim=-1)

    positions, values = fly(parabolas, bounds=None, dimensions=2).pareto_front(0)
    assert values[:, 0].min() < 0.05
    assert values[:, 1].min() < 0.05
    assert positions.max() > 1.5


def test_perturbation_changes_the_search_and_can_be_turned_off():
    assert not torch.equal(fly(noise=0.0).objectives, fly(noise=0.3).objectives)
    assert torch.equal(fly(noise=0.0, accept_worse=0.0).objectives, fly(noise=0.0, accept_worse=1.0).objectives)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="particles=0"):
        Swarm(particles=0)
    with pytest.raises(ValueError, match="lower and an upper"):
        dataclasses.replace(Swarm(), inertia=(0.9, 0.1))
    with pytest.raises(ValueError, match="not \\[swarms, 50 particles"):
        mopso(zdt1, torch.rand(2, 40, 6), Swarm(), generator=torch.Generator())
    with pytest.raises(ValueError, match="the objectives have shape"):
        fly(lambda x: zdt1(x)[..., 0])
