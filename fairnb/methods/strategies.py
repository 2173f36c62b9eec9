"""Stage two: move the last layer by particle swarms, on saved features of the validation set and nothing else.

Both strategies are objectives over the same engine. Dynamic weighting (section 5) is one swarm whose particles hold every
label's head; the multi-task fix (section 6) is one swarm a label whose particles hold that label's head alone.

    search = multi_task(features["valid"], base.heads, Swarm(), seed=0, tolerance=0.05)
    base.model.replace_heads(search.heads)

Heads are float32 [L, D + 1]: the D weights and the bias of each label. Dynamic weighting can move both fully
connected layers: then the layer before them, float32 [D, F + 1], is searched too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fairnb.features import Features
from fairnb.heads import DTYPES, Scorer
from fairnb.metrics import accuracy, contingency_table, underestimation_index
from fairnb.run.files import load_tensors, save_tensors
from fairnb.run.keys import content_key, digest, seeded
from fairnb.run.messages import unknown
from fairnb.swarm.mopso import Fronts, Swarm, mopso, rescore

if TYPE_CHECKING:
    from lightning_fabric import Fabric

LAYERS = ("last", "all")  # the heads, or both fully connected layers
SAMPLE = 2**16  # images from which the unit of noise is taken, where there are more


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
            [G, L, D + 1] where a method gives each group heads of its own, and so needs to know the group.
        hidden: float32 [D, F + 1], the layer before, where it was searched too.
    """

    fronts: Fronts
    uei: list[Tensor]
    accuracy: list[Tensor]
    picked: list[int]
    heads: Tensor
    hidden: Tensor | None = None


def predict(x: Tensor, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Predictions bool [..., L, N]: positive where the logit is above 0.

    Args:
        x: [N, D] features; [N, F], what the hidden layer reads, where one is given.
        heads: [..., L, D + 1].
        hidden: [D, F + 1] or None.
    """
    if hidden is not None:
        x = (x @ hidden[:, :-1].T + hidden[:, -1]).relu()
    return heads[..., :-1] @ x.T > -heads[..., -1:]


def answers(features: Features, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Predictions bool [L, N] on a split, as `predict`; with heads [G, L, D + 1] everybody's by those of their group."""
    predicted = predict(features.x, heads, hidden)
    return predicted if heads.dim() == 2 else predicted.gather(0, features.group.expand(1, *predicted.shape[1:]))[0]


def evaluate(features: Features, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
    """Contingency tables int64 [L, G, 2, 2] of heads [L, D + 1] or [G, L, D + 1] on a split, see `answers`."""
    return contingency_table(answers(features, heads, hidden), features.labels.T, features.group, features.groups)


def pick(uei: Tensor, accuracy: Tensor, tolerance: float, indifferent: float = 0.0) -> int:
    """The candidate of lowest UEI among those that lose at most `tolerance` of the first one's accuracy (section 5).

    Args:
        uei: [K], minimised; the first candidate is the base model.
        accuracy: [K] in [0, 1].
        tolerance: accuracy that may be lost, in [0, 1].
        indifferent: a UEI; all that is lower counts as equal. Ours, not the paper's.

    Returns:
        Its index; of equal ones the most accurate.
    """
    allowed = accuracy >= accuracy[0] - tolerance - 1e-12  # the last digits of a mean are no loss
    lifted = uei.clamp(min=indifferent)
    order = sorted(allowed.nonzero().squeeze(1).tolist(), key=lambda k: (float(lifted[k]), -float(accuracy[k])))
    return order[0]


def dynamic_weighting(
    valid: Features,
    heads: Tensor,
    swarm: Swarm,
    *,
    hidden: Tensor | None = None,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
    epsilon: float = 0.01,
    spread: float = 0.1,
    steer: str = "float32",
    whiten: bool = False,
    fabric: Fabric | None = None,
    saved: Path | None = None,
) -> Search:
    """Search all heads at once for two weighted sums over the labels: equations 7 and 8.

    Minimised are Σ UEI / (accuracy + ε) and −Σ accuracy / (UEI + ε), the weights recomputed at each evaluation.

    Args:
        valid: features of the validation split.
        heads: float32 [L, D + 1], the base model's.
        swarm: how to fly.
        hidden: float32 [D, F + 1], the base model's layer before, to move both (`layers="all"`); `valid.x` is then what that
            layer reads, [N, F]. None moves the heads alone.
        searched: bool [L], the labels that are summed and moved; all of them by default.
        seed: of the search.
        tolerance: mean accuracy that the picked model may lose.
        held_out: share of the validation images that the search does not see and the pick is made on; 0 for both on all.
        epsilon: ε of equation 8.
        spread: how far the first particles lie from the base model: at 1 their logits differ from its by as much as its
            own logits differ from 0.
        steer: arithmetic of the search, 'float32' or 'bfloat16'; what is found is scored in float32 in any case.
        whiten: search in coordinates in which the features are uncorrelated and of equal size, so that noise moves logits
            alike in every direction. The first particles are the same heads as without. It is ours, not the paper's.
        fabric: of the processes that share the images; None for one process.
        saved: a file for a search that is stopped, see `mopso`.

    Raises:
        ValueError: if no label is searched, the layers do not fit the features, or a setting is out of its range.
    """
    check_settings(tolerance, spread, epsilon)
    valid, judge = hold_out(valid, held_out, seed)
    where = searched_labels(searched, heads)
    device = valid.x.device
    start = heads[where].to(device)
    hidden = None if hidden is None else hidden.to(device)
    check_search("last" if hidden is None else "all", steer, whiten)
    check_width(valid, heads, hidden)
    particle = start.flatten() if hidden is None else torch.cat([start.flatten(), hidden.flatten()])

    def layers(x: Tensor) -> tuple[Tensor, Tensor | None]:  # [P, …] → [L, P, D + 1], [P, D, F + 1]
        moved = x[:, : start.numel()].unflatten(-1, start.shape).transpose(0, 1)
        return moved, None if hidden is None else x[:, start.numel() :].unflatten(-1, hidden.shape)

    def objectives(score: Scorer) -> Callable[[Tensor], Tensor]:
        def values(x: Tensor) -> Tensor:  # [1, P, …]
            tables = score(*layers(x[0]))  # [L, P, G, 2, 2]
            uei, acc = underestimation_index(tables), accuracy(tables)  # [L, P]
            return torch.stack([(uei / (acc + epsilon)).sum(0), -(acc / (uei + epsilon)).sum(0)], dim=-1).unsqueeze(0)

        return values

    if hidden is None:
        scale = noise_unit(valid.x, start).expand_as(start).flatten()
    else:
        active = (valid.x[:SAMPLE] @ hidden[:, :-1].T + hidden[:, -1]).relu()
        parts = [noise_unit(active, start).expand_as(start), noise_unit(valid.x, hidden).expand_as(hidden)]
        scale = torch.cat([part.flatten() for part in parts])
    fronts = _fly(
        objectives,
        valid,
        where,
        particle.unsqueeze(0),
        scale.unsqueeze(0),
        swarm,
        spread,
        seed,
        "dynamic weighting",
        f"dynamic weighting, epsilon {epsilon}, layers {'last' if hidden is None else 'all'}",
        steer,
        whiten,
        fabric,
        saved,
    )
    candidates = torch.cat([particle.unsqueeze(0), fronts.pareto_front(0)[0]])
    tables = Scorer(judge, where, fabric=fabric)(*layers(candidates))
    uei, acc = underestimation_index(tables).mean(0), accuracy(tables).mean(0)  # [K]
    chosen = pick(uei, acc, tolerance)
    moved, found = layers(candidates[chosen : chosen + 1])
    moved_heads, moved_hidden = _with_heads(heads, where, moved[:, 0]), None if found is None else found[0].cpu()
    return Search(fronts, [uei], [acc], [chosen], moved_heads, moved_hidden)


def multi_task(
    valid: Features,
    heads: Tensor,
    swarm: Swarm,
    *,
    searched: Tensor | None = None,
    seed: int = 0,
    tolerance: float = 0.05,
    held_out: float = 0.0,
    spread: float = 0.1,
    steer: str = "float32",
    whiten: bool = False,
    begin: Tensor | None = None,
    fabric: Fabric | None = None,
    saved: Path | None = None,
) -> Search:
    """Search each label's head on its own, all labels in parallel, for its UEI and its error 1 − accuracy (section 6).

    The arguments are those of `dynamic_weighting`; `tolerance` is the accuracy that each label may lose.

    Args:
        valid, heads, swarm, searched, seed, tolerance, held_out, spread, steer, whiten, fabric, saved: see there.
        begin: float32 [L, D + 1], where the swarms begin; at `heads`, from which the tolerance counts, by default.

    Raises:
        ValueError: if no label is searched, the heads do not fit the features, or a setting is out of its range.
    """
    check_settings(tolerance, spread)
    valid, judge = hold_out(valid, held_out, seed)
    where = searched_labels(searched, heads)
    start = heads[where].to(valid.x.device)
    check_width(valid, heads)
    first = start if begin is None else begin[where].to(start)

    def objectives(score: Scorer) -> Callable[[Tensor], Tensor]:
        return lambda x: uei_and_error(score(x))  # [L, P, D + 1]

    worst = torch.ones(len(start), 2, dtype=torch.float64, device=start.device)
    fronts = _fly(
        objectives,
        valid,
        where,
        first,
        noise_unit(valid.x, first),
        swarm,
        spread,
        seed,
        "multi-task fix",
        "multi-task fix",
        steer,
        whiten,
        fabric,
        saved,
        reference=worst,
    )
    score = Scorer(judge, where, fabric=fabric)
    base = uei_and_error(score(start.unsqueeze(1)))[:, 0]
    judged = uei_and_error(score(fronts.positions)) if held_out else None
    return pick_each(fronts, start, base, heads, where, tolerance, judged)


def uei_and_error(tables: Tensor) -> Tensor:
    """Both objectives of a label's search, of contingency tables [..., G, 2, 2]: UEI and 1 − accuracy, float64 [..., 2]."""
    return torch.stack([underestimation_index(tables), 1 - accuracy(tables)], dim=-1)


def pick_each(
    fronts: Fronts,
    start: Tensor,
    base: Tensor,
    heads: Tensor,
    searched: Tensor,
    tolerance: float,
    judged: Tensor | None = None,
    indifferent: Tensor | None = None,
) -> Search:
    """Pick a head for each label from its own front.

    Args:
        fronts: of S labels; their positions are heads, [S, A, D + 1], or one for each group in a row, [S, A, G·(D + 1)].
        start: [S, D + 1], the base model's.
        base: float64 [S, 2], the base model's `uei_and_error`.
        heads: float32 [L, D + 1], the base model's.
        searched: indices of the S labels.
        tolerance: accuracy that each label may lose.
        judged: float64 [S, A, 2], `uei_and_error` on the images that the pick is made on, where others than the search's.
        indifferent: [S], see `pick`; 0 by default.
    """
    uei, acc, picked, found = [], [], [], []
    values = fronts.objectives if judged is None else judged
    start = start.repeat(1, fronts.positions.shape[-1] // start.shape[1])  # for each group, where groups have their own
    for s, places in enumerate(fronts.along()):
        candidates = torch.cat([base[s : s + 1], values[s, places]])
        uei.append(candidates[:, 0])
        acc.append(1 - candidates[:, 1])
        picked.append(pick(uei[-1], acc[-1], tolerance, 0.0 if indifferent is None else float(indifferent[s])))
        found.append(torch.cat([start[s : s + 1], fronts.positions[s, places]])[picked[-1]])
    return Search(fronts, uei, acc, picked, _with_heads(heads, searched, torch.stack(found)))


def hold_out(features: Features, share: float, seed: int) -> tuple[Features, Features]:
    """Split at random into what is searched on and what the pick is made on; a share of 0 gives the whole to both.

    Images of one person go to the same side, where it is known who they show.

    Raises:
        ValueError: if the share is not in [0, 1), or leaves nothing to one of the two.
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out={share} must be in [0, 1): the share of validation that only the pick sees")
    if not share:
        return features, features
    people, which = features.people
    images, left = which.cpu().bincount(minlength=people).tolist(), round(share * len(which))
    chosen = torch.zeros(people, dtype=torch.bool)
    for person in torch.randperm(people, generator=seeded(seed, "held out")).tolist():
        if images[person] <= left:
            chosen[person] = True
            left -= images[person]
    kept = chosen[which.cpu()]
    if not kept.any() or kept.all():
        raise ValueError(
            f"held_out={share} of {len(kept)} validation images of {people} people leaves none to search on, or to pick on"
        )
    return features.rows(~kept), features.rows(kept)


def save_search(path: Path, search: Search) -> None:
    """Write a search as one safetensors file."""
    fronts = {f"fronts.{name}": value for name, value in vars(search.fronts).items() if isinstance(value, Tensor)}
    sizes = torch.tensor([len(uei) for uei in search.uei])
    candidates = {"uei": torch.cat(search.uei), "accuracy": torch.cat(search.accuracy), "sizes": sizes}
    picked = {"picked": torch.tensor(search.picked), "heads": search.heads}
    if search.hidden is not None:
        picked["hidden"] = search.hidden
    save_tensors(path, {**fronts, **candidates, **picked, "evaluations": torch.tensor(search.fronts.evaluations)})


def load_search(path: Path) -> Search:
    """The search that `save_search` wrote.

    Raises:
        ValueError: if the file is damaged, with its path.
    """
    saved = load_tensors(path)
    sizes = saved["sizes"].tolist()
    fronts = Fronts(
        **{name[7:]: value for name, value in saved.items() if name.startswith("fronts.")},
        evaluations=int(saved["evaluations"]),
    )
    uei, acc = list(saved["uei"].split(sizes)), list(saved["accuracy"].split(sizes))
    return Search(fronts, uei, acc, saved["picked"].tolist(), saved["heads"], saved.get("hidden"))


def check_settings(tolerance: float, spread: float, epsilon: float = 1.0) -> None:
    """Refuse settings that no search can use.

    Raises:
        ValueError: if tolerance or spread is negative, or epsilon not above 0.
    """
    if not tolerance >= 0 or not spread >= 0:
        raise ValueError(f"tolerance={tolerance} and spread={spread} must not be negative")
    if not epsilon > 0:
        raise ValueError(f"epsilon={epsilon} must be above 0: it keeps the weights finite")


def check_search(layers: str, steer: str, whiten: bool) -> None:
    """Refuse a way to search that there is not.

    Raises:
        ValueError: for layers other than 'last' and 'all', an unknown arithmetic, or both layers in whitened coordinates.
    """
    if layers not in LAYERS:
        raise ValueError(unknown("layers", layers, LAYERS))
    if steer not in DTYPES:
        raise ValueError(unknown("arithmetic (steer)", steer, DTYPES))
    if layers == "all" and whiten:
        raise ValueError("whiten=True is for heads alone: with layers='all', leave it out")


def noise_unit(x: Tensor, layer: Tensor) -> Tensor:
    """Unit of noise for each row of a layer [R, D + 1] that reads x [N, D]: float32 [R, 1].

    Gaussian noise of this size moves what a unit puts out as far as that lies from 0 (rms).
    """
    x = x[:SAMPLE]
    output = x @ layer[:, :-1].T + layer[:, -1]
    length = x.square().sum(1).add(1).mean().sqrt()  # of an image's features with the bias's 1
    return (output.square().mean(0).sqrt() / length).unsqueeze(1)


def scatter(centre: Tensor, size: Tensor, particles: int, generator: torch.Generator) -> Tensor:
    """First particles [S, P, D] around `centre` [S, D], itself among them: Gaussian noise of `size`, [S, 1] or [S, D]."""
    shape = (len(centre), particles, centre.shape[-1])
    away = torch.randn(shape, generator=generator, device=centre.device) * size.unsqueeze(1)
    away[:, 0] = 0
    return centre.unsqueeze(1) + away


def searched_labels(searched: Tensor | None, heads: Tensor) -> Tensor:
    """Indices of the labels searched, int64 on the CPU.

    Raises:
        ValueError: if there is none.
    """
    where = torch.arange(len(heads)) if searched is None else searched.cpu().nonzero().squeeze(1)
    if not len(where):
        raise ValueError("no label is searched: searched is False for all of them")
    return where


def _with_heads(heads: Tensor, where: Tensor, found: Tensor) -> Tensor:
    """The base model's heads [L, D + 1] with those found [S, D + 1] in their places; [S, G·(D + 1)] gives [G, L, D + 1]."""
    width = heads.shape[1]
    result = heads.cpu().repeat(found.shape[1] // width, 1, 1)  # [G or 1, L, D + 1]
    result[:, where] = found.cpu().unflatten(1, (-1, width)).transpose(0, 1)
    return result if len(result) > 1 else result[0]


def check_width(features: Features, heads: Tensor, hidden: Tensor | None = None) -> None:
    """Refuse layers that do not fit the features, or each other.

    Raises:
        ValueError: with both sizes.
    """
    width = heads.shape[1] - 1 if hidden is None else hidden.shape[1] - 1
    if features.x.shape[1] != width:
        raise ValueError(f"features of {features.x.shape[1]} columns do not fit a layer that reads {width}")
    if hidden is not None and len(hidden) != heads.shape[1] - 1:
        raise ValueError(f"the hidden layer has {len(hidden)} units, the heads {heads.shape[1] - 1} weights")


class _Whitened:
    """Coordinates of a head in which the features x [N, D] have mean 0, no correlations and variance 1.

    Directions in which they hardly vary, below a ten-thousandth of the most, count as if they varied so much.
    """

    def __init__(self, x: Tensor) -> None:
        x = x[:SAMPLE].double()
        self.mean = x.mean(0)
        variance, axes = torch.linalg.eigh((x - self.mean).T @ (x - self.mean) / len(x))
        deviation = variance.clamp(min=1e-4 * float(variance.max())).sqrt()
        self.shrink, self.stretch = (axes / deviation) @ axes.T, (axes * deviation) @ axes.T
        self.back, self.origin = self.shrink.float(), self.mean.float()
        self.x = ((x - self.mean) @ self.shrink).float()  # of the sample

    def enter(self, positions: Tensor) -> Tensor:
        """Positions [..., H·(D + 1)] of H heads, in these coordinates."""
        heads = positions.unflatten(-1, (-1, len(self.mean) + 1)).double()
        weights, bias = heads[..., :-1], heads[..., -1:]
        return torch.cat([weights @ self.stretch, bias + (weights @ self.mean).unsqueeze(-1)], dim=-1).flatten(-2).float()

    def leave(self, positions: Tensor) -> Tensor:
        """Positions [..., H·(D + 1)] in the features' own coordinates again."""
        heads = positions.unflatten(-1, (-1, len(self.mean) + 1))
        weights = heads[..., :-1] @ self.back
        return torch.cat([weights, heads[..., -1:] - (weights @ self.origin).unsqueeze(-1)], dim=-1).flatten(-2)


def _fly(
    objectives: Callable[[Scorer], Callable[[Tensor], Tensor]],
    valid: Features,
    where: Tensor,
    centre: Tensor,
    scale: Tensor,
    swarm: Swarm,
    spread: float,
    seed: int,
    title: str,
    named: str,
    steer: str,
    whiten: bool,
    fabric: Fabric | None,
    saved: Path | None,
    reference: Tensor | None = None,
) -> Fronts:
    """Scatter the first particles around `centre` [S, D], itself among them, and search; `scale` is [S, 1] or [S, D]."""
    generator = seeded(seed, title, device=centre.device)
    particles = scatter(centre, scale * spread, swarm.particles, generator)
    score = objectives(Scorer(valid, where, fabric=fabric))
    quick = score if steer == "float32" else objectives(Scorer(valid, where, dtype=steer, fabric=fabric))
    if saved is not None:  # the features themselves are known by the scale
        named = content_key([named, steer, whiten, where.tolist(), digest(valid.labels), digest(valid.group)])
    flying: dict[str, Any] = {
        "generator": generator,
        "reference": reference,
        "saved": saved,
        "named": named,
        "fabric": fabric,
        "progress": title,
    }
    if not whiten:
        fronts = mopso(quick, particles, swarm, scale=scale.unsqueeze(1), **flying)
        return fronts if steer == "float32" else rescore(fronts, score)
    frame = _Whitened(valid.x)
    heads = frame.enter(centre).unflatten(-1, (-1, valid.x.shape[1] + 1))  # [S, H, D + 1]
    scale = noise_unit(frame.x, heads.flatten(0, 1)).expand(-1, heads.shape[-1]).reshape(len(centre), 1, -1)
    fronts = mopso(lambda x: quick(frame.leave(x)), frame.enter(particles), swarm, scale=scale, **flying)
    # Scored once more where they are used: the way back rounds a little differently for other numbers of particles.
    return rescore(replace(fronts, positions=frame.leave(fronts.positions)), score)
