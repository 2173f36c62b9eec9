"""Multi-objective particle swarms, many at once, for any two objectives that are minimised.

>>> import torch
>>> from fairnb.swarm import Swarm, mopso
>>> draw = torch.Generator().manual_seed(0)
>>> start = torch.rand(3, 20, 2, generator=draw)  # three swarms of 20 particles in two dimensions
>>> fronts = mopso(lambda x: torch.stack([x[..., 0] ** 2, (x - 1).square().sum(-1)], dim=-1), start,
...                Swarm(particles=20, iterations=10), generator=draw)
>>> fronts.objectives.shape, fronts.evaluations
(torch.Size([3, 100, 2]), 220)
"""

from fairnb.swarm.mopso import Flight, Fronts, Swarm, mopso, rescore
from fairnb.swarm.repository import hypervolume, non_dominated

__all__ = ["Flight", "Fronts", "Swarm", "hypervolume", "mopso", "non_dominated", "rescore"]
