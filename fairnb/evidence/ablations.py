"""Ablations: one setting of the searches changed at a time, the rest as in chapters 03 and 04.

Each variant spends as many evaluations as the chapters. `ABLATIONS` is the table of the chapter "What matters".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

from fairnb.evidence import variants
from fairnb.evidence.outcome import Outcome
from fairnb.evidence.variants import Setting, Variant, dynamic, multi, of_problem, on_recalibrated, repicked
from fairnb.methods.calibrated import INDIFFERENCE
from fairnb.methods.soft_uei import soft_uei
from fairnb.methods.thresholds import group_thresholds, label_thresholds
from fairnb.metrics import accuracy, chance_index, underestimation_index
from fairnb.run.messages import unknown


@dataclass(frozen=True, eq=False)
class Trial:
    """One setting tried on one base model, with its keys in `ABLATIONS` and the outcome of its model.

    The row is on test unless stated otherwise. `uei_chance` is the UEI expected by chance at these errors
    (`fairnb.metrics.chance_index`), `higher` counts the labels whose UEI is above the base model's, `seconds` leaves out
    searches shared with earlier settings.
    """

    ablation: str
    setting: str
    outcome: Outcome
    row: dict[str, Any]  # ablation, setting, seed, uei, uei_chance, accuracy, higher, uei_valid, uei_pick, area_valid, …


CHAPTERS = "as in the chapters"
MULTI, DYNAMIC, CALIBRATED = multi(), dynamic(), variants.calibrated()
LOWEST = repicked(CALIBRATED)  # the pick of all other methods
FREE = variants.from_recalibrated(flight="constricted")
VARIANTS: dict[str, Callable[..., Variant]] = {  # the methods of chapter 05, with changes of the problem as arguments
    "dynamic weighting": dynamic,
    "multi-task": multi,
    "calibrated multi-task": variants.calibrated,
    "label thresholds": lambda **how: of_problem(label_thresholds, **how),
    "group thresholds": lambda **how: of_problem(group_thresholds, **how),
    "soft UEI": lambda **how: of_problem(soft_uei, **how),
    "random search": variants.random,
}
METHOD = {name: vary() for name, vary in VARIANTS.items()} | {
    "dynamic weighting": DYNAMIC, "multi-task": MULTI, "calibrated multi-task": CALIBRATED,
}  # fmt: skip
HELD_OUT = 0.3
OF_METHODS = {  # ablations of every method, and the suffixes of the settings' names
    "pick of every method": ("", ", 30 % held out"),
    "indifference of every method": (", lowest UEI", ", indifferent"),
}


def two_picks(method: str, variant: Variant) -> dict[str, Variant]:
    """A method's search with two picks, by setting: that of lowest UEI and the calibrated search's."""
    picks = repicked(variant), repicked(variant, indifference=INDIFFERENCE)
    return {f"{method}{words}": pick for words, pick in zip(OF_METHODS["indifference of every method"], picks, strict=True)}


ABLATIONS: dict[str, dict[str, Variant]] = {  # by the setting changed, then by its value
    "perturbation": {
        CHAPTERS: MULTI, "none": multi(swarm={"noise": 0.0}), "noise 0.2": multi(swarm={"noise": 0.2}),
        "a worse place is never kept": multi(swarm={"accept_worse": 0.0}),
    },
    "self-adaptation": {
        CHAPTERS: MULTI,
        "fixed in the middle": multi(swarm={"inertia": (0.4, 0.4), "cognitive": (1.25, 1.25), "social": (1.25, 1.25)}),
    },
    "grid": {
        CHAPTERS: MULTI, "one cell": multi(swarm={"divisions": 1}), "5 divisions": multi(swarm={"divisions": 5}),
        "30 divisions": multi(swarm={"divisions": 30}),
    },
    "ε of dynamic weighting": {
        CHAPTERS: DYNAMIC, "0.001": dynamic(epsilon=0.001), "0.1": dynamic(epsilon=0.1), "1": dynamic(epsilon=1.0),
    },
    "particles at equal evaluations": {
        CHAPTERS: MULTI, **{str(particles): variants.as_many(particles) for particles in (10, 25, 100, 200)},
    },
    "layers of dynamic weighting": {CHAPTERS: DYNAMIC, "both": variants.both_layers},
    "start": {CHAPTERS: MULTI, "recalibrated heads": variants.from_recalibrated()},
    "tolerance": {CHAPTERS: MULTI} | {str(limit): repicked(MULTI, tolerance=limit) for limit in (0.01, 0.02, 0.1)},
    "images of the pick": {
        CHAPTERS: MULTI, "30 % held out": multi(held_out=HELD_OUT), "half held out": multi(held_out=0.5),
    },
    "pick of every method": {
        f"{method}{words}": variant
        for method, vary in VARIANTS.items()
        for words, variant in zip(OF_METHODS["pick of every method"], (METHOD[method], vary(held_out=HELD_OUT)), strict=True)
    },
    "indifference of every method": {
        setting: variant
        for method in METHOD if method != "dynamic weighting"  # one pick for all labels
        for setting, variant in two_picks(method, METHOD[method]).items()
    },
    "flight": {
        CHAPTERS: MULTI, "constricted": multi(swarm={"flight": "constricted"}),
        "paper, whitened coordinates": multi(whiten=True),
    },
    "directions": {  # from recalibrated heads, as in the calibrated search
        "threshold and group": LOWEST, "the threshold alone": on_recalibrated(label_thresholds), "all": FREE,
    },
    "equal UEI": {
        "half of what chance shows": CALIBRATED, "none: the lowest": LOWEST,
        "all that chance shows": repicked(CALIBRATED, indifference=1.0),
    },
    "parts of the calibrated search": {
        "calibrated multi-task": CALIBRATED,
        "in all directions": repicked(FREE, indifference=INDIFFERENCE),
        "from the base model's heads": variants.calibrated(recalibrated=False),
        "recalibrated heads, no search": variants.only_recalibrated,
        "label thresholds on them, its pick": repicked(on_recalibrated(label_thresholds), indifference=INDIFFERENCE),
        "group thresholds on them, its pick": repicked(on_recalibrated(group_thresholds), indifference=INDIFFERENCE),
        "group thresholds on the base model's, its pick": repicked(METHOD["group thresholds"], indifference=INDIFFERENCE),
        "group thresholds on the base model's": METHOD["group thresholds"],
    },
}  # fmt: skip


def check_names(names: Sequence[str]) -> None:
    """Raise ValueError for an unknown ablation, with the nearest name."""
    if odd := [name for name in names if name not in ABLATIONS]:
        raise ValueError(unknown("ablation", odd[0], ABLATIONS))


def against(ablation: str, setting: str) -> str:
    """The reference of a setting: usually the ablation's first setting.

    A pick on held-out images is compared with the same method's ordinary pick, in "indifference of every method" a method
    with the calibrated search of the same pick, and that with its other pick.
    """
    if ablation not in OF_METHODS:
        return next(iter(ABLATIONS[ablation]))
    first, second = OF_METHODS[ablation]
    if ablation == "indifference of every method":
        ours = "calibrated multi-task"
        return ours + (second if setting.endswith(second) and setting != ours + second else first)
    return setting.removesuffix(second) + first if setting.endswith(second) else setting


def ablate(
    on: Setting, names: Sequence[str] = (), ablations: Mapping[str, Mapping[str, Variant]] = ABLATIONS
) -> Iterator[Trial]:
    """Try each setting of the ablations named (all by default), once each; ValueError for an unknown name."""
    check_names(names)
    base, test = on.judge.base, on.judge.features["test"].of_labels(on.judge.searched)
    assert base is not None
    before = underestimation_index(test.tables(base.test))
    done: dict[Variant, Trial] = {}
    for name in names or ablations:
        for setting, variant in ablations[name].items():
            if variant in done:
                outcome, row = done[variant].outcome, done[variant].row | {"ablation": name, "setting": setting}
                yield Trial(name, setting, replace(outcome, method=setting), row)
                continue
            begun = perf_counter()
            found = on.judge.outcome(setting, on.search(variant), perf_counter() - begun)
            tables = test.tables(found.test)
            uei = underestimation_index(tables)
            row = {
                "ablation": name, "setting": setting, "seed": found.seed, "uei": float(uei.mean()),
                "uei_chance": float(chance_index(tables).mean()), "accuracy": float(accuracy(tables).mean()),
                "higher": int((uei > before).sum()),
                "uei_valid": float(underestimation_index(found.valid).mean()), "uei_pick": found.promised,
                "area_valid": found.area[0], "area_test": found.area[1], "evaluations": found.evaluations,
                "seconds": found.seconds,
            }  # fmt: skip
            done[variant] = Trial(name, setting, found, row)
            yield done[variant]
