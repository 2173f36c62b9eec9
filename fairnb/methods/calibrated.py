"""What the ablations teach, in one variant of the multi-task fix: few directions to overfit in, and a better place to start.

A head of D + 1 weights can fit a validation split of a few thousand images by heart, and then its counts are right there
and wrong elsewhere. So the swarms of `calibrated_multi_task` move each label in a few directions only: its threshold, and
along the direction in which the groups differ, both from a head that was recalibrated first. With that they can do what
thresholds for each group do, without being told the group; they tell it from the image instead, which is a use of the
sensitive attribute too. It is this project's, not the paper's.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from fairnb.features import Features
from fairnb.heads import Scorer
from fairnb.methods.strategies import (
    Search,
    check_settings,
    check_width,
    hold_out,
    pick_each,
    scatter,
    searched_labels,
    uei_and_error,
)
from fairnb.metrics import chance_index
from fairnb.run.keys import seeded
from fairnb.swarm.mopso import Fronts, Swarm, mopso

REACHES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # how far logits may move, from which cross-validation chooses
FOLDS = 5  # of images: folds of people hold the heads nearer, and left a higher UEI on validation
ROUGHLY = 1e-4  # a fold's fits need not settle further to tell how far heads may move
INDIFFERENCE = 0.5  # of what chance shows


def calibrated_multi_task(
    valid: Features,
    heads: Tensor,
    swarm: Swarm,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
    indifference: float = INDIFFERENCE,
    recalibrated: bool = True,
    spread: float = 0.5,
    saved: Path | None = None,
) -> Search:
    """Recalibrate each label's head, then search its threshold and the groups' direction for UEI and error.

    Args:
        valid: features of the validation split.
        heads: float32 [L, D + 1], the base model's.
        swarm: how to fly; the fits before the flight are paid from its evaluations, as far as a quarter of its iterations
            stays. A gradient counts as one evaluation.
        searched: bool [L], the labels to search; all of them by default.
        seed: of the search.
        tolerance: accuracy that each label may lose against the base model.
        held_out: share of the validation images that only the pick sees; 0 for everything on all.
        indifference: candidates whose UEI on validation is below this share of what chance shows there
            (`fairnb.metrics.chance_index`) count as equal, and the most accurate of them is picked.
        recalibrated: whether heads are fitted anew first; otherwise the search begins at the base model's.
        spread: how far the first particles lie from the recalibrated head, in standard deviations of its logits.
        saved: a file for a search that is stopped, see `fairnb.swarm.mopso.mopso`.

    Raises:
        ValueError: if no label is searched, the heads do not fit the features, or a setting is out of its range.
    """
    check_settings(tolerance, spread)
    if not indifference >= 0:
        raise ValueError(f"indifference={indifference} must not be negative")
    check_width(valid, heads)
    where = searched_labels(searched, heads)
    valid, judge = hold_out(valid, held_out, seed)
    start = heads[where].to(valid.x.device)
    better, steps = recalibrate(valid.x, valid.labels[:, where], start, seed=seed) if recalibrated else (start, 0)
    directions, more = group_directions(valid, seed)  # [G − 1, D + 1]
    # What the fits cost is taken off the flight, so that methods can be compared at equal evaluations; a quarter stays.
    left = (swarm.evaluations - steps - more) // swarm.particles - 1
    logits = better[:, :-1] @ valid.x.T + better[:, -1:]
    size = logits.std(1).view(-1, 1, 1)

    def to_heads(x: Tensor) -> Tensor:  # [S, P, G] → [S, P, D + 1]
        moved = better.unsqueeze(1) + size * (x[..., 1:] @ directions)
        moved[..., -1] += (size * x[..., :1]).squeeze(-1)
        return moved

    # In a few dimensions the paper's flight sometimes comes to rest far from the front.
    swarm = replace(swarm, flight="constricted", iterations=max(swarm.iterations // 4, left))
    score = Scorer(valid, where)
    generator = seeded(seed, "calibrated multi-task", device=start.device)
    centre = start.new_zeros(len(start), valid.groups)
    fronts = mopso(
        lambda x: uei_and_error(score(to_heads(x))),
        scatter(centre, torch.full_like(centre, spread), swarm.particles, generator),
        swarm,
        generator=generator,
        reference=torch.ones(len(start), 2, dtype=torch.float64, device=start.device),
        saved=saved,
        named="calibrated multi-task",
        progress="calibrated multi-task",
    )
    fronts = replace(fronts, positions=to_heads(fronts.positions), evaluations=fronts.evaluations + steps + more)
    score = Scorer(judge, where)
    tables = score(fronts.positions)
    base = uei_and_error(score(start.unsqueeze(1)))[:, 0]
    judged = uei_and_error(tables) if held_out else None
    return pick_each(fronts, start, base, heads, where, tolerance, judged, indifferent_to(fronts, tables, indifference))


def indifferent_to(fronts: Fronts, tables: Tensor, share: float) -> Tensor:
    """The UEI below which a label's candidates count as equal: a share of what chance shows with the errors of the best.

    Args:
        fronts: of S labels, the candidates [S, A].
        tables: [S, A, G, 2, 2], their contingency tables on the images that the pick is made on.
        share: of `fairnb.metrics.chance_index`.

    Returns:
        float64 [S].
    """
    lowest = fronts.objectives[..., 0].argmin(1)
    return share * chance_index(tables[torch.arange(len(tables)), lowest])


def recalibrate(x: Tensor, labels: Tensor, heads: Tensor, *, seed: int = 0) -> tuple[Tensor, int]:
    """Fit heads anew by logistic regression, held near what they were; how near, cross-validation chooses.

    Args:
        x: float32 [N, D], features of the validation split.
        labels: bool [N, S], what to fit.
        heads: float32 [S, D + 1], what to stay near.
        seed: of the folds.

    Returns:
        float32 [S, D + 1], and how often a gradient was computed for it.
    """
    truth = labels.T.float()
    fold = (torch.randperm(len(x), generator=seeded(seed, "folds")) % FOLDS).to(x.device)
    loss = torch.zeros(len(REACHES), dtype=torch.float64)
    steps = 0
    for k in range(FOLDS):
        fitted = heads
        for i, reach in enumerate(REACHES):  # from near to far, each from where the last one ended
            fitted, more = fit_near(x[fold != k], truth[:, fold != k], heads, reach, fitted, settled=ROUGHLY)
            steps += more
            logits = fitted[:, :-1] @ x[fold == k].T + fitted[:, -1:]
            loss[i] += float(binary_cross_entropy_with_logits(logits, truth[:, fold == k], reduction="sum"))
    fitted, more = fit_near(x, truth, heads, REACHES[int(loss.argmin())])
    return fitted, steps + more


def fit_near(
    x: Tensor, truth: Tensor, heads: Tensor, reach: float, begin: Tensor | None = None, *, settled: float = 1e-6
) -> tuple[Tensor, int]:
    """Logistic regression with a Gaussian prior around `heads`: weights may move so far that logits change by `reach` (rms).

    Args:
        x: float32 [N, D].
        truth: float32 [S, N], 0 or 1.
        heads: float32 [S, D + 1], the middle of the prior; the bias is free.
        reach: above 0, in units of logits.
        begin: float32 [S, D + 1], where the iterations begin; at `heads` by default.
        settled: change of the loss or of all weights in an iteration at which to stop.

    Returns:
        float32 [S, D + 1], and how often a gradient was computed for it.
    """
    mean = x.mean(0)
    centred = x - mean
    penalty = float(centred.square().mean(0).sum()) / (2 * reach**2 * len(x))
    around, moved = (_shift(h, mean) for h in (heads, heads if begin is None else begin))
    moved = moved.clone().requires_grad_(True)
    newton = torch.optim.LBFGS(
        [moved], max_iter=100, history_size=10, line_search_fn="strong_wolfe", tolerance_change=settled
    )

    def loss() -> Tensor:
        newton.zero_grad()
        logits = moved[:, :-1] @ centred.T + moved[:, -1:]
        entropy = binary_cross_entropy_with_logits(logits, truth, reduction="none").mean(1).sum()
        value = entropy + penalty * (moved[:, :-1] - around[:, :-1]).square().sum()
        value.backward()
        return value

    newton.step(loss)
    return _shift(moved.detach(), -mean), newton.state[moved]["func_evals"]


def _shift(heads: Tensor, mean: Tensor) -> Tensor:
    """The same heads for features from which `mean` was taken off."""
    return torch.cat([heads[:, :-1], heads[:, -1:] + heads[:, :-1] @ mean.unsqueeze(1)], dim=1)


def group_directions(features: Features, seed: int = 0) -> tuple[Tensor, int]:
    """Heads that tell each group but the first from the others, their logits of mean 0 and standard deviation 1.

    Returns:
        float32 [G − 1, D + 1], and how often a gradient was computed for it.
    """
    member = one_hot(features.group, features.groups)[:, 1:].bool()
    nothing = features.x.new_zeros(features.groups - 1, features.x.shape[1] + 1)
    found, steps = recalibrate(features.x, member, nothing, seed=seed)
    found[:, -1] = -(found[:, :-1] @ features.x.mean(0))  # mean logit 0: thresholds are moved apart from it
    return found / (features.x @ found[:, :-1].T).std(0).clamp(min=1e-6).unsqueeze(1), steps
