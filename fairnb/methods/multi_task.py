"""The paper's multi-task search (section 6): one head and one search per label, all labels in parallel."""

import torch

from fairnb.heads import uei_and_error
from fairnb.methods.flying import Start, fly
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, pick_each
from fairnb.methods.problem import Problem, noise_unit
from fairnb.run.parameters import Settings, Swarm


def multi_task(problem: Problem, swarm: Swarm, settings: Settings) -> Search:
    """Search each label's head on its own for its UEI and its error, 1 − accuracy; the tolerance applies per label.

    `settings` gives spread, coordinates and arithmetic; its `layers` has no effect.
    """
    first = problem.start
    worst = torch.ones(len(first), 2, dtype=torch.float64, device=first.device)
    start = Start(first, noise_unit(problem.valid.x, first), worst)
    fronts = fly(problem, "multi-task fix", start, lambda score, x: uei_and_error(score(x)), swarm, settings)
    return pick_each(problem, fronts)


METHOD = Method(
    "multi-task", lambda problem, given: multi_task(problem, given.part(Swarm), given.part(Settings)),
    takes=frozenset(Swarm.names() | Settings.names()) - {"epsilon", "layers", "gradient_steps", "box"},
    group="inferred", colour="#029e73", marker="D", reference="blanzeisky2023", paper=True,
)  # fmt: skip
