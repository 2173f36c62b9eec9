"""Assessment beside Fairlearn's `MetricFrame`: the same rates, and the time of both.

    .venv/bin/python benchmarks/peers_assess.py

200,000 images of 40 labels in 4 groups, without intervals on either side, ours before and after theirs. `MetricFrame`
takes one label at a time. Then what the assessment costs with intervals, in 4 and in 14 groups. Exits 1 where a claim falls
short.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from fairlearn.metrics import MetricFrame, count, false_positive_rate, selection_rate, true_positive_rate
from measuring import Claim, at_most, in_turns, verdict

from fairnb import Assessment, assess

IMAGES, LABELS = 200_000, 40
METRICS = {"n": count, "share": selection_rate, "tpr": true_positive_rate, "fpr": false_positive_rate}


def ours(draws: int, group: np.ndarray) -> Assessment:
    return assess(truth, predicted, group, draws=draws)


def plain() -> None:
    found["ours"] = ours(0, groups[4])


def compared() -> None:
    found["theirs"] = theirs(groups[4])


def theirs(group: np.ndarray) -> pd.DataFrame:
    frames = [
        MetricFrame(metrics=METRICS, y_true=truth[:, j], y_pred=predicted[:, j], sensitive_features=group)
        for j in range(LABELS)
    ]
    return pd.concat([frame.by_group for frame in frames], ignore_index=True)


draw = np.random.default_rng(0)
groups = {size: np.array([f"group {i:02}" for i in range(size)])[draw.integers(size, size=IMAGES)] for size in (4, 14)}
truth = (draw.random((IMAGES, LABELS)) < draw.uniform(0.02, 0.5, LABELS)).astype(int)
found: dict[str, Any] = {}
predicted = np.where(draw.random((IMAGES, LABELS)) < 0.1, 1 - truth, truth)

(before,), (peer,), (after,) = (in_turns([run], 1, warm=0)[0] for run in (plain, compared, plain))
own, other = found["ours"].groups, found["theirs"]
own = own.assign(share=own.predicted_positives / own.n)
apart = float(np.abs(own[list(METRICS)].to_numpy(dtype=float) - other[list(METRICS)].to_numpy(dtype=float)).max())
timed = in_turns([partial(ours, 1000, group) for group in groups.values()], 1, warm=0)
rows = {"fairnb, before": before, "MetricFrame": peer, "fairnb, after": after}
rows |= {f"fairnb, 1,000 draws, {size} groups": part[0] for size, part in zip(groups, timed, strict=True)}
print(f"{IMAGES:,} images, {LABELS} labels, 4 groups; without intervals unless stated\n")
print(pd.DataFrame({"seconds": rows}).to_string(float_format="{:.2f}".format))
claims: list[Claim] = [at_most("largest difference of a rate or count", apart, 1e-12)]
claims += [at_most("time against MetricFrame's", max(before, after) / peer, 0.1)]
raise SystemExit(verdict(claims))
