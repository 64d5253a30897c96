"""spectral_step_: the three cases of DDRM's paper, on the backends that a machine without a GPU has."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from cases import SLOW
from cases.inverse.spectral_step import ROWS, STEPS, arguments, case, few
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_DTYPES, F32, F64, LAYOUTS, check
from torch._subclasses.fake_tensor import FakeTensorMode

from rddm_fast.ops import BackendUnavailable, noise, spectral_step_
from rddm_fast.ops.inverse.spectral_step import spectral_numbers

SHAPES = [(2, 35), (3, 4800), (1, 1), (2, 0), (0, 6), (1, 2049)]


@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
@pytest.mark.parametrize("step", STEPS)
def test_it_is_the_papers_step(step: str, dtype: torch.dtype) -> None:
    for shape, rows, (y_rows, layout) in itertools.product(
        SHAPES, ROWS, (("one", "contiguous"), ("each", "sliced"), ("each", "transposed"))
    ):
        call = {**arguments(shape, dtype, rows, y_rows, layout=layout), **STEPS[step]}
        for cleaned in (False, True):
            check(case(call, f"{shape} {rows} {y_rows} {layout}", cleaned=cleaned), None)


@pytest.mark.parametrize("backend", SLOW)
def test_the_cpu_passes_the_slow_backends_grids(backend: str) -> None:
    for one in few(backend):
        check(one, None, relative=1e-6 * one.sums)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(0, 5), st.integers(0, 3000)),
    dtype=st.deferred(lambda: st.sampled_from(ALL_DTYPES)),
    step=st.sampled_from(list(STEPS)),
    rows=st.sampled_from(ROWS),
    y_rows=st.sampled_from(("one", "each")),
    layout=st.sampled_from(list(LAYOUTS)),
    drawn=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_any_shape_and_mixture_of_rows(
    shape: tuple[int, int],
    dtype: torch.dtype,
    step: str,
    rows: str,
    y_rows: str,
    layout: str,
    drawn: bool,
    seed: int,
) -> None:
    call = {**arguments(shape, dtype, rows, y_rows, seed, layout), **STEPS[step]}
    check(case(call, drawn=drawn), None, relative=1e-6 * drawn)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
def test_at_the_threshold_strict_leaves_y_out(impl: str) -> None:
    """a_s = 1/2 makes sigma = sqrt(a_s), so s = sigma_y is the threshold itself; and at the last step 0 is."""
    y_bar = torch.full((1, 4), 7.0)
    for a_s, sigma_y in ((0.5, 0.25), (1.0, 0.0)):
        call: dict[str, Any] = dict(a_t=0.2, a_s=a_s, sigma_y=sigma_y, eta=0.0, noise=torch.zeros(1, 4), impl=impl)
        state, epsilon, s = torch.full((1, 4), 0.5), torch.full((1, 4), 2.0), torch.tensor([[0.25, 0.25, 0.5, 0.0]])
        paper, published = (
            spectral_step_(state.clone(), epsilon, y_bar, s, strict=strict, **call) for strict in (False, True)
        )
        of_y, unobserved = math.sqrt(a_s) * 7, paper[0, 3].item()
        assert paper.tolist()[0] == pytest.approx([of_y, of_y, of_y, unobserved])
        third = of_y if sigma_y else unobserved
        assert published.tolist()[0] == pytest.approx([unobserved, unobserved, third, unobserved])


def test_without_noise_the_last_step_is_y_and_x_0() -> None:
    """Exactly: what fits y at the end of a restoration does not depend on the prior."""
    call = arguments((2, 50), F32)
    clean = torch.empty_like(call["x"])
    spectral_step_(**call, a_t=0.9, a_s=1.0, sigma_y=0.0, eta=0.85, clean=clean)
    measured = (call["s"] > 0).expand_as(clean)
    assert measured.any() and not measured.all()
    assert torch.equal(call["x"][measured], call["y_bar"][measured])
    assert torch.equal(call["x"][~measured], clean[~measured])


def test_the_drawn_noise_is_the_seed_s() -> None:
    call = {**arguments((3, 1021), F32), **STEPS["DDRM"]}
    z = noise((3, 1021), 2**64 - 3, 17)
    expected = spectral_step_(**{**call, "x": call["x"].clone(), "noise": z})
    drawn, other = (
        spectral_step_(**{**call, "x": call["x"].clone(), "noise": None}, seed=2**64 - 3, stream=stream)
        for stream in (17, 18)
    )
    torch.testing.assert_close(drawn, expected, rtol=0, atol=1e-6)
    assert not torch.equal(drawn, other)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
def test_a_term_that_a_case_does_not_have_is_left_out(impl: str) -> None:
    """y_bar where nothing is observed; epsilon's term where y is; x_0 at eta_b = 1; all noise at the last step."""
    nan = torch.full((1, 3), math.nan)
    s = torch.tensor([[0.0, 1e-3, 10.0]])
    known: dict[str, Any] = dict(a_t=0.5, a_s=0.5, sigma_y=0.1, noise=torch.ones(1, 3), impl=impl)
    ones = torch.ones(1, 3)
    with_nan_in_y = spectral_step_(ones.clone(), ones, nan, s, eta=0.5, **known)
    assert with_nan_in_y.isnan().tolist() == [[False, True, True]]
    with_nan_in_x = spectral_step_(nan.clone(), ones, ones, s, eta=0.5, **known)
    assert with_nan_in_x.isnan().tolist() == [[True, True, False]]
    infinite_noise = {**known, "noise": torch.full((1, 3), math.inf)}
    assert spectral_step_(ones.clone(), ones, ones, s, eta=0.0, **infinite_noise).isinf().tolist() == [
        [False, False, True]
    ]
    assert spectral_step_(ones.clone(), ones, ones, s, eta=0.5, **{**infinite_noise, "a_s": 1.0}).isfinite().all()


def test_nan_and_infinity_stay_where_they_are() -> None:
    call = {**arguments((2, 60), F32), **STEPS["DDRM"]}
    call["x"][0, 0], call["epsilon"][1, 7], call["noise"][1, 59] = math.nan, math.inf, -math.inf
    results = [spectral_step_(**{**call, "x": call["x"].clone()}, impl=impl) for impl in ("cpp", "reference")]
    assert (~results[0].isfinite()).sum() == 3
    torch.testing.assert_close(*results, equal_nan=True)


def test_opcheck_and_one_graph() -> None:
    op = torch.ops.rddm_fast.spectral_step_.default
    numbers = spectral_numbers(0.3, 0.6, 0.4, 0.85, 1.0)
    for layout in ("contiguous", "sliced"):
        c = arguments((2, 20), F32, layout=layout)
        tensors = (c["epsilon"], c["y_bar"], c["s"])
        torch.library.opcheck(op, (c["x"].clone(), *tensors, c["noise"], None, 0, False, numbers, None))
        torch.library.opcheck(op, (c["x"].clone(), *tensors, None, 5, 1, True, numbers, torch.empty_like(c["x"])))
        with FakeTensorMode() as mode:
            fake = [mode.from_tensor(t) for t in (c["x"], *tensors)]
            assert op(*fake, None, 5, 1, False, numbers, None) is None and fake[0].stride() == (20, 1)

    def two_steps(call: dict[str, Any]) -> torch.Tensor:
        for stream in range(2):
            spectral_step_(**call, seed=4, stream=stream)
        return call["x"] * 2

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    results = []
    for function in (two_steps, compiled):
        call = {**arguments((2, 20), F32), **STEPS["DDNM+"], "noise": None}
        with torch.no_grad():
            results.append((function(call), call["x"]))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


X = torch.zeros(2, 6)
GOOD: dict[str, Any] = dict(epsilon=X, y_bar=X, s=torch.ones(1, 6), noise=X, **STEPS["DDRM"])


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"x": X.long()}, TypeError, "convert it to float32, bfloat16 or float16"),
        ({"x": torch.zeros(2, 3, 2)}, ValueError, r"spectral coordinates are \(B, N\)"),
        ({"x": torch.zeros(6, 2).mT}, ValueError, r"x has strides \(1, 2\): it is written in place"),
        ({"clean": torch.zeros(6, 2).mT}, ValueError, r"clean has strides \(1, 2\)"),
        ({"clean": torch.zeros(2, 5)}, ValueError, r"clean has shape \(2, 5\) and x has \(2, 6\)"),
        ({"epsilon": X.half()}, TypeError, "epsilon is torch.float16 and x is torch.float32"),
        ({"y_bar": torch.zeros(3, 6)}, ValueError, r"y_bar has shape \(3, 6\) beside an x of \(2, 6\): pass"),
        ({"y_bar": X.half()}, TypeError, "y_bar is torch.float16 and x is torch.float32: convert y_bar"),
        ({"y_bar": X.to("meta")}, ValueError, "y_bar is on meta and x on cpu"),
        ({"s": torch.ones(6)}, ValueError, r"s has shape \(6,\) beside an x of \(2, 6\): pass"),
        ({"s": torch.ones(1, 6).double()}, TypeError, "s is torch.float64 beside an x of torch.float32"),
        ({"a_t": 0.0}, ValueError, "a_t is 0.0: it must be above 0 and at most 1"),
        ({"a_s": 1.5}, ValueError, "a_s is 1.5: it must be above 0 and at most 1"),
        ({"sigma_y": -0.1}, ValueError, "sigma_y must be a standard deviation of 0 or more, not -0.1"),
        ({"sigma_y": math.nan}, ValueError, "sigma_y must be a standard deviation"),
        ({"eta": 1.1}, ValueError, "eta must be between 0 and 1, not 1.1"),
        ({"eta_b": -1.0}, ValueError, "eta_b must be between 0 and 1, not -1.0"),
        ({"noise": None}, ValueError, "this step adds noise: pass a seed, or a standard normal draw of x's shape"),
        ({"seed": 3}, ValueError, "noise and seed were both given"),
        ({"epsilon": X.clone().requires_grad_()}, RuntimeError, "spectral_step_ has no gradient: call it under"),
        ({"impl": "cuda"}, BackendUnavailable, "cuda: this op has no such kernel"),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        spectral_step_(**{"x": X.clone(), **GOOD, **change})


def test_the_op_itself_refuses_what_it_cannot_read() -> None:
    op = torch.ops.rddm_fast.spectral_step_.default
    good: dict[str, Any] = dict(
        x=X.clone(), epsilon=X, y_bar=X, s=torch.ones(1, 6), noise=None, seed=1, stream=0, strict=False,
        numbers=spectral_numbers(0.3, 0.6, 0.4, 0.85, 1.0), clean=None,
    )  # fmt: skip
    op(**good)
    for change, sentence in (
        (dict(x=X.T, epsilon=X.T, y_bar=X.T), "x must be contiguous"),
        (dict(epsilon=X[:, :5]), "epsilon must have the image's shape"),
        (dict(y_bar=X[:, :5]), r"y_bar must be \(B or 1, N\)"),
        (dict(s=torch.ones(1, 6, dtype=F64)), r"s must be \(B or 1, N or 1\), in float32"),
        (dict(noise=X), "pass noise or a seed, not both"),
        (dict(clean=X.half()), "clean has the wrong dtype"),
        (dict(numbers=[1.0]), "a step has 9 numbers, not 1"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            op(**{**good, **change})
