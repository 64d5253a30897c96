"""Autocast around a definition changes nothing: it computes in its own dtype, as its docstring says."""

from itertools import islice

import pytest
import torch
from cases import GRIDS

from rddm_fast.ops.networks.conv1x1 import conv1x1_reference
from rddm_fast.ops.networks.residual_block import residual_block_reference
from rddm_fast.ops.training.conv3x3_weight_gradient import conv3x3_weight_gradient_reference
from rddm_fast.ops.training.group_norm_silu_training import (
    group_norm_silu_backward_reference,
    group_norm_silu_training_reference,
)
from rddm_fast.ops.training.pixel_attention import pixel_attention_backward_reference, pixel_attention_reference

AUTOCAST = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", AUTOCAST)
@pytest.mark.parametrize("op", GRIDS)
def test_the_bits_are_the_same_under_autocast(op: str, dtype: torch.dtype) -> None:
    for case in islice(GRIDS[op]("interpreted"), 12):
        plain = case.run("reference")
        with torch.autocast("cpu", dtype=dtype):
            under = case.run("reference")
        for a, b in zip(plain, under, strict=True):
            assert a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()), case.name


@pytest.mark.parametrize("dtype", AUTOCAST)
def test_convolutions_are_those_of_float32_under_autocast(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, one = draw(1, 8, 4, 4), torch.ones(8)
    block = (draw(8, 8, 3, 3), draw(8, 8, 3, 3), None, None, None, None, None, one, one, one, one, 2, 1e-5, None)

    def both() -> list[torch.Tensor]:
        return [conv1x1_reference(x, None, weight, None, None), residual_block_reference(x, None, *block)]

    weight = draw(8, 8)
    plain = both()
    with torch.autocast("cpu", dtype=dtype):
        under = both()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, under, strict=True))


@pytest.mark.parametrize("dtype", AUTOCAST)
def test_training_s_ops_are_those_of_float32_under_autocast(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x, one, images, statistics = draw(2, 9, 8), torch.ones(8), draw(2, 8, 4, 4), draw(2, 2, 2)
    weights, context = (draw(24, 8), draw(8, 8)), (draw(2, 8), draw(2, 8, 4))

    def all_of_them() -> list[torch.Tensor]:
        return [
            *pixel_attention_reference(x, *weights, one, 2, 0.5),
            *pixel_attention_backward_reference(x.sin(), x, *weights, *context, 2, 0.5),
            *group_norm_silu_training_reference(images, one, one, 2, 1e-5, None),
            *group_norm_silu_backward_reference(images.sin(), images, one, one, 2, None, statistics),
            *conv3x3_weight_gradient_reference(images.sin(), images),
        ]

    plain = all_of_them()
    with torch.autocast("cpu", dtype=dtype):
        under = all_of_them()
    assert all(torch.equal(a, b) and a.dtype == b.dtype for a, b in zip(plain, under, strict=True))
