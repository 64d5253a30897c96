"""group_norm_silu against torch's group norm, in float64: values, layouts, dtypes, statistics, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases.network_ops import cancellation, exact_group_norm, few_group_norms, group_norm_call, group_norm_case
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, F32, LAYOUTS, check

from rddm_fast.ops import BackendUnavailable, group_norm_silu


def assert_as_exact_as_torch(call: dict[str, Any]) -> None:
    # For values of order 1 to 10, and the exponential's two units in the last place.
    check(group_norm_case(call), "cpp", relative=4 * torch.finfo(F32).eps, absolute=cancellation(call))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_group_norm_scale_shift_and_silu(dtype: torch.dtype, layout: str) -> None:
    shapes = [((1, 64, 64, 64), 8), ((2, 24, 7, 5), 8), ((3, 8, 1, 1), 2), ((2, 5, 33, 31), 1), ((1, 6, 90, 95), 6)]
    for shape, groups in [*shapes, ((0, 8, 4, 4), 8), ((2, 8, 0, 4), 8)]:
        for rows, residual in ((1, True), (shape[0], False), (None, True), (None, False)):
            call = group_norm_call(shape, dtype, groups, rows, residual, layout=layout, biased=rows == 1)
            assert_as_exact_as_torch(call)


def test_cpp_passes_the_interpreter_s_grid() -> None:
    for case in few_group_norms("interpreted"):
        check(case, "cpp", relative=1e-6, absolute=case.cancellation)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 8),
    st.integers(1, 12),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from(DTYPES),
    st.sampled_from(list(LAYOUTS)),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 99),
)
def test_any_shape(
    b: int, groups: int, width: int, h: int, w: int, dtype: torch.dtype, layout: str, other: str, seed: int
) -> None:
    call = group_norm_call((b, groups * width, h, w), dtype, groups, seed=seed, biased=seed % 2 == 0)
    call["x"], call["residual"] = LAYOUTS[layout](call["x"]), LAYOUTS[other](call["residual"])
    assert_as_exact_as_torch(call)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_mean_far_from_zero_does_not_spoil_the_variance(layout: str) -> None:
    """The mean of the squares less the square of the mean would lose every digit here."""
    call = group_norm_call((1, 16, 128, 128), F32, 8, rows=None, residual=False)
    call["x"] = LAYOUTS[layout](torch.randn(1, 16, 128, 128, generator=torch.Generator().manual_seed(1)) + 1e4)
    exact, ours = exact_group_norm(call), group_norm_silu(**call, impl="cpp")
    # What float32 leaves of a value at 1e4 is 5e-4 of its distance from the mean.
    assert (ours.double() - exact).abs().max() < 5e-3


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_the_same_bits_whatever_the_threads(layout: str) -> None:
    call = group_norm_call((2, 32, 63, 65), F32, 8)
    call["x"] = LAYOUTS[layout](call["x"])
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(group_norm_silu(**call))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_silu_over_all_of_float32() -> None:
    """A group norm that changes nothing but the scale lays any value before the activation."""
    values = torch.cat([torch.linspace(-100, 100, 4001), torch.logspace(-30, 38, 500), -torch.logspace(-30, 38, 500)])
    for value in values.split(1000):
        # x = +-1 has mean 0 and variance 1: y = weight x + bias = value at x = 1.
        x = torch.tensor([1.0, -1.0]).repeat_interleave(2).view(1, 1, 2, 2).expand(1, len(value), 2, 2).contiguous()
        y = group_norm_silu(x, value.contiguous(), torch.zeros(len(value)), len(value), eps=0.0)
        expected = F.silu(torch.stack([value, -value], 1).double()).float()
        torch.testing.assert_close(y[0, :, :, 0], expected, rtol=1e-6, atol=1e-36, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_nan_and_infinity_reach_their_group_alone(layout: str) -> None:
    for bad in (torch.nan, torch.inf):
        call = group_norm_call((2, 8, 5, 7), F32, 2, rows=None, residual=False)
        call["x"][1, 2, 3, 4] = bad
        call["x"] = LAYOUTS[layout](call["x"])
        ours, plain = (group_norm_silu(**call, impl=impl) for impl in ("cpp", "reference"))
        torch.testing.assert_close(ours, plain, equal_nan=True)
        assert ours[1, :4].isnan().all() and ours[0].isfinite().all() and ours[1, 4:].isfinite().all()


def test_opcheck_and_one_graph() -> None:
    op = torch.ops.rddm_fast.group_norm_silu.default
    for layout in ("contiguous", "channels_last", "sliced"):
        c = group_norm_call((2, 8, 4, 5), F32, 2)
        x = LAYOUTS[layout](c["x"])
        torch.library.opcheck(op, (x, c["weight"], c["weight"], c["bias"], 2, 1e-5, c["scale_shift"], c["residual"]))
        torch.library.opcheck(op, (x, None, c["weight"], c["bias"], 2, 1e-5, None, None))
        compiled = torch.compile(lambda x, c=c: group_norm_silu(**{**c, "x": x}) + 1, fullgraph=True, backend="eager")
        got, expected = compiled(x), group_norm_silu(**{**c, "x": x}) + 1
        assert torch.equal(got, expected) and got.stride() == expected.stride()


X, ROW = torch.zeros(2, 8, 4, 4), torch.zeros(8)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.double()), TypeError, "x is torch.float64: convert it"),
    "groups": (dict(groups=3), ValueError, r"x of shape \(2, 8, 4, 4\) does not divide into 3 groups"),
    "no groups": (dict(groups=0), ValueError, "does not divide into 0 groups"),
    "weight": (dict(weight=ROW[:4]), ValueError, r"weight must be contiguous float32 of shape \(8,\)"),
    "bias": (dict(bias=ROW.half()), ValueError, "bias must be contiguous float32"),
    "rows": (dict(scale_shift=torch.zeros(3, 16)), ValueError, r"scale_shift must be contiguous float32 of shape \(2,"),
    "residual": (dict(residual=X.half()), ValueError, "residual must be torch.float32 of x's shape"),
    "device": (dict(weight=ROW.to("meta")), ValueError, "weight is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "gradient": (dict(x=X.clone().requires_grad_()), RuntimeError, "group_norm_silu has no gradient"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        group_norm_silu(**{**dict(x=X, weight=ROW, bias=ROW, groups=2), **change})
