"""What matters: one setting of the searches changed at a time, the rest as in chapters 03 and 04.

    trials = list(ablate(Setting(features, base.heads, analysed, Swarm())))
    table = pd.DataFrame([trial.row for trial in trials])

Each variant of a search spends the evaluations that the chapters spend. What differs is in `ABLATIONS`, the table of the
chapter "What matters".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from fairnb.baselines import BASELINES, picked_from
from fairnb.calibrated import calibrated_multi_task, indifferent_to, recalibrate
from fairnb.evidence import Outcome, outcome
from fairnb.features import Features
from fairnb.messages import unknown
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.mopso import Swarm
from fairnb.scoring import Scorer, score_heads
from fairnb.strategies import Search, dynamic_weighting, multi_task, pick_each, uei_and_error


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
        row: ablation, setting, seed, uei, accuracy, higher, uei_valid, uei_pick, area_valid, area_test, evaluations,
            seconds; on test where nothing else is said. `higher` counts the labels whose UEI is above the base model's.
    """

    ablation: str
    setting: str
    outcome: Outcome
    row: dict[str, Any]


Variant = Callable[[Setting], Search]


def _multi(begin: Callable[[Setting], Tensor] | None = None, swarm: dict[str, Any] | None = None, **how: Any) -> Variant:
    """The multi-task fix with something changed."""

    def find(on: Setting) -> Search:
        settings = on.flown | {"begin": begin(on) if begin else None} | how
        return multi_task(on.features["valid"], on.heads, replace(on.swarm, **(swarm or {})), **settings)

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


def _recalibrated(on: Setting) -> Tensor:
    """The base model's heads, those searched fitted anew on validation."""
    valid, heads = on.features["valid"], on.heads.clone()
    heads[on.searched], _ = recalibrate(valid.x, valid.labels[:, on.searched], heads[on.searched], seed=on.seed)
    return heads


def _only_recalibrated(on: Setting) -> Search:
    """Nothing is searched: each label's recalibrated head, or the base model's, by the common rule of the pick."""
    valid, where = on.features["valid"], on.searched.nonzero().squeeze(1)
    better = _recalibrated(on)[where].unsqueeze(1)  # [S, 1, D + 1]
    values = uei_and_error(Scorer(valid, where)(better))
    return picked_from(valid, on.heads, where, on.heads[where], list(better), list(values), 1, on.tolerance, False)


def _thresholds(name: str, indifference: float, begin: Callable[[Setting], Tensor] | None = None) -> Variant:
    """Thresholds with the pick of the calibrated search, on the base model's heads or others."""

    def find(on: Setting) -> Search:
        valid, where = on.features["valid"], on.searched.nonzero().squeeze(1)
        fronts = BASELINES[name](valid, begin(on) if begin else on.heads, **on.common).fronts
        start = on.heads[where]
        base = uei_and_error(Scorer(valid, where)(start.unsqueeze(1)))[:, 0]
        equal = indifferent_to(fronts, score_heads(valid, fronts.positions, where), indifference)
        start = start.repeat(1, fronts.positions.shape[-1] // start.shape[1])  # for each group, where groups have their own
        return pick_each(fronts, start, base, on.heads, where, on.tolerance, indifferent=equal)

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
HELD_OUT, HELD_OUT_WORDS = 0.3, ", 30 % held out"
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
    "start": {CHAPTERS: MULTI, "recalibrated heads": _multi(begin=_recalibrated)},
    "tolerance": {
        CHAPTERS: MULTI,
        "0.01": _multi(tolerance=0.01),
        "0.02": _multi(tolerance=0.02),
        "0.1": _multi(tolerance=0.1),
    },
    "images of the pick": {
        CHAPTERS: MULTI,
        "30 % held out": _multi(held_out=HELD_OUT),
        "half held out": _multi(held_out=0.5),
    },
    "pick of every method": {
        f"{method}{words}": variant
        for method, on_all, held_out in [
            ("dynamic weighting", DYNAMIC, _dynamic(held_out=HELD_OUT)),
            ("multi-task", MULTI, _multi(held_out=HELD_OUT)),
            ("calibrated multi-task", CALIBRATED, _calibrated(held_out=HELD_OUT)),
            *((name, _baseline(name), _baseline(name, held_out=HELD_OUT)) for name in BASELINES),
        ]
        for words, variant in [("", on_all), (HELD_OUT_WORDS, held_out)]
    },
    "flight": {
        CHAPTERS: MULTI,
        "constricted": _multi(swarm={"flight": "constricted"}),
        "paper, whitened coordinates": _multi(whiten=True),
    },
    "directions": {
        CHAPTERS: MULTI,
        "threshold and group, lowest UEI": _calibrated(indifference=0.0),
        "threshold and group, indifferent below half of chance": CALIBRATED,
        "threshold and group, indifferent below chance": _calibrated(indifference=1.0),
    },
    "parts of the calibrated search": {
        "calibrated multi-task": CALIBRATED,
        "recalibrated heads, no search": _only_recalibrated,
        "label thresholds on them, its pick": _thresholds("label thresholds", 0.5, _recalibrated),
        "group thresholds on them, its pick": _thresholds("group thresholds", 0.5, _recalibrated),
        "group thresholds on the base model's, its pick": _thresholds("group thresholds", 0.5),
        "group thresholds on the base model's": _thresholds("group thresholds", 0.0),
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
    """The setting that another is compared with: an ablation's first; among methods, the same without a held-out pick."""
    among_methods = any(name.endswith(HELD_OUT_WORDS) for name in ABLATIONS[ablation])
    return setting.removesuffix(HELD_OUT_WORDS) if among_methods else next(iter(ABLATIONS[ablation]))


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

    def measures(predicted: Tensor) -> tuple[Tensor, Tensor]:
        tables = contingency_table(predicted, test.labels.T, test.group, test.groups)
        return underestimation_index(tables), accuracy(tables)

    before, _ = measures(base.test)
    done: dict[Variant, Trial] = {}
    for name in names or ablations:
        for setting, variant in ablations[name].items():
            if variant in done:
                again = done[variant]
                row = again.row | {"ablation": name, "setting": setting}
                yield Trial(name, setting, replace(again.outcome, method=setting), row)
                continue
            begun = perf_counter()
            search = variant(on)
            seconds = perf_counter() - begun
            splits = on.features if search.hidden is None or on.pooled is None else on.pooled
            found = outcome(
                setting, on.seed, splits, search.heads, on.searched, search=search, base=base, tolerance=on.tolerance,
                seconds=seconds,
            )  # fmt: skip
            uei, acc = measures(found.test)
            row = {
                "ablation": name, "setting": setting, "seed": on.seed, "uei": float(uei.mean()),
                "accuracy": float(acc.mean()), "higher": int((uei > before).sum()),
                "uei_valid": float(underestimation_index(found.valid).mean()), "uei_pick": found.promised,
                "area_valid": found.area[0], "area_test": found.area[1], "evaluations": found.evaluations,
                "seconds": seconds,
            }  # fmt: skip
            done[variant] = Trial(name, setting, found, row)
            yield done[variant]
