"""The grids that the launchers ask for: a GPU takes 2^31 - 1 programs along the first axis, 65535 along the others."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: pip install 'rddm_fast[test]'")
from rddm_fast.kernels.inverse import tacos_step
from rddm_fast.kernels.networks import (
    channel_norm,
    group_norm_silu,
    linear_attention,
    norm_product,
    stem_conv,
)

SAMPLES = 70000


class Kernel:
    """Stands for a kernel: notes the grid, and runs nothing."""

    def __init__(self) -> None:
        self.grids: list[tuple[int, ...]] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        self.grids.append(grid)
        return lambda *_, **__: None


def of_channel_norm(x: torch.Tensor) -> None:
    channel_norm.channel_norm(x, torch.ones(16), 1e-5)


def of_linear_attention(x: torch.Tensor) -> None:
    linear_attention.linear_attention(x[:, :12], heads=2)


def of_group_norm_silu(x: torch.Tensor) -> None:
    group_norm_silu.group_norm_silu(x, None, torch.ones(16), torch.ones(16), 8, 1e-5, None, None)


def of_tacos_step(x: torch.Tensor) -> None:
    tacos_step.tacos_step(x, x, None, None, None, 0, [0.5, 0.5])


def of_norm_product(x: torch.Tensor) -> None:
    ones, parts = torch.ones(16), torch.empty(len(x), 1, 3, 8)
    norm_product.normalise_and_add_product(x, parts, ones, ones, 1e-5, None, x, None, x.new_empty((16, 16)), None)


def of_stem_conv(x: torch.Tensor) -> None:
    stem_conv.stem_conv(x[:, :3], x.new_empty((3, 8, 16)), None, None)


@pytest.mark.parametrize(
    "module, launch, kernels",
    [
        (channel_norm, of_channel_norm, 1),
        (linear_attention, of_linear_attention, 3),
        (group_norm_silu, of_group_norm_silu, 2),
        (stem_conv, of_stem_conv, 1),
        (norm_product, of_norm_product, 1),
        (tacos_step, of_tacos_step, 1),
    ],
    ids=[
        "channel_norm",
        "linear_attention",
        "group_norm_silu",
        "stem_conv",
        "norm_product",
        "tacos_step",
    ],
)
def test_any_number_of_samples_fits_a_grid(
    module: ModuleType, launch: Callable[[torch.Tensor], None], kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel: Any = Kernel()
    for name in vars(module).copy():
        if name.endswith("_kernel"):
            monkeypatch.setattr(module, name, kernel)
    launch(torch.empty(SAMPLES, 16, 1, 1, dtype=torch.bfloat16))
    assert len(kernel.grids) == kernels
    for first, *others in kernel.grids:
        assert SAMPLES <= first < 2**31 and all(axis <= 65535 for axis in others)
