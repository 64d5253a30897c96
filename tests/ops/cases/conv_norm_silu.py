"""Calls of conv_norm_silu in bfloat16 and float16, against torch's convolution and norm in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
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
FORMS = {BF16: (False, True, "two"), F16: (False, True, "one image")}
"""What may be added, by dtype: see `residual`."""


def call(
    shape: conv3x3.Shape, groups: int, dtype: torch.dtype, adds: bool | str, device: torch.device | str
) -> dict[str, Any]:
    """A convolution with a norm, with all that may follow it or nothing."""
    convolution = conv3x3.call(shape, dtype, biased=bool(adds), device=device)
    (b, _, _, k, h, w), generator = shape, torch.Generator().manual_seed(1)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    return {
        **{"x": convolution["x"], "x_2": convolution["x_2"], "weight": convolution["weight"].to(dtype)},
        **{"conv_bias": convolution["bias"], "norm_weight": draw(k), "norm_bias": draw(k), "groups": groups},
        "scale_shift": draw(b, 2 * k) if adds else None,
        **residual(adds, (b, k, h, w), dtype, draw),
    }


def residual(
    adds: bool | str, shape: tuple[int, ...], dtype: torch.dtype, draw: Callable[..., Tensor]
) -> dict[str, Tensor]:
    """None, one of the result's shape, or the images and the weight of one: "one image" or "two", of odd channels."""
    b, k, h, w = shape
    if not isinstance(adds, str):
        return {"residual": draw(*shape).to(dtype)} if adds else {}
    channels = (k + 5, 3) if adds == "two" else (k + 5,)
    images = [draw(b, c, h, w).to(dtype) for c in channels]
    weight, bias = (draw(k, sum(channels)) / sum(channels) ** 0.5).to(dtype), draw(k)
    return {**dict(zip(("residual", "residual_2"), images, strict=False)), "res_weight": weight, "res_bias": bias}


def exact(call: dict[str, Any]) -> Tensor:
    """Torch's own functions in float64."""
    convolution = {"x": call["x"], "x_2": call["x_2"], "weight": call["weight"], "bias": call["conv_bias"]}
    y = conv3x3.exact({**convolution, "upsample": False})
    y = F.group_norm(y, call["groups"], call["norm_weight"].double(), call["norm_bias"].double(), 1e-5)
    if call["scale_shift"] is not None:
        scale, shift = call["scale_shift"].double()[..., None, None].chunk(2, dim=1)
        y = y * (scale + 1) + shift
    images = [call[name].double() for name in ("residual", "residual_2") if name in call]
    if "res_weight" in call:
        weight, bias = call["res_weight"].double()[:, :, None, None], call["res_bias"].double()
        images = [F.conv2d(torch.cat(images, dim=1), weight, bias)]
    return F.silu(y) + sum(images)


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Both halves, with and without all that may be added, and with a residual that a convolution makes."""
    forms = [(dtype, adds) for dtype, kinds in FORMS.items() for adds in kinds]
    for (dtype, adds), (shape, groups) in itertools.product(forms, SHAPES[backend]):
        one = call(shape, groups, dtype, adds, device)
        name = f"{dtype} {shape} {groups} {adds}"
        yield Case(
            name, lambda impl, one=one: [conv_norm_silu(**one, impl=impl)], lambda one=one: [exact(one)], sums=True
        )
