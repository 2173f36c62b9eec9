"""The methods: each moves the heads of a base model for a lower UEI, on validation features alone.

>>> import torch
>>> from fairnb.features import Features
>>> from fairnb.methods import METHODS, Parameters, Problem
>>> draw = torch.Generator().manual_seed(0)
>>> x, heads = torch.rand(200, 4, generator=draw), torch.randn(3, 5, generator=draw)
>>> labels, group = torch.rand(200, 3, generator=draw) < 0.3, torch.randint(2, (200,), generator=draw)
>>> problem = Problem(Features(x, labels, group, 2), heads, tolerance=0.1)
>>> found = METHODS["label thresholds"].search(problem, Parameters())
>>> found.heads.weights.shape, len(found.picked)  # one set of heads for both groups, and a pick per label
(torch.Size([1, 3, 5]), 3)

To add a method, write a file that declares one (`METHOD`, see `fairnb.methods.method.Method`) and name it in `METHODS`.
"""

from __future__ import annotations

import re
from typing import get_args

from fairnb.methods import calibrated, dynamic_weighting, multi_task, random_search, soft_uei, thresholds
from fairnb.methods.method import Method
from fairnb.methods.peers import PEERS
from fairnb.methods.pick import Search, load_search, pick, pick_each, picked_from, save_search, unmet
from fairnb.methods.problem import Problem
from fairnb.run.messages import unknown
from fairnb.run.parameters import Conditions, Parameters

__all__ = [
    "BASE", "METHODS", "Conditions", "Method", "Parameters", "Problem", "Search", "group_use", "load_search",
    "method_named", "pick", "pick_each", "picked_from", "save_search", "unmet",
]  # fmt: skip

BASE = Method("base", None, frozenset(), "unused", "#d55e00", "o", paper=True)
_ALL = (
    BASE, dynamic_weighting.METHOD, multi_task.METHOD, thresholds.BY_LABEL, thresholds.BY_GROUP, soft_uei.METHOD,
    random_search.METHOD, calibrated.METHOD, *PEERS,
)  # fmt: skip
#: Every method by its name, which `Experiment.search` takes, in the order of tables and figures. Each declares what it
#: depends on, its use of the group, and its source; `METHODS["multi-task"].search` solves a `fairnb.methods.Problem`.
METHODS: dict[str, Method] = {method.name: method for method in _ALL}
MITIGATIONS = tuple(filter(None, get_args(Parameters.model_fields["mitigation"].annotation)))  # of the training


def method_named(name: str) -> Method:
    """The method of this name; an unknown one raises ValueError with the nearest."""
    if name not in METHODS:
        raise ValueError(unknown("method", name, METHODS))
    return METHODS[name]


def group_use(name: str) -> str:
    """Source of the group in a method's predictions, "given", "inferred" or "unused"; suffixes are ignored.

    Suffixes as in `multi-task after reweighing (noise=0)` or `fairlearn, equal odds`. An unknown method raises ValueError.
    """
    plain = re.split(r" after | \(|, ", name)[0]
    others = {"fairlearn": "given"} | dict.fromkeys(MITIGATIONS, "inferred")  # not searches
    uses = {method.name: method.group for method in METHODS.values()} | others
    if plain not in uses:
        raise ValueError(unknown("method", plain, uses))
    return uses[plain]
