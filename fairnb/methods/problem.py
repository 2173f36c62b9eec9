"""The problem that every method solves: move heads on validation features for a lower UEI at little loss of accuracy."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairnb.features import Features
from fairnb.heads import Heads, Scorer, score_heads, uei_and_error
from fairnb.run.keys import seeded
from fairnb.run.parameters import Conditions, Pick, Swarm

if TYPE_CHECKING:
    from lightning_fabric import Fabric

SAMPLE = 2**16  # most images that the unit of noise is computed from


@dataclass(frozen=True, eq=False)
class Problem:
    """Validation features, the base model's heads, the labels searched, the tolerance and side conditions of the pick.

    It raises ValueError if no label is searched, layers do not fit the features or each other, a value is no finite number,
    a share is negative, or `held_out` leaves no images for the search or for the pick.
    """

    features: Features  # of the validation split, on the device of the search
    heads: Tensor  # float32 [L, D + 1], the base model's: each label's weights then its bias
    searched: Tensor | None = None  # bool [L], the labels searched; all by default
    begin: Tensor | None = None  # float32 [L, D + 1], heads at which the search begins; the base model's by default
    paid: int = 0  # models scored per label to find these
    tolerance: float = Pick().tolerance  # accuracy that the pick may lose: per label, or on average if searched together
    seed: int = 0  # of the search
    held_out: float = Pick().held_out  # share of the images kept from the search for the pick; 0 uses all for both
    indifference: float = 0.0  # share of the UEI expected by chance below which candidates count as equal
    conditions: Conditions = field(default_factory=Conditions)  # of the pick, each for every label
    hidden: Tensor | None = None  # float32 [D, F + 1], the layer before, if it moves; `features.x` is its input [N, F]
    fabric: Fabric | None = None  # of the processes that share the images; None for one process
    saved: Path | None = None  # file of an interrupted search, see `fairnb.swarm.mopso.mopso`

    def __post_init__(self) -> None:
        for name in ("tolerance", "indifference"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)} must not be negative")
        if self.begin is not None and self.begin.shape != self.heads.shape:
            raise ValueError(f"a search of heads {tuple(self.heads.shape)} cannot begin at {tuple(self.begin.shape)}")
        if self.searched is not None and not bool(self.searched.any()):
            raise ValueError("no label is searched: searched is False for all of them")
        width = (self.heads if self.hidden is None else self.hidden).shape[1] - 1
        if self.features.x.shape[1] != width:
            raise ValueError(f"features of {self.features.x.shape[1]} columns do not fit a layer that reads {width}")
        if self.hidden is not None and len(self.hidden) != self.heads.shape[1] - 1:
            raise ValueError(f"the hidden layer has {len(self.hidden)} units, the heads {self.heads.shape[1] - 1} weights")
        self._refuse_odd_numbers()
        _ = self._sides

    def _refuse_odd_numbers(self) -> None:
        if images := int((~self.features.x.isfinite().all(dim=1)).sum()):
            raise ValueError(
                f"the features of {images:,} of {len(self.features.x):,} images are not finite numbers: train anew"
            )
        for name in ("heads", "begin", "hidden"):
            if (layer := getattr(self, name)) is not None and not bool(layer.isfinite().all()):
                raise ValueError(f"{name}: weights of the layer are not finite numbers")

    @cached_property
    def where(self) -> Tensor:
        """Indices of the S labels searched, int64 on the CPU."""
        return torch.arange(len(self.heads)) if self.searched is None else self.searched.cpu().nonzero().squeeze(1)

    @cached_property
    def start(self) -> Tensor:
        """Heads at which the search begins, float32 [S, D + 1] of the labels searched, on the features' device."""
        return (self.heads if self.begin is None else self.begin)[self.where].to(self.features.x.device)

    @cached_property
    def base_heads(self) -> Tensor:
        """The base model's heads, as `start`: the first candidate of every pick."""
        return self.heads[self.where].to(self.features.x.device)

    @property
    def valid(self) -> Features:
        """Images of the search."""
        return self._sides[0]

    @property
    def judge(self) -> Features:
        """Images of the pick."""
        return self._sides[1]

    @cached_property
    def base_tables(self) -> Tensor:
        """Contingency tables of the base model on the images of the pick, int64 [S, G, 2, 2]."""
        hidden = None if self.hidden is None else self.hidden.unsqueeze(0).to(self.features.x.device)
        return Scorer(self.judge, self.where, fabric=self.fabric)(self.base_heads.unsqueeze(1), hidden)[:, 0]

    @cached_property
    def base(self) -> Tensor:
        """UEI and error of the base model on the images of the pick, float64 [S, 2]."""
        return uei_and_error(self.base_tables)

    def left(self, swarm: Swarm) -> Swarm:
        """The swarm with fewer iterations where some evaluations are paid for the start; one remains if there were any."""
        steps = round((swarm.evaluations - self.paid) / swarm.particles) - 1
        return swarm.but(iterations=max(min(1, swarm.iterations), steps)) if self.paid else swarm

    def scorer(self, dtype: str = "float32") -> Scorer:
        """Scorer of swarms of heads on the images of the search."""
        return Scorer(self.valid, self.where, dtype=dtype, fabric=self.fabric)

    def on_judge(self, positions: Tensor) -> Tensor:
        """Contingency tables of candidates [S, A, …] on the images of the pick, see `fairnb.heads.score_heads`."""
        return score_heads(self.judge, positions, self.where)

    def generator(self, purpose: str) -> torch.Generator:
        """Random numbers for one purpose, on the features' device."""
        return seeded(self.seed, purpose, device=self.features.x.device)

    def with_heads(self, found: Tensor, hidden: Tensor | None = None) -> Heads:
        """The base model's heads with those found, [S, D + 1], or by group [S, G·(D + 1)]; ValueError unless finite."""
        if not bool(found.isfinite().all()):
            raise ValueError("the search ended in heads that are not finite numbers")
        width = self.heads.shape[1]
        weights = self.heads.cpu().repeat(found.shape[1] // width, 1, 1)  # [G or 1, L, D + 1]
        weights[:, self.where] = found.cpu().unflatten(1, (-1, width)).transpose(0, 1)
        return Heads(weights, None if hidden is None else hidden.cpu())

    @cached_property
    def _sides(self) -> tuple[Features, Features]:
        return hold_out(self.features, self.held_out, self.seed)


def hold_out(features: Features, share: float, seed: int) -> tuple[Features, Features]:
    """Split at random into the images of the search and of the pick; a share of 0 gives all images to both.

    Images of one person go to the same side, where persons are known. A share outside [0, 1), or one that leaves nothing to
    either side, raises ValueError.
    """
    if not 0 <= share < 1:
        raise ValueError(f"held_out={share} must be in [0, 1): the share of validation that only the pick sees")
    if not share:
        return features, features
    people, which = features.people
    images, left = which.cpu().bincount(minlength=people).tolist(), round(share * len(which))
    chosen = torch.zeros(people, dtype=torch.bool)
    for person in torch.randperm(people, generator=seeded(seed, "held out")).tolist():
        if images[person] <= left:
            chosen[person], left = True, left - images[person]
    kept = chosen[which.cpu()]
    if not kept.any() or kept.all():
        raise ValueError(f"held_out={share} of {len(kept)} images of {people} people leaves none for the search or the pick")
    return features.rows(~kept), features.rows(kept)


def noise_unit(x: Tensor, layer: Tensor) -> Tensor:
    """Noise, float32 [R, 1], that changes the outputs of a layer [R, D + 1] on its input x [N, D] by their own RMS."""
    output = x[:SAMPLE] @ layer[:, :-1].T + layer[:, -1]
    length = x[:SAMPLE].square().sum(1).add(1).mean().sqrt()  # of an image's features with the bias's 1
    return (output.square().mean(0).sqrt() / length).unsqueeze(1)


def scatter(centre: Tensor, size: Tensor, particles: int, generator: torch.Generator) -> Tensor:
    """First particles [S, P, D]: `centre` [S, D], then Gaussian noise of `size`, [S, 1] or [S, D], around it."""
    shape = (len(centre), particles, centre.shape[-1])
    away = torch.randn(shape, generator=generator, device=centre.device) * size.unsqueeze(1)
    away[:, 0] = 0
    return centre.unsqueeze(1) + away
