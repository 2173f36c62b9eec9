"""What runs show of the book's phenomenon, one row each, and what the book claims of every one of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
from measuring import Claim

from fairnb.evidence.compare import read_run
from fairnb.evidence.swept import rows_of
from fairnb.experiment import training_of
from fairnb.run.record import load_run
from fairnb.sweep.drive import Sweep, Where, run_sweep
from fairnb.sweep.plan import SweepFile

SEARCHES = ("dynamic weighting", "multi-task")  # the paper's


def swept(root: Path, see: Callable[[Path], dict[str, Any]] | None = None, **what: Any) -> pd.DataFrame:
    """What `see`, by default `shown`, reads from each run of a sweep in a checkout, beside what the runs vary.

    The runs are done one at a time; `seconds` is of the training.
    """
    sweep, rows = Sweep(SweepFile(**{"stages": SEARCHES} | what), root), []
    if not run_sweep(sweep, Where(workers=1)):
        raise SystemExit(1)
    for one in sweep.planned:
        trained = load_run(sweep.runs / training_of(one.parameters).run)["stages"]["base model"]["seconds"]
        rows.append(one.varied | {"seconds": trained} | (see or shown)(sweep.runs / one.parameters.run))
    return pd.DataFrame(rows)


def shown(folder: Path) -> dict[str, Any]:
    """Means of a run over its analysed labels, on test: of the base model, and after both searches."""
    run, rows, groups = read_run(folder), {row["method"]: row for row in rows_of(folder)}, pd.read_csv(folder / "groups.csv")
    base, dynamic, multi = (rows[method] for method in ("base", *SEARCHES))
    analysed = [label for label, kept in zip(run.labels, run.analysed.tolist(), strict=True) if kept]
    own = groups[(groups.method == "base") & (groups.split == "test") & groups.label.isin(analysed)]
    return {
        "labels": base["labels"], "accuracy": base["accuracy"], "low": (own.groupby("label").us.min() < 0.8).mean(),
        "uei": base["uei"], "dynamic": dynamic["uei"], "multi": multi["uei"],
        "loss_dynamic": base["accuracy"] - dynamic["accuracy"], "loss": base["accuracy"] - multi["accuracy"],
        "higher_dynamic": dynamic["higher"], "higher": multi["higher"],
    }  # fmt: skip


def every(what: str, values: pd.Series, claimed: str, kept: pd.Series) -> Claim:
    """A claim of every run, with the mean and range."""
    return what, f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})", claimed, bool(kept.all())


def phenomenon(seen: pd.DataFrame) -> list[Claim]:
    """What the book claims of every base model and both searches."""
    lower, half = seen.dynamic / seen.uei, seen.multi / seen.uei
    return [
        every("base: share of labels with a US below 0.8", seen.low, "≥ 1/3", seen.low >= 1 / 3),
        every("dynamic weighting: mean UEI, share of the base's", lower, "< 1", lower < 1),
        every("multi-task: mean UEI, share of the base's", half, "≤ 0.5", half <= 0.5),
        every("multi-task: accuracy loss", seen.loss, "≤ 0.05", seen.loss <= 0.05),
    ]
