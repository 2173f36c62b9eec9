"""The paper's flight (sections 2.5 and 4.2).

Coello Coello, Toscano Pulido and Lechuga (2004) contribute the repository of non-dominated solutions, the adaptive grid over
the two objectives, and leaders drawn by roulette from sparse cells. In Montalvo et al. (2010) every particle carries its own
w, c1 and c2 as three more coordinates, moved by the same equation. The paper adds Gaussian noise for particles in densely
populated cells; a worse position reached that way becomes the personal best with probability 0.5.
"""

import torch
from torch import Tensor

from fairnb.run.parameters import Swarm
from fairnb.swarm.repository import Repository, dominates, grid, occupancy, thin_by_grid

Bounds = tuple[Tensor | float, Tensor | float]  # lower and upper
ALL = slice(None)
CACHE = 2**18  # coordinates that a CPU moves at once: 1 MiB in float32


class Flight:
    """The state of S swarms, iteration by iteration; no step loops over swarms or particles.

    `x` and `v`, float32 [S, P, D + E], are positions and velocities, with the particles' own parameters (E = 3: w, c1, c2);
    `f`, float64 [S, P, 2], the objectives; `best_x` and `best_f` the personal bests; `disturbed`, bool [S, P], the particles
    that noise perturbs in this iteration.
    """

    def __init__(
        self, start: Tensor, swarm: Swarm, generator: torch.Generator, scale: Tensor | float, bounds: Bounds | None
    ) -> None:
        """See `fairnb.swarm.mopso.mopso`; a start, bounds or generator that does not fit raises ValueError."""
        if start.dim() != 3 or start.shape[1] != swarm.particles:
            raise ValueError(f"start has shape {tuple(start.shape)}, not [swarms, {swarm.particles} particles, dimensions]")
        if generator.device.type != start.device.type or (generator.device.index or 0) != (start.device.index or 0):
            raise ValueError(f"the generator is on {generator.device}, the start on {start.device}: make it there")
        self.swarm, self.generator, self.dimensions = swarm, generator, start.shape[-1]
        self.scale, self.bounds = _as_three(scale, start), _check_bounds(bounds, start)
        # A CPU moves a block of swarms that fits its cache through all steps at once; a GPU moves all swarms together.
        size = max(1, CACHE // start[0].numel()) if start.device.type == "cpu" else len(start)
        self.blocks = [slice(first, first + size) for first in range(0, len(start), size)]
        self.x = self._with_own(start)
        self.v, self.best_x = torch.zeros_like(self.x), self.x.clone()
        self.disturbed = torch.zeros(start.shape[:2], dtype=torch.bool, device=start.device)
        self.repository = Repository(len(start), swarm.repository, self.x)

    @property
    def positions(self) -> Tensor:
        """A view [S, P, D], without the particles' own parameters."""
        return self.x[..., : self.dimensions]

    def begin(self, f: Tensor) -> None:
        """Set the objectives of the start; a NaN or infinite one raises ValueError."""
        if not bool(f.isfinite().all()):
            s, p, _ = (~f.isfinite()).nonzero()[0].tolist()
            raise ValueError(f"swarm {s}, particle {p} starts with objectives {f[s, p].tolist()}: both must be finite")
        self.f, self.best_f = f, f.clone()
        self._remember()

    def move(self) -> None:
        """Move every particle towards its personal best and a leader, with noise for some."""
        leader = self._leaders()
        self._choose_disturbed()
        for block in self.blocks:
            x, v = self.x[block], self.v[block]
            ahead = self.repository.x.index_select(0, leader[block].flatten()).view_as(x)
            self._step(x, v, self.best_x[block], ahead, block)
            self._keep_inside(x, v, block)

    def learn(self, f: Tensor) -> None:
        """Update personal bests and the repository by the objectives of the new positions."""
        self.f = f = worst_where_undefined(f)
        accepted = self._accepted(dominates(self.best_f, f), dominates(f, self.best_f)).unsqueeze(-1)
        torch.where(accepted, self.x, self.best_x, out=self.best_x)
        self.best_f = torch.where(accepted, f, self.best_f)
        self._remember()

    def _remember(self) -> None:
        self.repository.admit(self.x, self.f, self._kept(torch.cat([self.repository.objectives, self.f], dim=1)))

    def _with_own(self, start: Tensor) -> Tensor:
        """The start with each particle's own w, c1 and c2."""
        self.own = start.new_tensor([self.swarm.inertia, self.swarm.cognitive, self.swarm.social])
        between = self.own[:, 0] + self._uniform(*start.shape[:2], 3) * (self.own[:, 1] - self.own[:, 0])
        return torch.cat([start, between], dim=-1)

    def _leaders(self) -> Tensor:
        """Repository row of each particle's leader, int64 [S, P]: a cell by roulette, mostly a sparse one, then uniform."""
        f, swarm = self.repository.objectives, self.swarm
        cell = grid(f, swarm.divisions)
        weight = f[..., 0].isfinite() / occupancy(cell, swarm.divisions**2).float().square()  # 1/n for the cell, 1/n within
        return self.repository.first + torch.multinomial(weight, swarm.particles, replacement=True, generator=self.generator)

    def _choose_disturbed(self) -> None:
        """Mark the particles in densely populated cells."""
        if self.swarm.noise:
            count = occupancy(cell := grid(self.f, self.swarm.divisions), self.swarm.divisions**2)
            self.disturbed = (count > self.swarm.crowding * self.swarm.particles) & (cell >= 0)

    def _step(self, x: Tensor, v: Tensor, best: Tensor, leader: Tensor, block: slice) -> None:
        """V ← wV + c1 r1 (best − X) + c2 r2 (leader − X), X ← X + V, with a particle's own w, c1, c2; r per coordinate."""
        w, c1, c2 = x[..., self.dimensions :].clone().unsqueeze(-2).unbind(-1)  # [S, P, 1] each
        v.mul_(w).add_((best - x).mul_(self._coarse(x.shape)).mul_(c1))
        v.add_(leader.sub_(x).mul_(self._coarse(x.shape)).mul_(c2))
        x.add_(v)
        if self.swarm.noise:
            self._perturb(x[..., : self.dimensions], block)

    def _perturb(self, positions: Tensor, block: slice) -> None:
        """Gaussian noise for the disturbed particles."""
        size = (part(self.scale, block) * self.swarm.noise).expand_as(positions)
        if positions.device.type == "cpu":  # no synchronisation needed to draw noise for the disturbed particles alone
            s, p = self.disturbed[block].nonzero(as_tuple=True)
            positions[s, p] += self._normal(len(s), self.dimensions) * size[s, p]
        else:
            positions.addcmul_(self._normal(*positions.shape), size * self.disturbed[block].unsqueeze(-1))

    def _accepted(self, worse: Tensor, better: Tensor) -> Tensor:
        """Whether to accept a new personal best: with probability 0.5 if neither dominates; a worse one only after noise."""
        chance = torch.where(better, 1.0, 0.5).where(~worse, self.disturbed * self.swarm.accept_worse)
        return self._uniform(*worse.shape) < chance

    def _kept(self, f: Tensor) -> Tensor:
        """Solutions that the repository keeps, of those held and the new ones."""
        return thin_by_grid(f, self.swarm.repository, self.swarm.divisions, self._uniform(*f.shape[:2]))

    def _keep_inside(self, x: Tensor, v: Tensor, block: slice) -> None:
        """Clamp to the bounds and reverse the velocity (Coello et al.), also for the particles' own parameters."""
        if self.bounds is not None:
            _clamp(x[..., : self.dimensions], v[..., : self.dimensions], *(part(bound, block) for bound in self.bounds))
        if x.shape[-1] > self.dimensions:
            _clamp(x[..., self.dimensions :], v[..., self.dimensions :], *self.own.unbind(1))

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)

    def _coarse(self, shape: torch.Size) -> Tensor:
        """Uniform 16-bit numbers, four per draw: drawing dominates the cost of moving many coordinates."""
        draw = torch.empty(-(-shape.numel() // 4), dtype=torch.int64, device=self.generator.device)
        bits = draw.random_(-(2**63), None, generator=self.generator).view(torch.int16)[: shape.numel()].view(shape)
        return bits.to(self.x.dtype).add_(2**15 + 0.5).mul_(2**-16)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.generator.device)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next iteration depends on."""
        own = {name: getattr(self, name) for name in ("x", "v", "f", "best_x", "best_f", "disturbed")}
        return own | {"held_x": self.repository.x, "held_f": self.repository.f, "random": self.generator.get_state()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a `state`."""
        self.generator.set_state(state.pop("random"))
        self.repository.x.copy_(state.pop("held_x"))
        self.repository.f.copy_(state.pop("held_f"))
        for name, value in state.items():
            setattr(self, name, value.to(self.x.device))


def _clamp(place: Tensor, speed: Tensor, low: Tensor, high: Tensor) -> None:
    inside = torch.minimum(torch.maximum(place, low), high)
    speed.mul_(torch.where(inside == place, 1.0, -1.0))
    place.copy_(inside)


def worst_where_undefined(f: Tensor) -> Tensor:
    """Objectives, `inf` for both where one is NaN or infinite: such a position is never remembered."""
    return torch.where(f.isfinite().all(-1, keepdim=True), f, torch.inf)


def _check_bounds(bounds: Bounds | None, start: Tensor) -> tuple[Tensor, Tensor] | None:
    """Bounds as three-dimensional tensors; ValueError if they cross, do not fit `start` or exclude part of it."""
    if bounds is None:
        return None
    low, high = (_as_three(bound, start) for bound in bounds)
    try:
        torch.broadcast_to(low, start.shape), torch.broadcast_to(high, start.shape)
    except RuntimeError:
        shapes = [tuple(x.shape) for x in (low, high, start)]
        raise ValueError("bounds of shape {} and {} do not fit a start of {}".format(*shapes)) from None
    if len(crossed := (~(low <= high)).nonzero()):
        raise ValueError(f"bounds cross at coordinate {int(crossed[0, -1])}: the lower one must not be above the upper one")
    if len(outside := (~((start >= low) & (start <= high))).nonzero()):
        s, p, d = outside[0].tolist()
        raise ValueError(f"swarm {s}, particle {p} starts outside the bounds: coordinate {d} is {float(start[s, p, d]):g}")
    return low, high


def _as_three(values: Tensor | float, start: Tensor) -> Tensor:
    """Values that broadcast against `start` [S, P, D], as a three-dimensional tensor."""
    values = torch.as_tensor(values, dtype=start.dtype, device=start.device)
    return values.reshape((1,) * (3 - values.dim()) + values.shape)


def part(values: Tensor, swarms: slice, particles: slice = ALL) -> Tensor:
    """Some swarms and particles of values that broadcast against [S, P, D]."""
    return values[swarms if len(values) > 1 else ALL, particles if values.shape[1] > 1 else ALL]
