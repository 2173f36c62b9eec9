"""Square crops of batches of images, and their normalisation for the network."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def random_places(images: int, shape: tuple[int, int], size: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random crops of `size` pixels in images of `shape`: first row, first column, and whether to flip; each [B, 1]."""
    top = torch.randint(shape[0] - size + 1, (images, 1), generator=draw)
    left = torch.randint(shape[1] - size + 1, (images, 1), generator=draw)
    return top, left, torch.rand(images, 1, generator=draw) < 0.5


def cut_squares(images: Tensor, size: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    """Crop each of [B, H, W, 3] at its own place, one of `random_places`: [B, 3, size, size], channels last in memory.

    torchvision crops a whole batch at one place.
    """
    (b, height, width, _), device = images.shape, images.device
    # A few bytes; pixel indices would be megabytes. A copy that blocks would wait for all that a GPU has been given so far.
    top, left, flip = (part.to(device, non_blocking=True) for part in (top, left, flip))
    across = torch.arange(size, device=device)
    y, x = top + across, left + torch.where(flip, size - 1 - across, across)  # [B, size]
    row = torch.arange(b, device=device)[:, None, None] * height + y[:, :, None]  # of all images' rows
    cut = images.reshape(-1, 3).index_select(0, (row * width + x[:, None, :]).flatten())
    return cut.view(b, size, size, 3).permute(0, 3, 1, 2)


def centre_crops(images: Tensor, size: int) -> Tensor:
    """The centre of each of [B, H, W, 3], none smaller than `size`: [B, 3, size, size], channels last in memory."""
    top, left = (round((side - size) / 2) for side in images.shape[1:3])  # rounded as by torchvision's center_crop
    return images[:, top : top + size, left : left + size].permute(0, 3, 1, 2)


def normalise(images: Tensor) -> Tensor:
    """uint8 0..255 to float32, standardised by ImageNet's mean and standard deviation."""
    from torchvision.transforms.v2 import functional as F

    mean, std = (torch.tensor(part).to(images.device, non_blocking=True) for part in (IMAGENET_MEAN, IMAGENET_STD))
    return F.normalize(F.to_dtype(images, torch.float32, scale=True), mean, std, inplace=True)
