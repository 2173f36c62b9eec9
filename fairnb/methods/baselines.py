"""What a skeptic would try first: thresholds, gradients and chance, on the same features and the same validation split.

    search = label_thresholds(features["valid"], base.heads, tolerance=0.05)
    base.model.replace_heads(search.heads)

Each returns what a strategy returns, a front for every label and a pick by the same rule, so that whatever judges a search
judges these. `Search.fronts.evaluations` counts the models that were scored for a label; a gradient's step counts as one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.nn.utils.rnn import pad_sequence

from fairnb.features import Features
from fairnb.heads import Scorer, score_heads
from fairnb.methods.strategies import (
    Search,
    check_settings,
    check_width,
    hold_out,
    noise_unit,
    pick_each,
    searched_labels,
    uei_and_error,
)
from fairnb.metrics import cells
from fairnb.run.keys import seeded
from fairnb.swarm.mopso import Fronts
from fairnb.swarm.repository import hypervolume, non_dominated

SNAPSHOT = 10  # steps of a gradient between two heads that are candidates
AT_ONCE = 100  # heads of a label that chance draws and scores together
TINY = 1e-12  # keeps the slope of a square root finite


def label_thresholds(
    valid: Features,
    heads: Tensor,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
) -> Search:
    """Move each label's threshold, and nothing else.

    Every threshold that tells two validation images apart is tried.

    Args:
        valid: features of the validation split.
        heads: float32 [L, D + 1], the base model's.
        searched: bool [L], the labels whose threshold is moved; all of them by default.
        seed: of the images that are held out.
        tolerance: accuracy that each label may lose.
        held_out: share of the validation images that only the pick sees; 0 for everything on all.

    Raises:
        ValueError: if no label is searched, the heads do not fit the features, or a setting is out of its range.
    """
    where, start = _start(valid, heads, searched, tolerance)
    valid, judge = hold_out(valid, held_out, seed)
    positions, values = [], []
    for s, label in enumerate(where.tolist()):
        bias, tables = _thresholds(start[s], valid, label)
        f = uei_and_error(tables)
        keep = non_dominated(f)
        positions.append(torch.cat([start[s, :-1].expand(int(keep.sum()), -1), bias[keep].unsqueeze(1)], dim=1))
        values.append(f[keep])
    return picked_from(judge, heads, where, start, positions, values, len(valid.x) + 1, tolerance, bool(held_out))


def group_thresholds(
    valid: Features,
    heads: Tensor,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
) -> Search:
    """Move each label's threshold for each group apart: after Hardt, Price and Srebro (2016), with UEI in place of rates.

    Every combination of thresholds is taken into account: UEI² and the error are sums over the groups, so a front of the
    whole is found among combinations of points on the groups' own fronts. The arguments are those of `label_thresholds`.
    Who predicts with these heads, [G, L, D + 1], needs to know everybody's group.
    """
    where, start = _start(valid, heads, searched, tolerance)
    valid, judge = hold_out(valid, held_out, seed)
    positions, values = [], []
    for s, label in enumerate(where.tolist()):
        sums = torch.zeros(1, 2, dtype=torch.float64, device=start.device)  # UEI² and error of the groups so far
        biases = start.new_zeros(1, 0)
        for group in range(valid.groups):
            bias, tables = _thresholds(start[s], valid.rows(valid.group == group), label)
            parts = _parts(tables[:, group], len(valid.x))
            keep = non_dominated(parts)
            pairs = (sums.unsqueeze(1) + parts[keep]).flatten(0, 1)
            first, second = biases.repeat_interleave(int(keep.sum()), dim=0), bias[keep].repeat(len(biases)).unsqueeze(1)
            keep = non_dominated(pairs)
            sums, biases = pairs[keep], torch.cat([first, second], dim=1)[keep]
        weights = start[s, :-1].expand(*biases.shape, -1)  # [K, G, D]
        positions.append(torch.cat([weights, biases.unsqueeze(-1)], dim=-1).flatten(1))
        values.append(torch.stack([sums[:, 0].clamp(min=0).sqrt(), sums[:, 1]], dim=1))
    return picked_from(judge, heads, where, start, positions, values, len(valid.x) + valid.groups, tolerance, bool(held_out))


def soft_uei(
    valid: Features,
    heads: Tensor,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
    shares: Sequence[float] = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0),
    temperatures: Sequence[float] = (1.0, 0.3, 0.1),
    steps: int = 300,
    learning_rate: float = 0.01,
) -> Search:
    """Follow the gradient of a smooth UEI, whose predictions are counted by their sigmoids.

    For each share w of the smooth UEI, (1 − w) · cross-entropy + w · UEI is minimised by Adam on all of validation, from the
    base model's heads, at each temperature τ of the sigmoids σ(logit / τ). The front is of what they
    pass, every `SNAPSHOT` steps, and where they end. The other arguments are those of `label_thresholds`.

    Args:
        valid, heads, searched, seed, tolerance, held_out: see `label_thresholds`.
        shares: of the smooth UEI in the loss, each in [0, 1].
        temperatures: each above 0; the lower, the closer to counts, and the flatter elsewhere.
        steps: of Adam.
        learning_rate: of Adam, in units of `noise_unit`.

    Raises:
        ValueError: for a share, temperature or number of steps out of its range, or what `label_thresholds` refuses.
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares={list(shares)} must be in [0, 1]: how much of the loss is the smooth UEI")
    if not temperatures or not all(temperature > 0 for temperature in temperatures):
        raise ValueError(f"temperatures={list(temperatures)} must be above 0")
    if steps < 1 or not learning_rate > 0:
        raise ValueError(f"steps={steps} must be at least 1, learning_rate={learning_rate} above 0")
    where, start = _start(valid, heads, searched, tolerance)
    valid, judge = hold_out(valid, held_out, seed)
    w, tau = torch.tensor([(w, t) for w in shares for t in temperatures], device=start.device).unbind(1)  # [P] each
    unit = noise_unit(valid.x, start).unsqueeze(1)  # [S, 1, 1]
    moved = torch.zeros(len(start), len(w), start.shape[1], device=start.device, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=learning_rate)
    truth = valid.labels[:, where].T.float()  # [S, N]
    member = one_hot(valid.group, valid.groups).float() / len(truth[0])  # [N, G]
    passed = []
    for step in range(1, steps + 1):
        adam.zero_grad()
        layer = start.unsqueeze(1) + unit * moved
        logits = layer[..., :-1] @ valid.x.T + layer[..., -1:]  # [S, P, N]
        smooth = smooth_uei((logits / tau.view(-1, 1)).sigmoid(), truth.unsqueeze(1), member)
        entropy = binary_cross_entropy_with_logits(logits, truth.unsqueeze(1).expand_as(logits), reduction="none").mean(-1)
        ((1 - w) * entropy + w * smooth).sum().backward()
        adam.step()
        if step % SNAPSHOT == 0 or step == steps:
            passed.append((start.unsqueeze(1) + unit * moved).detach())
    candidates = torch.cat(passed, dim=1)
    f = uei_and_error(Scorer(valid, where)(candidates))
    keep = non_dominated(f)
    positions, values = ([part[s, keep[s]] for s in range(len(start))] for part in (candidates, f))
    return picked_from(judge, heads, where, start, positions, values, len(w) * steps, tolerance, bool(held_out))


def smooth_uei(chance: Tensor, truth: Tensor, member: Tensor) -> Tensor:
    """UEI with predictions counted by their chances: differentiable, and UEI itself where the chances are 0 and 1.

    Args:
        chance: [..., N] in [0, 1].
        truth: 0/1 [..., N].
        member: [N, G], each image's weight 1/N in the column of its group and 0 in the others.
    """
    whole = member.sum(0)
    predicted, true = chance @ member, truth @ member  # [..., G]
    parts = [(predicted, true), (whole - predicted, whole - true)]
    gaps = [((p.clamp(min=0) + TINY).sqrt() - (t.clamp(min=0) + TINY).sqrt()).square().sum(-1) for p, t in parts]
    return (torch.stack(gaps).sum(0) / 2 + TINY).sqrt()


def random_search(
    valid: Features,
    heads: Tensor,
    *,
    evaluations: int,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
    spread: float = 0.1,
) -> Search:
    """Scatter heads around the base model's and keep the non-dominated: what a swarm has to beat.

    How far to scatter nobody knows, so each draw takes its own distance, log-uniform from a tenth of `spread` to ten times
    it. The other arguments are those of `label_thresholds`.

    Args:
        valid, heads, searched, tolerance, held_out: see `label_thresholds`.
        evaluations: heads tried a label.
        seed: of the draws.
        spread: middle of the distances, in units of `noise_unit`.

    Raises:
        ValueError: if nothing is to be tried, or for what `label_thresholds` refuses.
    """
    if evaluations < 1:
        raise ValueError(f"evaluations={evaluations} must be at least 1")
    where, start = _start(valid, heads, searched, tolerance)
    valid, judge = hold_out(valid, held_out, seed)
    generator, score = seeded(seed, "random search", device=start.device), Scorer(valid, where)
    unit = noise_unit(valid.x, start).unsqueeze(1) * spread
    positions, values = list(start.unsqueeze(1)), list(uei_and_error(score(start.unsqueeze(1))))
    for first in range(1, evaluations, AT_ONCE):
        shape = (len(start), min(AT_ONCE, evaluations - first), start.shape[1])
        far = 10 ** (2 * torch.rand(*shape[:2], 1, generator=generator, device=start.device) - 1)
        x = start.unsqueeze(1) + unit * far * torch.randn(shape, generator=generator, device=start.device)
        for s, f in enumerate(uei_and_error(score(x))):
            both = torch.cat([values[s], f])
            keep = non_dominated(both)
            positions[s], values[s] = torch.cat([positions[s], x[s]])[keep], both[keep]
    return picked_from(judge, heads, where, start, positions, values, evaluations, tolerance, bool(held_out))


def _start(valid: Features, heads: Tensor, searched: Tensor | None, tolerance: float) -> tuple[Tensor, Tensor]:
    """Indices of the S labels searched, and their heads [S, D + 1], once everything is known to fit."""
    check_settings(tolerance, 0)
    check_width(valid, heads)
    where = searched_labels(searched, heads)
    return where, heads[where].to(valid.x.device)


def _thresholds(head: Tensor, part: Features, label: int) -> tuple[Tensor, Tensor]:
    """Every bias of a head [D + 1] that answers differently: biases [K], and contingency tables [K, G, 2, 2]."""
    raw, order = (part.x @ head[:-1]).sort(descending=True)
    cell = cells(part.labels[order, label], one_hot(part.group[order], part.groups)).long()  # [N, G·2]
    positives = torch.cat([torch.zeros_like(cell[:1]), cell.cumsum(0)])  # of the first k, k = 0 … N
    ends = torch.cat([raw[:1] + 1, raw, raw[-1:] - 1])
    apart = ends[:-1] != ends[1:]
    threshold = (ends[:-1] + ends[1:]) / 2
    counts = torch.stack([positives[-1] - positives, positives], dim=-1).unflatten(1, (-1, 2))  # [N + 1, G, y, ŷ]
    return -threshold[apart], counts[apart]


def _parts(tables: Tensor, images: int) -> Tensor:
    """What one group's tables [K, 2, 2] add to UEI² and to the error: float64 [K, 2]."""
    share = tables.double() / images
    predicted, true = share.sum(-2), share.sum(-1)
    return torch.stack([(predicted.sqrt() - true.sqrt()).square().sum(-1) / 2, share[:, 0, 1] + share[:, 1, 0]], dim=-1)


def picked_from(
    judge: Features,
    heads: Tensor,
    where: Tensor,
    start: Tensor,
    positions: list[Tensor],
    values: list[Tensor],
    evaluations: int,
    tolerance: float,
    held_out: bool,
) -> Search:
    """Fronts and picks from what was found for each of S labels.

    Args:
        judge: features of the images that the pick is made on.
        heads: float32 [L, D + 1], the base model's.
        where: indices of the S labels.
        start: float32 [S, D + 1], their heads.
        positions: of each label, its non-dominated heads [K, D + 1], or [K, G·(D + 1)], one for each group in a row.
        values: of each label, float64 [K, 2], their `uei_and_error`.
        evaluations: models that were scored for a label.
        tolerance: accuracy that each label may lose.
        held_out: whether `judge` holds other images than those that `values` were measured on.
    """
    mask = pad_sequence([torch.ones(len(f), dtype=torch.bool, device=f.device) for f in values], batch_first=True)
    objectives = pad_sequence(values, batch_first=True, padding_value=torch.inf)
    reference = torch.ones(len(start), 2, dtype=torch.float64, device=start.device)
    area = hypervolume(objectives, reference).unsqueeze(0)
    fronts = Fronts(pad_sequence(positions, batch_first=True), objectives, mask, area, reference, evaluations)
    base = uei_and_error(Scorer(judge, where)(start.unsqueeze(1)))[:, 0]
    judged = uei_and_error(score_heads(judge, fronts.positions, where)) if held_out else None
    return pick_each(fronts, start, base, heads, where, tolerance, judged)


BASELINES: dict[str, Callable[..., Search]] = {
    "label thresholds": label_thresholds,
    "group thresholds": group_thresholds,
    "soft UEI": soft_uei,
    "random search": random_search,
}
