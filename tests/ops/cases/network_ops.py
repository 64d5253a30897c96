"""Calls of the networks' ops: group_norm_silu, channel_norm and linear_attention."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from oracle import DTYPES, LAYOUTS, Case
from small_models import group_norm_cancellation
from torch import Tensor

from rddm_fast.ops import channel_norm, group_norm_silu, linear_attention

FEW_LAYOUTS = {"interpreted": ("contiguous", "channels_last", "sliced"), "gpu": ("contiguous", "channels_last")}


def group_norm_call(
    shape: tuple[int, ...],
    dtype: torch.dtype,
    groups: int,
    rows: int | None = 1,
    residual: bool = True,
    seed: int = 0,
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
    mean: float = 0.5,
    deviation: float = 2.0,
    biased: bool = False,
) -> dict[str, Any]:
    """Images in a layout; `rows` is the number of rows of scale_shift, `biased` whether there is an x_bias."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(device)

    channels = shape[1]
    return {
        "x": LAYOUTS[layout]((deviation * draw(*shape) + mean).to(dtype)),
        "weight": draw(channels),
        "bias": draw(channels),
        "groups": groups,
        "scale_shift": None if rows is None else draw(rows, 2 * channels),
        "residual": LAYOUTS[layout](draw(*shape).to(dtype)) if residual else None,
        "x_bias": draw(channels) if biased else None,
    }


def biased(call: dict[str, Any]) -> Tensor:
    """x + x_bias, in float64."""
    x, x_bias = call["x"].double(), call["x_bias"]
    return x if x_bias is None else x + x_bias.double().view(-1, *(1,) * (x.dim() - 2))


def cancellation(call: dict[str, Any]) -> float:
    """`group_norm_cancellation` of a call, for values as large as x and x_bias can make the terms of their sum."""
    x = biased(call)
    if not x.numel():
        return 0.0
    lost = group_norm_cancellation(x, call["groups"], call["weight"], call["scale_shift"])
    bias = 0.0 if call["x_bias"] is None else float(call["x_bias"].abs().max())
    return float(lost) * (1 + bias / float(x.abs().max()))


def exact_group_norm(call: dict[str, Any]) -> Tensor:
    """Torch's own functions in float64."""
    c = {k: v.double() if isinstance(v, Tensor) else v for k, v in call.items()}
    c["x"] = biased(call)
    if not c["x"].numel():  # torch 2.15's refuses it
        return c["x"]
    y = torch.group_norm(c["x"], c["groups"], c["weight"], c["bias"], 1e-5)
    if c["scale_shift"] is not None:
        scale, shift = c["scale_shift"][..., None, None].chunk(2, dim=1)
        y = y * (scale + 1) + shift
    return F.silu(y) + (0 if c["residual"] is None else c["residual"])


def group_norm_case(call: dict[str, Any], name: str = "") -> Case:
    x, groups = call["x"], call["groups"]
    single = x.numel() and x[0].numel() == groups
    return Case(
        name,
        lambda impl: [group_norm_silu(**call, impl=impl)],
        lambda: [exact_group_norm(call)],
        x,
        sums=True,
        cancellation=cancellation(call) if single else 0.0,
    )


def few_group_norms(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every dtype in every layout, with and without scale, shift and residual: shapes of one and of several pieces."""
    shapes = {
        "interpreted": [((2, 24, 9, 7), 8), ((1, 16, 40, 30), 2), ((3, 5, 1, 1), 5), ((1, 8, 64, 64), 1)],
        "gpu": [((2, 24, 9, 7), 8), ((1, 64, 128, 128), 8), ((3, 8, 1, 1), 2), ((2, 5, 1, 1), 5), ((1, 1, 1, 1), 1)],
    }
    for dtype, layout, (shape, groups), adds in itertools.product(
        DTYPES, FEW_LAYOUTS[backend], shapes[backend], (False, True)
    ):
        rows = None if not adds else shape[0] if backend == "interpreted" else 1
        normal = dict(mean=0.0, deviation=1.0)
        call = group_norm_call(shape, dtype, groups, rows, adds, layout=layout, device=device, biased=adds, **normal)
        yield group_norm_case(call, f"{dtype} {layout} {shape} {adds}")


def pixels(
    shape: tuple[int, ...], dtype: torch.dtype, layout: str, seed: int = 0, device: torch.device | str = "cpu"
) -> tuple[Tensor, Tensor]:
    """An image for channel_norm, and a gain."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(shape, generator=generator) + 0.5
    return LAYOUTS[layout](x.to(device, dtype)), torch.randn(shape[1], generator=generator).to(device)


def exact_channel_norm(x: Tensor, g: Tensor) -> Tensor:
    """Torch's own layer norm in float64."""
    return F.layer_norm(x.double().movedim(1, -1), g.shape, g.double(), None, 1e-5).movedim(-1, 1)


def channel_norm_case(x: Tensor, g: Tensor, name: str = "") -> Case:
    return Case(name, lambda impl: [channel_norm(x, g, impl=impl)], lambda: [exact_channel_norm(x, g)], x, sums=True)


def few_channel_norms(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    shapes = {
        "interpreted": ((2, 24, 9, 7), (1, 64, 40, 30), (3, 5, 1, 1), (1, 1, 3, 4), (1, 300, 2, 9)),
        "gpu": ((2, 24, 9, 7), (1, 64, 128, 128), (1, 512, 32, 32), (2, 5, 1, 1)),
    }
    for dtype, layout, shape in itertools.product(DTYPES, FEW_LAYOUTS[backend], shapes[backend]):
        yield channel_norm_case(*pixels(shape, dtype, layout, device=device), f"{dtype} {layout} {shape}")


def projection(b: int, heads: int, features: int, h: int, w: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Queries, keys and values of linear_attention."""
    generator = torch.Generator().manual_seed(seed)
    return (2 * torch.randn(b, 3 * heads * features, h, w, generator=generator)).to(dtype)


def by_einsum(qkv: Tensor, heads: int) -> Tensor:
    """The published module's arithmetic between its two projections, in qkv's dtype."""
    b, _, h, w = qkv.shape
    q, k, v = (part.reshape(b, heads, -1, h * w) for part in qkv.chunk(3, dim=1))
    q = q.softmax(dim=-2) * q.shape[2] ** -0.5
    context = torch.einsum("bhdn,bhen->bhde", k.softmax(dim=-1), v / (h * w))
    return torch.einsum("bhde,bhdn->bhen", context, q).reshape(b, -1, h, w)


def few_attentions(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    sizes = {
        "interpreted": ((1, 2, 32, 9, 7), (1, 1, 32, 40, 30), (3, 2, 5, 1, 1), (2, 1, 1, 20, 15)),
        "gpu": ((2, 4, 32, 9, 7), (1, 4, 32, 128, 128), (1, 2, 5, 1, 1)),
    }
    for dtype, layout, size in itertools.product(DTYPES, FEW_LAYOUTS[backend], sizes[backend]):
        qkv, heads = LAYOUTS[layout](projection(*size, dtype).to(device)), size[1]
        yield Case(
            f"{dtype} {layout} {size}",
            lambda impl, qkv=qkv, heads=heads: [linear_attention(qkv, heads, impl=impl)],
            lambda qkv=qkv, heads=heads: [by_einsum(qkv.double(), heads)],
            sums=True,
        )
