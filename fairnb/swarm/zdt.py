"""The problems of Zitzler, Deb and Thiele (2000): two objectives with a known front, by which optimisers are compared.

    objectives, low, high = zdt("zdt4")       # objectives score positions [..., D] as [..., 2]

Both objectives are minimised; on the front, g is 1.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fairnb.run.messages import unknown

DIMENSIONS = {"zdt1": 30, "zdt2": 30, "zdt3": 30, "zdt4": 10, "zdt6": 10}


def zdt(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor, Tensor]:
    """A problem by name: its objectives and the lower and upper bounds of its coordinates, float32 [D] each.

    ZDT1 is convex, ZDT2 concave, ZDT3 in five pieces; ZDT4 has 21⁹ local fronts; ZDT6 is concave, with few solutions near
    the front. An unknown name raises ValueError with the nearest one.
    """
    if name not in DIMENSIONS:
        raise ValueError(unknown("problem", name, DIMENSIONS))
    low, high = torch.zeros(DIMENSIONS[name]), torch.ones(DIMENSIONS[name])
    if name == "zdt4":
        low[1:], high[1:] = -5.0, 5.0

    def objectives(x: Tensor) -> Tensor:
        first, rest = x[..., 0], x[..., 1:]
        if name == "zdt4":
            g = 1 + 10 * rest.shape[-1] + (rest.square() - 10 * (4 * math.pi * rest).cos()).sum(-1)
        elif name == "zdt6":
            first = 1 - (-4 * first).exp() * (6 * math.pi * first).sin() ** 6
            g = 1 + 9 * rest.mean(-1) ** 0.25
        else:
            g = 1 + 9 * rest.mean(-1)
        share = first / g
        second = g * (1 - (share.square() if name in ("zdt2", "zdt6") else share.sqrt()))
        if name == "zdt3":
            second = g * (1 - share.sqrt() - share * (10 * math.pi * first).sin())
        return torch.stack([first, second], dim=-1)

    return objectives, low, high
