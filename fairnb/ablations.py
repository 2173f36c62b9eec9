"""What matters: one setting of the searches changed at a time, the rest as in chapters 03 and 04.

    table = pd.DataFrame(ablate(Setting(features, base.heads, analysed, Swarm())))

Each variant spends the evaluations that the chapters spend. What differs is in `ABLATIONS`, the table of the chapter
"What matters".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from torch import Tensor

from fairnb.baselines import BASELINES
from fairnb.calibrated import calibrated_multi_task, recalibrate
from fairnb.evidence import outcome
from fairnb.features import Features
from fairnb.messages import unknown
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.mopso import Swarm
from fairnb.strategies import Search, dynamic_weighting, multi_task


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
        tolerance, spread, epsilon: as in the chapters.
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

    @property
    def common(self) -> dict[str, Any]:
        """What every method is given."""
        return {"seed": self.seed, "tolerance": self.tolerance, "searched": self.searched}


Variant = Callable[[Setting], Search]


def _multi(heads: Callable[[Setting], Tensor] | None = None, swarm: dict[str, Any] | None = None, **how: Any) -> Variant:
    """The multi-task fix with something changed."""

    def find(on: Setting) -> Search:
        start = heads(on) if heads else on.heads
        settings = on.common | {"spread": on.spread} | how
        return multi_task(on.features["valid"], start, replace(on.swarm, **(swarm or {})), **settings)

    return find


def _dynamic(**how: Any) -> Variant:
    """Dynamic weighting with something changed."""

    def find(on: Setting) -> Search:
        settings = on.common | {"spread": on.spread, "epsilon": on.epsilon} | how
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
    heads[on.searched] = recalibrate(valid.x, valid.labels[:, on.searched], heads[on.searched], seed=on.seed)
    return heads


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
HELD_OUT = 0.3
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
    "start": {CHAPTERS: MULTI, "recalibrated heads": _multi(heads=_recalibrated)},
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
        for words, variant in [("", on_all), (", 30 % held out", held_out)]
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
}


def check_names(names: list[str]) -> None:
    """Refuse an ablation that there is not.

    Raises:
        ValueError: with the nearest name.
    """
    for name in names:
        if name not in ABLATIONS:
            raise ValueError(unknown("ablation", name, ABLATIONS))


def ablate(on: Setting, names: list[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a table, one a variant, on test where nothing else is said.

    Each has ablation, setting, seed, uei, accuracy, worsened, uei_valid, area_valid, area_test, evaluations, seconds.

    Args:
        on: what is varied.
        names: of the ablations, in `ABLATIONS`; all of them by default.

    Raises:
        ValueError: for a name that is not there (nearest one).
    """
    check_names(names or [])
    searched = on.searched.nonzero().squeeze(1)
    test = replace(on.features["test"], labels=on.features["test"].labels[:, searched])
    base = outcome("base", on.seed, on.features, on.heads, on.searched, tolerance=on.tolerance)

    def measures(predicted: Tensor) -> tuple[Tensor, Tensor]:
        tables = contingency_table(predicted, test.labels.T, test.group, test.groups)
        return underestimation_index(tables), accuracy(tables)

    before, _ = measures(base.test)
    done: dict[Variant, dict[str, Any]] = {}
    for name in names or ABLATIONS:
        for setting, variant in ABLATIONS[name].items():
            if variant in done:
                yield done[variant] | {"ablation": name, "setting": setting}
                continue
            begun = perf_counter()
            search = variant(on)
            seconds = perf_counter() - begun
            splits = on.features if search.hidden is None or on.pooled is None else on.pooled
            found = outcome(
                setting, on.seed, splits, search.heads, on.searched, search=search, base=base, tolerance=on.tolerance
            )
            uei, acc = measures(found.test)
            done[variant] = {
                "ablation": name, "setting": setting, "seed": on.seed, "uei": float(uei.mean()),
                "accuracy": float(acc.mean()), "worsened": int((uei > before).sum()),
                "uei_valid": float(underestimation_index(found.valid).mean()),
                "area_valid": found.area[0], "area_test": found.area[1], "evaluations": search.fronts.evaluations,
                "seconds": seconds,
            }  # fmt: skip
            yield done[variant]
