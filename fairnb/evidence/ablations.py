"""What matters: one setting of the searches changed at a time, the rest as in chapters 03 and 04.

    trials = list(ablate(Setting(features, base.heads, analysed, Swarm())))
    table = pd.DataFrame([trial.row for trial in trials])

Each variant of a search spends the evaluations that the chapters spend. What differs is in `ABLATIONS`, the table of the
chapter "What matters".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from fairnb.evidence.weigh import Outcome, outcome
from fairnb.features import Features
from fairnb.heads import Scorer, score_heads
from fairnb.methods.baselines import BASELINES, picked_from
from fairnb.methods.calibrated import INDIFFERENCE, calibrated_multi_task, indifferent_to, recalibrate
from fairnb.methods.strategies import Search, dynamic_weighting, multi_task, pick_each, uei_and_error
from fairnb.metrics import accuracy, chance_index, contingency_table, underestimation_index
from fairnb.run.messages import unknown
from fairnb.swarm.mopso import Swarm


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that a variant may change.

    Attributes:
        features: of 'valid' and 'test'.
        heads: float32 [L, D + 1], the base model's.
        hidden: float32 [D, F + 1], the layer before, and
        pooled: features of 'valid' and 'test' that it reads; None where no variant moves it.
        searched: bool [L].
        swarm: how the default flies.
        seed: of the searches.
        tolerance, spread, epsilon, steer, whiten: as in the chapters.
        searches: what variants have found here already.
    """

    features: dict[str, Features]
    heads: Tensor
    searched: Tensor
    swarm: Swarm
    hidden: Tensor | None = None
    pooled: dict[str, Features] | None = None
    seed: int = 0
    tolerance: float = 0.05
    spread: float = 0.1
    epsilon: float = 0.01
    steer: str = "float32"
    whiten: bool = False
    searches: dict[Variant, Search] = field(default_factory=dict, init=False)  # a changed setting has its own

    def search(self, variant: Variant) -> Search:
        """What a variant finds, searched for once."""
        if variant not in self.searches:
            self.searches[variant] = variant(self)
        return self.searches[variant]

    @property
    def common(self) -> dict[str, Any]:
        """What every method is given."""
        return {"seed": self.seed, "tolerance": self.tolerance, "searched": self.searched}

    @property
    def flown(self) -> dict[str, Any]:
        """What the searches of the chapters are given."""
        return self.common | {"spread": self.spread, "steer": self.steer, "whiten": self.whiten}


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting tried on one base model.

    Attributes:
        ablation, setting: by which it is found in `ABLATIONS`.
        outcome: what its model answers.
        row: ablation, setting, seed, uei, uei_chance, accuracy, higher, uei_valid, uei_pick, area_valid, area_test,
            evaluations, seconds; on test where nothing else is said. `uei_chance` is what chance alone shows with errors
            like these (`fairnb.metrics.chance_index`), `higher` counts the labels whose UEI is above the base model's;
            `seconds` are those of what had to be searched for.
    """

    ablation: str
    setting: str
    outcome: Outcome
    row: dict[str, Any]


Variant = Callable[[Setting], Search]


def _multi(swarm: dict[str, Any] | None = None, **how: Any) -> Variant:
    """The multi-task fix with something changed."""

    def find(on: Setting) -> Search:
        return multi_task(on.features["valid"], on.heads, replace(on.swarm, **(swarm or {})), **on.flown | how)

    return find


def _from_recalibrated(**swarm: Any) -> Variant:
    """The multi-task fix from recalibrated heads, which it pays for from its evaluations."""

    def find(on: Setting) -> Search:
        heads, cost = _recalibrated(on)
        left = max(1, round((on.swarm.evaluations - cost) / on.swarm.particles) - 1)
        return _paid(_multi(swarm | {"iterations": left}, begin=heads)(on), cost)

    return find


def _dynamic(**how: Any) -> Variant:
    """Dynamic weighting with something changed."""

    def find(on: Setting) -> Search:
        settings = on.flown | {"epsilon": on.epsilon} | how
        return dynamic_weighting(on.features["valid"], on.heads, on.swarm, **settings)

    return find


def _both_layers(on: Setting) -> Search:
    if on.pooled is None or on.hidden is None:
        raise ValueError("to move both layers, give the layer before the last and what it reads")
    return _dynamic(hidden=on.hidden)(replace(on, features=on.pooled))


def _as_many(particles: int) -> Variant:
    """Another number of particles, and iterations for as many evaluations."""

    def find(on: Setting) -> Search:
        iterations = max(0, round(on.swarm.evaluations / particles) - 1)
        return _multi(swarm={"particles": particles, "iterations": iterations})(on)

    return find


def _recalibrated(on: Setting) -> tuple[Tensor, int]:
    """The base model's heads, those searched fitted anew on validation; and how often a gradient was computed for it."""
    valid, heads = on.features["valid"], on.heads.clone()
    heads[on.searched], cost = recalibrate(valid.x, valid.labels[:, on.searched], heads[on.searched], seed=on.seed)
    return heads, cost


def _paid(search: Search, cost: int) -> Search:
    """The same search, whose preparation cost so many evaluations more."""
    return replace(search, fronts=replace(search.fronts, evaluations=search.fronts.evaluations + cost))


def _only_recalibrated(on: Setting) -> Search:
    """Nothing is searched: each label's recalibrated head, or the base model's, by the common rule of the pick."""
    valid, where = on.features["valid"], on.searched.nonzero().squeeze(1)
    heads, cost = _recalibrated(on)
    better = heads[where].unsqueeze(1)  # [S, 1, D + 1]
    values = uei_and_error(Scorer(valid, where)(better))
    return picked_from(valid, on.heads, where, on.heads[where], list(better), list(values), cost + 1, on.tolerance, False)


def _on_recalibrated(name: str) -> Variant:
    """Thresholds on recalibrated heads."""

    def find(on: Setting) -> Search:
        heads, cost = _recalibrated(on)
        return _paid(BASELINES[name](on.features["valid"], heads, **on.common), cost)

    return find


def repicked(variant: Variant, *, indifference: float = 0.0, tolerance: float | None = None) -> Variant:
    """What a search a label finds, with another pick.

    Args:
        variant: the search.
        indifference: see `fairnb.methods.calibrated.calibrated_multi_task`.
        tolerance: accuracy that each label may lose; the setting's by default.
    """

    def find(on: Setting) -> Search:
        valid, where, fronts = on.features["valid"], on.searched.nonzero().squeeze(1), on.search(variant).fronts
        start = on.heads[where]
        base = uei_and_error(Scorer(valid, where)(start.unsqueeze(1)))[:, 0]
        equal = indifferent_to(fronts, score_heads(valid, fronts.positions, where), indifference)
        lost = on.tolerance if tolerance is None else tolerance
        return pick_each(fronts, start, base, on.heads, where, lost, indifferent=equal)

    return find


def _calibrated(**how: Any) -> Variant:
    def find(on: Setting) -> Search:
        return calibrated_multi_task(on.features["valid"], on.heads, on.swarm, **on.common | how)

    return find


def _baseline(name: str, **how: Any) -> Variant:
    """A baseline with something changed; random search tries as many heads as the swarms."""

    def find(on: Setting) -> Search:
        tries = {"evaluations": on.swarm.evaluations} if name == "random search" else {}
        return BASELINES[name](on.features["valid"], on.heads, **on.common | tries | how)

    return find


CHAPTERS = "as in the chapters"
MULTI, DYNAMIC, CALIBRATED = _multi(), _dynamic(), _calibrated()
LOWEST = repicked(CALIBRATED)  # as all others pick
FREE = _from_recalibrated(flight="constricted")
METHOD: dict[str, Variant] = {  # as chapter 05 compares them
    "dynamic weighting": DYNAMIC,
    "multi-task": MULTI,
    "calibrated multi-task": CALIBRATED,
    **{name: _baseline(name) for name in BASELINES},
}
HELD_OUT = 0.3
# Ablations of every method, and the words behind a method's name; `against` says what is compared with what.
OF_METHODS = {
    "pick of every method": ("", ", 30 % held out"),
    "indifference of every method": (", lowest UEI", ", indifferent"),
}


def two_picks(method: str, variant: Variant) -> dict[str, Variant]:
    """A method's search with the pick of lowest UEI and with the calibrated search's, by their settings' names."""
    picks = repicked(variant), repicked(variant, indifference=INDIFFERENCE)
    return {f"{method}{words}": pick for words, pick in zip(OF_METHODS["indifference of every method"], picks, strict=True)}


# By what is changed, and then by its value.
ABLATIONS: dict[str, dict[str, Variant]] = {
    "perturbation": {
        CHAPTERS: MULTI,
        "none": _multi(swarm={"noise": 0.0}),
        "noise 0.2": _multi(swarm={"noise": 0.2}),
        "a worse place is never kept": _multi(swarm={"accept_worse": 0.0}),
    },
    "self-adaptation": {
        CHAPTERS: MULTI,
        "fixed in the middle": _multi(swarm={"inertia": (0.4, 0.4), "cognitive": (1.25, 1.25), "social": (1.25, 1.25)}),
    },
    "grid": {
        CHAPTERS: MULTI,
        "one cell": _multi(swarm={"divisions": 1}),
        "5 divisions": _multi(swarm={"divisions": 5}),
        "30 divisions": _multi(swarm={"divisions": 30}),
    },
    "ε of dynamic weighting": {
        CHAPTERS: DYNAMIC,
        "0.001": _dynamic(epsilon=0.001),
        "0.1": _dynamic(epsilon=0.1),
        "1": _dynamic(epsilon=1.0),
    },
    "particles at equal evaluations": {
        CHAPTERS: MULTI,
        "10": _as_many(10),
        "25": _as_many(25),
        "100": _as_many(100),
        "200": _as_many(200),
    },
    "layers of dynamic weighting": {CHAPTERS: DYNAMIC, "both": _both_layers},
    "start": {CHAPTERS: MULTI, "recalibrated heads": _from_recalibrated()},
    "tolerance": {
        CHAPTERS: MULTI,
        "0.01": repicked(MULTI, tolerance=0.01),
        "0.02": repicked(MULTI, tolerance=0.02),
        "0.1": repicked(MULTI, tolerance=0.1),
    },
    "images of the pick": {
        CHAPTERS: MULTI,
        "30 % held out": _multi(held_out=HELD_OUT),
        "half held out": _multi(held_out=0.5),
    },
    "pick of every method": {
        f"{method}{words}": variant
        for method, held_out in {
            "dynamic weighting": _dynamic(held_out=HELD_OUT),
            "multi-task": _multi(held_out=HELD_OUT),
            "calibrated multi-task": _calibrated(held_out=HELD_OUT),
            **{name: _baseline(name, held_out=HELD_OUT) for name in BASELINES},
        }.items()
        for words, variant in zip(OF_METHODS["pick of every method"], (METHOD[method], held_out), strict=True)
    },
    "indifference of every method": {
        setting: variant
        for method in METHOD
        if method != "dynamic weighting"  # one pick for all labels
        for setting, variant in two_picks(method, METHOD[method]).items()
    },
    "flight": {
        CHAPTERS: MULTI,
        "constricted": _multi(swarm={"flight": "constricted"}),
        "paper, whitened coordinates": _multi(whiten=True),
    },
    "directions": {  # from recalibrated heads, as the calibrated search flies
        "threshold and group": LOWEST,
        "the threshold alone": _on_recalibrated("label thresholds"),
        "all": FREE,
    },
    "equal UEI": {
        "half of what chance shows": CALIBRATED,
        "none: the lowest": LOWEST,
        "all that chance shows": repicked(CALIBRATED, indifference=1.0),
    },
    "parts of the calibrated search": {
        "calibrated multi-task": CALIBRATED,
        "in all directions": repicked(FREE, indifference=INDIFFERENCE),
        "from the base model's heads": _calibrated(recalibrated=False),
        "recalibrated heads, no search": _only_recalibrated,
        "label thresholds on them, its pick": repicked(_on_recalibrated("label thresholds"), indifference=INDIFFERENCE),
        "group thresholds on them, its pick": repicked(_on_recalibrated("group thresholds"), indifference=INDIFFERENCE),
        "group thresholds on the base model's, its pick": repicked(METHOD["group thresholds"], indifference=INDIFFERENCE),
        "group thresholds on the base model's": METHOD["group thresholds"],
    },
}


def check_names(names: Sequence[str]) -> None:
    """Refuse an ablation that there is not.

    Raises:
        ValueError: with the nearest name.
    """
    for name in names:
        if name not in ABLATIONS:
            raise ValueError(unknown("ablation", name, ABLATIONS))


def against(ablation: str, setting: str) -> str:
    """The setting that another is compared with.

    An ablation's first; where every method picks on other images, the same method without; where every method picks in two
    ways, the calibrated search with the same pick, and of it the other.
    """
    if ablation not in OF_METHODS:
        return next(iter(ABLATIONS[ablation]))
    first, second = OF_METHODS[ablation]
    if ablation == "indifference of every method":
        ours = "calibrated multi-task"
        return ours + (second if setting.endswith(second) and setting != ours + second else first)
    return setting.removesuffix(second) + first if setting.endswith(second) else setting


def ablate(
    on: Setting,
    names: Sequence[str] = (),
    ablations: Mapping[str, Mapping[str, Variant]] = ABLATIONS,
) -> Iterator[Trial]:
    """Try each setting of some ablations; one that stands in several is tried once.

    Args:
        on: what is varied.
        names: of the ablations; all of them by default.
        ablations: what there is to try.

    Raises:
        ValueError: for a name that is not there (nearest one).
    """
    check_names(names)
    searched = on.searched.nonzero().squeeze(1)
    test = replace(on.features["test"], labels=on.features["test"].labels[:, searched])
    base = outcome("base", on.seed, on.features, on.heads, on.searched, tolerance=on.tolerance)

    def measures(predicted: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        tables = contingency_table(predicted, test.labels.T, test.group, test.groups)
        return underestimation_index(tables), accuracy(tables), chance_index(tables)

    before, *_ = measures(base.test)
    done: dict[Variant, Trial] = {}
    for name in names or ablations:
        for setting, variant in ablations[name].items():
            if variant in done:
                again = done[variant]
                row = again.row | {"ablation": name, "setting": setting}
                yield Trial(name, setting, replace(again.outcome, method=setting), row)
                continue
            begun = perf_counter()
            search = on.search(variant)
            seconds = perf_counter() - begun
            splits = on.features if search.hidden is None or on.pooled is None else on.pooled
            found = outcome(
                setting, on.seed, splits, search.heads, on.searched, search=search, base=base, tolerance=on.tolerance,
                seconds=seconds,
            )  # fmt: skip
            uei, acc, by_chance = measures(found.test)
            row = {
                "ablation": name, "setting": setting, "seed": on.seed, "uei": float(uei.mean()),
                "uei_chance": float(by_chance.mean()), "accuracy": float(acc.mean()), "higher": int((uei > before).sum()),
                "uei_valid": float(underestimation_index(found.valid).mean()), "uei_pick": found.promised,
                "area_valid": found.area[0], "area_test": found.area[1], "evaluations": found.evaluations,
                "seconds": seconds,
            }  # fmt: skip
            done[variant] = Trial(name, setting, found, row)
            yield done[variant]
