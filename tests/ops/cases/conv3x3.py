"""Calls of conv3x3 in bfloat16 and float16, in one part and in two, of enlarged images and of plain ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from oracle import BF16, F16, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import conv3x3

Shape = tuple[int, int, int, int, int, int]  # B, C, C_2, K, H, W
SHAPES: dict[str, tuple[Shape, ...]] = {
    # Odd sides, several samples, an output tile that is not full, one pixel; the second part alone has a full depth.
    "interpreted": ((2, 32, 0, 24, 9, 7), (1, 16, 64, 72, 5, 10), (1, 16, 0, 8, 1, 1)),
    "gpu": (
        *((2, 32, 0, 24, 9, 7), (3, 16, 64, 72, 21, 10), (1, 16, 0, 8, 1, 1), (5, 48, 0, 200, 1, 130)),
        *((1, 64, 0, 64, 128, 128), (1, 64, 64, 64, 65, 100), (2, 128, 64, 128, 64, 64), (1, 512, 256, 512, 32, 32)),
        (16, 128, 0, 128, 32, 32),
    ),
}


def call(
    shape: Shape,
    dtype: torch.dtype,
    layout: str = "channels_last",
    *,
    upsample: bool = False,
    biased: bool = True,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Images of order 1, and weights with which their convolution is of order 1."""
    b, c, c_2, k, h, w = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    return {
        "x": LAYOUTS[layout](draw(b, c, h, w).to(dtype)),
        "x_2": LAYOUTS[layout](draw(b, c_2, h, w).to(dtype)) if c_2 else None,
        "weight": draw(k, c + c_2, 3, 3) / (9 * (c + c_2)) ** 0.5,
        "bias": draw(k) if biased else None,
        "upsample": upsample,
    }


def exact(call: dict[str, Any]) -> Tensor:
    """The convolution in float64, by torch."""
    both = call["x"] if call["x_2"] is None else torch.cat((call["x"], call["x_2"]), dim=1)
    both = F.interpolate(both.double(), scale_factor=2, mode="nearest") if call["upsample"] else both.double()
    bias = None if call["bias"] is None else call["bias"].double()
    return F.conv2d(both, call["weight"].double(), bias, padding=1)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Both dtypes, plain and enlarged; every other case has a bias, and every third another layout."""
    layouts = itertools.cycle(("channels_last", "contiguous", "sliced channels_last"))
    every = itertools.product((BF16, F16), (False, True), SHAPES[backend])
    for i, ((dtype, upsample, shape), layout) in enumerate(zip(every, layouts, strict=False)):
        one = call(shape, dtype, layout, upsample=upsample, biased=i % 2 == 0, device=device)
        name = f"{dtype} {layout} {shape} {'enlarged' if upsample else 'plain'}"
        yield Case(name, lambda impl, one=one: [conv3x3(**one, impl=impl)], lambda one=one: [exact(one)], sums=True)
