"""walsh_hadamard against matrices in float64 and the published operators: values, layouts, gradients, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.inverse.walsh_hadamard import by_matrices, case_of, few, image, sylvester
from golden import Golden, golden_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_DTYPES, F32, F64, LAYOUTS, check

from rddm_fast.ops import BackendUnavailable, backends, walsh_hadamard

IMPLS = ["cpp", "reference"]
GOLDEN = [c for c in golden_cases("operator", "inverse") if c.values[0].case["operator"] == "cs_walshhadamard"]
SIZES = [(1, 1), (1, 2), (8, 1), (4, 2), (2, 64), (16, 16), (1, 512), (32, 32), (64, 64), (64, 128), (512, 128)]
"""Images of less than a tile of 256, of one, of several, of one chunk of 4096, and of 2 and 16."""


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", ALL_DTYPES, ids=str)
def test_it_is_the_product_with_sylvester_s_matrices(dtype: torch.dtype, impl: str) -> None:
    for height, width in SIZES:
        # Each stage rounds once; the reference, which `check` compares with, rounds as often.
        stages = (height * width).bit_length()
        for lead in ((), (5,), (2, 3), (0, 3)):
            x = image((*lead, height, width), dtype)
            if x.numel():
                check(case_of(x), impl, relative=stages * torch.finfo(F64 if dtype == F64 else F32).eps)
            assert walsh_hadamard(x, impl=impl).shape == x.shape


def test_the_order_is_sylvester_s() -> None:
    """Row k of H is the product of the signs by the bits that k shares with a column."""
    found = walsh_hadamard(torch.eye(8, dtype=F64).view(8, 1, 8)).view(8, 8) * 8**0.5
    signs = [[(-1.0) ** (k & i).bit_count() for i in range(8)] for k in range(8)]
    torch.testing.assert_close(found, torch.tensor(signs, dtype=F64), rtol=0, atol=1e-15)
    assert sylvester(8).tolist() == signs


@pytest.mark.parametrize("golden", GOLDEN)
def test_it_is_the_published_operator_s_transform(golden: Golden) -> None:
    x, perm, expected = (golden.tensors[name] for name in ("x", "perm", "H_x"))
    for impl in IMPLS:
        z = walsh_hadamard(x, impl=impl).flatten(2)[:, :, perm[: expected.shape[1] // x.shape[1]]]
        torch.testing.assert_close(z.mT.flatten(1), expected, rtol=0, atol=1e-5)  # channels innermost


def test_the_published_operator_is_in_the_repository() -> None:
    assert "operator_cs_walshhadamard" in {c.id for c in GOLDEN}


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.integers(1, 4), max_size=3),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from(ALL_DTYPES),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 99),
)
def test_any_shape(lead: list[int], h: int, w: int, dtype: torch.dtype, layout: str, seed: int) -> None:
    layout = layout if len(lead) == 2 else "sliced"
    x = image((*lead, 1 << h, 1 << w), dtype, layout, seed)
    check(case_of(x), None, relative=(h + w) * torch.finfo(F64 if dtype == F64 else F32).eps)
    assert walsh_hadamard(x).is_contiguous()


@pytest.mark.parametrize("size", SIZES)
def test_it_is_its_own_inverse_and_keeps_the_energy(size: tuple[int, int]) -> None:
    x = image((2, 3, *size), F64)
    z = walsh_hadamard(x)
    torch.testing.assert_close(walsh_hadamard(z), x, rtol=0, atol=1e-14)
    assert z.square().sum().item() == pytest.approx(x.square().sum().item(), rel=1e-14)
    assert z[0, 0, 0, 0].item() == pytest.approx(x[0, 0].sum().item() / (size[0] * size[1]) ** 0.5, abs=1e-13)


def test_cpp_has_the_reference_s_bits() -> None:
    """The stages come in one order, so no sum is rounded otherwise."""
    for size in (*SIZES, (1024, 256)):
        for dtype in ALL_DTYPES:
            x = image((3, *size), dtype)
            assert torch.equal(walsh_hadamard(x, impl="cpp"), walsh_hadamard(x, impl="reference")), (size, dtype)


def test_the_same_bits_whatever_the_threads() -> None:
    x, before, results = image((3, 256, 128), F32), torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(walsh_hadamard(x))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


def test_sums_beyond_float16_s_range_are_not_lost() -> None:
    x = torch.full((1, 128, 128), 500.0, dtype=torch.float16)  # a sum of 8192000, and a result of 64000
    for impl in IMPLS:
        z = walsh_hadamard(x, impl=impl)
        assert z[0, 0, 0] == 64000 and z.count_nonzero() == 1


def test_cpp_passes_the_interpreter_s_grid() -> None:
    for case in few("interpreted"):
        check(case, "cpp", relative=1e-6, subnormal=True)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_and_infinity_reach_their_image_alone(impl: str) -> None:
    for bad in (torch.nan, torch.inf):
        for size in ((2, 4), (128, 64)):
            x = image((3, *size), F32)
            x[1, 1, 3] = bad
            z = walsh_hadamard(x, impl=impl)
            assert not z[1].isfinite().any() and z[0].isfinite().all() and z[2].isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_it_can_be_differentiated(impl: str) -> None:
    def of(x: torch.Tensor) -> torch.Tensor:
        return walsh_hadamard(x, impl=impl)

    x = image((2, 4, 8), F64).requires_grad_()
    assert torch.autograd.gradcheck(of, x) and torch.autograd.gradgradcheck(of, x)
    weights = image((2, 4, 8), F64, seed=1)
    (of(x) * weights).sum().backward()
    torch.testing.assert_close(x.grad, by_matrices(weights), rtol=0, atol=1e-14)


def test_opcheck_and_one_graph() -> None:
    for layout in LAYOUTS:
        torch.library.opcheck(torch.ops.rddm_fast.walsh_hadamard.default, (image((2, 3, 4, 8), F32, layout),))
    torch._dynamo.reset()
    x = image((2, 3, 4, 8), F32, "channels_last").requires_grad_()
    got, expected = (run(x) for run in (torch.compile(_plus_one, fullgraph=True, backend="aot_eager"), _plus_one))
    assert torch.equal(got, expected) and got.stride() == expected.stride()
    ours, plain = (torch.autograd.grad(y.square().sum(), x)[0] for y in (got, expected))
    torch.testing.assert_close(ours, plain)


def _plus_one(x: torch.Tensor) -> torch.Tensor:
    return walsh_hadamard(x) + 1


X = torch.zeros(2, 3, 8, 4)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.long()), TypeError, "x is torch.int64: convert it to float32"),
    "dimensions": (dict(x=X[0, 0, 0]), ValueError, r"x must be images \(..., H, W\), not of shape \(4,\)"),
    "height": (dict(x=X[:, :, :6]), ValueError, "x is of 6 × 4 pixels, .* that are powers of 2: crop or pad it"),
    "width": (dict(x=X[..., :3]), ValueError, "x is of 8 × 3 pixels"),
    "no pixels": (dict(x=X[..., :0]), ValueError, "x is of 8 × 0 pixels"),
    "triton": (dict(impl="triton"), BackendUnavailable, "triton: it runs on CPU tensors only in its interpreter"),
    "cuda": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "unknown": (dict(impl="fastest"), ValueError, "unknown backend 'fastest'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        walsh_hadamard(**{**dict(x=X), **change})


def test_the_compiled_op_refuses_what_the_function_does() -> None:
    if backends.build_info is None:
        pytest.skip("the library is not compiled")
    with pytest.raises(RuntimeError, match="walsh_hadamard: x must have a height and a width"):
        torch.ops.rddm_fast.walsh_hadamard(X[:, :, :6])
