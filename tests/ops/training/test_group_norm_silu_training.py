"""group_norm_silu_training and its gradients against the reference U-Net's modules in float64."""

from __future__ import annotations

import pytest
import torch
from cases.group_norm_silu_training import arguments, assert_right, by_torch, ours, with_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import LAYOUTS

from rddm_fast.ops.backends import build_info

compiled = pytest.mark.skipif(build_info is None, reason="the library is not compiled")


@compiled
@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 3), st.integers(1, 8), st.integers(1, 9), st.integers(1, 20), st.integers(2, 20), st.booleans(),
    st.sampled_from(list(LAYOUTS)),
)  # fmt: skip
def test_any_shape(b: int, groups: int, of_group: int, h: int, w: int, table: bool, layout: str) -> None:
    given = arguments(b, groups, of_group, h, w, table=table)
    assert_right(with_gradients(ours("cpp"), given, groups, LAYOUTS[layout]), given, groups)


@compiled
def test_several_pieces_and_values_far_from_zero() -> None:
    given = arguments(2, 8, 8, 40, 37, mean=30.0)
    assert_right(with_gradients(ours(None), given, 8), given, 8)


def test_the_reference_is_the_modules() -> None:
    for table in (False, True):
        given = [None if t is None else t.double() for t in arguments(2, 3, 4, 5, 7, table=table)]
        for own, truth in zip(
            with_gradients(ours("reference"), given, 3), with_gradients(by_torch, given, 3), strict=True
        ):
            torch.testing.assert_close(own, truth, rtol=1e-9, atol=1e-10)


def test_the_gradient_is_that_of_finite_differences() -> None:
    leaves = [t.double().requires_grad_() for t in arguments(2, 2, 2, 2, 3)]
    assert torch.autograd.gradcheck(lambda *args: ours(None)(*args, 2), leaves)


@compiled
def test_the_same_bits_whatever_the_threads() -> None:
    given, before, results = arguments(3, 8, 4, 50, 40), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(ours("cpp"), given, 8))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for result in results for a, b in zip(result, results[0], strict=True))


@compiled
def test_opcheck_and_no_images() -> None:
    x, weight, bias, table = arguments(2, 2, 4, 5, 6)
    for last in (table, None):
        run, back = torch.ops.rddm_fast.group_norm_silu_training, torch.ops.rddm_fast.group_norm_silu_backward
        torch.library.opcheck(run.default, (x, weight, bias, 2, 1e-5, last))
        _, statistics = run(x, weight, bias, 2, 1e-5, last)
        torch.library.opcheck(back.default, (x.sin(), x, weight, bias, 2, last, statistics))
    for impl in ("cpp", "reference"):
        y, x_grad, *gradients = with_gradients(ours(impl), arguments(0, 2, 4, 5, 6), 2)
        assert y.shape == x_grad.shape == (0, 8, 5, 6) and not any(gradient.any() for gradient in gradients)


@compiled
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_not_lost(value: float) -> None:
    given = arguments(2, 2, 4, 5, 6)
    given[0][1, 2, 3, 4] = value
    y, x_grad, weight_grad, *_ = with_gradients(ours("cpp"), given, 2)
    assert y[1, :4].isnan().all() and x_grad[1, :4].isnan().all() and weight_grad[:4].isnan().all()
    assert y[0].isfinite().all() and x_grad[0].isfinite().all()


def test_mistakes_are_told() -> None:
    x, weight, bias, table = arguments(2, 2, 4, 5, 6)
    for args, message in [
        ((x[0], weight, bias, table), r"x must be images \(B, C, H, W\)"),
        ((x, weight[:-1], bias, table), r"weight must be contiguous float32 of shape \(8,\)"),
        ((x, weight, bias, table[:1]), r"scale_shift must have shape \(2, 16\), not \(1, 16\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            ours(None)(*args, 2)
    with pytest.raises(ValueError, match="does not divide into 3 groups"):
        ours(None)(x, weight, bias, table, 3)
    with pytest.raises(TypeError, match=r"bias is torch\.float64 and x is torch\.float32: convert bias to that"):
        ours(None)(x, weight, bias.double(), table, 2)
    with pytest.raises(TypeError, match="by 'cpp' computes in float32"):
        ours("cpp")(x.double(), weight.double(), bias.double(), table.double(), 2)
