"""The gradient of the soft UEI, a differentiable UEI that counts predictions by their sigmoids."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from fairnb.heads import logits, uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, picked_from
from fairnb.methods.problem import Problem, noise_unit
from fairnb.run.parameters import Settings
from fairnb.swarm.repository import non_dominated

SNAPSHOT = 10  # steps between candidates
TINY = 1e-12  # keeps the slope of a square root finite
SHARES = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
TEMPERATURES = (1.0, 0.3, 0.1)


def soft_uei(
    problem: Problem, *, shares: Sequence[float] = SHARES, temperatures: Sequence[float] = TEMPERATURES,
    steps: int = Settings().gradient_steps, learning_rate: float = 0.01,
) -> Search:  # fmt: skip
    """Minimise (1 − w) · cross-entropy + w · soft UEI by Adam on all of validation, from the base model's heads.

    Each share w in [0, 1] is combined with each temperature τ above 0 of the sigmoids σ(logit / τ); low ones are close to
    counts, with a flat loss elsewhere. Every `SNAPSHOT` steps, and at the end, the heads become candidates for the front. A
    step counts as one evaluation; `learning_rate` is in units of `noise_unit`. Values out of range raise ValueError.
    """
    if not shares or not all(0 <= share <= 1 for share in shares):
        raise ValueError(f"shares={list(shares)} must be in [0, 1]: shares of the soft UEI in the loss")
    if not temperatures or not all(temperature > 0 for temperature in temperatures):
        raise ValueError(f"temperatures={list(temperatures)} must be above 0")
    if steps < 1 or not learning_rate > 0:
        raise ValueError(f"steps={steps} must be at least 1, learning_rate={learning_rate} above 0")
    valid, start = problem.valid, problem.start
    w, tau = torch.tensor([(w, t) for w in shares for t in temperatures], device=start.device).unbind(1)  # [P] each
    unit = noise_unit(valid.x, start).unsqueeze(1)  # [S, 1, 1]
    moved = torch.zeros(len(start), len(w), start.shape[1], device=start.device, requires_grad=True)
    adam = torch.optim.Adam([moved], lr=learning_rate)
    truth = valid.labels[:, problem.where].T.float()  # [S, N]
    member = one_hot(valid.group, valid.groups).float() / len(truth[0])  # [N, G]
    passed = []
    for step in range(1, steps + 1):
        adam.zero_grad()
        scores = logits(valid.x, start.unsqueeze(1) + unit * moved)  # [S, P, N]
        smooth = smooth_uei((scores / tau.view(-1, 1)).sigmoid(), truth.unsqueeze(1), member)
        entropy = binary_cross_entropy_with_logits(scores, truth.unsqueeze(1).expand_as(scores), reduction="none").mean(-1)
        ((1 - w) * entropy + w * smooth).sum().backward()
        adam.step()
        if step % SNAPSHOT == 0 or step == steps:
            passed.append((start.unsqueeze(1) + unit * moved).detach())
    candidates = torch.cat(passed, dim=1)
    keep = non_dominated(f := uei_and_error(problem.scorer()(candidates)))
    positions, values = ([part[s, keep[s]] for s in range(len(start))] for part in (candidates, f))
    return picked_from(problem, positions, values, len(w) * steps)


def smooth_uei(chance: Tensor, truth: Tensor, member: Tensor) -> Tensor:
    """UEI of predictions counted by their probabilities, `chance` [..., N] in [0, 1], under the truth 0/1 [..., N].

    `member` [N, G] holds each image's weight 1/N in the column of its group, else 0.
    """
    whole, predicted, true = member.sum(0), chance @ member, truth @ member  # [..., G]
    parts = [(predicted, true), (whole - predicted, whole - true)]
    gaps = [((p.clamp(min=0) + TINY).sqrt() - (t.clamp(min=0) + TINY).sqrt()).square().sum(-1) for p, t in parts]
    return (torch.stack(gaps).sum(0) / 2 + TINY).sqrt()


METHOD = Method(
    "soft UEI", lambda problem, given: soft_uei(problem, steps=given.gradient_steps),
    takes=frozenset({"gradient_steps"}), group="inferred", colour="#ca9161", marker="<",
)  # fmt: skip
