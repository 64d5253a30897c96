"""attention_layer against the reference U-Net's modules in float64: vectors, shapes, threads, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.attention_layer import EPS_OF_FLOAT64, as_module, weights
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import BF16, F32, F64, LAYOUTS
from torch import Tensor

from rddm_fast.ops import BackendUnavailable, attention_layer, pack_attention_layer
from rddm_fast.ops.networks.conv3x3 import instruction_sets

WIDTHS = [{"baseline": 4, "avx2": 8, "avx512": 16}[name] for name in instruction_sets()]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def assert_right(x: Tensor, w: dict[str, Tensor], heads: int, features: int, width: int) -> None:
    exact = as_module(w, heads, features)(x.double())
    packed = pack_attention_layer(w["norm_g"], w["to_qkv"], w["to_out"], heads, width=width)
    y = attention_layer(x, **w, heads=heads, eps=EPS_OF_FLOAT64, packed=packed)
    assert y.shape == x.shape and y.dtype == x.dtype and y.is_contiguous(memory_format=torch.channels_last)
    rounding = torch.finfo(x.dtype).eps * (exact.abs().max() if x.dtype == BF16 else 0)
    # A norm divides by a deviation that is near 1 here, and a result is a sum of hundreds of products.
    assert (y.double() - exact).abs().max() <= 5e-6 + rounding


@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_the_u_net_s_layer(width: int) -> None:
    for shape, heads, features in [
        ((1, 64, 32, 32), 4, 32),
        ((2, 48, 13, 7), 4, 32),
        ((1, 512, 4, 4), 4, 32),
        ((3, 16, 1, 1), 1, 32),
        ((1, 80, 70, 60), 2, 64),
    ]:
        assert_right(images(*shape), weights(shape[1], heads, features), heads, features, width)
        assert_right(images(*shape).to(BF16), weights(shape[1], heads, features), heads, features, width)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 40), st.integers(1, 20), st.integers(1, 80), st.integers(1, 5), st.integers(1, 6),
    st.sampled_from(list(LAYOUTS)),
)  # fmt: skip
def test_any_shape(b: int, fours: int, h: int, w: int, heads: int, eights: int, layout: str) -> None:
    x = LAYOUTS[layout](images(b, 4 * fours, h, w))
    assert_right(x, weights(4 * fours, heads, 8 * eights), heads, 8 * eights, 0)


def test_keys_of_any_size() -> None:
    """Softmax over the pixels subtracts the largest key. Of keys of 3e4, float32 loses 2e-3, and so do the weights."""
    w = weights(32)
    for scale in (0.0, 30.0, 1e4):
        x, own = images(1, 32, 50, 50), {**w, "to_qkv": w["to_qkv"] * scale}
        exact = as_module(own, 4, 32)(x.double())
        y = attention_layer(x, **own, heads=4, eps=EPS_OF_FLOAT64)
        torch.testing.assert_close(y.double(), exact.detach(), rtol=0, atol=1e-5 * max(1.0, scale))
        assert y.isfinite().all()


def test_the_same_bits_whatever_the_threads() -> None:
    x, w = images(2, 64, 70, 65), weights(64)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attention_layer(x, **w, heads=4))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_no_pixels_and_the_reference() -> None:
    w = weights(32)
    for shape in ((0, 32, 4, 4), (1, 32, 0, 4)):
        assert attention_layer(torch.zeros(shape), **w, heads=4).shape == shape
    x = images(2, 32, 9, 5)
    torch.testing.assert_close(
        attention_layer(x, **w, heads=4), attention_layer(x, **w, heads=4, impl="reference"), rtol=0, atol=1e-5
    )


def test_nan_reaches_its_image_alone() -> None:
    x, w = images(2, 32, 9, 5), weights(32)
    x[1, 3, 4, 4] = torch.nan
    y = attention_layer(x, **w, heads=4)
    assert y[0].isfinite().all() and y[1].isnan().all()


def test_opcheck_and_one_graph() -> None:
    w = weights(32)
    packed = pack_attention_layer(w["norm_g"], w["to_qkv"], w["to_out"], 4)
    for dtype in (F32, BF16):
        for layout in ("contiguous", "channels_last"):
            x = LAYOUTS[layout](images(2, 32, 6, 7).to(dtype))
            torch.library.opcheck(torch.ops.rddm_fast.attention_layer.default, (x, *w.values(), 4, 1e-5, packed))
            compiled = torch.compile(
                lambda x: attention_layer(x, **w, heads=4, packed=packed) + 1, fullgraph=True, backend="eager"
            )
            assert torch.equal(compiled(x), attention_layer(x, **w, heads=4, packed=packed) + 1)


W = weights(16)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=torch.zeros(1, 16, 4, 4, dtype=F64)), TypeError, "x is torch.float64: convert it to float32, bf"),
    "channels": (dict(x=torch.zeros(1, 8, 4, 4)), ValueError, r"x must be images \(B, 16, H, W\)"),
    "heads": (dict(heads=3), ValueError, r"to_out of shape \(16, 128\) does not divide into 3 heads"),
    "to_qkv": (dict(to_qkv=W["to_qkv"][:9]), ValueError, r"to_qkv must have shape \(384, 16\)"),
    "half weights": (dict(to_out=W["to_out"].half()), TypeError, "to_out is torch.float16: the weights must be"),
    "bias": (dict(bias=W["bias"][:3]), ValueError, r"bias must be float32 of shape \(16,\)"),
    "device": (dict(g=W["g"].to("meta")), ValueError, "g is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "gradient": (dict(x=torch.zeros(1, 16, 4, 4).requires_grad_()), RuntimeError, "attention_layer has no gradient"),
    "packed": (dict(packed=torch.zeros(99)), RuntimeError, "packed must come from pack_attention_layer"),
    "float16": (dict(x=torch.zeros(1, 16, 4, 4).half()), TypeError, "x is torch.float16: convert it to torch.flo"),
    "vectors": (
        dict(x=torch.zeros(1, 6, 2, 2), **weights(6)), ValueError,
        "by 'cpp' takes channels that divide by 4 and features that divide by 8, not 6 and 4 x 32",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        attention_layer(**{**dict(x=torch.zeros(1, 16, 4, 4), **W, heads=4), **change})


def test_mistakes_in_packing_are_named() -> None:
    w = [weights(16)[name] for name in ("norm_g", "to_qkv", "to_out")]
    with pytest.raises(TypeError, match=r"dtype is torch\.float32: on a GPU attention_layer computes in bfloat16 and"):
        pack_attention_layer(*w, 4, dtype=F32)
    with pytest.raises(ValueError, match=r"takes channels that divide by 8, and heads and features that"):
        pack_attention_layer(*[weights(20)[name] for name in ("norm_g", "to_qkv", "to_out")], 4, dtype=BF16)
    with pytest.raises(ValueError, match=r"not 16 and 8 x 64"):
        pack_attention_layer(w[0], torch.zeros(3 * 512, 16), torch.zeros(16, 512), 8, dtype=BF16)
