"""Recalibrated heads: logistic regression on validation, near the base model's heads. They are ours, not the paper's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from fairnb.heads import logits
from fairnb.run.keys import seeded

REACHES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # typical changes of logits, among which cross-validation chooses
FOLDS = 5  # of images; folds of people chose shorter reaches and left a higher UEI on validation
ROUGHLY = 1e-4  # tolerance of a fold's fits, precise enough to choose the reach


def recalibrate(x: Tensor, labels: Tensor, heads: Tensor, *, seed: int = 0) -> tuple[Tensor, int]:
    """Fit heads by logistic regression near `heads`; cross-validation chooses the reach.

    Features float32 [N, D], labels bool [N, S] and heads float32 [S, D + 1] give new heads float32 [S, D + 1] and the number
    of gradients; `seed` is that of the folds.
    """
    truth, steps, loss = labels.T.float(), 0, torch.zeros(len(REACHES), dtype=torch.float64)
    fold = (torch.randperm(len(x), generator=seeded(seed, "folds")) % FOLDS).to(x.device)
    for k in range(FOLDS):
        fitted = heads
        for i, reach in enumerate(REACHES):  # from near to far, each from the last one's result
            fitted, more = fit_near(x[fold != k], truth[:, fold != k], heads, reach, fitted, settled=ROUGHLY)
            steps += more
            scores = logits(x[fold == k], fitted)
            loss[i] += float(binary_cross_entropy_with_logits(scores, truth[:, fold == k], reduction="sum"))
    fitted, more = fit_near(x, truth, heads, REACHES[int(loss.argmin())])
    return fitted, steps + more


def fit_near(
    x: Tensor, truth: Tensor, heads: Tensor, reach: float, begin: Tensor | None = None, *, settled: float = 1e-6
) -> tuple[Tensor, int]:
    """Logistic regression with a Gaussian prior around `heads` that lets their logits change by about `reach` (rms).

    Features float32 [N, D] and truth 0/1 float32 [S, N] give new heads float32 [S, D + 1], their biases free of the prior,
    and the number of gradients. Iterations start at `begin`, by default `heads`, and stop where the loss or all weights
    change by less than `settled`.
    """
    centred = x - (mean := x.mean(0))
    penalty = float(centred.square().mean(0).sum()) / (2 * reach**2 * len(x))
    around, moved = (_shift(h, mean) for h in (heads, heads if begin is None else begin))
    moved.requires_grad_(True)
    newton = torch.optim.LBFGS(
        [moved], max_iter=100, tolerance_change=settled, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        newton.zero_grad()
        scores = logits(centred, moved)
        value = binary_cross_entropy_with_logits(scores, truth, reduction="none").mean(1).sum()
        value = value + penalty * (moved[:, :-1] - around[:, :-1]).square().sum()
        value.backward()
        return value

    newton.step(loss)
    return _shift(moved.detach(), -mean), newton.state[moved]["func_evals"]


def _shift(heads: Tensor, mean: Tensor) -> Tensor:
    """Equivalent heads for features minus `mean`."""
    return torch.cat([heads[:, :-1], heads[:, -1:] + heads[:, :-1] @ mean.unsqueeze(1)], dim=1)
