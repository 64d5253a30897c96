"""Calls of group_norm_silu_training and their gradients, against the reference U-Net's modules in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.ops import group_norm_silu_training


def arguments(b: int, groups: int, of_group: int, h: int, w: int, mean: float = 0.0, table: bool = True) -> list[Any]:
    generator, channels = torch.Generator().manual_seed(b * h + groups), groups * of_group

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    x = normal(b, channels, h, w) + mean
    return [x, 1 + normal(channels) / 3, normal(channels), normal(b, 2 * channels) if table else None]


def by_torch(x: Tensor, weight: Tensor, bias: Tensor, table: Tensor | None, groups: int) -> Tensor:
    y = torch.group_norm(x, groups, weight, bias, 1e-5)
    if table is not None:
        scale, shift = table[..., None, None].chunk(2, dim=1)
        y = y * (scale + 1) + shift
    return F.silu(y)


def ours(impl: str | None) -> Any:
    def call(x: Tensor, weight: Tensor, bias: Tensor, table: Tensor | None, groups: int) -> Tensor:
        return group_norm_silu_training(x, weight, bias, groups, scale_shift=table, impl=impl)

    return call


def with_gradients(call: Any, given: list[Any], groups: int, layout: Any = lambda t: t) -> list[Tensor]:
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in given]
    y = call(layout(leaves[0]), *leaves[1:], groups)
    slope = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    (y * slope).sum().backward()
    return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def assert_right(found: list[Tensor], given: list[Any], groups: int) -> None:
    """Off by at most four times what torch's float32 is, or 16 units of rounding of the largest."""
    exact = with_gradients(by_torch, [None if t is None else t.double() for t in given], groups)
    single = with_gradients(by_torch, given, groups)
    for own, theirs, truth in zip(found, single, exact, strict=True):
        assert own.shape == truth.shape
        floor = 2e-6 * truth.abs().max() + 1e-6
        assert (own - truth).abs().max() <= 4 * (theirs - truth).abs().max() + floor


def gradients_by(impl: str, device: torch.device | str = "cpu") -> None:
    """Judge a backend's results and gradients for several shapes, layouts, and groups that are no powers of 2."""
    shapes = ((2, 8, 8, 9, 7, 0.0, True), (1, 3, 5, 4, 4, 2.0, False), (3, 2, 16, 12, 1, 0.0, True))
    layouts: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: t,
        lambda t: t.contiguous(memory_format=torch.channels_last),
    )
    for shape in shapes:
        for layout in layouts:
            given = [None if t is None else t.to(device) for t in arguments(*shape)]
            assert_right(with_gradients(ours(impl), given, shape[1], layout), given, shape[1])
    y, *gradients = with_gradients(ours(impl), arguments(0, 2, 4, 5, 6), 2)
    assert y.shape == (0, 8, 5, 6) and not any(gradient.any() for gradient in gradients)
