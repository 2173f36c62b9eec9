"""The result of a method: its fronts, and the model picked from them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fairnb.heads import Heads, uei_and_error
from fairnb.methods.problem import Problem
from fairnb.metrics import chance_index
from fairnb.run.files import load_tensors, save_tensors
from fairnb.swarm.mopso import Fronts
from fairnb.swarm.repository import hypervolume


@dataclass(frozen=True, eq=False)
class Search:
    """The result of a method on validation: the candidates of each of S swarms are the base model, then its Pareto set."""

    fronts: Fronts  # in the objectives that were searched
    uei: list[Tensor]  # per swarm, float64 [K] over candidates; the mean over labels where S is 1: all searched together
    accuracy: list[Tensor]  # likewise
    picked: list[int]  # per swarm, the candidate picked
    heads: Heads  # the model picked; labels that were not searched keep the base model's heads


def pick(uei: Tensor, accuracy: Tensor, tolerance: float, indifferent: float = 0.0) -> int:
    """Index of the candidate of lowest UEI that loses at most `tolerance` of the first one's accuracy (section 5).

    Of equal ones the most accurate is picked. `uei` [K] is minimised and `accuracy` [K] in [0, 1]; the first candidate is
    the base model. Every UEI below `indifferent` counts as equal: ours, not the paper's.
    """
    allowed = accuracy >= accuracy[0] - tolerance - 1e-12  # ignore rounding of means
    lifted = uei.clamp(min=indifferent)
    return min(allowed.nonzero().squeeze(1).tolist(), key=lambda k: (float(lifted[k]), -float(accuracy[k])))


def pick_each(problem: Problem, fronts: Fronts) -> Search:
    """Pick a head for each label from its own front of heads, [S, A, D + 1] or by group."""
    values, along = judged(problem, fronts), fronts.along()
    start = problem.base_heads.repeat(1, fronts.positions.shape[-1] // problem.heads.shape[1])  # one per group if by group
    candidates = [torch.cat([problem.base[s : s + 1], values[s, places]]) for s, places in enumerate(along)]
    uei, accuracy = [f[:, 0] for f in candidates], [1 - f[:, 1] for f in candidates]
    least = indifferent_to(problem, fronts).tolist() if problem.indifference else [0.0] * len(along)
    picked = [pick(u, a, problem.tolerance, low) for u, a, low in zip(uei, accuracy, least, strict=True)]
    heads = [torch.cat([start[s : s + 1], fronts.positions[s, places]])[picked[s]] for s, places in enumerate(along)]
    return Search(fronts, uei, accuracy, picked, problem.with_heads(torch.stack(heads)))


def indifferent_to(problem: Problem, fronts: Fronts) -> Tensor:
    """UEI below which candidates count as equal, float64 [S]: a share of that expected by chance.

    That is of the errors, on the images of the pick, of each label's candidate of lowest UEI.
    """
    tables = problem.on_judge(fronts.positions)  # [S, A, G, 2, 2]
    return problem.indifference * chance_index(tables[torch.arange(len(tables)), fronts.objectives[..., 0].argmin(1)])


def judged(problem: Problem, fronts: Fronts) -> Tensor:
    """UEI and error of a front's candidates on the images of the pick, float64 [S, A, 2]."""
    return uei_and_error(problem.on_judge(fronts.positions)) if problem.held_out else fronts.objectives


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
    save_tensors(path, tensors | ({} if search.heads.hidden is None else {"hidden": search.heads.hidden}), **notes)


def load_search(path: Path) -> Search:
    """The search that `save_search` wrote. A damaged file raises ValueError with its path."""
    saved = load_tensors(path)
    sizes = saved["sizes"].tolist()
    fronts = {name[7:]: value for name, value in saved.items() if name.startswith("fronts.")}
    uei, accuracy = (list(saved[name].split(sizes)) for name in ("uei", "accuracy"))
    heads = Heads(saved["heads"], saved.get("hidden"))
    return Search(Fronts(**fronts, evaluations=int(saved["evaluations"])), uei, accuracy, saved["picked"].tolist(), heads)
