"""Multi-objective particle swarms, many at once: positions are [S, P, D], S swarms of P particles in D dimensions.

The recipe is the paper's (sections 2.5 and 4.2). Its parts come from
- Coello Coello, Toscano Pulido and Lechuga (2004): a repository of non-dominated solutions, an adaptive grid over objective
  space, leaders drawn by roulette from thinly populated cells;
- Montalvo et al. (2010): every particle carries its own w, c1 and c2 as three more coordinates, moved by the same equation;
- the paper itself: particles in densely populated cells are disturbed by Gaussian noise, and a worse position reached so
  becomes the personal best with probability 0.5.

There are two objectives, both minimised. No step loops over swarms or particles: repositories are padded tensors, with
`inf` objectives in the empty places.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

Objectives = Callable[[Tensor], Tensor]  # positions [S, P, D] → objectives [S, P, 2]


@dataclass(frozen=True)
class Swarm:
    """How the swarms fly. Where the paper gives no value, the default is ours: see the appendix "Reading the paper"."""

    particles: int = 50  # P
    iterations: int = 60
    repository: int = 100  # most solutions that a swarm remembers (A)
    divisions: int = 10  # of each objective's range, in the adaptive grid
    inertia: tuple[float, float] = (0.1, 0.7)  # bounds of w
    cognitive: tuple[float, float] = (0.5, 2.0)  # bounds of c1
    social: tuple[float, float] = (0.5, 2.0)  # bounds of c2
    crowding: float = 0.1  # a grid cell is densely populated when it holds more than this share of the swarm
    noise: float = 0.1  # of the perturbation, in units of `scale`; 0 turns it off
    accept_worse: float = 0.5  # probability that a disturbed particle keeps a worse position as its personal best

    def __post_init__(self) -> None:
        """Refuse values that no swarm can fly with.

        Raises:
            ValueError: with the value and what it must be.
        """
        for name in ("particles", "repository", "divisions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.iterations < 0 or not 0 <= self.noise < float("inf") or not 0 <= self.accept_worse <= 1:
            raise ValueError(
                f"iterations={self.iterations} and noise={self.noise} must not be negative, accept_worse in [0, 1]"
            )
        for name in ("inertia", "cognitive", "social"):
            low, high = getattr(self, name)
            if not low <= high:
                raise ValueError(f"{name}=({low}, {high}) must be a lower and an upper bound")


@dataclass(frozen=True, eq=False)
class Fronts:
    """The repositories of S swarms.

    Attributes:
        positions: float32 [S, A, D]; zero where there is no solution.
        objectives: float64 [S, A, 2], minimised; `inf` where there is no solution.
        mask: bool [S, A], where there is one.
        hypervolume: float64 [T + 1, S], dominated area below `reference`: of the start, then after each iteration.
        reference: float64 [S, 2].
        evaluations: positions scored per swarm.
    """

    positions: Tensor
    objectives: Tensor
    mask: Tensor
    hypervolume: Tensor
    reference: Tensor
    evaluations: int

    def pareto_front(self, s: int) -> tuple[Tensor, Tensor]:
        """Non-dominated solutions of swarm `s`, by rising first objective: positions [K, D] and objectives [K, 2]."""
        keep = self.mask[s].nonzero().squeeze(1)
        keep = keep[self.objectives[s, keep, 0].argsort()]
        return self.positions[s, keep], self.objectives[s, keep]


def mopso(
    objectives: Objectives,
    start: Tensor,
    swarm: Swarm,
    *,
    generator: torch.Generator,
    scale: Tensor | float = 1.0,
    bounds: tuple[Tensor | float, Tensor | float] | None = None,
    reference: Tensor | None = None,
    progress: str | None = None,
) -> Fronts:
    """Search S Pareto fronts at once.

    Args:
        objectives: scores positions float32 [S, P, D] as [S, P, 2], both minimised; NaN counts as the worst.
        start: float32 [S, P, D], the first positions; the repository begins with the non-dominated among them.
        swarm: how to fly; `start` must hold `swarm.particles` particles.
        generator: source of every random number, on `start`'s device.
        scale: broadcasts against [S, P, D]; the unit of the perturbation's noise.
        bounds: lower and upper limit of positions, each broadcasting against [S, P, D]; None leaves them free.
        reference: float64 [S, 2] for the hypervolume; by default the worst of each objective at the start.
        progress: a title for the progress bar; None shows none.

    Returns:
        The repositories, with the history of their hypervolume.

    Raises:
        ValueError: if `start` has other than [S, P, D] or the objectives other than [S, P, 2] values.
    """
    if start.dim() != 3 or start.shape[1] != swarm.particles:
        raise ValueError(f"start has shape {tuple(start.shape)}, not [swarms, {swarm.particles} particles, dimensions]")
    swarms, particles, dimensions = start.shape
    own = torch.tensor([swarm.inertia, swarm.cognitive, swarm.social], dtype=start.dtype, device=start.device)  # [3, 2]

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=start.device, dtype=start.dtype)

    def score(x: Tensor) -> Tensor:
        values = objectives(x[..., :dimensions])
        if values.shape != (swarms, particles, 2):
            raise ValueError(f"the objectives have shape {tuple(values.shape)}, not {(swarms, particles, 2)}")
        return values.double().nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=-torch.inf)

    # A particle's coordinates are its position and then its own w, c1, c2.
    x = torch.cat([start, own[:, 0] + uniform(swarms, particles, 3) * (own[:, 1] - own[:, 0])], dim=-1)
    v = torch.zeros_like(x)
    f = score(x)
    best_x, best_f = x.clone(), f.clone()
    repo_x = x.new_zeros(swarms, swarm.repository, dimensions + 3)
    repo_f = f.new_full((swarms, swarm.repository, 2), torch.inf)
    repo_x, repo_f = _update_repository(repo_x, repo_f, x, f, swarm.divisions, uniform)
    if reference is None:
        reference = f.where(f.isfinite(), -torch.inf).amax(dim=1)
    history = [hypervolume(repo_f, reference)]

    for _ in tqdm(range(swarm.iterations), progress, disable=progress is None, mininterval=1, leave=False):
        leader = _draw_leaders(repo_x, repo_f, best_x, swarm.divisions, generator)
        w, c1, c2 = x[..., dimensions:].unsqueeze(-2).unbind(-1)  # [S, P, 1] each
        v = w * v + c1 * uniform(*x.shape) * (best_x - x) + c2 * uniform(*x.shape) * (leader - x)
        x = x + v
        disturbed = _crowded(f, swarm.divisions, swarm.crowding) if swarm.noise else torch.zeros_like(f[..., 0]).bool()
        shake = torch.randn(start.shape, generator=generator, device=start.device, dtype=start.dtype)
        x[..., :dimensions] += disturbed.unsqueeze(-1) * swarm.noise * scale * shake
        x, v = _keep_inside(x, v, dimensions, own, bounds)
        f = score(x)

        # Of two positions that do not dominate each other the new one is kept as often as the old (Coello et al.); a
        # worse one only by a disturbed particle.
        better, worse = _dominates(f, best_f), _dominates(best_f, f)
        chance = torch.where(worse, torch.where(disturbed, swarm.accept_worse, 0.0), torch.where(better, 1.0, 0.5))
        accepted = (uniform(swarms, particles) < chance).unsqueeze(-1)
        best_x, best_f = torch.where(accepted, x, best_x), torch.where(accepted, f, best_f)
        repo_x, repo_f = _update_repository(repo_x, repo_f, x, f, swarm.divisions, uniform)
        history.append(hypervolume(repo_f, reference))

    return Fronts(
        positions=repo_x[..., :dimensions].contiguous(),
        objectives=repo_f,
        mask=repo_f[..., 0].isfinite(),
        hypervolume=torch.stack(history),
        reference=reference,
        evaluations=particles * (swarm.iterations + 1),
    )


def non_dominated(f: Tensor) -> Tensor:
    """Which of [..., N, 2] points no other dominates, bool [..., N]; of equal points the first; never one with `inf`.

    Sorted by the first objective, then by the second, a point is dominated exactly when an earlier one has a second
    objective as low.
    """
    by_second = f[..., 1].sort(dim=-1, stable=True).indices
    by_first = f[..., 0].gather(-1, by_second).sort(dim=-1, stable=True).indices
    order = by_second.gather(-1, by_first)
    second = f[..., 1].gather(-1, order)
    lowest_before = torch.cat([torch.full_like(second[..., :1], torch.inf), second.cummin(-1).values[..., :-1]], dim=-1)
    keep = torch.zeros_like(second, dtype=torch.bool).scatter(-1, order, second < lowest_before)
    return keep & f.isfinite().all(-1)


def hypervolume(f: Tensor, reference: Tensor) -> Tensor:
    """Area that [..., N, 2] points dominate below `reference` [..., 2], both objectives minimised: [...].

    A point that is not better than the reference in both objectives adds nothing.
    """
    clipped = torch.minimum(f, reference.unsqueeze(-2))
    first, order = clipped[..., 0].sort(dim=-1)
    second = clipped[..., 1].gather(-1, order)
    ceiling = torch.cat([reference[..., 1:], second.cummin(-1).values[..., :-1]], dim=-1)
    return ((reference[..., :1] - first) * (ceiling - second).clamp(min=0)).sum(-1)


def _dominates(f: Tensor, g: Tensor) -> Tensor:
    """Whether f is nowhere worse than g and somewhere better: [..., 2] twice to bool [...]."""
    return (f <= g).all(-1) & (f < g).any(-1)


def _grid(f: Tensor, divisions: int) -> Tensor:
    """Cell of each point in a grid over the range of the finite ones: int64 [S, N]; −1 for a point with `inf`."""
    finite = f.isfinite().all(-1)
    low = f.where(finite.unsqueeze(-1), torch.inf).amin(1, keepdim=True)
    high = f.where(finite.unsqueeze(-1), -torch.inf).amax(1, keepdim=True)
    place = ((f - low) / (high - low).clamp(min=1e-300) * divisions).nan_to_num(0.0).clamp(0, divisions - 1).long()
    return torch.where(finite, place[..., 0] * divisions + place[..., 1], -1)


def _occupancy(cell: Tensor) -> Tensor:
    """How many points share each point's cell: int64 [S, N]."""
    counts = torch.zeros(len(cell), int(cell.max()) + 2, dtype=torch.int64, device=cell.device)
    counts.scatter_add_(1, cell + 1, torch.ones_like(cell))
    return counts.gather(1, cell + 1)


def _crowded(f: Tensor, divisions: int, share: float) -> Tensor:
    """Particles in densely populated cells of objective space, bool [S, P]."""
    cell = _grid(f, divisions)
    return (_occupancy(cell) > share * f.shape[1]) & (cell >= 0)


def _draw_leaders(repo_x: Tensor, repo_f: Tensor, best_x: Tensor, divisions: int, generator: torch.Generator) -> Tensor:
    """A leader for each particle, [S, P, D + 3]: a cell by roulette, the thinner the likelier, then any solution in it.

    A swarm whose repository is empty, because nothing it saw had a value, follows its own personal bests.
    """
    cell = _grid(repo_f, divisions)
    weight = torch.where(cell >= 0, 1.0 / _occupancy(cell).double().square(), 0.0)  # 1/n for the cell, 1/n within it
    empty = (cell < 0).all(dim=1, keepdim=True)
    chosen = torch.multinomial((weight + empty).float(), best_x.shape[1], replacement=True, generator=generator)
    leader = repo_x.gather(1, chosen.unsqueeze(-1).expand(-1, -1, repo_x.shape[-1]))
    return torch.where(empty.unsqueeze(-1), best_x, leader)


def _update_repository(
    repo_x: Tensor, repo_f: Tensor, x: Tensor, f: Tensor, divisions: int, uniform: Callable[..., Tensor]
) -> tuple[Tensor, Tensor]:
    """Let the new positions in, drop what is dominated, and thin out the most crowded cells where there are too many."""
    size = repo_f.shape[1]
    f = torch.cat([repo_f, f], dim=1)
    f = torch.where(non_dominated(f).unsqueeze(-1), f, torch.inf)
    # Numbering the solutions of each cell in random order and keeping the lowest numbers takes one after the other from
    # whichever cell is fullest. The two ends of the front always stay: they hold the lowest value of an objective.
    rank = _number_within(_grid(f, divisions), uniform(*f.shape[:2]))
    rank = rank.scatter(1, f.argmin(dim=1), -1.0)
    rank = torch.where(f[..., 0].isfinite(), rank, torch.inf)
    keep = rank.argsort(dim=1, stable=True)[:, :size]
    f = f.gather(1, keep.unsqueeze(-1).expand(-1, -1, 2))
    x = torch.cat([repo_x, x], dim=1).gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return x.masked_fill(f[..., :1].isinf(), 0.0), f


def _number_within(cell: Tensor, priority: Tensor) -> Tensor:
    """Number the points of each cell by rising priority in [0, 1), that priority added to break ties: [S, N]."""
    order = priority.argsort(dim=1)
    order = order.gather(1, cell.gather(1, order).argsort(dim=1, stable=True))
    ordered = cell.gather(1, order)
    place = torch.arange(cell.shape[1], device=cell.device).expand_as(cell)
    opens = torch.ones_like(cell, dtype=torch.bool)
    opens[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    number = place - torch.where(opens, place, 0).cummax(dim=1).values
    return torch.zeros_like(priority).scatter(1, order, number.to(priority.dtype)) + priority


def _keep_inside(
    x: Tensor, v: Tensor, dimensions: int, own: Tensor, bounds: tuple[Tensor | float, Tensor | float] | None
) -> tuple[Tensor, Tensor]:
    """Put coordinates that left their bounds onto them, and turn their velocity round (Coello et al.)."""
    inside = x.clone()
    inside[..., dimensions:] = torch.minimum(torch.maximum(x[..., dimensions:], own[:, 0]), own[:, 1])
    if bounds is not None:
        low, high = (torch.as_tensor(bound, dtype=x.dtype, device=x.device) for bound in bounds)
        inside[..., :dimensions] = torch.minimum(torch.maximum(x[..., :dimensions], low), high)
    return inside, torch.where(inside == x, v, -v)
