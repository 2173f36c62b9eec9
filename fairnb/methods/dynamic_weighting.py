"""The paper's dynamic weighting (section 5): one search for two weighted sums over all labels, equations 7 and 8."""

import torch
from torch import Tensor

from fairnb.heads import Scorer
from fairnb.methods.flying import Start, fly
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, meets, pick
from fairnb.methods.problem import SAMPLE, Problem, noise_unit
from fairnb.metrics import accuracy, chance_index, underestimation_index
from fairnb.run.parameters import Settings, Swarm
from fairnb.swarm.mopso import Fronts


def dynamic_weighting(problem: Problem, swarm: Swarm, settings: Settings) -> Search:
    """Search all heads at once, and the layer before them where the problem has one.

    It minimises Σ UEI / (accuracy + ε) and −Σ accuracy / (UEI + ε), the weights recomputed at each evaluation; for the pick
    see `pick_together`. Both layers in whitened coordinates raise ValueError.
    """
    hidden, start, x = problem.hidden, problem.start, problem.valid.x
    if hidden is None:
        unit = noise_unit(x, start).expand_as(start).flatten()
    elif settings.whiten:
        raise ValueError("whiten=True is for heads alone: with layers='all', leave it out")
    else:
        hidden = hidden.to(x.device)
        active = (x[:SAMPLE] @ hidden[:, :-1].T + hidden[:, -1]).relu()
        parts = [noise_unit(active, start).expand_as(start), noise_unit(x, hidden).expand_as(hidden)]
        unit = torch.cat([part.flatten() for part in parts])

    def objectives(score: Scorer, x: Tensor) -> Tensor:  # of positions [1, P, …]
        tables = score(*_layers(problem, x[0]))  # [S, P, G, 2, 2]
        uei, acc, epsilon = underestimation_index(tables), accuracy(tables), settings.epsilon  # [S, P]
        return torch.stack([(uei / (acc + epsilon)).sum(0), -(acc / (uei + epsilon)).sum(0)], dim=-1).unsqueeze(0)

    begin = Start(_position(problem, start).unsqueeze(0), unit.unsqueeze(0))
    return pick_together(problem, fly(problem, "dynamic weighting", begin, objectives, swarm, settings, settings.epsilon))


def pick_together(problem: Problem, fronts: Fronts) -> Search:
    """Pick one candidate for all labels, from one front of positions [1, A, …].

    The tolerance applies to the mean accuracy over labels. Every label must meet the side conditions, also one for which the
    base model does not: otherwise the base model stays for all.
    """
    base = _position(problem, problem.base_heads)
    candidates = torch.cat([base.unsqueeze(0), fronts.pareto_front(0)[0]])
    tables = Scorer(problem.judge, problem.where, fabric=problem.fabric)(*_layers(problem, candidates))  # [S, K, G, 2, 2]
    uei, acc = underestimation_index(tables).mean(0), accuracy(tables).mean(0)  # [K]
    least = problem.indifference * float(chance_index(tables[:, int(uei.argmin())]).mean())
    met = meets(tables, problem.conditions).all(0)
    chosen = pick(uei, acc, problem.tolerance, least, met)
    moved, moved_hidden = _layers(problem, candidates[chosen : chosen + 1])
    heads = problem.with_heads(moved[:, 0], None if moved_hidden is None else moved_hidden[0])
    return Search(fronts, [uei], [acc], [chosen], heads, [bool(met[chosen])])


def _position(problem: Problem, heads: Tensor) -> Tensor:
    """Heads [S, D + 1], and the base model's hidden layer if it moves, as one position."""
    layers = [heads] if problem.hidden is None else [heads, problem.hidden.to(heads.device)]
    return torch.cat([layer.flatten() for layer in layers])


def _layers(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Heads [S, P, D + 1] and hidden layers [P, D, F + 1] of positions [P, …]."""
    size, hidden = problem.start.numel(), problem.hidden
    moved = x[:, :size].unflatten(-1, problem.start.shape).transpose(0, 1)
    return moved, None if hidden is None else x[:, size:].unflatten(-1, hidden.shape)


METHOD = Method(
    "dynamic weighting", lambda problem, given: dynamic_weighting(problem, given.part(Swarm), given.part(Settings)),
    takes=frozenset(Swarm.names() | Settings.names()) - {"gradient_steps", "box"}, group="inferred",
    colour="#0173b2", marker="s", reference="blanzeisky2023", paper=True, both_layers=lambda given: given.layers == "all",
    pick=pick_together,
)  # fmt: skip
