"""Calls of conv_norm_silu in bfloat16 and float16, against torch's convolution and norm in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from oracle import BF16, F16, Case
from torch import Tensor

from rddm_fast.ops import conv_norm_silu

from . import conv3x3

SHAPES: dict[str, tuple[tuple[conv3x3.Shape, int], ...]] = {
    # Tiles that are not full; groups of 3, 8 and 64 channels; more pieces than the norm takes (test_triton.py has 4).
    "interpreted": (((2, 32, 16, 64, 9, 21), 8), ((1, 16, 0, 128, 3, 5), 2), ((1, 16, 0, 24, 1, 1), 3)),
    "gpu": (
        *(((1, 64, 64, 64, 256, 256), 8), ((2, 128, 0, 128, 65, 33), 8), ((1, 512, 256, 512, 32, 32), 8)),
        *(((3, 16, 0, 24, 5, 7), 3), ((1, 64, 0, 64, 1024, 512), 8)),
    ),
}
"""The convolution's shape and the groups."""


def call(
    shape: conv3x3.Shape, groups: int, dtype: torch.dtype, adds: bool, device: torch.device | str
) -> dict[str, Any]:
    """A convolution with a norm, with all that may follow it or nothing."""
    convolution = conv3x3.call(shape, dtype, biased=adds, device=device)
    (b, _, _, k, h, w), generator = shape, torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    return {
        **{"x": convolution["x"], "x_2": convolution["x_2"], "weight": convolution["weight"].to(dtype)},
        **{"conv_bias": convolution["bias"], "norm_weight": draw(k), "norm_bias": draw(k), "groups": groups},
        "scale_shift": draw(b, 2 * k) if adds else None,
        "residual": draw(b, k, h, w).to(dtype) if adds else None,
    }


def exact(call: dict[str, Any]) -> Tensor:
    """Torch's own functions in float64."""
    convolution = {"x": call["x"], "x_2": call["x_2"], "weight": call["weight"], "bias": call["conv_bias"]}
    y = conv3x3.exact({**convolution, "upsample": False})
    y = F.group_norm(y, call["groups"], call["norm_weight"].double(), call["norm_bias"].double(), 1e-5)
    if call["scale_shift"] is not None:
        scale, shift = call["scale_shift"].double()[..., None, None].chunk(2, dim=1)
        y = y * (scale + 1) + shift
    return F.silu(y) + (0 if call["residual"] is None else call["residual"].double())


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Both halves, with and without all that may be added."""
    for dtype, adds, (shape, groups) in itertools.product((BF16, F16), (False, True), SHAPES[backend]):
        one = call(shape, groups, dtype, adds, device)
        name = f"{dtype} {shape} {groups} {adds}"
        yield Case(
            name, lambda impl, one=one: [conv_norm_silu(**one, impl=impl)], lambda one=one: [exact(one)], sums=True
        )
