"""Calibrated search: the multi-task search in few directions, from recalibrated heads. It is ours, not the paper's.

A head of D + 1 weights can memorise a validation split of a few thousand images: it overfits their counts. The calibrated
search moves each label in a few directions only, its threshold and the directions that separate the groups, from a head that
was recalibrated first. That suffices to match group thresholds without being given the group. The group is inferred from the
image instead, which is a use of the sensitive attribute too.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot

from fairnb.features import Features
from fairnb.heads import logits, uei_and_error
from fairnb.methods.method import Method
from fairnb.methods.pick import Search, pick_each
from fairnb.methods.problem import Problem, scatter
from fairnb.metrics import chance_index
from fairnb.run.keys import seeded
from fairnb.run.parameters import Pick, Swarm
from fairnb.swarm.mopso import Fronts, mopso

REACHES = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0)  # typical changes of logits, among which cross-validation chooses
FOLDS = 5  # of images; folds of people chose shorter reaches and left a higher UEI on validation
ROUGHLY = 1e-4  # tolerance of a fold's fits, precise enough to choose the reach
INDIFFERENCE = 0.5  # of the UEI expected by chance


def calibrated_multi_task(
    problem: Problem, swarm: Swarm, *, indifference: float = INDIFFERENCE, recalibrated: bool = True, spread: float = 0.5
) -> Search:
    """Recalibrate each label's head, then search its threshold and the group directions for UEI and error.

    The fits use up the swarm's evaluations, one per gradient, but a quarter of its iterations stays; without `recalibrated`
    the search starts at the base model's heads. `spread` is the distance of the first particles from the start, in standard
    deviations of its logits. Candidates whose UEI on the images of the pick is below the share `indifference` of that
    expected by chance count as equal, and the most accurate is picked. A negative value raises ValueError.
    """
    if not spread >= 0 or not indifference >= 0:
        raise ValueError(f"spread={spread} and indifference={indifference} must not be negative")
    valid, start = problem.valid, problem.start
    labels = valid.labels[:, problem.where]
    better, steps = recalibrate(valid.x, labels, start, seed=problem.seed) if recalibrated else (start, 0)
    directions, more = group_directions(valid, problem.seed)  # [G − 1, D + 1]
    # The cost of the fits is deducted from the flight, so that methods are compared at equal evaluations.
    left = (swarm.evaluations - steps - more) // swarm.particles - 1
    size = logits(valid.x, better).std(1).view(-1, 1, 1)

    def to_heads(x: Tensor) -> Tensor:  # [S, P, G] → [S, P, D + 1]
        moved = better.unsqueeze(1) + size * (x[..., 1:] @ directions)
        moved[..., -1] += (size * x[..., :1]).squeeze(-1)
        return moved

    # In a few dimensions the paper's flight sometimes comes to rest far from the front.
    swarm = swarm.but(flight="constricted", iterations=max(swarm.iterations // 4, left))
    name, score = "calibrated multi-task", problem.scorer()
    generator, centre = problem.generator(name), start.new_zeros(len(start), valid.groups)
    particles = scatter(centre, torch.full_like(centre, spread), swarm.particles, generator)
    worst = torch.ones(len(start), 2, dtype=torch.float64, device=start.device)
    fronts = mopso(
        lambda x: uei_and_error(score(to_heads(x))), particles, swarm, generator=generator, reference=worst,
        saved=problem.saved, named=name, fabric=problem.fabric, progress=name,
    )  # fmt: skip
    fronts = replace(fronts, positions=to_heads(fronts.positions), evaluations=fronts.evaluations + steps + more)
    return pick_each(problem, fronts, indifferent_to(fronts, problem.on_judge(fronts.positions), indifference))


def indifferent_to(fronts: Fronts, tables: Tensor, share: float) -> Tensor:
    """A share of the UEI expected by chance at the errors of each label's candidate of lowest UEI: float64 [S].

    `tables` holds those of the S labels' candidates, [S, A, G, 2, 2], on the images of the pick.
    """
    return share * chance_index(tables[torch.arange(len(tables)), fronts.objectives[..., 0].argmin(1)])


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


def group_directions(features: Features, seed: int = 0) -> tuple[Tensor, int]:
    """Heads [G − 1, D + 1] that separate each group but the first, logits of mean 0 and deviation 1; number of gradients."""
    member = one_hot(features.group, features.groups)[:, 1:].bool()
    nothing = features.x.new_zeros(features.groups - 1, features.x.shape[1] + 1)
    heads, steps = recalibrate(features.x, member, nothing, seed=seed)
    heads[:, -1] = -(heads[:, :-1] @ features.x.mean(0))  # mean logit 0: thresholds move separately
    return heads / (features.x @ heads[:, :-1].T).std(0).clamp(min=1e-6).unsqueeze(1), steps


METHOD = Method(
    "calibrated multi-task", lambda problem, given: calibrated_multi_task(problem, given.part(Swarm)),
    takes=frozenset(Swarm.names() | Pick.names()), group="inferred", colour="#56b4e9", marker="P",
)  # fmt: skip
