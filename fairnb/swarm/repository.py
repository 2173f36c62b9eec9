"""Repositories of S swarms, at most A non-dominated solutions each, as padded tensors.

Two objectives are minimised. No step loops over swarms or solutions: an empty place holds `inf` objectives.
"""

import torch
from torch import Tensor


def non_dominated(f: Tensor) -> Tensor:
    """Non-dominated ones of [..., N, 2] points, bool [..., N]; of equal points the first; never one with `inf`.

    Sorted by the first objective, then by the second, a point is dominated exactly when an earlier one has a second
    objective as low.
    """
    by_second = f[..., 1].sort(dim=-1, stable=True).indices
    by_first = f[..., 0].gather(-1, by_second).sort(dim=-1, stable=True).indices
    order = by_second.gather(-1, by_first)
    second = f[..., 1].gather(-1, order)
    lowest_before = torch.cat([torch.full_like(second[..., :1], torch.inf), second.cummin(-1).values[..., :-1]], dim=-1)
    keep = torch.zeros_like(second, dtype=torch.bool).scatter(-1, order, second < lowest_before)
    return keep & f[..., 0].isfinite() & f[..., 1].isfinite()


def hypervolume(f: Tensor, reference: Tensor) -> Tensor:
    """Hypervolume [...] of [..., N, 2] points, both minimised: the area that they dominate below `reference` [..., 2]."""
    clipped = torch.minimum(f, reference.unsqueeze(-2))
    first, order = clipped[..., 0].sort(dim=-1)
    second = clipped[..., 1].gather(-1, order)
    ceiling = torch.cat([reference[..., 1:], second.cummin(-1).values[..., :-1]], dim=-1)
    return ((reference[..., :1] - first) * (ceiling - second).clamp(min=0)).sum(-1)


def dominates(f: Tensor, g: Tensor) -> Tensor:
    """Whether f is nowhere worse than g and somewhere better: [..., 2] twice to bool [...]."""
    return (f <= g).all(-1) & (f < g).any(-1)


class Repository:
    """The solutions that S swarms remember."""

    def __init__(self, swarms: int, size: int, like: Tensor) -> None:
        self.swarms, self.size = swarms, size
        # [S·A + 1, D], swarm after swarm; refused newcomers go to the last row, so that admission never waits for the host
        self.x = like.new_zeros(swarms * size + 1, like.shape[-1])
        self.f = torch.full((swarms * size + 1, 2), torch.inf, dtype=torch.float64, device=like.device)
        self.first = torch.arange(swarms, device=like.device).unsqueeze(1) * size  # row of each swarm's first place

    @property
    def objectives(self) -> Tensor:
        """A view, float64 [S, A, 2]."""
        return self.f[:-1].view(self.swarms, self.size, 2)

    @property
    def positions(self) -> Tensor:
        """A view [S, A, D]."""
        return self.x[:-1].view(self.swarms, self.size, -1)

    def admit(self, x: Tensor, f: Tensor, keep: Tensor) -> None:
        """Keep, by bool [S, A + P], at most A of those held, then of the newcomers x [S, P, D] with f [S, P, 2]."""
        held, new = keep[:, : self.size], keep[:, self.size :]
        place = torch.arange(self.size, device=keep.device).expand_as(held)
        # The k-th newcomer kept takes the k-th free place.
        nth_free = torch.where(held, self.size, (~held).cumsum(1) - 1)
        free = torch.zeros_like(place[:, :1]).expand(-1, self.size + 1).scatter(1, nth_free, place)
        nth_new = (new.cumsum(1) - 1).clamp(0, self.size - 1)
        row = torch.where(new, self.first + free.gather(1, nth_new), len(self.x) - 1)
        self.objectives.masked_fill_(~held.unsqueeze(-1), torch.inf)
        self.f.index_copy_(0, row.flatten(), f.flatten(0, 1))
        self.x.index_copy_(0, row.flatten(), x.flatten(0, 1))


def thin_by_grid(f: Tensor, size: int, divisions: int, priority: Tensor) -> Tensor:
    """Keep the non-dominated of [S, N, 2] points, at most `size`: random ones of the fullest grid cells go, bool [S, N].

    Numbering each cell's solutions in random order, given by `priority` [S, N] uniform in [0, 1), and keeping the lowest
    numbers removes one after the other from the fullest cell. The two ends of the front always stay.
    """
    f = torch.where(non_dominated(f).unsqueeze(-1), f, torch.inf)
    rank = _number_within(grid(f, divisions), priority).scatter(1, f.argmin(dim=1), -1.0)
    rank = torch.where(f[..., 0].isfinite(), rank, torch.inf)
    chosen = rank.argsort(dim=1, stable=True)[:, :size]
    return torch.zeros_like(rank, dtype=torch.bool).scatter(1, chosen, True) & rank.isfinite()


def thin_by_area(f: Tensor, size: int, rounds: int = 5) -> Tensor:
    """Keep the non-dominated of [S, N, 2] points, at most `size`: those that add the least area go, bool [S, N].

    Area is counted again in each of a fixed number of rounds, so that none synchronises with the host. Where the excess is
    at most `rounds`, exactly one goes per round: the greedy choice of Beume et al. (2007).
    """
    if (most := f.shape[1] - size) <= 0:  # largest possible excess
        return non_dominated(f)
    first, order = f[..., 0].masked_fill(~non_dominated(f), torch.inf).sort(dim=1)
    second = f[..., 1].gather(1, order)
    place = torch.arange(most, device=f.device)
    held = first.isfinite()
    excess = (held.sum(1, keepdim=True) - size).clamp(min=0)
    for left in range(rounds, 0, -1):
        area = _area_between(first, second)
        if left > 1:  # of two neighbours only one goes per round, since the other's area grows
            lower = torch.minimum(area[:, :-2], area[:, 2:])
            area[:, 1:-1] = area[:, 1:-1].masked_fill(area[:, 1:-1] > lower, torch.inf)
        least, which = area.topk(-(-most // left), dim=1, largest=False)
        go = (place[: which.shape[1]] < (excess + left - 1) // left) & least.isfinite()
        gone = torch.zeros_like(held).scatter(1, which, go)
        held = held & ~gone
        if left > 1:  # close the gaps
            excess = excess - gone.sum(1, keepdim=True)
            first, back = first.masked_fill(gone, torch.inf).sort(dim=1, stable=True)
            held, second, order = held.gather(1, back), second.gather(1, back), order.gather(1, back)
    return torch.zeros_like(held).scatter(1, order, held)


def area_added(f: Tensor) -> tuple[Tensor, Tensor]:
    """Order of [S, A, 2] non-dominated points along the front, empty places last, and the area each adds: [S, A] twice."""
    first, place = f[..., 0].sort(dim=1)
    return place, _area_between(first, f[..., 1].gather(1, place))


def _area_between(first: Tensor, second: Tensor) -> Tensor:
    """Area added by each point of a front sorted by its first objective, empty places last: `inf` at its ends."""
    inner = (first[:, 2:] - first[:, 1:-1]) * (second[:, :-2] - second[:, 1:-1])
    return torch.nn.functional.pad(inner.nan_to_num(nan=torch.inf, posinf=torch.inf), (1, 1), value=torch.inf)


def grid(f: Tensor, divisions: int) -> Tensor:
    """Cell of each point in a grid over the range of the finite ones: int64 [S, N]; −1 for a point with `inf`."""
    finite = f.isfinite().all(-1)
    low = f.where(finite.unsqueeze(-1), torch.inf).amin(1, keepdim=True)
    high = f.where(finite.unsqueeze(-1), -torch.inf).amax(1, keepdim=True)
    place = ((f - low) / (high - low).clamp(min=1e-300) * divisions).nan_to_num(0.0).clamp(0, divisions - 1).long()
    return torch.where(finite, place[..., 0] * divisions + place[..., 1], -1)


def occupancy(cell: Tensor, cells: int) -> Tensor:
    """Number of points in each point's cell, of `cells` in all: int64 [S, N]."""
    counts = cell.new_zeros(len(cell), cells + 1).scatter_add_(1, cell + 1, torch.ones_like(cell))
    return counts.gather(1, cell + 1)


def _number_within(cell: Tensor, priority: Tensor) -> Tensor:
    """Number the points of each cell by rising priority in [0, 1), and add that priority to break ties: [S, N]."""
    order = priority.argsort(dim=1)
    order = order.gather(1, cell.gather(1, order).argsort(dim=1, stable=True))
    ordered = cell.gather(1, order)
    place = torch.arange(cell.shape[1], device=cell.device).expand_as(cell)
    opens = ordered.diff(dim=1, prepend=ordered[:, :1]) != 0  # but the first, whose place is 0
    number = place - torch.where(opens, place, 0).cummax(dim=1).values
    return torch.zeros_like(priority).scatter(1, order, number.to(priority.dtype)) + priority
