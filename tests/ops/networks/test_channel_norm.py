"""channel_norm against torch's layer norm in float64: values, layouts, dtypes, statistics, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.network_ops import channel_norm_case, exact_channel_norm, few_channel_norms, pixels
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, F32, LAYOUTS, check

from rddm_fast.diffusion.unet import ChannelNorm
from rddm_fast.fast.folded.attention import LastAxisNorm
from rddm_fast.ops import BackendUnavailable, channel_norm


def assert_as_exact_as_torch(x: torch.Tensor, g: torch.Tensor, impl: str | None) -> None:
    rounding = 4 * torch.finfo(F32).eps
    lost = 0.0
    if (
        x.numel()
    ):  # A value and the mean may each be multiplied before they are subtracted: a small variance loses by it.
        factor = (x.double().var(1, unbiased=False) + 1e-5).rsqrt() * x.double().abs().amax(1)
        lost = 2 * torch.finfo(F32).eps * factor.max() * g.abs().max()
    check(channel_norm_case(x, g), impl, relative=rounding, absolute=lost)


@pytest.mark.parametrize("impl", [None, "torch"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_the_layer_norm_of_each_pixel(dtype: torch.dtype, layout: str, impl: str | None) -> None:
    shapes = [(1, 64, 64, 64), (2, 24, 7, 5), (3, 8, 1, 1), (1, 1, 3, 4), (2, 512, 1, 9), (0, 8, 4, 4), (2, 8, 0, 4)]
    for shape in shapes:
        x, g = pixels(shape, dtype, layout)
        assert_as_exact_as_torch(x, g, impl)
        assert_as_exact_as_torch(x, g.to(dtype), impl)  # the gain of a network in that dtype


def test_the_cpu_passes_the_interpreter_s_grid() -> None:
    for case in few_channel_norms("interpreted"):
        check(case, None, relative=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(DTYPES),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 99),
)
def test_any_shape(b: int, c: int, h: int, w: int, dtype: torch.dtype, layout: str, seed: int) -> None:
    assert_as_exact_as_torch(*pixels((b, c, h, w), dtype, layout, seed), impl=None)


def test_it_is_the_published_network_s_norm() -> None:
    torch.manual_seed(0)
    norm, x = ChannelNorm(24), torch.randn(2, 24, 9, 7)
    with torch.no_grad():
        norm.g.normal_()
    expected = norm(x).detach()
    for impl in (None, "reference", "torch"):
        torch.testing.assert_close(channel_norm(x, norm.g.detach().flatten(), impl=impl), expected)
    folded = LastAxisNorm(norm)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(folded, expected)
    assert folded.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("impl", ["reference", "torch"])
def test_a_mean_far_from_zero_does_not_spoil_the_variance(impl: str, layout: str) -> None:
    """The mean of the squares less the square of the mean would lose every digit here."""
    x, g = pixels((1, 64, 16, 16), F32, layout, seed=1)
    x = x + 1e4
    # What float32 leaves of a value at 1e4 is 5e-4 of its distance from the mean.
    assert (channel_norm(x, g, impl=impl).double() - exact_channel_norm(x, g)).abs().max() < 5e-3


def test_the_epsilon_is_the_caller_s() -> None:
    x, g = torch.tensor([1.0, -1.0]).view(1, 2, 1, 1), torch.ones(2)  # of variance 1
    for impl in ("reference", "torch"):
        assert channel_norm(x, g, 3.0, impl=impl).flatten().tolist() == pytest.approx([0.5, -0.5])


@pytest.mark.parametrize("impl", ["reference", "torch"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_and_infinity_reach_their_pixel_alone(layout: str, impl: str) -> None:
    for bad in (torch.nan, torch.inf, -torch.inf):
        x, g = pixels((2, 8, 5, 7), F32, layout)
        x[1, 2, 3, 4] = bad
        y = channel_norm(x, g, impl=impl)
        assert y[1, :, 3, 4].isnan().all() and y.isnan().sum() == 8 and not y.isinf().any()


@pytest.mark.parametrize("impl", ["reference", "torch", None])
def test_torch_s_own_are_differentiable(impl: str | None) -> None:
    x, g = pixels((2, 6, 3, 4), F32, "contiguous")
    x.requires_grad_(), g.requires_grad_()
    channel_norm(x, g, impl=impl).square().sum().backward()
    wide = [v.detach().double().requires_grad_() for v in (x, g)]
    exact_channel_norm(*wide).square().sum().backward()
    for ours, exact in zip((x, g), wide, strict=True):
        torch.testing.assert_close(ours.grad.double(), exact.grad, rtol=1e-4, atol=1e-5)


def test_opcheck_and_one_graph() -> None:
    for layout in LAYOUTS:
        x, g = pixels((2, 8, 4, 5), F32, layout)
        torch.library.opcheck(torch.ops.rddm_fast.channel_norm.default, (x, g, 1e-5))
        for call in (channel_norm, torch.ops.rddm_fast.channel_norm.default):
            torch._dynamo.reset()
            compiled = torch.compile(lambda x, g=g, f=call: f(x, g, 1e-5) + 1, fullgraph=True, backend="eager")
            got, expected = compiled(x), channel_norm(x, g) + 1
            assert torch.equal(got, expected) and got.stride() == expected.stride()


X, G = torch.zeros(2, 8, 4, 4), torch.zeros(8)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.double()), TypeError, "x is torch.float64: convert it"),
    "dimensions": (dict(x=X[0]), ValueError, r"x must be images \(B, C, H, W\), not of shape \(8, 4, 4\)"),
    "channels": (dict(g=G[:4]), ValueError, r"g must be contiguous torch.float32 of shape \(8,\), not .* of \(4,\)"),
    "gain": (dict(x=X.half(), g=G.bfloat16()), ValueError, "g must be contiguous torch.float32 or torch.float16 of"),
    "device": (dict(g=G.to("meta")), ValueError, "g is on meta and x on cpu"),
    "triton": (dict(impl="triton"), BackendUnavailable, "triton: it runs on CPU tensors only in its interpreter"),
    "cpp": (dict(impl="cpp"), BackendUnavailable, "cpp: this op has no such kernel"),
    "cuda": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "unknown": (dict(impl="fastest"), ValueError, "unknown backend 'fastest'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        channel_norm(**{**dict(x=X, g=G), **change})
