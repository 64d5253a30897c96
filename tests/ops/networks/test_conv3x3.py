"""conv3x3 against torch's convolution in float64: every instruction set, tile and shape, layouts, threads, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import F32, F64, LAYOUTS
from torch import Tensor

from rddm_fast.ops import BackendUnavailable, conv3x3, pack_conv3x3
from rddm_fast.ops.networks.conv3x3 import instruction_sets

SETS = instruction_sets()
TILES = [2, 4]
EPS = torch.finfo(F32).eps


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def weights(k: int, c: int, seed: int = 1) -> Tensor:
    """Weights with which images of order 1 give results of order 1."""
    return images(k, c, 3, 3, seed=seed) / (9 * c) ** 0.5


def assert_right(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> None:
    """The error of float32 sums of c products grows as sqrt(c); a transform multiplies it by its norm."""
    exact = F.conv2d(x.to(F64), weight.to(F64), None if bias is None else bias.to(F64), padding=1)
    assert y.shape == exact.shape and y.dtype == F32 and y.is_contiguous(memory_format=torch.channels_last)
    # Of many elements the largest is about 5 standard deviations from the exact result.
    bound = 5 * EPS * (2 + weight.shape[1] ** 0.5) * {2: 1, 4: 2.5}[tile]
    assert ((y - exact).abs().max() if y.numel() else 0) <= bound * (1 + exact.abs().max() / 5 if y.numel() else 1)


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("instruction_set", SETS)
def test_it_is_a_convolution(instruction_set: str, tile: int) -> None:
    # Fewer channels than a vector's, no multiple of it, several panels; edges of every kind; many and few tiles.
    for b, c, k, h, w in [
        (1, 64, 64, 32, 32),
        (2, 24, 40, 13, 17),
        (1, 3, 5, 9, 2),
        (3, 17, 33, 1, 1),
        (1, 8, 100, 5, 30),
        (1, 300, 256, 12, 11),
        (2, 16, 3, 40, 3),
        (1, 1, 1, 7, 7),
    ]:
        x, weight, bias = images(b, c, h, w), weights(k, c), images(k, seed=2)
        packed = pack_conv3x3(weight, tile=tile, instruction_set=instruction_set)
        for given_bias in (bias, None):
            assert_right(conv3x3(x, weight, given_bias, packed=packed), x, weight, given_bias, tile)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(0, 40),
    st.integers(1, 70),
    st.integers(1, 30),
    st.integers(1, 30),
    st.sampled_from(TILES),
    st.sampled_from(SETS or [""]),
    st.sampled_from(list(LAYOUTS)),
)
def test_any_shape_in_one_part_or_two(
    b: int, c: int, c_2: int, k: int, h: int, w: int, tile: int, instruction_set: str, layout: str
) -> None:
    x, weight, bias = images(b, c + c_2, h, w), weights(k, c + c_2), images(k, seed=2)
    packed = pack_conv3x3(weight, tile=tile, instruction_set=instruction_set)
    first, second = LAYOUTS[layout](x[:, :c]), x[:, c:] if c_2 else None
    y = conv3x3(first, weight, bias, x_2=second, packed=packed)
    assert_right(y, x, weight, bias, tile)


@pytest.mark.parametrize("shape", [(1, 64, 96, 96), (1, 32, 8, 8), (1, 384, 20, 20), (2, 24, 50, 50)])
def test_the_same_bits_whatever_the_threads(shape: tuple[int, ...]) -> None:
    x, weight = images(*shape), weights(64, shape[1])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results += [conv3x3(x, weight, packed=pack_conv3x3(weight, tile=tile)) for tile in TILES]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[i % 2]) for i, result in enumerate(results))


@pytest.mark.parametrize("instruction_set", SETS)
def test_a_large_result_that_is_written_past_the_cache(instruction_set: str) -> None:
    x, weight = images(1, 8, 130, 131), weights(64, 8)
    y = conv3x3(x, weight, packed=pack_conv3x3(weight, instruction_set=instruction_set))
    assert y.numel() > 1 << 20
    assert_right(y, x, weight, None, 4)


def test_the_images_of_a_batch_do_not_mix() -> None:
    x, weight = images(5, 16, 6, 7), weights(16, 16)
    packed = pack_conv3x3(weight)
    together = conv3x3(x, weight, packed=packed)
    for i in range(5):
        torch.testing.assert_close(together[i : i + 1], conv3x3(x[i : i + 1], weight, packed=packed), rtol=0, atol=0)


def test_a_bad_pixel_reaches_its_tiles_alone() -> None:
    x, weight = images(1, 16, 32, 32), weights(16, 16)
    plain = conv3x3(x, weight)
    x[0, 3, 13, 14] = torch.nan
    bad = conv3x3(x, weight).isnan().any(1)[0]
    assert bad[12:15, 13:16].all()  # where a direct convolution has it
    assert not bad[:8].any() and not bad[20:].any() and not bad[:, :8].any() and not bad[:, 20:].any()
    torch.testing.assert_close(conv3x3(x, weight)[..., :8, :], plain[..., :8, :], rtol=0, atol=0)


def test_no_images_and_no_weights_packed_before() -> None:
    weight = weights(8, 8)
    for shape in ((0, 8, 4, 4), (1, 8, 0, 4), (1, 8, 4, 0)):
        assert conv3x3(torch.zeros(shape), weight).shape == shape
    x = images(1, 8, 9, 9)
    assert torch.equal(conv3x3(x, weight), conv3x3(x, weight, packed=pack_conv3x3(weight)))


def test_opcheck_and_one_graph() -> None:
    op, weight, bias = torch.ops.rddm_fast.conv3x3.default, weights(24, 20), images(24)
    packed = pack_conv3x3(weight)
    for layout in ("contiguous", "channels_last", "sliced"):
        x, x_2 = LAYOUTS[layout](images(2, 12, 6, 7)), images(2, 8, 6, 7)
        torch.library.opcheck(op, (x, x_2, weight, packed, bias))
        torch.library.opcheck(op, (torch.cat((x, x_2), 1), None, weight, None, None))
        compiled = torch.compile(
            lambda x, x_2=x_2: conv3x3(x, weight, bias, x_2=x_2, packed=packed) + 1, fullgraph=True, backend="eager"
        )
        got, expected = compiled(x), conv3x3(x, weight, bias, x_2=x_2, packed=packed) + 1
        assert torch.equal(got, expected) and got.stride() == expected.stride()


X, W = torch.zeros(2, 8, 4, 4), torch.zeros(8, 8, 3, 3)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.half()), TypeError, "x is torch.float16: conv3x3 computes in float32"),
    "dimensions": (dict(x=X[0]), ValueError, r"x must be images \(B, C, H, W\), not of shape \(8, 4, 4\)"),
    "weight": (dict(weight=W[..., :2]), ValueError, r"weight must be of shape \(K, C, 3, 3\), not \(8, 8, 3, 2\)"),
    "weight's dtype": (dict(weight=W.double()), TypeError, "weight is torch.float64"),
    "channels": (dict(x=X[:, :5]), ValueError, "takes 8 channels, and x has 5"),
    "bias": (dict(bias=torch.zeros(3)), ValueError, r"bias must have shape \(8,\), not \(3,\)"),
    "second part": (dict(x_2=X[:, :, :3]), ValueError, "only the channels may differ"),
    "device": (dict(weight=W.to("meta")), ValueError, "weight is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "no Triton": (dict(impl="triton"), BackendUnavailable, "triton: this op has no such kernel"),
    "gradient": (dict(x=X.clone().requires_grad_()), RuntimeError, "conv3x3 has no gradient"),
    "packed": (dict(packed=pack_conv3x3(torch.zeros(8, 7, 3, 3))), RuntimeError, "packed must come from pack_conv3x3"),
    "not packed": (dict(packed=torch.zeros(500)), RuntimeError, "packed must come from pack_conv3x3"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        conv3x3(**{**dict(x=X, weight=W), **change})


def test_mistakes_in_packing_are_named() -> None:
    with pytest.raises(ValueError, match="tile is 3: choose 2 or 4"):
        pack_conv3x3(W, tile=3)
    with pytest.raises(ValueError, match="instruction_set is 'mmx': this machine has baseline"):
        pack_conv3x3(W, instruction_set="mmx")
