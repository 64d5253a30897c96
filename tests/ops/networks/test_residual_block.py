"""residual_block against torch's convolutions and norms in float64: shapes, parts, statistics, threads, mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import F32, LAYOUTS
from torch import Tensor, nn

from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast.fold import fold
from rddm_fast.fast.folded.blocks import FusedBlock
from rddm_fast.ops import BackendUnavailable, backends, pack_residual_block, residual_block
from rddm_fast.ops.networks.conv3x3 import tiles

needs_amx = pytest.mark.skipif(1 not in tiles(), reason="this machine has no AMX")


def values(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def arguments(c: int, k: int, groups: int, batch: int = 1, residual: bool = True) -> dict[str, Any]:
    """Weights with which images of order 1 give results of order 1."""
    return {
        "weight_1": values(k, c, 3, 3, seed=1) / (9 * c) ** 0.5,
        "weight_2": values(k, k, 3, 3, seed=2) / (9 * k) ** 0.5,
        "res_weight": values(k, c, 1, 1, seed=3) / c**0.5 if residual else None,
        "norm_1": (1 + values(k, seed=4) / 5, values(k, seed=5) / 5),
        "norm_2": (1 + values(k, seed=6) / 5, values(k, seed=7) / 5),
        "groups": groups,
        "biases": (values(k, seed=8), values(k, seed=9), values(k, seed=10) if residual else None),
        "scale_shift": values(batch, 2 * k, seed=11) / 3,
    }


def exact(x: Tensor, given: dict[str, Any], eps: float = 1e-5) -> Tensor:
    """The block in float64, by torch."""
    wide = {n: None if v is None else v.double() for n, v in given.items() if isinstance(v, Tensor) or v is None}
    b = [None if bias is None else bias.double() for bias in given["biases"]]
    x = x.double()
    h = F.conv2d(x, wide["weight_1"], b[0], padding=1)
    h = F.group_norm(h, given["groups"], *(row.double() for row in given["norm_1"]), eps=eps)
    if wide["scale_shift"] is not None:
        scale, shift = wide["scale_shift"][..., None, None].chunk(2, dim=1)
        h = h * (scale + 1) + shift
    h = F.conv2d(F.silu(h), wide["weight_2"], b[1], padding=1)
    h = F.group_norm(h, given["groups"], *(row.double() for row in given["norm_2"]), eps=eps)
    return F.silu(h) + (x if wide["res_weight"] is None else F.conv2d(x, wide["res_weight"], b[2]))


def assert_right(y: Tensor, x: Tensor, given: dict[str, Any]) -> None:
    """The error of each convolution is 4e-6 of its deviation at most, and a norm and a weight of 1.6 pass it on."""
    expected = exact(x, given)
    assert y.shape == expected.shape and y.dtype == F32 and y.is_contiguous(memory_format=torch.channels_last)
    assert (y - expected).abs().max() <= 2.5e-5


@needs_amx
@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 70),
    st.integers(0, 40),
    st.sampled_from([(8, 4), (16, 1), (24, 8), (40, 5), (64, 8), (70, 7)]),
    st.integers(4, 30),
    st.integers(4, 40),
    st.sampled_from(list(LAYOUTS)),
)
def test_any_shape_in_one_part_or_two(
    b: int, c: int, c_2: int, channels: tuple[int, int], h: int, w: int, layout: str
) -> None:
    k, groups = channels
    x, given = values(b, c + c_2, h, w), arguments(c + c_2, k, groups, b)
    y = residual_block(LAYOUTS[layout](x[:, :c]), x_2=x[:, c:] if c_2 else None, **given)
    assert_right(y, x, given)


@needs_amx
@pytest.mark.parametrize("shape", [(1, 64, 96, 96), (2, 64, 16, 16), (1, 128, 37, 29), (1, 72, 2, 3)])
def test_the_images_themselves_are_added_without_a_residual_weight(shape: tuple[int, ...]) -> None:
    x, given = values(*shape), arguments(shape[1], shape[1], 8, residual=False)
    assert_right(residual_block(x, **given), x, given)
    given["scale_shift"], given["biases"] = None, (None, None, None)
    packed = pack_residual_block(given["weight_1"], given["weight_2"])
    assert_right(residual_block(x, packed=packed, **given), x, given)


@needs_amx
def test_the_statistics_survive_a_large_mean() -> None:
    """A mean 100 times the deviation costs float32 itself 2 decimal places."""
    x, given = values(1, 64, 40, 40), arguments(64, 64, 8)
    given["biases"] = (torch.full((64,), 100.0), None, None)
    assert (residual_block(x, **given) - exact(x, given)).abs().max() <= 2e-4


@needs_amx
@pytest.mark.parametrize("shape", [(1, 64, 96, 96), (1, 128, 8, 8), (3, 64, 20, 20)])
def test_the_same_bits_whatever_the_threads(shape: tuple[int, ...]) -> None:
    x, given = values(*shape), arguments(shape[1], 64, 8)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(residual_block(x, **given))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results)


@needs_amx
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("place", ["x", "weight_2", "norm_1", "scale_shift"])
def test_what_is_not_finite_makes_its_image_nan_and_no_other(place: str, value: float) -> None:
    x, given = values(2, 64, 12, 12), arguments(64, 64, 8, batch=2)
    plain = residual_block(x, **given)
    if place == "x":
        x[1, 3, 5, 6] = value
    elif place == "scale_shift":
        given["scale_shift"][1, 5] = value
    else:
        (given[place][0] if place == "norm_1" else given[place]).view(-1)[0] = value
    y = residual_block(x, **given)
    if place in ("x", "scale_shift"):
        assert torch.equal(y[0], plain[0])
        y = y[1:]
    nan = y.isnan().any(0)
    assert nan.flatten(1).all(1).any() and (place != "x" or nan.all())


@needs_amx
def test_opcheck_and_one_graph() -> None:
    x, given = values(2, 64, 6, 7), arguments(64, 64, 8, batch=2)
    op = torch.ops.rddm_fast.residual_block.default
    weights = [given[name] for name in ("weight_1", "weight_2", "res_weight")]
    packed = pack_residual_block(*weights)
    rows = (*given["biases"], *given["norm_1"], *given["norm_2"])
    torch.library.opcheck(op, (x, None, *weights, packed, *rows, 8, 1e-5, given["scale_shift"]))
    compiled = torch.compile(lambda x: residual_block(x, packed=packed, **given) + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), residual_block(x, **given) + 1)


def test_the_reference_has_gradients() -> None:
    x, given = values(1, 12, 5, 6).requires_grad_(), arguments(12, 16, 4)
    y = residual_block(x, impl="reference", **given)
    assert (y - exact(x, given)).abs().max() <= 2.5e-5
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(exact(x, given).square().sum(), x)
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-4)


@needs_amx
def test_wide_networks_are_folded_into_it() -> None:
    torch.manual_seed(0)
    unets = ResidualUnets(64, networks="one", dim_mults=[1, 2], channels=3, condition=True).eval()
    time, x = torch.tensor([300.0]), torch.rand(1, 6, 16, 24)
    folded, plain = fold(unets, [time]), fold(unets, [time], exact=True)
    assert sum(isinstance(module, FusedBlock) for module in folded.modules()) == 11
    assert not any(isinstance(module, FusedBlock) for module in plain.modules())
    with torch.no_grad():
        for networks in (folded, plain):
            torch.testing.assert_close(networks(x, 0)[0], unets(x, time)[0], rtol=0, atol=1e-5)


X, GIVEN = torch.zeros(2, 8, 4, 4), arguments(8, 8, 4)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(x=X.half()), TypeError, "x is torch.float16: residual_block computes in float32"),
    "weight": (dict(weight_1=values(8, 8, 1, 1)), ValueError, r"weight_1 must be of shape \(K, C, 3, 3\)"),
    "second weight": (dict(weight_2=values(8, 4, 3, 3)), ValueError, r"weight_2 must be of shape \(8, 8, 3, 3\)"),
    "residual": (dict(res_weight=values(8, 8, 3, 3)), ValueError, r"res_weight must be of shape \(8, 8, 1, 1\)"),
    "weight's dtype": (dict(weight_2=values(8, 8, 3, 3).double()), TypeError, "weight_2 is torch.float64"),
    "channels": (dict(x=X[:, :5]), ValueError, "takes 8 channels, and x has 5"),
    "groups": (dict(groups=3), ValueError, "does not divide into 3 groups"),
    "norm": (
        dict(norm_2=(torch.ones(7), torch.ones(8))),
        ValueError,
        r"weight must be contiguous float32 of shape \(8,\)",
    ),
    "bias": (dict(biases=(None, torch.ones(7), None)), ValueError, r"biases\[1\] must be float32 of shape \(8,\)"),
    "no residual": (
        dict(x=X[:, :4], x_2=X[:, 4:], res_weight=None),
        ValueError,
        "without res_weight x must have the result's 8 channels, all in one part",
    ),
    "device": (dict(packed=torch.zeros(9, device="meta")), ValueError, "packed is on meta and x on cpu"),
    "backend": (dict(impl="cuda"), BackendUnavailable, "cuda: this op has no such kernel"),
    "gradient": (dict(x=X.clone().requires_grad_()), RuntimeError, "residual_block has no gradient"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        residual_block(**{**dict(x=X), **GIVEN, **change})


@needs_amx
def test_packed_weights_of_another_block_are_refused() -> None:
    others = pack_residual_block(values(8, 8, 3, 3), values(8, 8, 3, 3))
    for packed in (others, torch.zeros(len(others)), torch.zeros(3)):
        with pytest.raises(RuntimeError, match="packed must come from pack_residual_block, of these weights"):
            residual_block(X, packed=packed, **GIVEN)


def test_a_cpu_without_amx_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "build_info", {**(backends.build_info or {}), "amx": False})
    for call in (lambda: residual_block(X, **GIVEN), lambda: pack_residual_block(GIVEN["weight_1"], GIVEN["weight_2"])):
        with pytest.raises(BackendUnavailable, match="residual_block needs AMX, which this machine lacks"):
            call()
    assert not FusedBlock.serves(nn.Identity())
