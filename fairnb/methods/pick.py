"""The result of a method: its fronts, and the model picked from them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairnb.heads import Heads, uei_and_error
from fairnb.methods.problem import Problem
from fairnb.metrics import (
    chance_index,
    false_positive_rate,
    lowest_rate,
    rate_gap,
    true_positive_rate,
    underestimation_index,
)
from fairnb.run.files import load_tensors, save_tensors
from fairnb.run.messages import some
from fairnb.run.parameters import Conditions
from fairnb.swarm.mopso import Fronts
from fairnb.swarm.repository import hypervolume

ROUNDING = 1e-12  # of means and rates, ignored where they are compared


@dataclass(frozen=True, eq=False)
class Search:
    """The result of a method on validation: the candidates of each of S swarms are the base model, then its Pareto set."""

    fronts: Fronts  # in the objectives that were searched
    uei: list[Tensor]  # per swarm, float64 [K] over candidates; the mean over labels where S is 1: all searched together
    accuracy: list[Tensor]  # likewise
    picked: list[int]  # per swarm, the candidate picked
    heads: Heads  # the model picked; labels that were not searched keep the base model's heads
    met: list[bool]  # per swarm, whether the pick meets the side conditions; where no candidate does, it is the base model


def pick(uei: Tensor, accuracy: Tensor, tolerance: float, indifferent: float = 0.0, met: Tensor | None = None) -> int:
    """Index of the candidate of lowest UEI that loses at most `tolerance` of the first one's accuracy (section 5).

    Of equal ones the most accurate is picked. `uei` [K] is minimised and `accuracy` [K] in [0, 1]; the first candidate is
    the base model. Ours, not the paper's: every UEI below `indifferent` counts as equal; and only candidates whose `met`,
    bool [K] from `meets`, is true are picked, or the base model if there is none.
    """
    allowed = accuracy >= accuracy[0] - tolerance - ROUNDING
    allowed = allowed if met is None else allowed & met
    lifted = uei.clamp(min=indifferent)
    return min(allowed.nonzero().squeeze(1).tolist(), key=lambda k: (float(lifted[k]), -float(accuracy[k])), default=0)


def meets(tables: Tensor, conditions: Conditions) -> Tensor:
    """Whether candidates meet the side conditions, bool [..., K], by their tables [..., K, G, 2, 2]; the first is the base.

    A group without positives has no recall, one without negatives no false positive rate: it is left out of that condition.
    """
    uei, recall, false_alarms = (of(tables) for of in (underestimation_index, true_positive_rate, false_positive_rate))
    met = rate_gap(false_alarms) <= conditions.max_fpr_gap + ROUNDING
    met &= lowest_rate(recall) >= conditions.min_recall - ROUNDING
    return met & (uei <= uei[..., :1] + ROUNDING) if conditions.no_label_worse else met


def pick_each(problem: Problem, fronts: Fronts) -> Search:
    """Pick a head for each label from its own front of heads, [S, A, D + 1] or by group.

    The front of an earlier search can be picked from again: `pick_each(replace(problem, tolerance=0.01), search.fronts)`.
    """
    along, asked = fronts.along(), problem.conditions != Conditions()
    tables = cache(lambda: problem.on_judge(fronts.positions))  # int64 [S, A, G, 2, 2], scored if anything below needs them
    values = uei_and_error(tables()) if problem.held_out else fronts.objectives
    least = [0.0] * len(along)  # UEI below which candidates count as equal
    if problem.indifference:  # chance's is by the errors of each label's candidate of lowest UEI
        best = tables()[torch.arange(len(along)), fronts.objectives[..., 0].argmin(1)]
        least = (problem.indifference * chance_index(best)).tolist()
    start = problem.base_heads.repeat(1, fronts.positions.shape[-1] // problem.heads.shape[1])  # one per group if by group
    uei, accuracy, picked, heads, met = [], [], [], [], []
    for s, places in enumerate(along):
        candidates = torch.cat([problem.base[s : s + 1], values[s, places]])
        uei.append(candidates[:, 0])
        accuracy.append(1 - candidates[:, 1])
        fit = torch.ones_like(uei[s], dtype=torch.bool)
        if asked:
            fit = meets(torch.cat([problem.base_tables[s : s + 1], tables()[s, places]]), problem.conditions)
        picked.append(pick(uei[s], accuracy[s], problem.tolerance, least[s], fit))
        heads.append(torch.cat([start[s : s + 1], fronts.positions[s, places]])[picked[s]])
        met.append(bool(fit[picked[s]]))
    return Search(fronts, uei, accuracy, picked, problem.with_heads(torch.stack(heads)), met)


def unmet(search: Search, labels: Sequence[str]) -> str:
    """Words on those of the S labels, by name, for which nothing meets the side conditions; empty if there is none."""
    if all(search.met):
        return ""
    if len(search.met) < len(labels):  # all were searched together
        return "the base model stays: no model meets the side conditions for every label"
    names = [name for name, met in zip(labels, search.met, strict=True) if not met]
    return f"the base model stays: no model meets the side conditions for {some(names)}"


def picked_from(problem: Problem, positions: list[Tensor], values: list[Tensor], evaluations: int) -> Search:
    """Fronts and picks from the non-dominated heads of S labels.

    Per label, `positions` holds heads [K, D + 1], or by group [K, G·(D + 1)], and `values` float64 [K, 2], their UEI and
    error on the images of the search; `evaluations` counts the models scored per label.
    """
    mask = pad_sequence([torch.ones(len(f), dtype=torch.bool, device=f.device) for f in values], batch_first=True)
    objectives = pad_sequence(values, batch_first=True, padding_value=torch.inf)
    reference = torch.ones(len(values), 2, dtype=torch.float64, device=objectives.device)
    area = hypervolume(objectives, reference).unsqueeze(0)
    fronts = Fronts(pad_sequence(positions, batch_first=True), objectives, mask, area, reference, evaluations)
    return pick_each(problem, fronts)


def save_search(path: Path, search: Search, **notes: str) -> None:
    """Write a search as one safetensors file, with short notes in its header."""
    tensors = {f"fronts.{name}": value for name, value in vars(search.fronts).items() if isinstance(value, Tensor)}
    tensors |= {"uei": torch.cat(search.uei), "accuracy": torch.cat(search.accuracy)}
    tensors |= {"sizes": torch.tensor([len(uei) for uei in search.uei]), "picked": torch.tensor(search.picked)}
    tensors |= {"heads": search.heads.weights, "evaluations": torch.tensor(search.fronts.evaluations)}
    tensors |= {"met": torch.tensor(search.met)}
    save_tensors(path, tensors | ({} if search.heads.hidden is None else {"hidden": search.heads.hidden}), **notes)


def load_search(path: Path) -> Search:
    """The search that `save_search` wrote. A damaged file raises ValueError with its path."""
    saved = load_tensors(path)
    sizes = saved["sizes"].tolist()
    found = {name[7:]: value for name, value in saved.items() if name.startswith("fronts.")}
    uei, accuracy = (list(saved[name].split(sizes)) for name in ("uei", "accuracy"))
    met = saved["met"].tolist() if "met" in saved else [True] * len(sizes)  # older files know no side conditions
    fronts = Fronts(**found, evaluations=int(saved["evaluations"]))
    return Search(fronts, uei, accuracy, saved["picked"].tolist(), Heads(saved["heads"], saved.get("hidden")), met)
