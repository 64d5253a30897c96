"""The blurs that a picture may have: Gaussian, a disc out of focus, a line of motion, and none."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ...degradations.kernels import Kernel, disc, gaussian, line

LONGEST = 26.0
"""The longest motion that is looked for, in pixels."""


@dataclass(frozen=True)
class Blur:
    """A blur that is the same everywhere in a picture.

    Attributes:
        form: "none", "gaussian", "disc" or "line".
        size: the Gaussian's standard deviation, the disc's diameter or the line's length in pixels.
        angle: the line's, in radians from the horizontal towards the top.
    """

    form: str = "none"
    size: float = 0.0
    angle: float = 0.0

    def kernel(self) -> Kernel:
        """Return its kernel, of odd sides; the sum is 1."""
        kernel = {
            "none": lambda: np.ones((1, 1)),
            "gaussian": lambda: gaussian(self.size),
            "disc": lambda: disc(self.size),
            "line": lambda: line(self.size, self.angle),
        }[self.form]()
        return np.asarray(kernel / kernel.sum())

    def transfer(self, height: int, width: int) -> Tensor:
        """Return how much it leaves of each frequency, as `torch.fft.rfft2` orders them, (height, width // 2 + 1)."""
        kernel = torch.from_numpy(self.kernel()).float()
        radius = kernel.shape[0] // 2
        rows, columns = (torch.arange(-radius, radius + 1) % side for side in (height, width))
        image = torch.zeros(height, width)
        image.index_put_((rows[:, None], columns[None]), kernel, accumulate=True)
        return torch.fft.rfft2(image).real

    def neighbours(self, step: float) -> list[Blur]:
        """Return this blur and those that differ a little: `step` is 1 for the distance of `candidates`."""
        if self.form == "none":
            return [self]
        sizes = [self.size + step * part * _spacing(self.form, self.size) for part in (-0.5, -0.25, 0, 0.25, 0.5)]
        turns = (-0.5, -0.25, 0.0, 0.25, 0.5) if self.form == "line" else (0.0,)
        apart = math.pi / _angles(self.size)
        return [Blur(self.form, size, self.angle + step * turn * apart) for size in sizes for turn in turns]


def _spacing(form: str, size: float) -> float:
    """How far apart the sizes of the candidates are."""
    return {"gaussian": 0.15 if size < 2 else 0.25, "disc": 0.5, "line": 1.0}[form]


def _angles(length: float) -> int:
    """How many angles of a line of this length differ by about a pixel at its ends."""
    return min(36, max(8, int(2 * length)))


@cache
def candidates() -> tuple[Blur, ...]:
    """Return blurs of which one is near to any that is looked for; the first is none."""
    found = [Blur()]
    for form, size, largest in (("gaussian", 0.5, 4.3), ("disc", 2.0, 14.0), ("line", 2.0, LONGEST)):
        while size <= largest:
            count = _angles(size) if form == "line" else 1
            found += [Blur(form, size, math.pi * number / count) for number in range(count)]
            size += _spacing(form, size)
    return tuple(found)
