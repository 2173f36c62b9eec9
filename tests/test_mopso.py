import moocore
import numpy as np
import pytest
import torch

from fairnb.run.parameters import Swarm
from fairnb.swarm.mopso import Flight, mopso, rescore
from fairnb.swarm.repository import area_added, hypervolume, non_dominated, thin_by_area
from fairnb.swarm.zdt import zdt

FLIGHTS = ["paper", "constricted"]
zdt1 = zdt("zdt1")[0]


def fly(objectives=zdt1, swarms=2, dimensions=6, seed=0, bounds=(0.0, 1.0), saved=None, watch=None, **settings):
    swarm = Swarm(**{"particles": 40, "iterations": 60, **settings})
    draw = torch.Generator().manual_seed(seed)
    start = torch.rand(swarms, swarm.particles, dimensions, generator=draw)
    reference = torch.full((swarms, 2), 1.1, dtype=torch.float64)
    keywords = {"generator": draw, "bounds": bounds, "reference": reference, "watch": watch}
    return mopso(objectives, start, swarm, saved=saved, save_every=10, **keywords)


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


def test_what_a_point_adds_is_the_area_that_goes_with_it():
    draw = torch.Generator().manual_seed(2)
    points = torch.rand(1, 40, 2, generator=draw, dtype=torch.float64)
    front = torch.where(non_dominated(points).unsqueeze(-1), points, torch.inf)
    reference = torch.full((1, 2), 2.0, dtype=torch.float64)
    held = int(front[0, :, 0].isfinite().sum())
    whole, (place, added) = hypervolume(front, reference), area_added(front)
    assert bool((front[0, place[0, :held], 0].diff() > 0).all())  # along the front
    assert bool(added[0, [0, held - 1]].isinf().all())  # the ends count as infinite
    for k in range(1, held - 1):
        without = front.clone()
        without[0, place[0, k]] = torch.inf
        assert added[0, k].item() == pytest.approx((whole - hypervolume(without, reference)).item())


def test_thinning_by_area_takes_the_least_one_by_one():
    """Where few are too many it is the greedy choice, which moocore's contributions give too."""
    first = torch.rand(1, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64).sort().values
    points = torch.stack([first, 1 - first.sqrt()], dim=-1)
    left = points[0].numpy()
    for _ in range(4):
        share = moocore.hv_contributions(left, ref=[1e9, 1e9])
        left = np.delete(left, share.argmin(), axis=0)
    keep = thin_by_area(points, 26)
    assert int(keep.sum()) == 26
    np.testing.assert_array_equal(points[keep].numpy(), left)
    assert int(thin_by_area(points, 3).sum()) == 3


@pytest.mark.parametrize("flight", FLIGHTS)
def test_fronts_are_non_dominated_inside_bounds_and_near_the_true_one(flight):
    fronts = fly(flight=flight)
    for s in range(2):
        positions, values = fronts.pareto_front(s)
        assert 20 <= len(values) <= 100
        assert bool(non_dominated(values).all())
        assert bool(((positions >= 0) & (positions <= 1)).all())
        assert torch.equal(zdt1(positions).double(), values)
        assert bool((values[1:, 0] >= values[:-1, 0]).all())
        alone = fronts.of(s)
        assert torch.equal(alone.pareto_front(0)[0], positions)
        assert torch.equal(alone.hypervolume[:, 0], fronts.hypervolume[:, s])
    assert bool((fronts.hypervolume[-1] > 0.80).all())  # the true front's is 0.872 below (1.1, 1.1)
    assert fronts.hypervolume.shape == (61, 2)


@pytest.mark.parametrize("flight", FLIGHTS)
def test_same_seed_same_fronts(flight):
    one, other, third = (fly(seed=seed, flight=flight) for seed in (5, 5, 6))
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(one.objectives, other.objectives)
    assert not torch.equal(one.objectives, third.objectives)


@pytest.mark.parametrize("flight", FLIGHTS)
def test_swarms_do_not_touch_each_other(flight):
    """What the second swarm is after has no say in what the first one finds."""

    def second_upside_down(x):
        values = zdt1(x)
        return torch.stack([values[0], 20 - values[1]])

    one, other = fly(flight=flight, noise=0.0), fly(second_upside_down, flight=flight, noise=0.0)
    assert torch.equal(one.objectives[0], other.objectives[0])


@pytest.mark.parametrize("flight", FLIGHTS)
def test_a_search_that_was_stopped_goes_on_to_the_same_end(tmp_path, flight):
    class Stopped(Exception):
        pass

    def stop(iteration, _):
        if iteration == 33:
            raise Stopped

    whole, path = fly(flight=flight), tmp_path / "search.safetensors"
    with pytest.raises(Stopped):
        fly(flight=flight, saved=path, watch=stop)
    seen = []
    resumed = fly(flight=flight, saved=path, watch=lambda iteration, _: seen.append(iteration))
    assert seen[0] == 31
    for name in ("positions", "objectives", "hypervolume"):
        assert torch.equal(getattr(whole, name), getattr(resumed, name))
    with pytest.raises(ValueError, match="holds another search"):
        fly(flight=flight, saved=path, seed=9)


def test_what_steers_is_scored_again_exactly():
    def rough(x):
        return (zdt1(x) * 20).round() / 20

    draw = torch.Generator().manual_seed(0)
    start = torch.rand(1, 40, 6, generator=draw)
    steered = mopso(rough, start, Swarm(particles=40, iterations=20), generator=draw, bounds=(0, 1))
    fronts = rescore(steered, zdt1)
    positions, values = fronts.pareto_front(0)
    assert len(values) > 1
    assert not torch.equal(fronts.objectives, steered.objectives)
    assert not bool(fronts.positions[~fronts.mask].any())
    assert fronts.hypervolume[-1] == hypervolume(fronts.objectives, fronts.reference)
    assert torch.equal(zdt1(positions).double(), values)
    assert bool(non_dominated(values).all())


def test_a_flight_can_be_watched():
    seen = []
    fly(iterations=3, watch=lambda iteration, flight: seen.append((iteration, flight.x[..., flight.dimensions :].clone())))
    assert [iteration for iteration, _ in seen] == [0, 1, 2, 3]
    for _, own in seen:  # w, c1 and c2 stay within their bounds
        assert bool((own >= torch.tensor([0.1, 0.5, 0.5])).all())
        assert bool((own <= torch.tensor([0.7, 2.0, 2.0])).all())


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


@pytest.mark.parametrize("flight", FLIGHTS)
def test_what_becomes_undefined_is_never_remembered(flight):
    calls = []

    def undefined_in_flight(x):
        calls.append(1)
        return zdt1(x) if len(calls) == 1 else zdt1(x).masked_fill(x[..., :1] < 0.5, torch.nan)

    start = fly(iterations=0, flight=flight)
    fronts = fly(undefined_in_flight, flight=flight)
    known = {tuple(x) for x in start.positions[start.mask].tolist()}
    new = [x for x in fronts.positions[fronts.mask].tolist() if tuple(x) not in known]
    assert new
    assert all(x[0] >= 0.5 for x in new)
    assert bool(fronts.objectives[fronts.mask].isfinite().all())


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


@pytest.mark.parametrize(("value", "shown"), [(torch.nan, "nan"), (torch.inf, "inf")])
def test_a_start_without_a_value_is_named(value, shown):
    def holed(x):
        values = zdt1(x)
        values[1, 7, 1] = value
        return values

    with pytest.raises(ValueError, match=rf"swarm 1, particle 7 starts with objectives \[.*{shown}\]"):
        fly(holed)


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="particles=0"):
        Swarm(particles=0)
    with pytest.raises(ValueError, match="repository=0"):
        Swarm(repository=0)
    with pytest.raises(ValueError, match="repository=1 must be at least 2"):
        Swarm(repository=1, flight="constricted")
    with pytest.raises(ValueError, match="did you mean 'constricted'"):
        Swarm(flight="constrict")
    with pytest.raises(ValueError, match=r"turbulence=1\.5"):
        Swarm(turbulence=1.5)
    with pytest.raises(ValueError, match="lower and an upper"):
        Swarm().but(inertia=(0.9, 0.1))
    with pytest.raises(ValueError, match="not \\[swarms, 50 particles"):
        mopso(zdt1, torch.rand(2, 40, 6), Swarm(), generator=torch.Generator())
    with pytest.raises(ValueError, match="the objectives have shape"):
        fly(lambda x: zdt1(x)[..., 0])
    with pytest.raises(ValueError, match=r"the reference has shape \(2,\), not \(2, 2\)"):
        mopso(zdt1, torch.rand(2, 50, 6), Swarm(), generator=torch.Generator(), reference=torch.ones(2))
    with pytest.raises(ValueError, match="bounds cross at coordinate 2"):
        fly(bounds=(torch.zeros(6), torch.tensor([1.0, 1, -1, 1, 1, 1])))
    with pytest.raises(ValueError, match="do not fit a start"):
        fly(bounds=(torch.zeros(5), 1.0))
    with pytest.raises(ValueError, match="starts outside the bounds: coordinate"):
        fly(bounds=(0.0, 0.5))


def test_a_generator_on_another_device_is_refused():
    class Elsewhere:
        device = torch.device("cuda", 0)

    with pytest.raises(ValueError, match="the generator is on cuda:0, the start on cpu"):
        Flight(torch.rand(1, 50, 3), Swarm(), Elsewhere(), 1.0, None)  # type: ignore[arg-type]


# ------------------------------------------------------------------ the problems by which optimisers are compared


@pytest.mark.parametrize("name", ["zdt1", "zdt2", "zdt3", "zdt4", "zdt6"])
def test_problems_agree_with_pymoo(name):
    from pymoo.problems import get_problem

    ours, (low, high), theirs = zdt(name)[0], zdt(name)[1:], get_problem(name)
    np.testing.assert_array_equal(low, theirs.xl)
    np.testing.assert_array_equal(high, theirs.xu)
    x = low.double() + (high - low) * torch.rand(
        20, len(low), dtype=torch.float64, generator=torch.Generator().manual_seed(0)
    )
    np.testing.assert_allclose(ours(x), theirs.evaluate(x.numpy()), rtol=1e-9)


@pytest.mark.parametrize("name", ["zdt1", "zdt4"])
def test_the_constricted_flight_reaches_the_true_front(name):
    from pymoo.problems import get_problem

    objectives, low, high = zdt(name)
    draw = torch.Generator().manual_seed(0)
    start = low + (high - low) * torch.rand(1, 100, len(low), generator=draw)
    swarm = Swarm(particles=100, iterations=249, flight="constricted")
    found = mopso(objectives, start, swarm, generator=draw, bounds=(low, high)).pareto_front(0)[1].numpy()
    share = moocore.hypervolume(found, ref=[1.1, 1.1]) / moocore.hypervolume(
        get_problem(name).pareto_front(), ref=[1.1, 1.1]
    )
    assert share > 0.998


def test_turbulence_changes_about_one_coordinate_of_a_leader():
    leaders: list[torch.Tensor] = []
    differ: list[torch.Tensor] = []

    def watch(iteration, flight):
        held = flight.repository.objectives[0, :, 0].isfinite()
        if leaders:
            differ.append((flight.positions[0].unsqueeze(1) != leaders[-1]).sum(-1).amin(1))
        leaders.append(flight.repository.positions[0, held].clone())

    fly(flight="constricted", turbulence=1.0, swarms=1, dimensions=10, iterations=20, watch=watch)
    changed = torch.stack(differ).float()
    assert 0.7 < changed.mean() < 1.3
    assert changed.max() <= 7


@pytest.mark.parametrize("flight", FLIGHTS)
@pytest.mark.parametrize("shape", [(6,), (40, 6), (2, 1, 1), (2, 40, 6)])
def test_bounds_and_scale_may_differ_by_swarm_and_particle(flight, shape):
    """What broadcasts against [S, P, D] flies as the number that it repeats."""
    draw = torch.Generator()
    start = torch.rand(2, 40, 6, generator=draw.manual_seed(0))
    swarm = Swarm(particles=40, iterations=5, flight=flight)
    for bounds in ((0.0, 1.0), None):
        plain = mopso(zdt1, start, swarm, generator=draw.manual_seed(1), bounds=bounds, scale=0.1)
        each = None if bounds is None else (torch.zeros(shape), torch.ones(shape))
        found = mopso(zdt1, start, swarm, generator=draw.manual_seed(1), bounds=each, scale=torch.full(shape, 0.1))
        assert torch.equal(found.positions, plain.positions)
