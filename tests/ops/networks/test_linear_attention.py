"""linear_attention against einsum in float64, as an op and within the folded module; and which of them runs where."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.network_ops import by_einsum, few_attentions, projection
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import DTYPES, F32, LAYOUTS, assert_as_exact_as_torch, check

from rddm_fast.diffusion.unet import ChannelNorm, LinearAttention
from rddm_fast.fast.folded import attention as folded
from rddm_fast.fast.folded.attention import LastAxisNorm, PixelsFirstLinearAttention
from rddm_fast.ops import BackendUnavailable, backends, linear_attention


def check_attention(qkv: torch.Tensor, heads: int) -> None:
    exact, plain, ours = by_einsum(qkv.double(), heads), by_einsum(qkv, heads), linear_attention(qkv, heads)
    assert ours.dtype == qkv.dtype and torch.equal(ours, linear_attention(qkv, heads, impl="reference"))
    # float16 holds 1 / (H W) in few bits.
    assert_as_exact_as_torch(ours, plain, exact, relative=4 * torch.finfo(F32).eps, subnormal=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_is_the_published_arithmetic(dtype: torch.dtype, layout: str) -> None:
    for b, heads, features, h, w in ((1, 4, 32, 40, 30), (2, 4, 32, 9, 7), (3, 2, 5, 1, 1), (1, 1, 1, 3, 4)):
        qkv = LAYOUTS[layout](projection(b, heads, features, h, w, dtype))
        check_attention(qkv, heads)


def test_the_cpu_passes_the_interpreter_s_grid() -> None:
    for case in few_attentions("interpreted"):
        check(case, None, relative=1e-6, subnormal=True)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 33),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sampled_from(DTYPES),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 99),
)
def test_any_shape(b: int, heads: int, d: int, h: int, w: int, dtype: torch.dtype, layout: str, seed: int) -> None:
    check_attention(LAYOUTS[layout](projection(b, heads, d, h, w, dtype, seed)), heads)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_result_is_channels_last_where_the_projection_is(layout: str) -> None:
    out = linear_attention(LAYOUTS[layout](projection(2, 4, 8, 5, 7, F32)), 4)
    last = out.is_contiguous(memory_format=torch.channels_last)
    assert last == (layout == "channels_last") and out.is_contiguous() == (not last)


@pytest.mark.parametrize("shape", [(0, 96, 4, 4), (2, 96, 0, 4)])
def test_nothing_of_nothing(shape: tuple[int, ...]) -> None:
    assert linear_attention(torch.zeros(shape), 4).shape == (shape[0], 32, *shape[2:])


def test_large_keys_do_not_overflow() -> None:
    qkv = 1e4 * projection(1, 2, 8, 20, 20, F32)
    out, exact = linear_attention(qkv, 2), by_einsum(qkv.double(), 2)
    torch.testing.assert_close(out.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_nan_and_infinity_come_out_where_they_do_of_the_published_arithmetic(bad: float) -> None:
    spoilt = []
    for part in range(3):
        qkv = projection(2, 2, 8, 5, 7, F32)
        qkv[1, part * 16 + 3, 2, 4] = bad
        out = linear_attention(qkv, 2)
        torch.testing.assert_close(out, by_einsum(qkv, 2), equal_nan=True)
        assert out[0].isfinite().all() and out[1, 8:].isfinite().all()  # the other sample, the other head
        spoilt.append(int((~out.isfinite()).sum()))
    # A query spoils its pixel, a key its head, a value its row; a query or a key of minus infinity has weight 0.
    assert spoilt == ([0, 0, 35] if bad == -torch.inf else [8, 8 * 35, 35])


def test_opcheck_and_one_graph() -> None:
    for layout in LAYOUTS:
        qkv = LAYOUTS[layout](projection(2, 2, 4, 4, 5, F32))
        torch.library.opcheck(torch.ops.rddm_fast.linear_attention.default, (qkv, 2))
        for call in (linear_attention, torch.ops.rddm_fast.linear_attention.default):
            torch._dynamo.reset()
            compiled = torch.compile(lambda x, f=call: f(x, 2) + 1, fullgraph=True, backend="eager")
            got, expected = compiled(qkv), linear_attention(qkv, 2) + 1
            torch.testing.assert_close(got, expected)
            assert got.stride() == expected.stride()


def test_the_reference_is_differentiable() -> None:
    qkv = projection(1, 2, 4, 3, 3, F32).requires_grad_()
    linear_attention(qkv, 2).square().sum().backward()
    wide = qkv.detach().double().requires_grad_()
    by_einsum(wide, 2).square().sum().backward()
    torch.testing.assert_close(qkv.grad.double(), wide.grad, rtol=1e-4, atol=1e-8)


QKV = torch.zeros(2, 24, 4, 4)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dtype": (dict(qkv=QKV.double()), TypeError, "qkv is torch.float64: convert it"),
    "dimensions": (dict(qkv=QKV[0]), ValueError, r"qkv must be \(B, 3 heads features, H, W\): shape \(24, 4, 4\)"),
    "heads": (dict(heads=5), ValueError, r"shape \(2, 24, 4, 4\) does not divide into 5 heads"),
    "no heads": (dict(heads=0), ValueError, "does not divide into 0 heads"),
    "no channels": (dict(qkv=QKV[:, :0]), ValueError, "does not divide into 2 heads"),
    "triton": (dict(impl="triton"), BackendUnavailable, "triton: it runs on CPU tensors only in its interpreter"),
    "cpp": (dict(impl="cpp"), BackendUnavailable, "cpp: this op has no such kernel"),
    "cuda": (dict(impl="cuda"), BackendUnavailable, "no backend for tensors on cpu .cuda: "),
    "unknown": (dict(impl="fastest"), ValueError, "unknown backend 'fastest'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        linear_attention(**{**dict(qkv=QKV, heads=2), **change})


@pytest.mark.parametrize("impl", ["chunked", "whole", "reference", None])
def test_the_folded_module_is_the_published_one(impl: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PixelsFirstLinearAttention, "CHUNK", 50)
    torch.manual_seed(0)
    attention = LinearAttention(24).eval()
    with torch.no_grad():
        attention.to_out[1].g.normal_()
    module = PixelsFirstLinearAttention(attention)
    module.impl = impl
    x = (3 * torch.randn(2, 24, 9, 11)).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = module(x)
        torch.testing.assert_close(out, attention(x), rtol=1e-5, atol=1e-5)
        compiled = torch.compile(module, fullgraph=True, backend="eager")(x)
    assert torch.equal(compiled, out) and out.is_contiguous(memory_format=torch.channels_last)


RULE = {
    ("channel_norm", "cpu", False): "torch",
    ("channel_norm", "cuda", True): "triton",
    ("channel_norm", "cuda", False): "torch",
    ("channel_norm", "mps", False): "torch",
    ("linear_attention", "cpu", False): "chunked",
    ("linear_attention", "cuda", True): "triton",
    ("linear_attention", "cuda", False): "whole",
    ("linear_attention", "mps", False): "whole",
}


@pytest.mark.parametrize("case", RULE, ids=str)
def test_the_rule(case: tuple[str, str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    op, device, triton = case
    monkeypatch.setattr(backends, "why_not", lambda backend, device: None if triton else "it is not installed")
    assert folded.implementation(op, torch.device(device)) == RULE[case]


def test_triton_s_interpreter_is_no_reason_to_choose_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "why_not", lambda backend, device: None)
    for op, name in (("channel_norm", "torch"), ("linear_attention", "chunked")):
        assert folded.implementation(op, torch.device("cpu")) == name


def test_the_folded_modules_do_what_the_rule_says(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def says(op: str, device: torch.device) -> str:
        asked.append((op, device.type))
        return "triton"

    x = torch.zeros(1, 8, 4, 4)
    modules = {
        "channel_norm": LastAxisNorm(ChannelNorm(8)),
        "linear_attention": PixelsFirstLinearAttention(LinearAttention(8)),
    }
    assert all(folded.implementation(op, x.device) == RULE[op, "cpu", False] for op in modules)
    monkeypatch.setattr(folded, "implementation", says)
    for module in modules.values():
        with pytest.raises(BackendUnavailable, match="triton: it runs on CPU tensors only in its interpreter"):
            module(x)  # Triton is not there, and nothing else takes its place
    assert asked == [(op, "cpu") for op in modules]
