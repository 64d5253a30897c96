"""conv3x3_weight_gradient against sums in float64: any size, layout and number of threads, and values not finite."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LAYOUTS
from torch import Tensor

from rddm_fast.ops import conv3x3_weight_gradient
from rddm_fast.ops.networks.conv3x3 import instruction_sets, tiles

compiled = pytest.mark.skipif(not tiles(), reason="the library is not compiled")
amx = pytest.mark.skipif(1 not in tiles(), reason="this machine has no AMX")
WAYS = [pytest.param({"tile": 1}, marks=amx, id="amx")]
WAYS += [pytest.param({"tile": 4, "instruction_set": name}, id=name) for name in instruction_sets()]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    weight = torch.zeros(grad.shape[1], x.shape[1], 3, 3, dtype=torch.float64)
    height, width = x.shape[2:]
    wide = torch.nn.functional.pad(x.double(), (1, 1, 1, 1))
    for i in range(3):
        for j in range(3):
            weight[:, :, i, j] = torch.einsum("bkhw,bchw->kc", grad.double(), wide[..., i : i + height, j : j + width])
    return weight, grad.double().sum((0, 2, 3))


def assert_right(found: tuple[Tensor, Tensor], grad: Tensor, x: Tensor, tile: int) -> None:
    """Each of `pixels` products of order 1 is off by 2^-22, and their sum by as much as float32's sums of blocks.

    Winograd's transforms lose 8 times as much.
    """
    weight, bias = exact(grad, x)
    pixels = x[:, 0].numel()
    unit = 2.0**-21 if tile == 1 else 2.0**-18
    bound = unit * (pixels**0.5 * float(grad.abs().max() * x.abs().max()) + float(weight.abs().max()))
    assert found[0].shape == weight.shape and found[0].is_contiguous(memory_format=torch.channels_last)
    assert (found[0] - weight).abs().max() <= bound
    assert (found[1] - bias).abs().max() <= 2.0**-20 * (pixels**0.5 + bias.abs().max())


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 4), st.integers(1, 70), st.integers(1, 70), st.integers(1, 20), st.integers(1, 20),
    st.sampled_from(list(LAYOUTS)),
)  # fmt: skip
def test_any_shape(way: dict[str, Any], b: int, c: int, k: int, h: int, w: int, layout: str) -> None:
    x, grad = images(b, c, h, w), images(b, k, h, w, seed=1)
    found = conv3x3_weight_gradient(LAYOUTS[layout](grad), LAYOUTS[layout](x), impl="cpp", **way)
    assert_right(found, grad, x, way["tile"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", [(2, 32, 32, 130, 257), (8, 256, 128, 9, 8), (3, 512, 400, 16, 16)])
def test_several_bands_and_shares(way: dict[str, Any], shape: tuple[int, ...]) -> None:
    b, c, k, h, w = shape
    x, grad = images(b, c, h, w), images(b, k, h, w, seed=1)
    assert_right(conv3x3_weight_gradient(grad, x, **way), grad, x, way["tile"])


@amx
def test_small_and_large_values_in_one_batch() -> None:
    """The scale is a band's; next to the largest image's, the smallest one's gradient is as exact as float32's."""
    x, grad = images(2, 32, 12, 12), images(2, 32, 12, 12, seed=1)
    grad[0] *= 1e-6
    weight, _ = exact(grad, x)
    own, _ = conv3x3_weight_gradient(grad, x)
    assert (own - weight).abs().max() <= 1e-6 * weight.abs().max()
    zero, bias = conv3x3_weight_gradient(torch.zeros_like(grad), x)
    assert not zero.any() and not bias.any()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_lost(way: dict[str, Any], value: float) -> None:
    x, grad = images(1, 32, 8, 8), images(1, 32, 8, 8, seed=1)
    for place in (x, grad):
        broken = place.clone()
        broken[0, 3, 4, 5] = value
        given = (broken, x) if place is grad else (grad, broken)
        weight, _ = conv3x3_weight_gradient(*given, **way)
        met = weight if way["tile"] == 1 else weight[3] if place is grad else weight[:, 3]
        assert not met.isfinite().any()


@pytest.mark.parametrize("way", WAYS)
def test_the_same_bits_whatever_the_threads(way: dict[str, Any]) -> None:
    before = torch.get_num_threads()
    for shape in ((2, 64, 48, 70, 65), (2, 256, 256, 8, 8)):
        b, c, k, h, w = shape
        x, grad, results = images(b, c, h, w), images(b, k, h, w, seed=1), []
        try:
            for threads in (1, 2, 3):
                torch.set_num_threads(threads)
                results.append(conv3x3_weight_gradient(grad, x, **way))
        finally:
            torch.set_num_threads(before)
        assert all(torch.equal(own, first) for result in results for own, first in zip(result, results[0], strict=True))


def test_the_reference_is_the_definition_in_any_dtype() -> None:
    x, grad = images(2, 5, 7, 6).double(), images(2, 4, 7, 6, seed=1).double()
    for own, truth in zip(conv3x3_weight_gradient(grad, x), exact(grad, x), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-12, atol=1e-12)


@compiled
def test_no_images_and_opcheck() -> None:
    weight, bias = conv3x3_weight_gradient(torch.zeros(0, 8, 4, 4), torch.zeros(0, 12, 4, 4))
    assert weight.shape == (8, 12, 3, 3) and not weight.any() and not bias.any()
    run = torch.ops.rddm_fast.conv3x3_weight_gradient.default
    torch.library.opcheck(run, (images(2, 8, 5, 6), images(2, 12, 5, 6), 4, -1))


@compiled
def test_mistakes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(2, 12, 5, 6)
    with pytest.raises(ValueError, match=r"images of one size on one device, not \(2, 8, 5, 7\)"):
        conv3x3_weight_gradient(images(2, 8, 5, 7), x)
    with pytest.raises(TypeError, match=r"grad is torch\.float64 and x is torch\.float32: convert grad to that"):
        conv3x3_weight_gradient(images(2, 8, 5, 6).double(), x)
    with pytest.raises(ValueError, match=r"tile is 2: this machine has (1, )?4$"):
        conv3x3_weight_gradient(images(2, 8, 5, 6), x, tile=2)
    with pytest.raises(ValueError, match="instruction_set is 'mmx': this machine has baseline"):
        conv3x3_weight_gradient(images(2, 8, 5, 6), x, instruction_set="mmx")
    monkeypatch.setattr("rddm_fast.ops.training.conv3x3_weight_gradient.tiles", lambda: (4, 2))
    with pytest.raises(ValueError, match=r"tile is 1: this machine has 4 \(1 needs AMX\)"):
        conv3x3_weight_gradient(images(2, 8, 5, 6), x, tile=1, impl="cpp")
