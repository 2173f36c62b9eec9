"""The embedded dataset: drawn faces whose labels follow CelebA's statistics, so that the book runs without a download.

`fairnb.data.drawn.people` samples attributes, `fairnb.data.drawn.portrait` draws them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from numbers import Integral
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fairnb.data.drawn.people import CELEBA, Statistics, check_seed, draw_people, read_statistics
from fairnb.data.drawn.portrait import ACCIDENTS, ATTRIBUTES, SMALLEST, draw_portraits
from fairnb.data.faces import SPLITS, Faces
from fairnb.data.labelling import labelled
from fairnb.data.layouts import Annotated
from fairnb.run.keys import seeded
from fairnb.run.messages import some
from fairnb.run.parameters import Data

SHOWN_ON_MEN = (
    "5_o_Clock_Shadow", "Bald", "Bushy_Eyebrows", "Chubby", "Double_Chin", "Goatee", "Gray_Hair", "Mustache", "No_Beard",
    "Receding_Hairline", "Sideburns", "Wearing_Hat", "Wearing_Necktie",
)  # fmt: skip


class DrawnImages:
    """Portraits drawn on access; each depends only on the seed and its own number."""

    block, source = 32, "drawn faces"  # so many portraits' planes fit into a processor's cache

    def __init__(self, intensity: Tensor, seed: int, height: int, width: int) -> None:
        """Portraits of N people with these intensities, float32 [N, 40], in the order of `ATTRIBUTES`."""
        self.intensity, self.seed, self.height, self.width = intensity, seed, height, width
        self.names = [f"drawn face {index}" for index in range(len(intensity))]

    def __len__(self) -> int:
        return len(self.intensity)

    def __getitem__(self, index: int) -> Tensor:
        return self._draw([range(len(self))[index]], self.height, self.width)[0]

    def read(self, rows: Sequence[int], size: int) -> list[Tensor]:
        """See `Images`: drawn at this size, not scaled to it."""
        _refuse_small(size, size)
        short = min(self.height, self.width)
        return list(self._draw(rows, max(size, self.height * size // short), max(size, self.width * size // short)))

    def fingerprint(self) -> str:
        """See `Images`. It includes a few portraits, so that it changes with the code that draws."""
        few = self._draw(range(min(16, len(self))), SMALLEST, SMALLEST)
        digest = hashlib.sha256(repr((self.seed, self.height, self.width)).encode())
        digest.update(self.intensity.numpy().tobytes() + few.numpy().tobytes())
        return digest.hexdigest()

    def _draw(self, rows: Sequence[int], height: int, width: int) -> Tensor:
        return _draw(self.intensity[list(rows)], rows, self.seed, height, width)


def _draw(intensity: Tensor, people: Sequence[int], seed: int, height: int, width: int, *, noise: bool = True) -> Tensor:
    """Portraits of these people, uint8 [B, 3, height, width], with one generator per person."""
    accidents = np.empty((len(people), ACCIDENTS), np.float32)
    grain = np.full((len(people), height, width), 0.5, np.float32)
    for place, person in enumerate(people):
        generator = np.random.Generator(np.random.Philox(key=[seed, person]))
        generator.random(dtype=np.float32, out=accidents[place])
        if noise:
            generator.random(dtype=np.float32, out=grain[place])
    return draw_portraits(intensity, torch.from_numpy(accidents), torch.from_numpy(grain))


def draw_pairs(seed: int = 0, height: int = 64, width: int = 64) -> dict[str, Tensor]:
    """Each attribute off and on, all else equal and without noise, on its own person: uint8 [2, 3, height, width] each."""
    _refuse_small(height, width)
    check_seed(seed)
    pairs = {}
    for column, name in enumerate(ATTRIBUTES):
        intensity = torch.full((2, len(ATTRIBUTES)), -1.5)
        brown = name not in ("Black_Hair", "Blond_Hair", "Brown_Hair", "Gray_Hair")
        usual = ["No_Beard", "Young"] + ["Male"] * (name in SHOWN_ON_MEN) + ["Brown_Hair"] * brown
        intensity[:, [ATTRIBUTES.index(other) for other in usual]] = 1.5
        intensity[:, ATTRIBUTES.index("Attractive")] = 0.5  # few spots, which would distract
        intensity[:, column] = torch.tensor([-1.5, 1.5])
        pairs[name] = _draw(intensity, [column] * 2, seed, height, width, noise=False)
    return pairs


def draw(
    images: Sequence[int], seed: int = 0, *, height: int = 64, width: int = 64, statistics: str | Path = CELEBA
) -> Annotated:
    """Draw the images and attributes of a dataset, see `draw_faces`."""
    sizes = images if isinstance(images, Sequence) else [images]
    if len(sizes) != len(SPLITS) or not all(isinstance(n, Integral) and n > 0 for n in sizes):
        raise ValueError(f"drawn faces need an image or more for each of {', '.join(SPLITS)}: got {images!r}")
    _refuse_small(height, width)
    intensity, labels = draw_people(0, sum(images), seed, _drawable(statistics))
    splits = torch.repeat_interleave(torch.tensor(images))  # 0, 0, …, 1, 1, …, 2, 2, …
    split = splits[torch.randperm(len(splits), generator=seeded("splits of drawn faces", seed))]
    table = pd.DataFrame(labels.numpy(), columns=ATTRIBUTES)
    return Annotated(table, DrawnImages(intensity, seed, height, width), "the drawn faces", split.numpy(), binary=True)


def draw_faces(
    images: Sequence[int], seed: int = 0, *, sensitive: str | Sequence[str] = Data().sensitive, targets: Sequence[str] = (),
    height: int = 64, width: int = 64, statistics: str | Path = CELEBA,
) -> Faces:  # fmt: skip
    """Draw a dataset of so many images to train, validate and test on.

    The first people of a population are split at random. A person's portrait and labels depend only on the seed and the
    person's number; the split depends on the sizes too. `decode_images` redraws at its working size. `statistics` is a
    table of the labels' distribution, see `fairnb.data.drawn.people`.

    Raises ValueError for a split without images or any other invalid value, FileNotFoundError if the table is missing.
    """
    found = draw(images, seed, height=height, width=width, statistics=statistics)
    return labelled(found, Data(sensitive=sensitive, targets=targets))


def _refuse_small(height: int, width: int) -> None:
    if min(height, width) < SMALLEST:
        raise ValueError(f"faces cannot be drawn at {height}×{width}: give at least {SMALLEST} pixels each way")


def _drawable(path: str | Path) -> Statistics:
    """Read a table of statistics; ValueError unless its attributes are `ATTRIBUTES`, in order."""
    if (table := read_statistics(path)).names != ATTRIBUTES:
        odd = [name for name in table.names if name not in ATTRIBUTES] or [n for n in ATTRIBUTES if n not in table.names]
        raise ValueError(f"{path} must list the 40 attributes of CelebA in their order; amiss: {some(odd) or 'the order'}")
    return table
