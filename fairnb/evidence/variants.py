"""Variants of the searches: one setting changed, the rest as in chapters 03 and 04."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Any

from torch import Tensor

from fairnb.evidence.outcome import Judge
from fairnb.heads import score_heads, uei_and_error
from fairnb.methods import Problem, Search, pick_each, picked_from
from fairnb.methods.calibrated import calibrated_multi_task, indifferent_to, recalibrate
from fairnb.methods.dynamic_weighting import dynamic_weighting
from fairnb.methods.multi_task import multi_task
from fairnb.methods.random_search import random_search
from fairnb.run.parameters import Settings, Swarm


@dataclass(frozen=True, eq=False)
class Setting:
    """The problem, swarm and settings of the chapters, which variants change."""

    problem: Problem
    judge: Judge  # with the base model's outcome
    swarm: Swarm
    settings: Settings
    both: Problem | None = None  # the problem in which both layers move, if a variant moves them
    searches: dict[Variant, Search] = field(default_factory=dict, init=False)  # made so far; a changed setting has its own

    def search(self, variant: Variant) -> Search:
        """The search of a variant, made once."""
        if variant not in self.searches:
            self.searches[variant] = variant(self)
        return self.searches[variant]


Variant = Callable[[Setting], Search]


def _variant(find: Callable[..., Search]) -> Callable[..., Variant]:
    """Turn a function of a setting and arguments into a function of the arguments that returns a variant."""
    return wraps(find)(lambda *args, **how: lambda on: find(on, *args, **how))


@_variant
def multi(
    on: Setting, swarm: dict[str, Any] | None = None, *, whiten: bool | None = None, begin: Tensor | None = None, **how: Any
) -> Search:
    """The multi-task search with a change of the swarm, the coordinates, the start, or the problem."""
    settings = on.settings if whiten is None else on.settings.but(whiten=whiten)
    return multi_task(replace(on.problem, **how), on.swarm.but(**(swarm or {})), settings, begin=begin)


@_variant
def from_recalibrated(on: Setting, **swarm: Any) -> Search:
    """The multi-task search from recalibrated heads, whose cost counts as evaluations."""
    heads, cost = recalibrated(on.problem)
    left = max(1, round((on.swarm.evaluations - cost) / on.swarm.particles) - 1)
    return paid(multi(swarm | {"iterations": left}, begin=heads)(on), cost)


@_variant
def dynamic(on: Setting, epsilon: float | None = None, **how: Any) -> Search:
    """Dynamic weighting with a change."""
    settings = on.settings if epsilon is None else on.settings.but(epsilon=epsilon)
    return dynamic_weighting(replace(on.problem, **how), on.swarm, settings)


def both_layers(on: Setting) -> Search:
    """Dynamic weighting of both fully connected layers."""
    if on.both is None:
        raise ValueError("to move both layers, give the problem in which they move")
    return dynamic_weighting(on.both, on.swarm, on.settings)


@_variant
def as_many(on: Setting, particles: int) -> Search:
    """Another number of particles at the same number of evaluations."""
    return multi({"particles": particles, "iterations": max(0, round(on.swarm.evaluations / particles) - 1)})(on)


def recalibrated(problem: Problem) -> tuple[Tensor, int]:
    """The base model's heads, those searched refitted on validation; and the number of gradients computed."""
    valid, heads, where = problem.features, problem.heads.clone(), problem.where
    heads[where], cost = recalibrate(valid.x, valid.labels[:, where], heads[where], seed=problem.seed)
    return heads, cost


def paid(search: Search, cost: int) -> Search:
    """The search with the evaluations of its preparation added."""
    return replace(search, fronts=replace(search.fronts, evaluations=search.fronts.evaluations + cost))


def only_recalibrated(on: Setting) -> Search:
    """No search: each label's recalibrated head or the base model's, by the usual pick."""
    heads, cost = recalibrated(on.problem)
    better = heads[on.problem.where].unsqueeze(1)  # [S, 1, D + 1]
    return picked_from(on.problem, list(better), list(uei_and_error(on.problem.scorer()(better))), cost + 1)


@_variant
def on_recalibrated(on: Setting, thresholds: Callable[[Problem], Search]) -> Search:
    """Thresholds on recalibrated heads."""
    heads, cost = recalibrated(on.problem)
    return paid(thresholds(replace(on.problem, heads=heads)), cost)


@_variant
def repicked(on: Setting, variant: Variant, *, indifference: float = 0.0, tolerance: float | None = None) -> Search:
    """A search per label with another pick: its `indifference` (see `calibrated_multi_task`), or another tolerance."""
    fronts = on.search(variant).fronts
    problem = on.problem if tolerance is None else replace(on.problem, tolerance=tolerance)
    tables = score_heads(problem.valid, fronts.positions, problem.where)
    return pick_each(problem, fronts, indifferent_to(fronts, tables, indifference))


@_variant
def calibrated(on: Setting, recalibrated: bool = True, **how: Any) -> Search:
    """The calibrated search with a change."""
    return calibrated_multi_task(replace(on.problem, **how), on.swarm, recalibrated=recalibrated)


@_variant
def of_problem(on: Setting, method: Callable[[Problem], Search], **how: Any) -> Search:
    """A method of the problem alone, with a change of the problem."""
    return method(replace(on.problem, **how))


@_variant
def random(on: Setting, **how: Any) -> Search:
    """Random search with as many evaluations as the swarms."""
    return random_search(replace(on.problem, **how), evaluations=on.swarm.evaluations)
