"""The common part of the searches by particle swarms: their start, coordinates and arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fairnb.heads import Scorer
from fairnb.methods.problem import SAMPLE, Problem, noise_unit, scatter
from fairnb.run.keys import content_key, digest
from fairnb.run.parameters import Settings, Swarm
from fairnb.swarm.mopso import Fronts, mopso, rescore


@dataclass(frozen=True, eq=False)
class Start:
    """The start of S swarms."""

    centre: Tensor  # float32 [S, D], the layers where the search begins, in a row
    unit: Tensor  # [S, 1] or [S, D], the unit of noise, see `noise_unit`
    reference: Tensor | None = None  # float64 [S, 2], of the hypervolume; by default the worst objectives of the start


def fly(
    problem: Problem, purpose: str, start: Start, objectives: Callable[[Scorer, Tensor], Tensor], swarm: Swarm,
    settings: Settings, *known: float,
) -> Fronts:  # fmt: skip
    """Scatter the first particles around the start, itself among them, and search.

    `purpose` seeds the random numbers and titles the progress bar; `objectives` takes a scorer and positions; `settings`
    gives spread, coordinates and arithmetic. `known` holds other values that the objectives depend on: a saved search
    resumes only under the same ones.
    """
    valid, centre, generator, swarm = problem.valid, start.centre, problem.generator(purpose), problem.left(swarm)
    particles = scatter(centre, start.unit * settings.spread, swarm.particles, generator)
    score = partial(objectives, problem.scorer())
    quick = score if settings.steer == "float32" else partial(objectives, problem.scorer(settings.steer))
    # Features enter the search's key by the unit of noise, the spread by the particles.
    of = [purpose, known, settings.steer, settings.whiten, problem.where.tolist()]
    named = content_key([*of, digest(valid.labels), digest(valid.group)]) if problem.saved else ""
    search: dict[str, Any] = {"generator": generator, "reference": start.reference, "fabric": problem.fabric}
    search |= {"saved": problem.saved, "named": named, "progress": purpose}
    if not settings.whiten:
        fronts = mopso(quick, particles, swarm, scale=start.unit.unsqueeze(1), **search)
        return fronts if settings.steer == "float32" else rescore(fronts, score)
    frame = _Whitened(valid.x)
    heads = frame.enter(centre).unflatten(-1, (-1, valid.x.shape[1] + 1))  # [S, H, D + 1]
    unit = noise_unit(frame.x, heads.flatten(0, 1)).expand(-1, heads.shape[-1]).reshape(len(centre), 1, -1)
    fronts = mopso(lambda x: quick(frame.leave(x)), frame.enter(particles), swarm, scale=unit, **search)
    # Rescored in the features' own coordinates, since `leave` rounds slightly differently for other numbers of particles.
    return rescore(replace(fronts, positions=frame.leave(fronts.positions)), score)


class _Whitened:
    """Coordinates of a head in which the features x [N, D] have mean 0, no correlations and, if not tiny, variance 1.

    Features that do not vary raise ValueError.
    """

    def __init__(self, x: Tensor) -> None:
        x = x[:SAMPLE].double()
        self.mean = x.mean(0)
        variance, axes = torch.linalg.eigh((x - self.mean).T @ (x - self.mean) / len(x))
        if not (largest := float(variance.max())) > 0:
            raise ValueError(
                "the features are the same for every image, as of a layer that died: leave whiten out, or train anew"
            )
        deviation = variance.clamp(min=1e-4 * largest).sqrt()
        self.shrink, self.stretch = (axes / deviation) @ axes.T, (axes * deviation) @ axes.T
        self.back, self.origin = self.shrink.float(), self.mean.float()
        self.x = ((x - self.mean) @ self.shrink).float()  # of the sample

    def enter(self, positions: Tensor) -> Tensor:
        """Positions [..., H·(D + 1)] of H heads, in whitened coordinates."""
        heads = positions.unflatten(-1, (-1, len(self.mean) + 1)).double()
        weights, bias = heads[..., :-1], heads[..., -1:]
        return torch.cat([weights @ self.stretch, bias + (weights @ self.mean).unsqueeze(-1)], dim=-1).flatten(-2).float()

    def leave(self, positions: Tensor) -> Tensor:
        """Positions [..., H·(D + 1)] in the features' own coordinates."""
        heads = positions.unflatten(-1, (-1, len(self.mean) + 1))
        weights = heads[..., :-1] @ self.back
        return torch.cat([weights, heads[..., -1:] - (weights @ self.origin).unsqueeze(-1)], dim=-1).flatten(-2)
