"""Multi-objective particle swarms, many at once: positions are [S, P, D], S swarms of P particles in D dimensions.

There are two ways to fly, chosen by one argument, `Swarm(flight=…)`. Both minimise two objectives.

`"paper"` is the paper's (sections 2.5 and 4.2). Its parts come from
- Coello Coello, Toscano Pulido and Lechuga (2004): a repository of non-dominated solutions, an adaptive grid over objective
  space, leaders drawn by roulette from thinly populated cells;
- Montalvo et al. (2010): every particle carries its own w, c1 and c2 as three more coordinates, moved by the same equation;
- the paper itself: particles in densely populated cells are disturbed by Gaussian noise, and a worse position reached so
  becomes the personal best with probability 0.5.

`"constricted"` is what this project adds, after SMPSO (Nebro et al. 2009): steps are constricted (Clerc and Kennedy 2002).
Three things differ from SMPSO. The repository gives up the solutions that add the least area, where SMPSO measures crowding,
and leaders win a tournament for that area. Turbulence changes a leader's place instead of a particle's own: about one
coordinate of it, or all by Gaussian noise where there are no bounds, as in the searches for heads.

No step loops over swarms or particles, and none asks the host for a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from fairnb.run.files import load_notes, load_tensors, save_tensors
from fairnb.run.keys import content_key, digest
from fairnb.run.messages import unknown
from fairnb.swarm.repository import (
    Repository,
    area_added,
    dominates,
    grid,
    hypervolume,
    non_dominated,
    occupancy,
    thin_by_area,
    thin_by_grid,
)

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Objectives = Callable[[Tensor], Tensor]  # positions [S, P, D] → objectives [S, P, 2]

FLIGHTS = ("paper", "constricted")
# SMPSO's values (Nebro et al. 2009); its polynomial mutation has the distribution index of Deb and Agrawal (1995).
INERTIA, PULL, INDEX = 0.1, (1.5, 2.5), 20.0
ALL = slice(None)
CACHE = 2**18  # coordinates that a CPU moves at once: a mebibyte in float32


@dataclass(frozen=True)
class Swarm:
    """How the swarms fly. Where the paper gives no value, the default is ours: see the appendix "Reading the paper"."""

    particles: int = 50  # P
    iterations: int = 60
    repository: int = 100  # most solutions that a swarm remembers (A)
    flight: str = "paper"  # or 'constricted', which uses `turbulence`, `noise` where there are no bounds, and no more
    turbulence: float = 0.5  # constricted: share of the particles that are put beside a leader at each step
    divisions: int = 10  # of each objective's range, in the adaptive grid
    inertia: tuple[float, float] = (0.1, 0.7)  # bounds of w
    cognitive: tuple[float, float] = (0.5, 2.0)  # bounds of c1
    social: tuple[float, float] = (0.5, 2.0)  # bounds of c2
    crowding: float = 0.1  # a grid cell is densely populated when it holds more than this share of the swarm
    noise: float = 0.1  # of the perturbation, in units of `scale`; 0 turns it off
    accept_worse: float = 0.5  # probability that a disturbed particle keeps a worse position as its personal best

    @property
    def evaluations(self) -> int:
        """Positions that are scored: those of the start, and those of each iteration."""
        return self.particles * (self.iterations + 1)

    def __post_init__(self) -> None:
        """Refuse values that no swarm can fly with.

        Raises:
            ValueError: with the value and what it must be.
        """
        if self.flight not in FLIGHTS:
            raise ValueError(unknown("flight", self.flight, FLIGHTS))
        for name in ("particles", "repository", "divisions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.flight == "constricted" and self.repository < 2:
            raise ValueError(
                f"repository={self.repository} must be at least 2 for the constricted flight: a front has two ends"
            )
        if self.iterations < 0 or not 0 <= self.noise < float("inf"):
            raise ValueError(f"iterations={self.iterations} and noise={self.noise} must not be negative")
        for name in ("accept_worse", "turbulence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be in [0, 1]")
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
        hypervolume: float64 [T + 1, S], dominated area below `reference`: of the start, then after each iteration. Where a
            search was steered in less than float32, only the last is exact.
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
        keep = self.along()[s]
        return self.positions[s, keep], self.objectives[s, keep]

    def along(self) -> list[Tensor]:
        """Of each swarm, the places of its solutions by rising first objective, int64 [K]."""
        order = self.objectives[..., 0].argsort(dim=1, stable=True)  # empty places hold `inf` and come last
        return [places[:count] for places, count in zip(order, self.mask.sum(1).tolist(), strict=True)]


def mopso(
    objectives: Objectives,
    start: Tensor,
    swarm: Swarm,
    *,
    generator: torch.Generator,
    scale: Tensor | float = 1.0,
    bounds: tuple[Tensor | float, Tensor | float] | None = None,
    reference: Tensor | None = None,
    saved: Path | None = None,
    save_every: int = 25,
    named: str = "",
    fabric: Fabric | None = None,
    watch: Callable[[int, Flight], None] | None = None,
    progress: str | None = None,
) -> Fronts:
    """Search S Pareto fronts at once.

    Args:
        objectives: scores positions float32 [S, P, D] as [S, P, 2], both minimised. A position without a value (NaN,
            infinite) is never remembered; at the start it is an error.
        start: float32 [S, P, D], the first positions; the repository begins with the non-dominated among them.
        swarm: how to fly; `start` must hold `swarm.particles` particles.
        generator: source of every random number, on `start`'s device.
        scale: broadcasts against [S, P, D]; the unit of noise.
        bounds: lower and upper limit of positions, each broadcasting against [S, P, D]; None leaves them free.
        reference: float64 [S, 2] for the hypervolume; by default the worst of each objective at the start.
        saved: a file that receives the search every `save_every` iterations and from which a search that was stopped
            goes on, to the same end. It is left to the caller to delete.
        save_every: iterations between two savings.
        named: what the objectives are, for `saved`: a search is only gone on with under the same name.
        fabric: where several processes fly the same search and share its scoring: the first of them saves, and all go on
            from what it finds. None for one process.
        watch: called with the number of the iteration and the flight, after the start (0) and after each iteration.
        progress: a title for the progress bar; None shows none.

    Returns:
        The repositories, with the history of their hypervolume.

    Raises:
        ValueError: before the first iteration, if `start` has other than [S, P, D] or the objectives other than [S, P, 2]
            values, if an objective is NaN or infinite, bounds cross, a start lies outside them, the generator is on another
            device, or `saved` holds another search.
    """
    flight = Flight(start, swarm, generator, scale, bounds)
    if reference is not None and reference.shape != (len(start), 2):
        raise ValueError(f"the reference has shape {tuple(reference.shape)}, not {(len(start), 2)}: a point for each swarm")
    history: list[Tensor] = []
    first, key = fabric is None or fabric.is_global_zero, ""
    if saved is not None:
        values = [start, generator.get_state(), flight.scale, *(flight.bounds or ())]
        values += [] if reference is None else [reference]
        key = content_key([asdict(swarm), named, *(digest(value) for value in values)])
    state = _saved_state(saved, key) if first and saved is not None else None
    if fabric is not None and saved is not None:
        state = fabric.broadcast(state)
    if state is not None:
        reference, history = state.pop("reference").to(start.device), list(state.pop("history").to(start.device))
        flight.restore(state)
    else:
        flight.begin(_score(objectives, flight.positions))
        if reference is None:
            reference = flight.f.amax(dim=1)
        history.append(hypervolume(flight.repository.objectives, reference))
        if watch:
            watch(0, flight)

    done = len(history) - 1
    rounds = tqdm(
        range(done, swarm.iterations), progress, swarm.iterations, False, initial=done, disable=not (first and progress)
    )
    for iteration in rounds:
        flight.move()
        flight.learn(_score(objectives, flight.positions))
        history.append(hypervolume(flight.repository.objectives, reference))
        if watch:
            watch(iteration + 1, flight)
        if first and saved is not None and (iteration + 1) % save_every == 0:
            state = flight.state() | {"history": torch.stack(history), "reference": reference}
            save_tensors(saved, state, search=key)

    f = flight.repository.objectives.clone()
    return Fronts(
        positions=flight.repository.positions[..., : start.shape[-1]].masked_fill(f[..., :1].isinf(), 0.0),
        objectives=f,
        mask=f[..., 0].isfinite(),
        hypervolume=torch.stack(history),
        reference=reference,
        evaluations=swarm.evaluations,
    )


def rescore(fronts: Fronts, objectives: Objectives) -> Fronts:
    """Score anew what fronts hold, whose search was only steered by `objectives`' likeness; the non-dominated stay."""
    f = torch.where(fronts.mask.unsqueeze(-1), _worst_where_undefined(_score(objectives, fronts.positions)), torch.inf)
    mask = non_dominated(f)
    f = f.masked_fill(~mask.unsqueeze(-1), torch.inf)
    return replace(
        fronts,
        positions=fronts.positions.masked_fill(~mask.unsqueeze(-1), 0.0),
        objectives=f,
        mask=mask,
        hypervolume=torch.cat([fronts.hypervolume[:-1], hypervolume(f, fronts.reference).unsqueeze(0)]),
    )


class Flight:
    """The swarms in flight: what is moved, scored and remembered, iteration by iteration.

    Attributes:
        x: float32 [S, P, D + E], positions and, in the paper's flight, each particle's own w, c1, c2 (E = 3, else 0).
        v: float32 [S, P, D + E], velocities.
        f: float64 [S, P, 2], objectives.
        best_x, best_f: of each particle's best position.
        repository: the non-dominated solutions of each swarm.
        disturbed: bool [S, P], the particles that noise has moved in this iteration.
    """

    def __init__(
        self,
        start: Tensor,
        swarm: Swarm,
        generator: torch.Generator,
        scale: Tensor | float,
        bounds: tuple[Tensor | float, Tensor | float] | None,
    ) -> None:
        """See `mopso`.

        Raises:
            ValueError: for a start, bounds or a generator that does not fit.
        """
        if start.dim() != 3 or start.shape[1] != swarm.particles:
            raise ValueError(f"start has shape {tuple(start.shape)}, not [swarms, {swarm.particles} particles, dimensions]")
        if generator.device.type != start.device.type or (generator.device.index or 0) != (start.device.index or 0):
            raise ValueError(f"the generator is on {generator.device}, the start on {start.device}: make it there")
        self.swarm, self.generator, self.dimensions = swarm, generator, start.shape[-1]
        self.scale = _as_three(scale, start)
        self.bounds = _check_bounds(bounds, start)
        self.paper = swarm.flight == "paper"
        # A block of swarms small enough for a CPU's cache is moved through all steps at once; a GPU takes all together.
        size = max(1, CACHE // start[0].numel()) if start.device.type == "cpu" else len(start)
        self.blocks = [slice(first, first + size) for first in range(0, len(start), size)]
        self.own = torch.tensor([swarm.inertia, swarm.cognitive, swarm.social], dtype=start.dtype, device=start.device)
        self.x = start.clone()
        if self.paper:
            between = self.own[:, 0] + self._uniform(*start.shape[:2], 3) * (self.own[:, 1] - self.own[:, 0])
            self.x = torch.cat([start, between], dim=-1)
        self.v = torch.zeros_like(self.x)
        self.best_x = self.x.clone()
        self.disturbed = torch.zeros(start.shape[:2], dtype=torch.bool, device=start.device)
        self.repository = Repository(len(start), swarm.repository, self.x)

    @property
    def positions(self) -> Tensor:
        """[S, P, D], without the particles' own parameters: a view."""
        return self.x[..., : self.dimensions]

    def begin(self, f: Tensor) -> None:
        """Take the objectives of the start.

        Raises:
            ValueError: for one that is NaN or infinite.
        """
        if not bool(f.isfinite().all()):
            s, p, _ = (~f.isfinite()).nonzero()[0].tolist()
            values = f[s, p].tolist()
            raise ValueError(f"swarm {s}, particle {p} starts with objectives {values}: both must be finite numbers")
        self.f, self.best_f = f, f.clone()
        self._remember()

    def move(self) -> None:
        """One step of every particle, towards its own best and a leader, and noise for some."""
        leader = self._leaders()
        self.disturbed = self._crowded() if self.paper else self.disturbed
        for block in self.blocks:
            x, v, best = self.x[block], self.v[block], self.best_x[block]
            ahead = self.repository.x.index_select(0, leader[block].flatten()).view_as(x)
            if self.paper:
                self._step_of_paper(x, v, best, ahead)
                self._perturb(x, block)
            else:
                some = round(self.swarm.turbulence * self.swarm.particles)
                shaken, rest = slice(some), slice(some, None)
                self._shake(x[:, shaken], v[:, shaken], ahead[:, shaken], block, shaken)
                self._step_constricted(x[:, rest], v[:, rest], best[:, rest], ahead[:, rest], block, rest)
            self._keep_inside(x, v, block)

    def learn(self, f: Tensor) -> None:
        """Take the objectives of the new positions: personal bests, then the repository."""
        self.f = f = _worst_where_undefined(f)
        worse, better = dominates(self.best_f, f), dominates(f, self.best_f)
        if self.paper:
            # Of two positions that do not dominate each other the new one is kept as often as the old (Coello et al.); a
            # worse one only by a disturbed particle.
            chance = torch.where(better, 1.0, 0.5).where(~worse, self.disturbed * self.swarm.accept_worse)
            accepted = self._uniform(*worse.shape) < chance
        else:
            accepted = ~worse
        accepted = accepted.unsqueeze(-1)
        torch.where(accepted, self.x, self.best_x, out=self.best_x)
        self.best_f = torch.where(accepted, f, self.best_f)
        self._remember()

    def _remember(self) -> None:
        f = torch.cat([self.repository.objectives, self.f], dim=1)
        size = self.swarm.repository
        if self.paper:
            keep = thin_by_grid(f, size, self.swarm.divisions, self._uniform(*f.shape[:2]))
        else:
            keep = thin_by_area(f, size)
        self.repository.admit(self.x, self.f, keep)

    # ------------------------------------------------------------------ the steps of a move

    def _leaders(self) -> Tensor:
        """Rows of the repository that lead each particle, int64 [S, P].

        The paper's flight draws a cell by roulette, the thinner the likelier, then any solution in it; the constricted one
        takes of two random solutions that which adds more area. No repository is empty: every start has objectives.
        """
        f, swarm = self.repository.objectives, self.swarm
        held = f[..., 0].isfinite()
        if self.paper:
            cell = grid(f, swarm.divisions)
            weight = held / occupancy(cell, swarm.divisions**2).float().square()  # 1/n for the cell, 1/n within it
            chosen = torch.multinomial(weight, swarm.particles, replacement=True, generator=self.generator)
        else:
            place, area = area_added(f)
            nth = self._uniform(len(f), 2 * swarm.particles) * held.sum(1, keepdim=True)
            one, other = nth.long().clamp(max=swarm.repository - 1).chunk(2, dim=1)
            chosen = place.gather(1, torch.where(area.gather(1, one) >= area.gather(1, other), one, other))
        return self.repository.first + chosen

    def _step_of_paper(self, x: Tensor, v: Tensor, best: Tensor, leader: Tensor) -> None:
        """V ← wV + c1 r1 (best − X) + c2 r2 (leader − X), X ← X + V, with a particle's own w, c1, c2; r per coordinate."""
        w, c1, c2 = x[..., self.dimensions :].clone().unsqueeze(-2).unbind(-1)  # [S, P, 1] each
        v.mul_(w)
        v.add_((best - x).mul_(self._coarse(x.shape)).mul_(c1))
        v.add_(leader.sub_(x).mul_(self._coarse(x.shape)).mul_(c2))
        x.add_(v)

    def _perturb(self, x: Tensor, block: slice) -> None:
        """Gaussian noise for the disturbed."""
        if not self.swarm.noise:
            return
        positions = x[..., : self.dimensions]
        size = (_part(self.scale, block) * self.swarm.noise).expand_as(positions)
        if x.device.type == "cpu":  # the host knows who is disturbed without waiting: it draws noise for them alone
            s, p = self.disturbed[block].nonzero(as_tuple=True)
            positions[s, p] += self._normal(len(s), self.dimensions) * size[s, p]
        else:
            positions.addcmul_(self._normal(*positions.shape), size * self.disturbed[block].unsqueeze(-1))

    def _step_constricted(self, x: Tensor, v: Tensor, best: Tensor, leader: Tensor, block: slice, particles: slice) -> None:
        """V ← χ (wV + c1 r1 (best − X) + c2 r2 (leader − X)), X ← X + V; c and r are drawn anew for each particle."""
        weak, strong = PULL
        c1, c2 = (weak + (strong - weak) * self._uniform(*x.shape[:2], 1) for _ in range(2))
        phi = (c1 + c2).clamp(min=4)
        # 2 / (2 − φ − √(φ² − 4φ)) as published: negative. Above 4 a step is shortened and turned round, else left as it is.
        chi = torch.where(c1 + c2 > 4, 2 / (2 - phi - (phi * phi - 4 * phi).sqrt()), 1.0)
        to_best, to_leader = chi * c1 * self._uniform(*c1.shape), chi * c2 * self._uniform(*c1.shape)
        v.mul_(chi * INERTIA).addcmul_(best, to_best).addcmul_(leader, to_leader).addcmul_(x, -(to_best + to_leader))
        if self.bounds is not None:  # no faster than half the way between the bounds
            low, high = (_part(bound, block, particles) for bound in self.bounds)
            half = (high - low) / 2
            torch.minimum(torch.maximum(v, -half), half, out=v)
        x.add_(v)

    def _shake(self, x: Tensor, v: Tensor, leader: Tensor, block: slice, particles: slice) -> None:
        """Turbulence: to a leader's place, changed by polynomial mutation of about one coordinate.

        Where there are no bounds, which mutation needs, by Gaussian noise.
        """
        v.zero_()
        x.copy_(leader)
        if self.bounds is not None:
            low, high = (_part(bound, block, particles) for bound in self.bounds)
            u = self._uniform(*x.shape) * self.dimensions  # below 1, and then uniform again, for one coordinate of all
            step = (1 - (1 - (2 * u - 1).abs()).clamp(min=0) ** (1 / (1 + INDEX))).copysign(u - 0.5)
            x.add_(step.mul_(u < 1).mul_(high - low))
        else:
            x.addcmul_(self._normal(*x.shape), _part(self.scale, block, particles) * self.swarm.noise)

    def _keep_inside(self, x: Tensor, v: Tensor, block: slice) -> None:
        """Put coordinates that left their bounds onto them, and turn their velocity round (Coello et al.)."""
        limits = []
        if self.bounds is not None:
            limits.append((x[..., : self.dimensions], v[..., : self.dimensions], *(_part(b, block) for b in self.bounds)))
        if self.paper:
            limits.append((x[..., self.dimensions :], v[..., self.dimensions :], self.own[:, 0], self.own[:, 1]))
        for place, speed, low, high in limits:
            inside = torch.minimum(torch.maximum(place, low), high)
            speed.mul_(torch.where(inside == place, 1.0, -1.0))
            place.copy_(inside)

    def _crowded(self) -> Tensor:
        """Particles in densely populated cells of objective space, bool [S, P]."""
        if not self.swarm.noise:
            return self.disturbed
        cell = grid(self.f, self.swarm.divisions)
        return (occupancy(cell, self.swarm.divisions**2) > self.swarm.crowding * self.swarm.particles) & (cell >= 0)

    # ------------------------------------------------------------------ random numbers, saving

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator, device=self.generator.device)

    def _coarse(self, shape: torch.Size) -> Tensor:
        """Uniform numbers of 16 bits, four of one draw: drawing is the dearest part of moving many coordinates."""
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
        """Go on from what `state` returned."""
        self.generator.set_state(state.pop("random"))
        self.repository.x.copy_(state.pop("held_x"))
        self.repository.f.copy_(state.pop("held_f"))
        for name, value in state.items():
            setattr(self, name, value.to(self.x.device))


def _saved_state(saved: Path, key: str) -> dict[str, Tensor] | None:
    """What `saved` holds; None where there is no such file.

    Raises:
        ValueError: if it holds another search.
    """
    if not saved.exists():
        return None
    if load_notes(saved).get("search") != key:
        raise ValueError(f"{saved} holds another search: delete it, or give this one another file")
    return load_tensors(saved)


def _score(objectives: Objectives, positions: Tensor) -> Tensor:
    """Objectives float64 [S, P, 2].

    Raises:
        ValueError: if they have another shape.
    """
    f = objectives(positions)
    if f.shape != (*positions.shape[:2], 2):
        raise ValueError(f"the objectives have shape {tuple(f.shape)}, not {(*positions.shape[:2], 2)}")
    return f.double()


def _worst_where_undefined(f: Tensor) -> Tensor:
    """`inf` for both objectives where one is NaN or infinite: no such position is ever remembered."""
    return torch.where(f.isfinite().all(-1, keepdim=True), f, torch.inf)


def _check_bounds(bounds: tuple[Tensor | float, Tensor | float] | None, start: Tensor) -> tuple[Tensor, Tensor] | None:
    """Bounds as tensors of three dimensions.

    Raises:
        ValueError: if they cross, do not fit `start`, or leave some of it outside.
    """
    if bounds is None:
        return None
    low, high = (_as_three(bound, start) for bound in bounds)
    try:
        torch.broadcast_to(low, start.shape), torch.broadcast_to(high, start.shape)
    except RuntimeError:
        raise ValueError(
            f"bounds of shape {tuple(low.shape)} and {tuple(high.shape)} do not fit a start of {tuple(start.shape)}"
        ) from None
    crossed = (~(low <= high)).nonzero()
    if len(crossed):
        raise ValueError(f"bounds cross at coordinate {int(crossed[0, -1])}: the lower one must not be above the upper one")
    outside = (~((start >= low) & (start <= high))).nonzero()
    if len(outside):
        s, p, d = outside[0].tolist()
        value = float(start[s, p, d])
        raise ValueError(f"swarm {s}, particle {p} starts outside the bounds: coordinate {d} is {value:g}")
    return low, high


def _as_three(values: Tensor | float, start: Tensor) -> Tensor:
    """What broadcasts against `start` [S, P, D], with all three dimensions."""
    values = torch.as_tensor(values, dtype=start.dtype, device=start.device)
    return values.reshape((1,) * (3 - values.dim()) + values.shape)


def _part(values: Tensor, swarms: slice, particles: slice = ALL) -> Tensor:
    """The part of what broadcasts against [S, P, D] that belongs to some swarms and particles."""
    return values[swarms if len(values) > 1 else ALL, particles if values.shape[1] > 1 else ALL]
