"""The swarm engine on the problems of Zitzler, Deb and Thiele, against the peers, in one run.

    .venv/bin/python benchmarks/zdt.py [--save results/zdt.csv]

Two-objective problems whose front is known; 25,000 evaluations, population and archive of 100; the area dominated below
(1.1, 1.1), by moocore, as a share of what pymoo's 100 points of the true front dominate (so it can be a little above 1).
Five seeds each. ZDT4 is flown a second time with its box moved, so that its front does not lie in the middle: a particle
at a bound that flies inwards at SMPSO's highest speed lands there. Then the speed of small problems: one swarm against
pymoo's NSGA-II, 34 swarms against one. Prints tables and exits 1 where a claim falls short. Needs pymoo and jmetalpy.
"""

from __future__ import annotations

import argparse
import random
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import moocore
import numpy as np
import pandas as pd
import torch
from measuring import at_least, at_most, in_turns, verdict

from fairnb.run.files import save_table
from fairnb.run.parameters import Swarm
from fairnb.swarm.mopso import Flight, mopso
from fairnb.swarm.zdt import DIMENSIONS, zdt

PEOPLE, ROUNDS, REFERENCE = 100, 250, np.array([1.1, 1.1])
MOVED, BY = "zdt4, box moved", 1.3
Watch = Callable[[int, Any], None]  # receives the evaluations so far, and the points held


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write the curves of hypervolume by evaluation as CSV")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # pymoo's
    methods: dict[str, Callable[[str, int, Watch], None]] = {
        "fairnb, constricted": partial(ours, flight="constricted"),
        "fairnb, paper": ours,
        "fairnb, paper without perturbation": partial(ours, noise=0.0),
        "jMetalPy SMPSO": smpso,
        "pymoo NSGA-II": partial(pymoo, "NSGA2"),
        "pymoo CMOPSO": partial(pymoo, "CMOPSO"),
        "pymoo MOPSO_CD": partial(pymoo, "MOPSO_CD"),
    }
    rows: list[tuple[str, str, int, int, float]] = []
    for name in (*DIMENSIONS, MOVED):
        for method, run in methods.items():
            for seed in range(arguments.seeds):
                rows += [(method, name, seed, *point) for point in curve(run, name, seed)]
        print(f"{name} done", flush=True)
    curves = pd.DataFrame(rows, columns=["method", "problem", "seed", "evaluations", "share"])
    if arguments.save:
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        save_table(arguments.save, curves)
    found: Any = curves.groupby(["method", "problem", "seed"]).share.last().groupby(["method", "problem"])
    shares = found.median().unstack().loc[list(methods)]
    print(f"\nshare of the true front's area, median of {arguments.seeds} seeds:\n{shares.round(4).to_string()}")
    print(f"\nlowest of them:\n{found.min().unstack().loc[list(methods)].round(4).to_string()}")
    alone, peer, many = map(median, speed())
    print(
        f"\nZDT1, {PEOPLE} particles, {ROUNDS} iterations, median seconds: one {alone:.3f}, peer {peer:.3f}, many {many:.3f}"
    )
    reached = shares.loc["fairnb, constricted", list(DIMENSIONS)]
    return verdict([
        *(at_least(f"{name}: share of the true front's area", value, 0.999) for name, value in reached.items()),
        ("seconds of one swarm, of pymoo's NSGA-II", alone / peer, "< 1", alone < peer),
        at_most("seconds of 34 swarms, of one swarm", many / alone, 4),
    ])  # fmt: skip


def curve(run: Callable[[str, int, Watch], None], name: str, seed: int) -> list[tuple[int, float]]:
    """Evaluations, and the share of the true front's area."""
    whole, found = area(problem_of_pymoo(name).pareto_front()), []

    def watch(evaluations: int, points: Any) -> None:
        if evaluations % (10 * PEOPLE) == 0:
            found.append((evaluations, round(area(np.atleast_2d(points)) / whole, 5)))

    run(name, seed, watch)
    return found


def area(points: np.ndarray) -> float:
    return float(moocore.hypervolume(points, ref=REFERENCE))


def problem_of_pymoo(name: str) -> Any:
    from pymoo.problems import get_problem

    problem = get_problem(name[:4])
    if name == MOVED:
        problem.xl[1:], problem.xu[1:] = problem.xl[1:] + BY, problem.xu[1:] + BY
    return problem


def fly(name: str, seed: int, swarms: int = 1, watch: Callable[[int, Flight], None] | None = None, **settings: Any) -> None:
    objectives, low, high = zdt(name[:4])
    if name == MOVED:
        low[1:], high[1:] = low[1:] + BY, high[1:] + BY
    draw = torch.Generator().manual_seed(seed)
    start = low + (high - low) * torch.rand(swarms, PEOPLE, len(low), generator=draw)
    swarm = Swarm(particles=PEOPLE, iterations=ROUNDS - 1, repository=100, **settings)
    reference = torch.tensor(REFERENCE).expand(swarms, 2)
    bounds = (low, high)
    mopso(objectives, start, swarm, generator=draw, bounds=bounds, scale=high - low, reference=reference, watch=watch)


def ours(name: str, seed: int, watch: Watch, **settings: Any) -> None:
    def told(iteration: int, flight: Flight) -> None:
        held = flight.repository.objectives[0]
        watch(PEOPLE * (iteration + 1), held[held[:, 0].isfinite()].numpy())

    fly(name, seed, watch=told, **settings)


def pymoo(algorithm: str, name: str, seed: int, watch: Watch) -> None:
    from pymoo.algorithms.moo.cmopso import CMOPSO
    from pymoo.algorithms.moo.mopso_cd import MOPSO_CD
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.callback import Callback
    from pymoo.optimize import minimize

    class Told(Callback):
        def notify(self, algorithm: Any) -> None:
            watch(algorithm.evaluator.n_eval, algorithm.opt.get("F"))

    kind, given = {"NSGA2": (NSGA2, {}), "CMOPSO": (CMOPSO, {}), "MOPSO_CD": (MOPSO_CD, {"archive_size": 100})}[algorithm]
    search = kind(pop_size=PEOPLE, **given)
    minimize(problem_of_pymoo(name), search, ("n_eval", PEOPLE * ROUNDS), seed=seed, callback=Told())


def smpso(name: str, seed: int, watch: Watch) -> None:
    from jmetal.algorithm.multiobjective.smpso import SMPSO
    from jmetal.operator.mutation import PolynomialMutation
    from jmetal.problem import ZDT1, ZDT2, ZDT3, ZDT4, ZDT6
    from jmetal.util.archive import CrowdingDistanceArchive
    from jmetal.util.termination_criterion import StoppingByEvaluations

    problem = {"zdt1": ZDT1, "zdt2": ZDT2, "zdt3": ZDT3, "zdt4": ZDT4, "zdt6": ZDT6}[name[:4]]()
    if name == MOVED:
        problem.lower_bound[1:] = [bound + BY for bound in problem.lower_bound[1:]]
        problem.upper_bound[1:] = [bound + BY for bound in problem.upper_bound[1:]]
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 — jMetalPy draws from both global generators
    search = SMPSO(
        problem=problem,
        swarm_size=PEOPLE,
        mutation=PolynomialMutation(probability=1 / problem.number_of_variables(), distribution_index=20),
        leaders=CrowdingDistanceArchive(100),
        termination_criterion=StoppingByEvaluations(PEOPLE * ROUNDS),
    )

    class Told:
        def update(self, *_: object, **data: Any) -> None:
            watch(data["EVALUATIONS"], np.array([one.objectives for one in data["SOLUTIONS"]]))

    search.observable.register(Told())
    search.run()


def speed(repeats: int = 5) -> list[list[float]]:
    """Seconds of one swarm, of pymoo's NSGA-II and of 34 swarms on ZDT1, taken in turns."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize
    from pymoo.problems import get_problem

    runs: list[Callable[[], object]] = [
        lambda: fly("zdt1", 0, flight="constricted"),
        lambda: minimize(get_problem("zdt1"), NSGA2(pop_size=PEOPLE), ("n_gen", ROUNDS), seed=0),
        lambda: fly("zdt1", 0, swarms=34, flight="constricted"),
    ]
    return in_turns(runs, repeats, warm=0)


if __name__ == "__main__":
    sys.exit(main())
