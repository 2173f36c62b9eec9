"""The paper's dynamic weighting (section 5): one search for two weighted sums over all labels, equations 7 and 8."""

import torch
from torch import Tensor

from fairnb.heads import Scorer
from fairnb.methods.flying import Start, fly
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, pick
from fairnb.methods.problem import SAMPLE, Problem, noise_unit
from fairnb.metrics import accuracy, chance_index, underestimation_index
from fairnb.run.parameters import Settings, Swarm


def dynamic_weighting(problem: Problem, swarm: Swarm, settings: Settings) -> Search:
    """Search all heads at once, and the layer before them where the problem has one.

    It minimises Σ UEI / (accuracy + ε) and −Σ accuracy / (UEI + ε), the weights recomputed at each evaluation. The problem's
    tolerance applies to the mean accuracy over labels. Both layers in whitened coordinates raise ValueError.
    """
    hidden, start, x = problem.hidden, problem.start, problem.valid.x
    base = problem.base_heads.flatten()
    if hidden is None:
        centre = start.flatten()
        unit = noise_unit(x, start).expand_as(start).flatten()
    elif settings.whiten:
        raise ValueError("whiten=True is for heads alone: with layers='all', leave it out")
    else:
        hidden = hidden.to(x.device)
        centre, base = (torch.cat([heads.flatten(), hidden.flatten()]) for heads in (start, base))
        active = (x[:SAMPLE] @ hidden[:, :-1].T + hidden[:, -1]).relu()
        parts = [noise_unit(active, start).expand_as(start), noise_unit(x, hidden).expand_as(hidden)]
        unit = torch.cat([part.flatten() for part in parts])

    def layers(x: Tensor) -> tuple[Tensor, Tensor | None]:  # [P, …] → [S, P, D + 1], [P, D, F + 1]
        moved = x[:, : start.numel()].unflatten(-1, start.shape).transpose(0, 1)
        return moved, None if hidden is None else x[:, start.numel() :].unflatten(-1, hidden.shape)

    def objectives(score: Scorer, x: Tensor) -> Tensor:  # of positions [1, P, …]
        tables = score(*layers(x[0]))  # [S, P, G, 2, 2]
        uei, acc, epsilon = underestimation_index(tables), accuracy(tables), settings.epsilon  # [S, P]
        return torch.stack([(uei / (acc + epsilon)).sum(0), -(acc / (uei + epsilon)).sum(0)], dim=-1).unsqueeze(0)

    begin = Start(centre.unsqueeze(0), unit.unsqueeze(0))
    fronts = fly(problem, "dynamic weighting", begin, objectives, swarm, settings, settings.epsilon)
    candidates = torch.cat([base.unsqueeze(0), fronts.pareto_front(0)[0]])
    tables = Scorer(problem.judge, problem.where, fabric=problem.fabric)(*layers(candidates))
    uei, acc = underestimation_index(tables).mean(0), accuracy(tables).mean(0)  # [K]
    least = problem.indifference * float(chance_index(tables[:, int(uei.argmin())]).mean())
    chosen = pick(uei, acc, problem.tolerance, least)
    moved, moved_hidden = layers(candidates[chosen : chosen + 1])
    heads = problem.with_heads(moved[:, 0], None if moved_hidden is None else moved_hidden[0])
    return Search(fronts, [uei], [acc], [chosen], heads)


METHOD = Method(
    "dynamic weighting", lambda problem, given: dynamic_weighting(problem, given.part(Swarm), given.part(Settings)),
    takes=frozenset(Swarm.names() | Settings.names()) - {"gradient_steps", "box"}, group="inferred",
    colour="#0173b2", marker="s", reference="blanzeisky2023", paper=True, both_layers=lambda given: given.layers == "all",
)  # fmt: skip
