"""Peers of the searches, each from the library that is known for it, by the `bench` extra: `pip install "fairnb[bench]"`.

torchjd's descent along two gradients at once (Quinton and Rey 2024), pymoo's NSGA-II (Deb et al. 2002) and MOPSO with
crowding distance, and jMetalPy's SMPSO (Nebro et al. 2009). All start from the same features, heads and labels.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from fairnb.heads import Scorer, logits, uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, picked_from
from fairnb.methods.problem import Problem, noise_unit, scatter
from fairnb.methods.soft_uei import SNAPSHOT, smooth_uei
from fairnb.run.parameters import Parameters
from fairnb.swarm.repository import non_dominated

Array = np.ndarray
Evaluate = Callable[[Any], Array]  # positions [P, D] → objectives [P, 2]
Front = tuple[Array, Array]  # positions [K, D] and objectives [K, 2]
PARTICLES = 50  # as the chapters' swarms
SPREAD = 0.1  # of the first ones, as the chapters'


def evolve(problem: Problem, search: Callable[..., Front], box: float, evaluations: int) -> Search:
    """One search per label by a library's method, in a box of half-width `box` around the start, in `noise_unit`s."""
    valid, start = problem.valid, problem.start
    scale = noise_unit(valid.x, start)
    first = scatter(start, SPREAD * scale, PARTICLES, problem.generator("multi-task fix"))  # as multi_task begins
    positions, values, scored = [], [], 0
    for s in range(len(start)):
        score = Scorer(valid, problem.where[s : s + 1])

        def evaluate(x: Any, score: Scorer = score) -> np.ndarray:
            nonlocal scored
            scored += len(x)
            return uei_and_error(score(torch.as_tensor(np.asarray(x), dtype=torch.float32).unsqueeze(0)))[0].numpy()

        centre, half = start[s].double().numpy(), box * float(scale[s])
        begin = first[s].double().numpy().clip(centre - half, centre + half)
        x, f = search(evaluate, begin, centre - half, centre + half, evaluations, problem.seed)
        keep = non_dominated(torch.as_tensor(f))
        positions.append(torch.as_tensor(x, dtype=torch.float32)[keep])
        values.append(torch.as_tensor(f)[keep])
    return picked_from(problem, positions, values, scored // len(start))


def both_gradients(
    problem: Problem,
    preferences: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97),
    temperature: float = 0.3,
    steps: int = 200,
    learning_rate: float = 0.01,
) -> Search:
    """Descend cross-entropy and smooth UEI at once: torchjd's UPGrad joins both gradients, by several preferences."""
    from torchjd.aggregation import UPGrad

    valid, start = problem.valid, problem.start
    truth = valid.labels[:, problem.where].T.float().unsqueeze(1)
    member = one_hot(valid.group, valid.groups).float() / len(valid.group)
    unit = noise_unit(valid.x, start).unsqueeze(1)
    moved = torch.zeros(len(start), len(preferences), start.shape[1], requires_grad=True)
    adam = torch.optim.Adam([moved], lr=learning_rate)
    aggregators = [UPGrad(pref_vector=torch.tensor([1 - share, share])) for share in preferences]
    passed = []
    for step in range(1, steps + 1):
        scores = logits(valid.x, start.unsqueeze(1) + unit * moved)
        entropy = binary_cross_entropy_with_logits(scores, truth.expand_as(scores), reduction="none").mean(-1)
        smooth = smooth_uei((scores / temperature).sigmoid(), truth, member)
        # heads share nothing, so the gradient of the sum holds each head's own
        rows = [torch.autograd.grad(loss.sum(), moved, retain_graph=True)[0] for loss in (entropy, smooth)]
        jacobians = torch.stack(rows, dim=2)  # [S, P, 2, D + 1]
        moved.grad = torch.stack(
            [torch.stack([combine(j) for combine, j in zip(aggregators, row, strict=True)]) for row in jacobians]
        )
        adam.step()
        if step % SNAPSHOT == 0 or step == steps:
            passed.append((start.unsqueeze(1) + unit * moved).detach())
    candidates = torch.cat(passed, dim=1)
    f = uei_and_error(problem.scorer()(candidates))
    keep = non_dominated(f)
    positions, values = ([part[s, keep[s]] for s in range(len(start))] for part in (candidates, f))
    cost = 2 * len(preferences) * steps  # gradients
    return picked_from(problem, positions, values, cost)


def nsga2(evaluate: Evaluate, first: Array, low: Array, high: Array, evaluations: int, seed: int) -> Front:
    """NSGA-II of pymoo."""
    from pymoo.algorithms.moo.nsga2 import NSGA2

    return _pymoo(NSGA2(pop_size=PARTICLES, sampling=first), evaluate, low, high, evaluations, seed)


def mopso_cd(evaluate: Evaluate, first: Array, low: Array, high: Array, evaluations: int, seed: int) -> Front:
    """MOPSO with crowding distance of pymoo."""
    from pymoo.algorithms.moo.mopso_cd import MOPSO_CD
    from pymoo.core.sampling import Sampling

    class Given(Sampling):
        def _do(self, problem: object, n_samples: int, **_: object) -> np.ndarray:
            return first

    return _pymoo(MOPSO_CD(pop_size=PARTICLES, archive_size=100, sampling=Given()), evaluate, low, high, evaluations, seed)


def _pymoo(algorithm: Any, evaluate: Evaluate, low: Array, high: Array, evaluations: int, seed: int) -> Front:
    from pymoo.core.problem import Problem as OfPymoo
    from pymoo.optimize import minimize

    class Head(OfPymoo):
        def _evaluate(self, x: np.ndarray, out: dict[str, np.ndarray], *_: object, **__: object) -> None:
            out["F"] = evaluate(x)

    problem = Head(n_var=len(low), n_obj=2, xl=low, xu=high)
    found = minimize(problem, algorithm, ("n_eval", evaluations), seed=seed)
    return np.atleast_2d(found.X), np.atleast_2d(found.F)


def smpso(evaluate: Evaluate, first: Array, low: Array, high: Array, evaluations: int, seed: int) -> Front:
    """SMPSO of jMetalPy."""
    from jmetal.algorithm.multiobjective.smpso import SMPSO
    from jmetal.core.problem import FloatProblem
    from jmetal.operator.mutation import PolynomialMutation
    from jmetal.util.archive import CrowdingDistanceArchive
    from jmetal.util.evaluator import Evaluator
    from jmetal.util.termination_criterion import StoppingByEvaluations

    logging.getLogger("jmetal").setLevel(logging.WARNING)  # it tells each step

    class Head(FloatProblem):
        def __init__(self) -> None:
            super().__init__()
            self.lower_bound, self.upper_bound = low.tolist(), high.tolist()
            self.obj_directions, self.obj_labels = [self.MINIMIZE] * 2, ["UEI", "error"]
            self.waiting = [row.tolist() for row in first]

        def number_of_objectives(self) -> int:
            return 2

        def number_of_constraints(self) -> int:
            return 0

        def create_solution(self) -> Any:
            solution = super().create_solution()
            solution.variables = self.waiting.pop(0)
            return solution

        def evaluate(self, solution: Any) -> Any:
            return together.evaluate([solution], self)[0]

        def name(self) -> str:
            return "head"

    class Together(Evaluator):
        def evaluate(self, solution_list: list[Any], problem: object) -> list[Any]:
            for solution, values in zip(solution_list, evaluate([s.variables for s in solution_list]), strict=True):
                solution.objectives = values.tolist()
            return solution_list

    together = Together()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 — jMetalPy draws from both global generators
    search = SMPSO(
        problem=Head(),
        swarm_size=PARTICLES,
        mutation=PolynomialMutation(probability=1 / len(low), distribution_index=20),
        leaders=CrowdingDistanceArchive(100),
        termination_criterion=StoppingByEvaluations(evaluations),
        swarm_evaluator=together,
    )
    search.run()
    found = search.result()
    return np.array([one.variables for one in found]), np.array([one.objectives for one in found])


def _peer(library: str, name: str, search: Callable[..., Front], own_box: float, colour: str, marker: str) -> Method:
    """Declare a search in a box; `own_box` reached the largest area on validation of photographs."""

    def find(problem: Problem, given: Parameters) -> Search:
        return evolve(problem, search, given.box or own_box, max(PARTICLES, given.evaluations - problem.paid))

    takes = frozenset({"particles", "iterations", "box"})
    return Method(
        f"{library} {name}", find, takes, "inferred", colour, marker, library={"jMetalPy": "jmetal"}.get(library, library)
    )  # fmt: skip


PEERS = (
    Method(
        "torchjd UPGrad", lambda problem, _: both_gradients(problem), takes=frozenset(), group="inferred",
        colour="#7f7f7f", marker="X", library="torchjd",
    ),
    _peer("pymoo", "NSGA-II", nsga2, 100, "#bcbd22", "p"),
    _peer("pymoo", "MOPSO_CD", mopso_cd, 0.5, "#8c564b", "h"),
    _peer("jMetalPy", "SMPSO", smpso, 0.5, "#17becf", "d"),
)  # fmt: skip
