"""Heads on saved features: their predictions, and the contingency tables of whole swarms.

    heads = Heads(layer.unsqueeze(0))          # shared by all groups, from float32 [L, D + 1]
    heads.predict(features)                    # bool [L, N]
    Scorer(features)(swarm)                    # float32 [L, P, D + 1] → int64 [L, P, G, 2, 2], exact counts

A swarm is scored by a matrix product, a threshold and a count, in blocks of images: memory does not grow with their number,
and features may be memory-mapped. Several processes share the blocks and sum the counts once. Counts are integers and every
block is the same product on any process, so any number of processes gives the same tables to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairnb.features import Features
from fairnb.metrics import accuracy, cells, underestimation_index
from fairnb.run.messages import unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EXACT = {torch.float32: 2**24, torch.bfloat16: 2**8}  # most ones that add up exactly in this type
ROWS = 2048  # images per block
RESIDENT = 2**27  # features up to this many numbers are converted once, larger ones at each scoring
HIDDEN = 2**26  # hidden activations held at once where both layers move


def logits(x: Tensor, layer: Tensor) -> Tensor:
    """Outputs [..., R, N] of a fully connected layer [..., R, D + 1], its weights then its bias, for x [N, D]."""
    return layer[..., :-1] @ x.T + layer[..., -1:]


@dataclass(frozen=True, eq=False)
class Heads:
    """The last layer of a model, and the layer before it where that moved too."""

    weights: Tensor  # float32 [G, L, D + 1], each label's weights then its bias; G is 1 where the groups share them
    hidden: Tensor | None = None  # float32 [D, F + 1], the layer before, where it moved; features are then its input [N, F]

    @property
    def by_group(self) -> bool:
        """Whether each group has its own heads, so that a prediction needs the group."""
        return len(self.weights) > 1

    @property
    def last(self) -> Tensor:
        """The last layer of a network, float32 [L, D + 1]; heads by group raise ValueError."""
        if self.by_group:
            raise ValueError(f"these are heads of {len(self.weights)} groups, and a network has one last layer")
        return self.weights[0]

    def of(self, labels: Tensor) -> Heads:
        """The heads of some labels, bool [L] or indices."""
        return replace(self, weights=self.weights[:, labels])

    def below(self, features: Features) -> Features:
        """Penultimate features: those given, or the output of `hidden`."""
        if self.hidden is None:
            return features
        return replace(features, x=(features.x @ self.hidden[:, :-1].T + self.hidden[:, -1]).relu())

    def logits(self, features: Features) -> Tensor:
        """Logits float32 [L, N] by the heads of each image's group; a logit above 0 predicts the label."""
        return self._own(logits(self.below(features).x, self.weights if self.by_group else self.weights[0]), features)

    def predict(self, features: Features) -> Tensor:
        """Predictions bool [L, N]."""
        weights = self.weights if self.by_group else self.weights[0]
        return self._own(weights[..., :-1] @ self.below(features).x.T > -weights[..., -1:], features)

    def tables(self, features: Features) -> Tensor:
        """Contingency tables int64 [L, G, 2, 2] of the predictions."""
        return features.tables(self.predict(features))

    def _own(self, values: Tensor, features: Features) -> Tensor:
        return values.gather(0, features.group.expand(1, *values.shape[1:]))[0] if self.by_group else values


class Scorer:
    """Contingency tables of many heads per label at once.

    `features.x` may be memory-mapped. `searched` holds int64 indices of the L labels scored, all by default. The product is
    in `dtype` 'float32' or 'bfloat16'; another raises ValueError. The processes of `fabric` share the images.
    """

    def __init__(
        self, features: Features, searched: Tensor | None = None, *, dtype: str = "float32", fabric: Fabric | None = None
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(unknown("arithmetic (steer)", dtype, DTYPES))
        self.features, self.dtype, self.fabric = features, DTYPES[dtype], fabric
        self.labels = (features if searched is None else features.of_labels(searched)).labels.T  # [L, N]
        world, rank = (fabric.world_size, fabric.global_rank) if fabric else (1, 0)
        blocks = range(0, len(features.x), ROWS)
        self.mine = blocks[len(blocks) * rank // world : len(blocks) * (rank + 1) // world]
        total = torch.zeros(len(self.labels), features.groups * 2, dtype=torch.int64, device=features.x.device)
        total = sum((self._cells(slice(rows, rows + ROWS)).sum(1).long() for rows in self.mine), total)
        self.total = self._sum(total).unflatten(-1, (features.groups, 2))  # [L, G, 2], of all images
        self.resident = list(self._read()) if len(self.mine) * ROWS * features.x.shape[1] <= RESIDENT else None

    @torch.no_grad()
    def __call__(self, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Tables int64 [L, P, G, 2, 2] of heads float32 [L, P, D + 1], behind `hidden` layers [P, D, F + 1] if given."""
        heads, hidden = heads.to(self.dtype), None if hidden is None else hidden.to(self.dtype)
        positives = torch.zeros(*heads.shape[:2], self.total[0].numel(), dtype=torch.int64, device=heads.device)
        for x, cell in self.resident or self._read():
            predicted = _predict(x, heads) if hidden is None else _predict_through(x, hidden, heads)  # 0/1 [L, P, B]
            for first in range(0, len(x), EXACT[self.dtype]):
                part = slice(first, first + EXACT[self.dtype])
                positives += torch.bmm(predicted[..., part], cell[:, part]).long()
        positives = self._sum(positives).unflatten(-1, self.total.shape[1:])  # [L, P, G, 2]
        return torch.stack([self.total.unsqueeze(1) - positives, positives], dim=-1)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's blocks: features [B, D] and cells [L, B, G·2]."""
        for first in self.mine:
            rows = slice(first, first + ROWS)
            yield self.features.x[rows].to(self.dtype), self._cells(rows).to(self.dtype)

    def _cells(self, rows: slice) -> Tensor:
        return cells(self.labels[:, rows], torch.nn.functional.one_hot(self.features.group[rows], self.features.groups))

    def _sum(self, counts: Tensor) -> Tensor:
        if self.fabric is not None and self.fabric.world_size > 1:
            torch.distributed.all_reduce(counts)  # without the barrier in Fabric's own
        return counts


def uei_and_error(tables: Tensor) -> Tensor:
    """Objectives of a label's search: UEI and 1 − accuracy, float64 [..., 2], of tables [..., G, 2, 2]."""
    return torch.stack([underestimation_index(tables), 1 - accuracy(tables)], dim=-1)


def score_heads(features: Features, heads: Tensor, searched: Tensor | None = None) -> Tensor:
    """Tables int64 [L, P, G, 2, 2] of heads [L, P, D + 1], or by group [L, P, G·(D + 1)]; `searched` as in `Scorer`."""
    if heads.shape[-1] == features.x.shape[1] + 1:
        return Scorer(features, searched)(heads)
    each = heads.unflatten(-1, (features.groups, -1)).unbind(2)
    return torch.stack([Scorer(features.rows(features.group == g), searched)(x) for g, x in enumerate(each)]).sum(0)


def _predict(x: Tensor, heads: Tensor) -> Tensor:
    """Ones and zeros [L, P, B]: a logit is above 0 where the product is above −bias."""
    flat = heads.flatten(0, 1)
    return (flat[:, :-1] @ x.T).gt_(-flat[:, -1:]).view(*heads.shape[:2], len(x))


def _predict_through(x: Tensor, hidden: Tensor, heads: Tensor) -> Tensor:
    """The same through each particle's own hidden layer [P, D, F + 1], a few particles at a time."""
    size = max(1, HIDDEN // (hidden.shape[1] * len(x)))
    predicted = []  # [p, L, B] each
    for layer, head in zip(hidden.split(size), heads.transpose(0, 1).split(size), strict=True):
        active = (layer[..., :-1].flatten(0, 1) @ x.T).view(*layer.shape[:2], len(x)).add_(layer[..., -1:]).relu_()
        predicted.append(torch.bmm(head[..., :-1], active).gt_(-head[..., -1:]))
    return torch.cat(predicted).transpose(0, 1).contiguous()
