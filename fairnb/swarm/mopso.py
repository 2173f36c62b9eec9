"""Multi-objective particle swarms, many at once: positions are [S, P, D], S swarms of P particles in D dimensions.

Two objectives are minimised. `Swarm(flight=…)` chooses the flight: "paper" from `fairnb.swarm.flight`, "constricted" from
`fairnb.swarm.constricted`. No step loops over swarms or particles, and none synchronises with the host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from tqdm import tqdm

from fairnb.run.files import load_notes, load_tensors, save_tensors
from fairnb.run.keys import content_key, digest
from fairnb.run.parameters import Swarm
from fairnb.swarm.constricted import Constricted
from fairnb.swarm.flight import Bounds, Flight, worst_where_undefined
from fairnb.swarm.repository import hypervolume, non_dominated

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Objectives = Callable[[Tensor], Tensor]  # positions [S, P, D] → objectives [S, P, 2]
FLIGHTS = {"paper": Flight, "constricted": Constricted}


@dataclass(frozen=True, eq=False)
class Fronts:
    """The repositories of S swarms."""

    positions: Tensor  # float32 [S, A, D]; 0 where there is no solution
    objectives: Tensor  # float64 [S, A, 2], minimised; `inf` where there is no solution
    mask: Tensor  # bool [S, A], where there is one
    hypervolume: Tensor  # float64 [T + 1, S]: of the start, then after each iteration; if rescored, only the last is exact
    reference: Tensor  # float64 [S, 2], of the hypervolume
    evaluations: int  # positions scored per swarm

    def of(self, s: int) -> Fronts:
        """The front of swarm `s` alone, as of one swarm."""
        positions, objectives, mask, reference = (
            part[s : s + 1] for part in (self.positions, self.objectives, self.mask, self.reference)
        )
        return Fronts(positions, objectives, mask, self.hypervolume[:, s : s + 1], reference, self.evaluations)

    def pareto_front(self, s: int) -> tuple[Tensor, Tensor]:
        """Non-dominated solutions of swarm `s`, by rising first objective: positions [K, D] and objectives [K, 2]."""
        keep = self.along()[s]
        return self.positions[s, keep], self.objectives[s, keep]

    def along(self) -> list[Tensor]:
        """Places of each swarm's solutions by rising first objective, int64 [K] each."""
        order = self.objectives[..., 0].argsort(dim=1, stable=True)  # empty places hold `inf` and come last
        return [places[:count] for places, count in zip(order, self.mask.sum(1).tolist(), strict=True)]


def mopso(
    objectives: Objectives, start: Tensor, swarm: Swarm, *, generator: torch.Generator, scale: Tensor | float = 1.0,
    bounds: Bounds | None = None, reference: Tensor | None = None, saved: Path | None = None, save_every: int = 25,
    named: str = "", fabric: Fabric | None = None, watch: Callable[[int, Flight], None] | None = None,
    progress: str | None = None,
) -> Fronts:  # fmt: skip
    """Search S Pareto fronts at once.

    Args:
        objectives: scores positions float32 [S, P, D] as [S, P, 2], both minimised. A NaN or infinite objective is an
            error at the start; later, its position is never remembered.
        start: float32 [S, P, D], the first positions; the repository begins with the non-dominated among them.
        swarm: its parameters; `start` must hold `swarm.particles` particles.
        generator: source of every random number, on `start`'s device.
        scale, bounds: unit of noise, and lower and upper limit of positions; each broadcasts against [S, P, D].
        reference: float64 [S, 2] for the hypervolume; by default the worst of each objective at the start.
        saved, save_every, named: file that receives the search every so many iterations, and from which an interrupted
            search of the same name, that of the objectives, resumes to the same result. The caller deletes it.
        fabric: of processes that fly the same search and share its scoring; the first one saves. None for one process.
        watch: called with the iteration and the flight, after the start (0) and after each iteration.
        progress: title of the progress bar; None shows none.

    Raises:
        ValueError: before the first iteration, if `start` is not [S, P, D] or the objectives are not [S, P, 2], if an
            objective is NaN or infinite, bounds cross, a start lies outside them, the generator is on another device, or
            `saved` holds another search.
    """
    flight = FLIGHTS[swarm.flight](start, swarm, generator, scale, bounds)
    if reference is not None and reference.shape != (len(start), 2):
        raise ValueError(f"the reference has shape {tuple(reference.shape)}, not {(len(start), 2)}: a point for each swarm")
    history: list[Tensor] = []
    first, key, state = fabric is None or fabric.is_global_zero, "", None
    if saved is not None:
        values = [start, generator.get_state(), flight.scale, *(flight.bounds or ())]
        values += [] if reference is None else [reference]
        key = content_key([swarm.model_dump(), named, *map(digest, values)])
        if first and saved.exists():
            if load_notes(saved).get("search") != key:
                raise ValueError(f"{saved} holds another search: delete it, or give this one another file")
            state = load_tensors(saved)
        state = state if fabric is None else fabric.broadcast(state)
    if state is not None:
        reference, history = state.pop("reference").to(start.device), list(state.pop("history").to(start.device))
        flight.restore(state)
    else:
        flight.begin(_score(objectives, flight.positions))
        reference = flight.f.amax(dim=1) if reference is None else reference
        history.append(hypervolume(flight.repository.objectives, reference))
        if watch:
            watch(0, flight)
    todo, hidden = range(len(history) - 1, swarm.iterations), not (first and progress)
    for iteration in tqdm(todo, progress, swarm.iterations, False, initial=todo.start, disable=hidden):
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
        positions=flight.repository.positions[..., : start.shape[-1]].masked_fill(f[..., :1].isinf(), 0.0), objectives=f,
        mask=f[..., 0].isfinite(), hypervolume=torch.stack(history), reference=reference, evaluations=swarm.evaluations,
    )  # fmt: skip


def rescore(fronts: Fronts, objectives: Objectives) -> Fronts:
    """Exact objectives for fronts of a search steered by approximate ones; only the non-dominated stay."""
    f = torch.where(fronts.mask.unsqueeze(-1), worst_where_undefined(_score(objectives, fronts.positions)), torch.inf)
    mask = non_dominated(f)
    f = f.masked_fill(~mask.unsqueeze(-1), torch.inf)
    return replace(
        fronts, positions=fronts.positions.masked_fill(~mask.unsqueeze(-1), 0.0), objectives=f, mask=mask,
        hypervolume=torch.cat([fronts.hypervolume[:-1], hypervolume(f, fronts.reference).unsqueeze(0)]),
    )  # fmt: skip


def _score(objectives: Objectives, positions: Tensor) -> Tensor:
    """Objectives float64 [S, P, 2]; another shape raises ValueError."""
    f = objectives(positions)
    if f.shape != (*positions.shape[:2], 2):
        raise ValueError(f"the objectives have shape {tuple(f.shape)}, not {(*positions.shape[:2], 2)}")
    return f.double()
