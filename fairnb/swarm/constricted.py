"""The project's own flight, after SMPSO (Nebro et al. 2009), with constricted steps (Clerc and Kennedy 2002).

It differs from SMPSO in three ways. The repository drops the solutions that add the least area, where SMPSO measures
crowding, and leaders win a tournament by that area. Turbulence mutates a leader's position instead of the particle's own:
about one coordinate of it, or all by Gaussian noise where there are no bounds, as in the searches for heads.
"""

import torch
from torch import Tensor

from fairnb.swarm.flight import Flight, part
from fairnb.swarm.repository import area_added, thin_by_area

# SMPSO's values (Nebro et al. 2009); its polynomial mutation has the distribution index of Deb and Agrawal (1995).
INERTIA, PULL, INDEX = 0.1, (1.5, 2.5), 20.0


class Constricted(Flight):
    """A flight whose particles carry no parameters of their own (E = 0)."""

    def _with_own(self, start: Tensor) -> Tensor:
        return start.clone()

    def _leaders(self) -> Tensor:
        """Binary tournament: of two random solutions, the one that adds more area leads."""
        f, swarm = self.repository.objectives, self.swarm
        place, area = area_added(f)
        nth = self._uniform(len(f), 2 * swarm.particles) * f[..., 0].isfinite().sum(1, keepdim=True)
        one, other = nth.long().clamp(max=swarm.repository - 1).chunk(2, dim=1)
        return self.repository.first + place.gather(1, torch.where(area.gather(1, one) >= area.gather(1, other), one, other))

    def _choose_disturbed(self) -> None:
        """No particle: turbulence replaces noise."""

    def _accepted(self, worse: Tensor, better: Tensor) -> Tensor:
        return ~worse

    def _kept(self, f: Tensor) -> Tensor:
        return thin_by_area(f, self.swarm.repository)

    def _step(self, x: Tensor, v: Tensor, best: Tensor, leader: Tensor, block: slice) -> None:
        shaken, rest = slice(some := round(self.swarm.turbulence * self.swarm.particles)), slice(some, None)
        self._shake(x[:, shaken], v[:, shaken], leader[:, shaken], block, shaken)
        self._follow(x[:, rest], v[:, rest], best[:, rest], leader[:, rest], block, rest)

    def _follow(self, x: Tensor, v: Tensor, best: Tensor, leader: Tensor, block: slice, particles: slice) -> None:
        """V ← χ (wV + c1 r1 (best − X) + c2 r2 (leader − X)), X ← X + V, with new c and r for each particle."""
        weak, strong = PULL
        c1, c2 = (weak + (strong - weak) * self._uniform(*x.shape[:2], 1) for _ in range(2))
        phi = (c1 + c2).clamp(min=4)
        # 2 / (2 − φ − √(φ² − 4φ)) is negative, as published: above φ = 4 a step is shortened and reversed, else unchanged.
        chi = torch.where(c1 + c2 > 4, 2 / (2 - phi - (phi * phi - 4 * phi).sqrt()), 1.0)
        to_best, to_leader = chi * c1 * self._uniform(*c1.shape), chi * c2 * self._uniform(*c1.shape)
        v.mul_(chi * INERTIA).addcmul_(best, to_best).addcmul_(leader, to_leader).addcmul_(x, -(to_best + to_leader))
        if self.bounds is not None:  # at most half the distance between the bounds
            low, high = (part(bound, block, particles) for bound in self.bounds)
            half = (high - low) / 2
            torch.minimum(torch.maximum(v, -half), half, out=v)
        x.add_(v)

    def _shake(self, x: Tensor, v: Tensor, leader: Tensor, block: slice, particles: slice) -> None:
        """Turbulence: a leader's position, with one coordinate or so mutated, or with Gaussian noise if unbounded."""
        v.zero_()
        x.copy_(leader)
        if self.bounds is None:
            x.addcmul_(self._normal(*x.shape), part(self.scale, block, particles) * self.swarm.noise)
            return
        low, high = (part(bound, block, particles) for bound in self.bounds)
        u = self._uniform(*x.shape) * self.dimensions  # below 1 for one coordinate on average, and then uniform
        step = (1 - (1 - (2 * u - 1).abs()).clamp(min=0) ** (1 / (1 + INDEX))).copysign(u - 0.5)
        x.add_(step.mul_(u < 1).mul_(high - low))
