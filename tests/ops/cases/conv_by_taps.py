"""Calls of conv_by_taps, against torch's convolution in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from oracle import BF16, F16, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import conv_by_taps, pack_taps

Shape = tuple[tuple[int, ...], int, int, int, int]
SHAPES: dict[str, tuple[Shape, ...]] = {
    "interpreted": (
        *(((2, 5, 7, 9), 24, 1, 1, 0), ((1, 70, 3, 4), 3, 1, 1, 0), ((2, 16, 8, 6), 70, 4, 2, 1)),
        *(((1, 3, 5, 7), 8, 4, 2, 1), ((1, 4, 6, 5), 5, 3, 3, 2)),
    ),
    "gpu": (
        *(((1, 64, 256, 256), 3, 1, 1, 0), ((1, 128, 32, 32), 512, 1, 1, 0), ((1, 64, 256, 256), 64, 4, 2, 1)),
        *(((3, 256, 64, 64), 256, 4, 2, 1), ((1, 3, 33, 47), 24, 4, 2, 1)),
    ),
}
"""The shape of the images, the channels of the result, and the weight's side, stride and padding."""


def call(shape: Shape, dtype: torch.dtype, adds: bool, layout: str, device: torch.device | str) -> dict[str, Any]:
    """Images, a weight, and a bias and an addend or neither."""
    (b, c, h, w), k, side, stride, padding = shape
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    result = b, k, *((length + 2 * padding - side) // stride + 1 for length in (h, w))
    return {
        "x": LAYOUTS[layout](draw(b, c, h, w).to(dtype)),
        "weight": (draw(k, c, side, side) / (side * c**0.5)).to(dtype),
        "bias": draw(k) if adds else None,
        "addend": LAYOUTS[layout](draw(*result).to(dtype)) if adds else None,
        **{"stride": stride, "padding": padding},
    }


def exact(call: dict[str, Any]) -> Tensor:
    """Torch's own convolution in float64."""
    bias = None if call["bias"] is None else call["bias"].double()
    y = F.conv2d(call["x"].double(), call["weight"].double(), bias, call["stride"], call["padding"])
    return y if call["addend"] is None else y + call["addend"].double()


def ours(call: dict[str, Any], impl: str | None) -> Tensor:
    rest = {name: call[name] for name in ("bias", "addend", "stride", "padding")}
    return conv_by_taps(call["x"], pack_taps(call["weight"], call["x"].dtype), **rest, impl=impl)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Both halves, with bias and addend and with neither."""
    for dtype, (layout, adds), shape in itertools.product(
        (BF16, F16), (("contiguous", False), ("channels_last", True)), SHAPES[backend]
    ):
        one = call(shape, dtype, adds, layout, device)
        name = f"{dtype} {layout} {shape}"
        yield Case(name, lambda impl, one=one: [ours(one, impl)], lambda one=one: [exact(one)], sums=True)
