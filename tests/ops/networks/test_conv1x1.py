"""conv1x1 against torch's convolution in float64: vectors of every length, one part or two, layouts, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import F32, LAYOUTS
from torch import Tensor

from rddm_fast.ops import BackendUnavailable, conv1x1, pack_conv1x1
from rddm_fast.ops.networks.conv3x3 import instruction_sets

WIDTHS = [{"baseline": 4, "avx2": 8, "avx512": 16}[name] for name in instruction_sets()]


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def assert_right(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    exact = torch.einsum("kc,bchw->bkhw", weight.double(), x.double())
    exact = exact if bias is None else exact + bias.double()[:, None, None]
    assert y.shape == exact.shape and y.dtype == F32 and y.is_contiguous(memory_format=torch.channels_last)
    if y.numel():
        # A sum of C products of order 1 / sqrt(C), 5 deviations from its mean.
        assert (y - exact).abs().max() <= 5 * torch.finfo(F32).eps * (2 + exact.abs().max())


@settings(max_examples=120, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 12), st.integers(0, 6), st.integers(1, 12), st.integers(1, 30),
    st.integers(1, 30), st.sampled_from([0, *WIDTHS]), st.sampled_from(list(LAYOUTS)), st.booleans(),
)  # fmt: skip
def test_any_shape_in_one_part_or_two(
    b: int, c: int, c_2: int, k: int, h: int, w: int, width: int, layout: str, biased: bool
) -> None:
    unit = width or 4
    x, weight = images(b, unit * (c + c_2), h, w), images(unit * k, unit * (c + c_2), seed=1)
    weight, bias = weight / weight.shape[1] ** 0.5, images(unit * k, seed=2) if biased else None
    first, second = LAYOUTS[layout](x[:, : unit * c]), x[:, unit * c :] if c_2 else None
    packed = pack_conv1x1(weight, unit * c, width=width)
    assert_right(conv1x1(first, weight, bias, x_2=second, packed=packed), x, weight, bias)


def test_the_same_bits_whatever_the_threads() -> None:
    x, weight = images(2, 64, 70, 65), images(32, 64, seed=1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(conv1x1(x, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_no_images_and_the_reference() -> None:
    weight = images(8, 12)
    for shape in ((0, 12, 4, 4), (1, 12, 0, 4)):
        assert conv1x1(torch.zeros(shape), weight).shape == (shape[0], 8, *shape[2:])
    x, bias = images(2, 12, 5, 6), images(8, seed=3)
    torch.testing.assert_close(conv1x1(x, weight, bias), conv1x1(x, weight, bias, impl="reference"))


def test_opcheck_and_one_graph() -> None:
    weight, bias, x_2 = images(8, 20), images(8, seed=1), images(2, 8, 6, 7, seed=2)
    packed = pack_conv1x1(weight, 12)
    for layout in ("contiguous", "channels_last", "sliced"):
        x = LAYOUTS[layout](images(2, 12, 6, 7))
        torch.library.opcheck(torch.ops.rddm_fast.conv1x1.default, (x, x_2, weight, packed, bias))
        compiled = torch.compile(
            lambda x: conv1x1(x, weight, bias, x_2=x_2, packed=packed) + 1, fullgraph=True, backend="eager"
        )
        assert torch.equal(compiled(x), conv1x1(x, weight, bias, x_2=x_2, packed=packed) + 1)


X, W = torch.zeros(2, 8, 4, 4), torch.zeros(4, 8)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.half()), TypeError, "x is torch.float16: conv1x1 computes in float32"),
    "dimensions": (dict(x=X[0]), ValueError, r"x must be images \(B, C, H, W\), not of shape \(8, 4, 4\)"),
    "weight": (dict(weight=W[None]), ValueError, r"weight must be of shape \(K, C\), not \(1, 4, 8\)"),
    "channels": (dict(x=X[:, :5]), ValueError, "takes 8 channels, and x has 5"),
    "bias": (dict(bias=torch.zeros(3)), ValueError, r"bias must have shape \(4,\), not \(3,\)"),
    "second part": (dict(x_2=X[:, :, :3]), ValueError, "only the channels may differ"),
    "device": (dict(weight=W.to("meta")), ValueError, "weight is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "gradient": (dict(x=X.clone().requires_grad_()), RuntimeError, "conv1x1 has no gradient"),
    "packed": (dict(packed=pack_conv1x1(torch.zeros(4, 4))), RuntimeError, "packed must come from pack_conv1x1"),
    "vectors": (dict(weight=torch.zeros(3, 8)), ValueError, "does not divide into vectors of 4"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        conv1x1(**{**dict(x=X, weight=W), **change})
