"""Score swarms of heads on a split, in blocks of images: a matrix product, a threshold and a count.

    score = Scorer(features)
    tables = score(heads)                      # [L, P, D + 1] → int64 [L, P, G, 2, 2], exact counts

Images are taken in blocks of fixed size, so that memory does not grow with their number and features may lie in a mapped
file. With several processes each takes its share of the blocks, and the counts are summed once. Counts are integers and
every block is the same product wherever it is computed, so any number of processes gives the same tables to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fairnb.features import Features
from fairnb.metrics import cells
from fairnb.run.messages import unknown

if TYPE_CHECKING:
    from lightning_fabric import Fabric

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EXACT = {torch.float32: 2**24, torch.bfloat16: 2**8}  # a sum of so many ones is exact in this type
ROWS = 2048  # images a block
RESIDENT = 2**27  # numbers: features up to so many are converted once, larger ones anew at each scoring
HIDDEN = 2**26  # hidden activations that are held at once where both layers move


class Scorer:
    """Contingency tables of many heads a label at once."""

    def __init__(
        self, features: Features, searched: Tensor | None = None, *, dtype: str = "float32", fabric: Fabric | None = None
    ) -> None:
        """Take hold of a split.

        Args:
            features: of the split; `x` may be memory-mapped.
            searched: indices of the L labels that are scored, int64; all by default.
            dtype: of the matrix product, 'float32' or 'bfloat16'.
            fabric: of the processes among which the images are shared; None for one process.

        Raises:
            ValueError: for another dtype.
        """
        if dtype not in DTYPES:
            raise ValueError(unknown("arithmetic (steer)", dtype, DTYPES))
        self.features, self.dtype, self.fabric = features, DTYPES[dtype], fabric
        labels = features.labels if searched is None else features.labels[:, searched.to(features.labels.device)]
        self.labels = labels.T  # [L, N]
        world, rank = (fabric.world_size, fabric.global_rank) if fabric else (1, 0)
        blocks = range(0, len(features.x), ROWS)
        self.mine = blocks[len(blocks) * rank // world : len(blocks) * (rank + 1) // world]
        total = torch.zeros(len(self.labels), features.groups * 2, dtype=torch.int64, device=features.x.device)
        for rows in self.mine:
            total += self._cells(slice(rows, rows + ROWS)).sum(1).long()
        self.total = self._sum(total).unflatten(-1, (features.groups, 2))  # [L, G, 2], of all images
        self.resident = list(self._read()) if len(self.mine) * ROWS * features.x.shape[1] <= RESIDENT else None

    def bytes_summed(self, particles: int) -> int:
        """Bytes that a process hands to `all_reduce` at each scoring, whatever the number of images."""
        return self.total.numel() * particles * 8

    @torch.no_grad()
    def __call__(self, heads: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Tables int64 [L, P, G, 2, 2].

        Args:
            heads: float32 [L, P, D + 1], each label's weights and bias.
            hidden: float32 [P, D, F + 1], the layer before: its weights and biases, where each particle has its own; then
                `features.x` is what that layer reads.
        """
        labels, particles = heads.shape[:2]
        heads = heads.to(self.dtype)
        if hidden is not None:
            hidden = hidden.to(self.dtype)
        positives = torch.zeros(labels, particles, self.total[0].numel(), dtype=torch.int64, device=heads.device)
        for x, cell in self.resident or self._read():
            predicted = _predict(x, heads) if hidden is None else _predict_through(x, hidden, heads)  # [L, P, B] ones, zeros
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
        member = torch.nn.functional.one_hot(self.features.group[rows], self.features.groups)  # [B, G]
        return cells(self.labels[:, rows], member)

    def _sum(self, counts: Tensor) -> Tensor:
        if self.fabric is not None and self.fabric.world_size > 1:
            torch.distributed.all_reduce(counts)  # Fabric's own would have the processes wait for each other first
        return counts


def score_heads(features: Features, heads: Tensor, searched: Tensor | None = None) -> Tensor:
    """Tables int64 [L, P, G, 2, 2] of heads [L, P, D + 1]; or [L, P, G·(D + 1)], one for each group in a row.

    Args:
        features: of the split.
        heads: each label's weights and bias; where groups have their own, each group's answers are by these.
        searched: indices of the L labels that are scored, int64; all by default.
    """
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
    found = []
    for layer, head in zip(hidden.split(size), heads.transpose(0, 1).split(size), strict=True):
        active = (layer[..., :-1].flatten(0, 1) @ x.T).view(*layer.shape[:2], len(x)).add_(layer[..., -1:]).relu_()
        found.append(torch.bmm(head[..., :-1], active).gt_(-head[..., -1:]))  # [p, L, B]
    return torch.cat(found).transpose(0, 1).contiguous()
