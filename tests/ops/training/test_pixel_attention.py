"""pixel_attention and its gradients against the reference U-Net's module in float64, and finite differences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rddm_fast.diffusion.unet import LinearAttention
from rddm_fast.ops import BackendUnavailable, pixel_attention
from rddm_fast.ops.backends import build_info
from rddm_fast.ops.training import pixel_attention as op

compiled = pytest.mark.skipif(build_info is None, reason="the library is not compiled")


@pytest.fixture(autouse=True, scope="module")
def two_threads() -> Iterator[None]:
    """The module's own rounding, by which the op's is judged, depends on torch's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def arguments(
    b: int, pixels: int, channels: int, heads: int, features: int, sharpness: float = 1.0
) -> tuple[list[Tensor], tuple[int, float]]:
    generator = torch.Generator().manual_seed(b * pixels + channels)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    inner = heads * features
    to_qkv = normal(3 * inner, channels) * (sharpness / channels**0.5)
    given = [normal(b, pixels, channels), to_qkv, normal(channels, inner) / inner**0.5, normal(channels)]
    return given, (heads, features**-0.5)


def by_module(x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float) -> Tensor:
    """The published module without its last norm, which the op leaves out."""
    attention = LinearAttention(x.shape[-1], heads=heads, dim_head=to_out.shape[1] // heads).to(x.dtype)
    assert attention.scale == scale
    to_out_conv, _ = attention.to_out
    attention.to_out = to_out_conv
    state = {"to_qkv.weight": to_qkv[..., None, None], "to_out.weight": to_out[..., None, None], "to_out.bias": bias}
    images = x.transpose(1, 2)[..., None]  # (B, C, pixels, 1)
    out = torch.func.functional_call(attention, state, (images,))
    return out[..., 0].transpose(1, 2)


def with_gradients(call: Any, given: list[Tensor], *more: Any) -> list[Tensor]:
    leaves = [tensor.detach().clone().requires_grad_() for tensor in given]
    out = call(*leaves, *more)
    slope = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view(out.shape)
    (out * slope.roll(7)).sum().backward()
    return [out.detach(), *(leaf.grad for leaf in leaves)]


def assert_as_accurate(found: list[Tensor], given: list[Tensor], more: tuple[int, float]) -> None:
    """Each result is off by at most four times what the module's own float32 is, or 25 units of rounding.

    Those are of weights of 20 times the published size, whose softmax has gradients that nearly cancel.
    """
    exact = with_gradients(by_module, [tensor.double() for tensor in given], *more)
    single = with_gradients(by_module, given, *more)
    for own, theirs, truth in zip(found, single, exact, strict=True):
        assert own.shape == truth.shape
        floor = 3e-6 * truth.abs().max()
        assert (own - truth).abs().max() <= 4 * (theirs - truth).abs().max() + floor


@compiled
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 70), st.integers(1, 12), st.integers(1, 5), st.sampled_from([8, 16, 24, 32, 64]),
    st.sampled_from([0.1, 1.0, 20.0]),
)  # fmt: skip
def test_any_shape_has_the_module_s_gradients(
    b: int, pixels: int, quarters: int, heads: int, features: int, sharpness: float
) -> None:
    given, more = arguments(b, pixels, 4 * quarters, heads, features, sharpness)
    found = with_gradients(lambda *args: pixel_attention(*args, impl="cpp"), given, *more)
    assert_as_accurate(found, given, more)


@compiled
@pytest.mark.parametrize("channels, pixels", [(32, 5000), (64, 1025), (256, 64)])
def test_the_networks_own_shapes(channels: int, pixels: int) -> None:
    """More pixels than a share of the work takes, and the widest stage."""
    given, more = arguments(2, pixels, channels, 4, 32)
    found = with_gradients(lambda *args: pixel_attention(*args, impl="cpp"), given, *more)
    assert_as_accurate(found, given, more)


@pytest.mark.parametrize("at_once", [1, 70, 10_000])
def test_the_reference_is_the_module_however_many_images_it_takes(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(op, "PIXELS_AT_ONCE", at_once)
    given, more = arguments(5, 30, 6, 2, 5)
    given = [tensor.double() for tensor in given]
    found = with_gradients(lambda *args: pixel_attention(*args, impl="reference"), given, *more)
    for own, truth in zip(found, with_gradients(by_module, given, *more), strict=True):
        torch.testing.assert_close(own, truth, rtol=1e-10, atol=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    given, more = arguments(3, 6, 5, 2, 4)
    leaves = [tensor.double().requires_grad_() for tensor in given]
    assert torch.autograd.gradcheck(lambda *args: pixel_attention(*args, *more), leaves)


@compiled
def test_the_same_bits_whatever_the_threads() -> None:
    given, more = arguments(3, 3000, 32, 4, 32)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(pixel_attention, given, *more))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


@compiled
def test_only_gradients_that_are_asked_for_and_any_layout() -> None:
    given, more = arguments(2, 40, 16, 2, 16)
    x, to_qkv, to_out, bias = given
    x = x.transpose(0, 1).contiguous().transpose(0, 1)  # another layout
    to_out = to_out.t().contiguous().t().requires_grad_()
    out = pixel_attention(x, to_qkv, to_out, bias, *more)
    out.transpose(0, 1).contiguous().square().sum().backward()
    wide = [tensor.detach().double() for tensor in given]
    wide[2].requires_grad_()
    by_module(*wide, *more).square().sum().backward()
    assert to_out.grad is not None and wide[2].grad is not None
    torch.testing.assert_close(to_out.grad.double(), wide[2].grad, rtol=1e-4, atol=1e-4)


def test_nothing_to_attend_to() -> None:
    for shape in ((0, 5), (2, 0)):
        given, more = arguments(*shape, 16, 2, 16)
        out, *gradients = with_gradients(pixel_attention, given, *more)
        assert out.shape == (*shape, 16) and all(not gradient.any() for gradient in gradients)


@compiled
def test_opcheck() -> None:
    given, more = arguments(2, 20, 16, 2, 16)
    torch.library.opcheck(torch.ops.rddm_fast.pixel_attention.default, (*given, *more))
    _, keys, context = torch.ops.rddm_fast.pixel_attention(*given, *more)
    arguments_back = (torch.randn_like(given[0]), *given[:3], keys, context, *more)
    torch.library.opcheck(torch.ops.rddm_fast.pixel_attention_backward.default, arguments_back)


def test_mistakes_are_told() -> None:
    (x, to_qkv, to_out, bias), more = arguments(2, 20, 16, 2, 16)
    for wrong, message in [
        ((x[0], to_qkv, to_out, bias), r"must be pixels \(B, pixels, C\)"),
        ((x, to_qkv[:-1], to_out, bias), r"to_qkv must have shape \(96, 16\)"),
        ((x, to_qkv, to_out, bias[:-1]), r"bias \(16,\)"),
        ((x, to_qkv, to_out[:, :-1], bias), "divide into 2 heads"),
    ]:
        with pytest.raises(ValueError, match=message):
            pixel_attention(*wrong, *more)
    with pytest.raises(TypeError, match=r"bias is torch\.float64 and x is torch\.float32: convert bias to that"):
        pixel_attention(x, to_qkv, to_out, bias.double(), *more)
    given, more = arguments(1, 4, 6, 2, 5)
    with pytest.raises(ValueError, match="channels that divide by 4 and features that divide by 8"):
        pixel_attention(*given, *more, impl="cpp")
    with pytest.raises(BackendUnavailable):
        pixel_attention(x, to_qkv, to_out, bias, 2, 0.25, impl="triton")
