"""Random heads around the base model's: the baseline that a swarm has to beat."""

import torch

from fairnb.heads import uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, picked_from
from fairnb.methods.problem import Problem, noise_unit
from fairnb.run.parameters import Settings
from fairnb.swarm.repository import non_dominated

AT_ONCE = 100  # heads per label drawn and scored together


def random_search(problem: Problem, *, evaluations: int, spread: float = Settings().spread) -> Search:
    """Scatter `evaluations` heads per label, at least 1, around the base model's and keep the non-dominated.

    The right distance is unknown: each draw's own is log-uniform from `spread` / 10 to 10 · `spread`, in `noise_unit`s.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations} must be at least 1")
    start, generator, score = problem.start, problem.generator("random search"), problem.scorer()
    unit = noise_unit(problem.valid.x, start).unsqueeze(1) * spread
    positions, values = list(start.unsqueeze(1)), list(uei_and_error(score(start.unsqueeze(1))))
    for first in range(1, evaluations, AT_ONCE):
        shape = (len(start), min(AT_ONCE, evaluations - first), start.shape[1])
        far = 10 ** (2 * torch.rand(*shape[:2], 1, generator=generator, device=start.device) - 1)
        x = start.unsqueeze(1) + unit * far * torch.randn(shape, generator=generator, device=start.device)
        for s, f in enumerate(uei_and_error(score(x))):
            keep = non_dominated(both := torch.cat([values[s], f]))
            positions[s], values[s] = torch.cat([positions[s], x[s]])[keep], both[keep]
    return picked_from(problem, positions, values, evaluations)


METHOD = Method(
    "random search", lambda problem, given: random_search(problem, evaluations=max(1, given.evaluations - problem.paid)),
    takes=frozenset({"particles", "iterations"}), group="inferred", colour="#949494", marker=">",
)  # fmt: skip
