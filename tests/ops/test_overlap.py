"""Ops that write in place, with arguments that overlap in memory: right or refused, never silently wrong."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rddm_fast.benchmarks.fuzzing import ops as fuzz
from rddm_fast.ops import StepTable, backends, range_null_step_, reverse_step_, spectral_step_

TABLE = StepTable.of([dict(alpha_bar=0.6, beta_bar=0.3, k_t=0.7, k_res=0.2, k_noise=0.1, k_0=0.3)])
IMPLS = ["cpp", "reference"]


def test_every_op_that_writes_in_place_is_walked() -> None:
    schemas = {name: getattr(torch.ops.rddm_fast, name).default._schema for name in backends.OPS}
    writing = {name for name, schema in schemas.items() if schema.is_mutable}
    assert writing == set(fuzz.CALLS)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from(list(fuzz.CALLS)), st.sampled_from([None, "reference"]))
def test_no_call_is_silently_wrong(seed: int, op: str, impl: str | None) -> None:
    found, call = fuzz.verdict(random.Random(seed), op, impl)
    assert found != "wrong", call


def test_the_walk_meets_both_answers_of_every_op() -> None:
    for op in fuzz.CALLS:
        found = [fuzz.verdict(random.Random(seed), op, None)[0] for seed in range(60)]
        assert {"right", "refused"} == set(found)


def memory() -> torch.Tensor:
    return torch.randn(2000, generator=torch.Generator().manual_seed(0))


def image(flat: torch.Tensor, offset: int, shape: tuple[int, ...] = (2, 3, 4, 5)) -> torch.Tensor:
    return flat[offset:].as_strided(shape, torch.empty(shape).stride())


A, B, C = 0, 200, 400
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "out0 a few elements before I_t": (
        dict(I_t=3, out0=0),
        "out0 shares some of the memory of I_t, which is written: pass out0.clone",
    ),
    "clean is next_input": (dict(next_input=B, clean=B), "next_input and clean share memory, and both are written"),
    "clean is I_t": (dict(clean=A), "I_t and clean share memory, and both are written"),
    "clean and next_input in overlapping channels": (
        dict(next_input=B, clean=B + 20),
        "next_input and clean share memory",
    ),
    "next_input overlaps out0 by channels": (dict(next_input=C + 20), "out0 shares some of the memory of next_input"),
}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", REFUSED)
def test_reverse_step_refuses(name: str, impl: str) -> None:
    change, sentence = REFUSED[name]
    flat = memory()
    call = {
        key: image(flat, offset) for key, offset in {"I_t": A, "out0": C, "out1": 600, "I_in": 800, **change}.items()
    }
    before = flat.clone()
    with pytest.raises(RuntimeError, match=f"reverse_step_: {sentence}"):
        reverse_step_(**call, objective="pred_res_noise", table=TABLE, step=0, impl=impl)
    assert torch.equal(flat, before)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dim", range(4))
@pytest.mark.parametrize("written", ["next_input", "clean"])
def test_expanded_results_are_refused(written: str, dim: int, impl: str) -> None:
    shape = (2, 3, 4, 5)
    place = torch.zeros([1 if d == dim or (dim == 2 and d == 3) else n for d, n in enumerate(shape)]).expand(shape)
    images = [torch.ones(shape) for _ in range(4)]
    with pytest.raises((RuntimeError, ValueError), match=f"elements of {written} share memory|{written} has strides"):
        reverse_step_(
            *images[:3], I_in=images[3], objective="pred_res_noise", table=TABLE, step=0, impl=impl, **{written: place}
        )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_exact_aliases_and_the_two_halves_of_one_input_are_served(layout: torch.memory_format, impl: str) -> None:
    for alias in ("out0", "out1", "I_in", "half"):
        buffer = torch.randn(2, 6, 4, 5).to(memory_format=layout)
        call = {name: torch.randn(2, 3, 4, 5).to(memory_format=layout) for name in ("I_t", "out0", "out1", "I_in")}
        if alias == "half":
            call["I_in"] = buffer[:, 3:]
        next_input = buffer[:, :3] if alias == "half" else call[alias]
        common: dict[str, Any] = dict(objective="pred_res_noise", table=TABLE, step=0)
        expected = reverse_step_(**{name: x.clone() for name, x in call.items()}, **common, impl="reference")
        result = reverse_step_(**call, **common, next_input=next_input, impl=impl)
        torch.testing.assert_close(result, expected)
        assert torch.equal(next_input, result)


@pytest.mark.parametrize("impl", IMPLS)
def test_the_inverse_ops_refuse(impl: str) -> None:
    flat = memory()
    with pytest.raises(RuntimeError, match="range_null_step_: epsilon shares some of the memory of x_t"):
        range_null_step_(image(flat, 3), image(flat, 0), image(flat, 300), **fuzz.BLOCKS, seed=1, impl=impl)
    x, epsilon, y_bar = (image(flat, offset, (2, 30)) for offset in (0, 100, 200))
    numbers: dict[str, Any] = dict(s=torch.ones(1, 1), a_t=0.5, a_s=1.0, sigma_y=0.1, eta=0.5, impl=impl)
    with pytest.raises(RuntimeError, match="spectral_step_: x and clean share memory, and both are written"):
        spectral_step_(x, epsilon, y_bar, **numbers, clean=x)
    with pytest.raises(RuntimeError, match="spectral_step_: y_bar shares some of the memory of x"):
        spectral_step_(x, epsilon, x[:1], **numbers)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(2, 3, 4, 0), (2, 3, 0, 5), (0, 3, 4, 5), (2, 0, 4, 5)])
def test_images_without_pixels_are_served(shape: tuple[int, ...], impl: str) -> None:
    images = [torch.zeros(shape) for _ in range(6)]
    for written in (images[4], torch.zeros(shape).to(memory_format=torch.channels_last)):
        result = reverse_step_(
            *images[:3],
            I_in=images[3],
            objective=0,
            table=TABLE,
            step=0,
            next_input=written,
            clean=images[5],
            impl=impl,
        )
        assert result.shape == shape
    mask = torch.ones(shape[2:], dtype=torch.bool)
    for factor in (1, 1 if 5 in shape else 2):
        range_null_step_(*images[:3], **fuzz.BLOCKS, seed=1, factor=factor, mask=mask, impl=impl)
