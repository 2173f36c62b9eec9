"""Calibrated search: the multi-task search in few directions, from recalibrated heads. It is ours, not the paper's.

A head of D + 1 weights can memorise a validation split of a few thousand images: it overfits their counts. The calibrated
search moves each label in a few directions only, its threshold and the directions that separate the groups, from a head that
was recalibrated first. That suffices to match group thresholds without being given the group. The group is inferred from the
image instead, which is a use of the sensitive attribute too.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from fairnb.features import Features
from fairnb.heads import logits, uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, pick_each
from fairnb.methods.problem import Problem, scatter
from fairnb.methods.recalibration import recalibrate
from fairnb.run.parameters import Swarm
from fairnb.swarm.mopso import mopso


def calibrated_multi_task(problem: Problem, swarm: Swarm, *, spread: float = 0.5) -> Search:
    """Search each label's threshold and the group directions for UEI and error, from the heads where the problem starts.

    The fits use up the swarm's evaluations, one per gradient, but a quarter of its iterations stays. `spread` is the
    distance of the first particles from the start, in standard deviations of its logits; a negative one raises ValueError.
    """
    if not spread >= 0:
        raise ValueError(f"spread={spread} must not be negative")
    valid, start = problem.valid, problem.start
    directions, steps = group_directions(valid, problem.seed)  # [G − 1, D + 1]
    # The cost of the fits is deducted from the flight, so that methods are compared at equal evaluations.
    left = (swarm.evaluations - problem.paid - steps) // swarm.particles - 1
    size = logits(valid.x, start).std(1).view(-1, 1, 1)

    def to_heads(x: Tensor) -> Tensor:  # [S, P, G] → [S, P, D + 1]
        moved = start.unsqueeze(1) + size * (x[..., 1:] @ directions)
        moved[..., -1] += (size * x[..., :1]).squeeze(-1)
        return moved

    # In a few dimensions the paper's flight sometimes comes to rest far from the front.
    swarm = swarm.but(flight="constricted", iterations=max(swarm.iterations // 4, left))
    name, score = "calibrated multi-task", problem.scorer()
    generator, centre = problem.generator(name), start.new_zeros(len(start), valid.groups)
    particles = scatter(centre, torch.full_like(centre, spread), swarm.particles, generator)
    worst = torch.ones(len(start), 2, dtype=torch.float64, device=start.device)
    fronts = mopso(
        lambda x: uei_and_error(score(to_heads(x))), particles, swarm, generator=generator, reference=worst,
        saved=problem.saved, named=name, fabric=problem.fabric, progress=name,
    )  # fmt: skip
    return pick_each(problem, replace(fronts, positions=to_heads(fronts.positions), evaluations=fronts.evaluations + steps))


def group_directions(features: Features, seed: int = 0) -> tuple[Tensor, int]:
    """Heads [G − 1, D + 1] that separate each group but the first, logits of mean 0 and deviation 1; number of gradients."""
    member = one_hot(features.group, features.groups)[:, 1:].bool()
    nothing = features.x.new_zeros(features.groups - 1, features.x.shape[1] + 1)
    heads, steps = recalibrate(features.x, member, nothing, seed=seed)
    heads[:, -1] = -(heads[:, :-1] @ features.x.mean(0))  # mean logit 0: thresholds move separately
    return heads / (features.x @ heads[:, :-1].T).std(0).clamp(min=1e-6).unsqueeze(1), steps


METHOD = Method(
    "calibrated multi-task", lambda problem, given: calibrated_multi_task(problem, given.part(Swarm)),
    takes=frozenset(Swarm.names()), group="inferred", colour="#56b4e9", marker="P",
    start="recalibrated", indifference=0.5,
)  # fmt: skip
