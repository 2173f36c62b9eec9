"""From an image file to the pixels that a network sees, with NumPy and Pillow alone.

    from pixels import pixels
    image = pixels("photo.jpg", config)  # uint8 [S, S, 3]; config is the content of config.json

A copy of this file lies beside every exported model. Its pixels are those of the training, to the bit: it scales as
torchvision's `resize` scales uint8 tensors, by bilinear interpolation with antialiasing in weights of 16 bits.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


def pixels(file: str | Path, config: Mapping[str, Any]) -> np.ndarray:
    """The square that the network sees of an image file, uint8 [S, S, 3]; ValueError if it cannot be decoded."""
    image = cover(decode(Path(file).read_bytes()), config["stored"])
    return centre(scale(image, config["scaled"]), [config["image_size"]] * 2)


def decode(data: bytes) -> np.ndarray:
    """An image file as a viewer shows it, uint8 [H, W, 3]: upright, 16 bits of grey scaled to 8, transparency on white."""
    try:
        with Image.open(io.BytesIO(data)) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode[0] in "IF":  # I;16 and its kin, 32 bits, floating point
                values = np.asarray(image, dtype=np.float64)
                low, high = values.min(), values.max()
                if image.mode == "F" or low < 0 or high > 65535:
                    raise ValueError(f"grey values from {low:g} to {high:g} in mode {image.mode}, not of 8 or 16 bits")
                divisor = 1 if image.mode == "I" and high <= 255 else 257
                image = Image.fromarray((values / divisor).round().astype(np.uint8))
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            return np.array(image.convert("RGB"))
    except UnidentifiedImageError:
        raise ValueError("not an image") from None  # Pillow's own message names a buffer
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # from plugins, for broken files
        raise ValueError(str(error) or type(error).__name__) from None


def cover(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Scale uint8 [H, W, 3] to cover `shape`, then crop its centre."""
    factor = max(wanted / side for wanted, side in zip(shape, image.shape, strict=False))
    size = [max(wanted, round(side * factor)) for wanted, side in zip(shape, image.shape, strict=False)]
    return centre(scale(image, size), shape)


def centre(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The centre of [H, W, 3], no smaller than `shape`."""
    top, left = (round((side - wanted) / 2) for side, wanted in zip(image.shape, shape, strict=False))
    return image[top : top + shape[0], left : left + shape[1]]


def scale(image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Scale uint8 [H, W, 3] to `shape`: first its width, then its height."""
    return _rows_scaled(_rows_scaled(image.swapaxes(0, 1), shape[1]).swapaxes(0, 1), shape[0])


def _rows_scaled(image: np.ndarray, size: int) -> np.ndarray:
    """Scale uint8 [H, W, 3] to [size, W, 3]: each row is a mean of rows, by weights that are whole numbers of 2^-bits."""
    if (height := len(image)) == size:
        return image
    step = height / size
    reach = max(step, 1.0)
    middle = step * (np.arange(size) + 0.5)
    first = np.maximum((middle - reach + 0.5).astype(int), 0)
    last = np.minimum((middle + reach + 0.5).astype(int), height)
    rows = first[:, None] + np.arange((last - first).max())  # [size, K]
    weights = np.maximum(0, 1 - np.abs((rows - middle[:, None] + 0.5) * (1 / reach))) * (rows < last[:, None])
    weights /= weights.sum(1, keepdims=True)
    bits = next(bits for bits in range(23) if bits == 22 or int(0.5 + weights.max() * 2 ** (bits + 1)) >= 2**15)
    whole = (weights * 2**bits + 0.5).astype(np.int32)
    total = np.full((size, *image.shape[1:]), 2 ** (bits - 1), dtype=np.int32)  # one half, to round
    for row, weight in zip(np.minimum(rows, height - 1).T, whole.T, strict=True):
        total += image[row] * weight[:, None, None]
    return (total >> bits).clip(0, 255).astype(np.uint8)
