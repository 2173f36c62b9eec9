"""Stage two: move the last layer by particle swarms, on saved features of the validation set and nothing else.

Both strategies are objectives over the same engine. Dynamic weighting (section 5) is one swarm whose particles hold every
label's head; the multi-task fix (section 6) is one swarm a label whose particles hold that label's head alone.

    search = multi_task(features["valid"], base.heads, Swarm(), seed=0, tolerance=0.05)
    base.model.replace_heads(search.heads)

Heads are float32 [L, D + 1]: the D weights and the bias of each label.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fairnb.files import seeded
from fairnb.metrics import accuracy, cells, contingency_table, count_cells, underestimation_index
from fairnb.mopso import Fronts, Swarm, mopso
from fairnb.training import Features


@dataclass(frozen=True, eq=False)
class Search:
    """What a strategy found, on validation.

    The candidates of each of S swarms are its Pareto set and, first, the base model itself. S is 1 for dynamic weighting
    and the number of labels searched for the multi-task fix.

    Attributes:
        fronts: the swarms' repositories, in the objectives that were searched.
        uei: per swarm, float64 [K]: the candidates' UEI, for dynamic weighting the mean over the labels searched.
        accuracy: per swarm, float64 [K]: likewise.
        picked: per swarm, which candidate was taken.
        heads: float32 [L, D + 1], the model that was picked; labels that were not searched keep the base model's head.
    """

    fronts: Fronts
    uei: list[Tensor]
    accuracy: list[Tensor]
    picked: list[int]
    heads: Tensor


def predict(x: Tensor, heads: Tensor) -> Tensor:
    """Predictions bool [..., L, N] from features [N, D] by heads [..., L, D + 1]: positive where the logit is above 0."""
    return heads[..., :-1] @ x.T + heads[..., -1:] > 0


def evaluate(features: Features, heads: Tensor) -> Tensor:
    """Contingency tables int64 [..., L, G, 2, 2] of heads [..., L, D + 1] on a split."""
    return contingency_table(predict(features.x, heads), features.labels.T, features.group, features.groups)


def pick(uei: Tensor, accuracy: Tensor, tolerance: float) -> int:
    """The candidate of lowest UEI among those that lose at most `tolerance` of the first one's accuracy (section 5).

    Args:
        uei: [K], minimised; the first candidate is the base model.
        accuracy: [K] in [0, 1].
        tolerance: accuracy that may be lost, in [0, 1].

    Returns:
        Its index; of equal ones the most accurate.
    """
    allowed = accuracy >= accuracy[0] - tolerance - 1e-12  # the last digits of a mean are no loss
    order = sorted(allowed.nonzero().squeeze(1).tolist(), key=lambda k: (float(uei[k]), -float(accuracy[k])))
    return order[0]


def dynamic_weighting(
    valid: Features,
    heads: Tensor,
    swarm: Swarm,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    epsilon: float = 0.01,
    spread: float = 0.1,
) -> Search:
    """Search all heads at once for two weighted sums over the labels: equations 7 and 8.

    Minimised are Σ UEI / (accuracy + ε) and −Σ accuracy / (UEI + ε), the weights recomputed at each evaluation.

    Args:
        valid: features of the validation split.
        heads: float32 [L, D + 1], the base model's.
        swarm: how to fly.
        searched: bool [L], the labels that are summed and moved; all of them by default.
        seed: of the search.
        tolerance: mean accuracy that the picked model may lose.
        epsilon: ε of equation 8.
        spread: how far the first particles lie from the base model: at 1 their logits differ from its by as much as its
            own logits differ from 0.

    Raises:
        ValueError: if no label is searched, or tolerance, epsilon or spread is negative.
    """
    check_settings(tolerance, spread, epsilon)
    where = _searched(searched, heads)
    start = heads[where].to(valid.x.device)
    score = _scorer(valid, where)

    def objectives(x: Tensor) -> Tensor:  # [1, P, L·(D+1)]
        tables = score(x[0].unflatten(-1, start.shape).transpose(0, 1))  # [L, P, G, 2, 2]
        uei, acc = underestimation_index(tables), accuracy(tables)  # [L, P]
        return torch.stack([(uei / (acc + epsilon)).sum(0), -(acc / (uei + epsilon)).sum(0)], dim=-1).unsqueeze(0)

    scale = _scale(valid, start).expand_as(start)
    fronts = _fly(objectives, start.reshape(1, -1), scale.reshape(1, -1), swarm, spread, seed, "dynamic weighting")
    candidates = torch.cat([start.reshape(1, -1), fronts.pareto_front(0)[0]]).unflatten(-1, start.shape)  # [K, L, D+1]
    tables = score(candidates.transpose(0, 1))
    uei, acc = underestimation_index(tables).mean(0), accuracy(tables).mean(0)  # [K]
    chosen = pick(uei, acc, tolerance)
    return Search(fronts, [uei], [acc], [chosen], _with_heads(heads, where, candidates[chosen]))


def multi_task(
    valid: Features,
    heads: Tensor,
    swarm: Swarm,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    spread: float = 0.1,
) -> Search:
    """Search each label's head on its own, all labels in parallel, for its UEI and its error 1 − accuracy (section 6).

    The arguments are those of `dynamic_weighting`; `tolerance` is the accuracy that each label may lose.

    Raises:
        ValueError: if no label is searched, or tolerance or spread is negative.
    """
    check_settings(tolerance, spread)
    where = _searched(searched, heads)
    start = heads[where].to(valid.x.device)
    score = _scorer(valid, where)

    def objectives(x: Tensor) -> Tensor:  # [L, P, D+1]
        tables = score(x)
        return torch.stack([underestimation_index(tables), 1 - accuracy(tables)], dim=-1)

    worst = torch.ones(len(start), 2, dtype=torch.float64, device=start.device)
    scale = _scale(valid, start)
    fronts = _fly(objectives, start, scale, swarm, spread, seed, "multi-task fix", reference=worst)
    base = score(start.unsqueeze(1))
    uei, acc, picked, found = [], [], [], []
    for label in range(len(start)):
        positions, values = fronts.pareto_front(label)
        uei.append(torch.cat([underestimation_index(base[label]), values[:, 0]]))
        acc.append(torch.cat([accuracy(base[label]), 1 - values[:, 1]]))
        picked.append(pick(uei[-1], acc[-1], tolerance))
        found.append(torch.cat([start[label : label + 1], positions])[picked[-1]])
    return Search(fronts, uei, acc, picked, _with_heads(heads, where, torch.stack(found)))


def check_settings(tolerance: float, spread: float, epsilon: float = 1.0) -> None:
    """Refuse settings that no search can use.

    Raises:
        ValueError: if tolerance or spread is negative, or epsilon not above 0.
    """
    if not tolerance >= 0 or not spread >= 0:
        raise ValueError(f"tolerance={tolerance} and spread={spread} must not be negative")
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon} must be above 0: it keeps the weights finite")


def _searched(searched: Tensor | None, heads: Tensor) -> Tensor:
    """Indices of the labels searched, int64 on the CPU."""
    where = torch.arange(len(heads)) if searched is None else searched.cpu().nonzero().squeeze(1)
    if not len(where):
        raise ValueError("no label is searched: searched is False for all of them")
    return where


def _with_heads(heads: Tensor, where: Tensor, found: Tensor) -> Tensor:
    result = heads.cpu().clone()
    result[where] = found.cpu()
    return result


def _scorer(features: Features, where: Tensor) -> Callable[[Tensor], Tensor]:
    """A function from heads [L, P, D + 1] to tables [L, P, G, 2, 2]: one matrix product, a threshold, a count."""
    member = torch.nn.functional.one_hot(features.group, features.groups)
    cell = cells(features.labels[:, where].T, member)  # [L, N, G·2]
    x = torch.cat([features.x, torch.ones_like(features.x[:, :1])], dim=1).T.contiguous()  # [D+1, N]

    def score(heads: Tensor) -> Tensor:
        logits = heads.flatten(0, 1) @ x  # [L·P, N]
        return count_cells((logits > 0).unflatten(0, heads.shape[:2]), cell)

    return score


def _scale(features: Features, heads: Tensor) -> Tensor:
    """Unit of noise for each head, [L, 1]: Gaussian noise of this size moves a logit as far as logits lie from 0 (rms)."""
    logits = features.x @ heads[:, :-1].T + heads[:, -1]
    length = features.x.square().sum(1).add(1).mean().sqrt()  # of an image's features with the bias's 1
    return (logits.square().mean(0).sqrt() / length).unsqueeze(1)


def _fly(
    objectives: Callable[[Tensor], Tensor],
    centre: Tensor,
    scale: Tensor,
    swarm: Swarm,
    spread: float,
    seed: int,
    title: str,
    reference: Tensor | None = None,
) -> Fronts:
    """Scatter the first particles around `centre` [S, D], itself among them, and search; `scale` is [S, 1] or [S, D]."""
    generator = seeded(seed, title, device=centre.device)
    shape = (len(centre), swarm.particles, centre.shape[-1])
    away = torch.randn(shape, generator=generator, device=centre.device) * (scale * spread).unsqueeze(1)
    away[:, 0] = 0
    return mopso(
        objectives,
        centre.unsqueeze(1) + away,
        swarm,
        generator=generator,
        scale=scale.unsqueeze(1),
        reference=reference,
        progress=title,
    )
