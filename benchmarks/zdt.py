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
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import moocore
import numpy as np
import pandas as pd
import torch

from fairnb.run.files import save_table
from fairnb.run.parameters import Swarm
from fairnb.swarm.mopso import Flight, mopso
from fairnb.swarm.zdt import DIMENSIONS, zdt

PEOPLE, ROUNDS, REFERENCE = 100, 250, np.array([1.1, 1.1])
MOVED, BY = "zdt4, box moved", 1.3
Curve = list[tuple[int, float]]  # evaluations, hypervolume


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path, help="write the curves of hypervolume by evaluation as CSV")
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    methods: dict[str, Callable[[str, int], Curve]] = {
        "fairnb, constricted": lambda name, seed: ours(name, seed, flight="constricted"),
        "fairnb, paper": lambda name, seed: ours(name, seed),
        "fairnb, paper without perturbation": lambda name, seed: ours(name, seed, noise=0.0),
        "jMetalPy SMPSO": smpso,
        "pymoo NSGA-II": lambda name, seed: pymoo("NSGA2", name, seed),
        "pymoo CMOPSO": lambda name, seed: pymoo("CMOPSO", name, seed),
        "pymoo MOPSO_CD": lambda name, seed: pymoo("MOPSO_CD", name, seed),
    }
    rows, curves = [], []
    for name in (*DIMENSIONS, MOVED):
        for method, run in methods.items():
            for seed in range(arguments.seeds):
                begun = time.perf_counter()
                curve = run(name, seed)
                seconds = time.perf_counter() - begun
                rows.append((method, name, seed, curve[-1][1], seconds))
                curves += [(method, name, seed, evaluations, round(share, 5)) for evaluations, share in curve]
        print(f"{name} done", flush=True)
    found = pd.DataFrame(rows, columns=["method", "problem", "seed", "share", "seconds"])
    if arguments.save:
        table = pd.DataFrame(curves, columns=["method", "problem", "seed", "evaluations", "share"])
        arguments.save.parent.mkdir(parents=True, exist_ok=True)
        save_table(arguments.save, table)
    shares = found.pivot_table(index="method", columns="problem", values="share", aggfunc="median").loc[list(methods)]
    print(f"\nshare of the true front's area, median of {arguments.seeds} seeds:\n{shares.round(4).to_string()}")
    lowest = found.pivot_table(index="method", columns="problem", values="share", aggfunc="min").loc[list(methods)]
    print(f"\nlowest of them:\n{lowest.round(4).to_string()}")

    alone, peer, many = speed()
    median = {name: statistics.median(values) for name, values in (("one", alone), ("peer", peer), ("many", many))}
    print(f"\nZDT1, {PEOPLE} particles, {ROUNDS} iterations, median seconds: {median}")
    claims = [
        (f"{name}: share of the true front's area", value, "≥ 0.999", value >= 0.999)
        for name, value in shares.loc["fairnb, constricted", list(DIMENSIONS)].items()
    ]
    ratio, growth = median["one"] / median["peer"], median["many"] / median["one"]
    claims.append(("seconds of one swarm, of pymoo's NSGA-II", ratio, "< 1", ratio < 1))
    claims.append(("seconds of 34 swarms, of one swarm", growth, "≤ 4", growth <= 4))
    print(pd.DataFrame(claims, columns=["what", "seen", "promised", "kept"]).to_string(index=False))
    return int(not all(kept for *_, kept in claims))


def area(points: np.ndarray) -> float:
    return float(moocore.hypervolume(points, ref=REFERENCE))


def true_area(name: str) -> float:
    return area(problem_of_pymoo(name).pareto_front())


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


def ours(name: str, seed: int, **settings: Any) -> Curve:
    whole, curve = true_area(name), []

    def watch(iteration: int, flight: Flight) -> None:
        if iteration % 10 == 9:
            held = flight.repository.objectives[0]
            curve.append((PEOPLE * (iteration + 1), area(held[held[:, 0].isfinite()].numpy()) / whole))

    fly(name, seed, watch=watch, **settings)
    return curve


def pymoo(algorithm: str, name: str, seed: int) -> Curve:
    from pymoo.algorithms.moo.cmopso import CMOPSO
    from pymoo.algorithms.moo.mopso_cd import MOPSO_CD
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.callback import Callback
    from pymoo.optimize import minimize

    whole, curve = true_area(name), []

    class Watch(Callback):
        def notify(self, algorithm: object) -> None:
            if algorithm.n_gen % 10 == 0:  # type: ignore[attr-defined]
                curve.append((algorithm.evaluator.n_eval, area(np.atleast_2d(algorithm.opt.get("F"))) / whole))  # type: ignore[attr-defined]

    make = {
        "NSGA2": lambda: NSGA2(pop_size=PEOPLE),
        "CMOPSO": lambda: CMOPSO(pop_size=PEOPLE),
        "MOPSO_CD": lambda: MOPSO_CD(pop_size=PEOPLE, archive_size=100),
    }[algorithm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = minimize(problem_of_pymoo(name), make(), ("n_eval", PEOPLE * ROUNDS), seed=seed, callback=Watch())
    return [
        *(point for point in curve if point[0] < PEOPLE * ROUNDS),
        (PEOPLE * ROUNDS, area(np.atleast_2d(result.F)) / whole),
    ]


def smpso(name: str, seed: int) -> Curve:
    import random

    from jmetal.algorithm.multiobjective.smpso import SMPSO
    from jmetal.operator.mutation import PolynomialMutation
    from jmetal.problem import ZDT1, ZDT2, ZDT3, ZDT4, ZDT6
    from jmetal.util.archive import CrowdingDistanceArchive
    from jmetal.util.termination_criterion import StoppingByEvaluations

    whole, curve = true_area(name), []
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

    class Watch:
        def update(self, *args: object, **data: object) -> None:
            if int(data["EVALUATIONS"]) % (10 * PEOPLE) == 0:  # type: ignore[call-overload]
                curve.append((int(data["EVALUATIONS"]), area(np.array([s.objectives for s in data["SOLUTIONS"]])) / whole))  # type: ignore[call-overload, attr-defined]

    search.observable.register(Watch())
    search.run()
    found = area(np.array([s.objectives for s in search.result()])) / whole
    return [*(point for point in curve if point[0] < PEOPLE * ROUNDS), (PEOPLE * ROUNDS, found)]


def speed(repeats: int = 5) -> tuple[list[float], list[float], list[float]]:
    """Seconds of one swarm, of pymoo's NSGA-II and of 34 swarms on ZDT1, taken in turns."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.optimize import minimize
    from pymoo.problems import get_problem

    runs: list[Callable[[], object]] = [
        lambda: fly("zdt1", 0, flight="constricted"),
        lambda: minimize(get_problem("zdt1"), NSGA2(pop_size=PEOPLE), ("n_gen", ROUNDS), seed=0),
        lambda: fly("zdt1", 0, swarms=34, flight="constricted"),
    ]
    seconds: list[list[float]] = [[], [], []]
    for _ in range(repeats):
        for kept, run in zip(seconds, runs, strict=True):
            begun = time.perf_counter()
            run()
            kept.append(time.perf_counter() - begun)
    return seconds[0], seconds[1], seconds[2]


if __name__ == "__main__":
    sys.exit(main())
