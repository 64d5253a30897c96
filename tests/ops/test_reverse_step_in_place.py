"""reverse_step_: the same step in place, with its table, its placed results and its numbers in memory."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases import SLOW
from cases.reverse_step import few_in_place
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import BF16, F16, F32, LAYOUTS, PAIRS, check
from small_models import small_model

from rddm_fast.ops import StepTable, reverse_step, reverse_step_
from rddm_fast.ops.noise import noise
from rddm_fast.theory.objective import Objective

STEPS: list[dict[str, Any]] = [
    dict(alpha_bar=0.8, beta_bar=0.4, k_t=1.0, k_res=-0.1, k_noise=-0.3, k_0=0.0, sigma=0.2),
    dict(alpha_bar=0.6, beta_bar=0.3, k_t=0.7, k_res=0.2, k_noise=0.0, k_0=0.3, sigma=0.1),
    dict(alpha_bar=0.3, beta_bar=0.2, k_t=1.0, k_res=-0.1, k_noise=-0.1, k_0=0.0, sigma=0.0),
    dict(alpha_bar=0.1, beta_bar=0.0, k_t=0.0, k_res=0.0, k_noise=0.0, k_0=0.5, sigma=0.0, offset=0.5),
]
TABLE = StepTable.of(STEPS)
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def images(
    objective: Objective, image: torch.dtype, output: torch.dtype, shape: tuple[int, ...], layout: str, seed: int = 0
) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def one(dtype: torch.dtype) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype).to(memory_format=FORMATS[layout])

    call = {"I_t": one(image), "out0": one(output), "out1": one(output), "I_in": one(image), "objective": objective}
    return call if objective.outputs == 2 else {**call, "out1": None}


def input_half(call: dict[str, Any], layout: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A buffer for [I_t, I_in], full of 5, and its half for I_t."""
    b, c, h, w = call["I_t"].shape
    buffer = torch.full((b, 2 * c, h, w), 5.0, dtype=dtype).to(memory_format=FORMATS[layout])
    return buffer, buffer[:, :c]


@pytest.mark.parametrize("step", range(4))
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_it_is_reverse_step_and_writes_all_that_is_next(
    objective: Objective, pair: tuple[torch.dtype, torch.dtype], step: int
) -> None:
    numbers = {**STEPS[step], "clip_res": 1.0, "clip_0": 1.0}
    for shape in ((2, 3, 5, 7), (1, 3, 40, 32), (2, 1, 4, 4), (2, 3, 1, 1), (3, 2, 6, 1), (1, 5, 30, 30), (0, 3, 4, 4)):
        for image_layout, buffer_layout in (
            ("contiguous",) * 2,
            ("channels_last",) * 2,
            ("contiguous", "channels_last"),
        ):
            call = images(objective, *pair, shape, image_layout)
            z = torch.randn(shape).to(pair[0])
            expected = reverse_step(**call, **numbers, noise=z)
            all_clean = {**numbers, "k_t": 0.0, "k_res": 0.0, "k_noise": 0.0, "k_0": 1.0, "sigma": 0.0, "offset": 0.0}
            exact_clean = reverse_step(**call, **all_clean)
            buffer, half = input_half(call, buffer_layout, pair[1])
            clean = torch.empty(shape, dtype=pair[1])
            given = call["I_t"].clone()
            result = reverse_step_(
                **{**call, "I_t": given}, table=TABLE, step=step, noise=z, next_input=half, clean=clean
            )
            # To rounding: with I_0 wanted another loop computes.
            assert result is given
            torch.testing.assert_close(result, expected, rtol=torch.finfo(pair[0]).eps, atol=1e-6)
            assert (buffer[:, shape[1] :] == 5).all() and torch.equal(half, result.to(pair[1]))
            torch.testing.assert_close(clean, exact_clean.to(pair[1]), rtol=torch.finfo(pair[1]).eps, atol=1e-6)


@pytest.mark.parametrize("backend", SLOW)
def test_cpp_passes_the_slow_backends_grids(backend: str) -> None:
    for case in few_in_place(backend):
        check(case, "cpp", relative=1e-6 * case.sums)


@pytest.mark.parametrize("layout", FORMATS)
def test_the_step_the_seed_and_its_noise_come_from_tensors(layout: str) -> None:
    call = images(Objective.pred_res_noise, F32, F32, (2, 3, 20, 12), layout)
    index, seed = torch.zeros(1, dtype=torch.int64), torch.tensor(2**62 + 3)
    for number in range(4):
        index.fill_(number)
        z = noise(call["I_t"].shape, 2**62 + 3, 7 + number)
        expected = reverse_step(**call, **STEPS[number], noise=z)
        for impl in ("cpp", "reference"):
            ours = reverse_step_(
                **{**call, "I_t": call["I_t"].clone()}, table=TABLE, step=index, seed=seed, stream=7, impl=impl
            )
            torch.testing.assert_close(ours, expected, rtol=0, atol=2e-6)
        by_int = reverse_step_(
            **{**call, "I_t": call["I_t"].clone()}, table=TABLE, step=number, seed=2**62 + 3, stream=7
        )
        torch.testing.assert_close(by_int, expected, rtol=0, atol=2e-6)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(PAIRS),
    st.sampled_from(list(FORMATS)),
    st.sampled_from(list(FORMATS)),
    st.sampled_from(list(LAYOUTS)),
    st.integers(0, 4),
)
def test_any_shape_and_place(
    shape: tuple[int, ...], pair: tuple, layout: str, buffer_layout: str, outputs_layout: str, before: int
) -> None:
    """The image may be any run of channels of the network's input, and the outputs may have any layout."""
    call = images(Objective.pred_res_noise, *pair, shape, layout)
    call["out0"], call["out1"] = (LAYOUTS[outputs_layout](x) for x in (call["out0"], call["out1"]))
    b, c, h, w = shape
    buffer = torch.full((b, c + before + 1, h, w), 5.0, dtype=pair[1]).to(memory_format=FORMATS[buffer_layout])
    expected = reverse_step(**call, **STEPS[2])
    reverse_step_(**call, table=TABLE, step=2, next_input=buffer[:, before : before + c])
    assert torch.equal(call["I_t"], expected)
    assert torch.equal(buffer[:, before : before + c], expected.to(pair[1]))
    assert (buffer[:, :before] == 5).all() and (buffer[:, before + c :] == 5).all()


@pytest.mark.parametrize("impl", ["cpp", "reference"])
def test_nan_and_infinity_stay_in_their_places(impl: str) -> None:
    call = images(Objective.pred_res_noise, F32, BF16, (1, 3, 16, 16), "channels_last")
    call["I_t"][0, 0, 0, 0], call["out0"][0, 1, 2, 3], call["out1"][0, 2, 5, 5] = torch.nan, torch.nan, torch.inf
    expected = reverse_step(**call, **STEPS[2], impl="reference")
    _, half = input_half(call, "channels_last", BF16)
    reverse_step_(**call, table=TABLE, step=2, next_input=half, impl=impl)
    torch.testing.assert_close(call["I_t"], expected, equal_nan=True)
    assert half.isnan().sum() == 2 and half.isinf().sum() == 1


def test_a_sampler_s_steps_make_a_table() -> None:
    steps = small_model(sampling_timesteps=4, eta=0.5).steps()
    names = ("alpha_bar", "beta_bar", "one_minus_alpha_bar", "k_t", "k_res", "k_noise", "k_0", "k_in", "sigma")
    table = StepTable.of([{name: getattr(step, name) for name in names} for step in steps])
    assert table.rows.shape == (4, 14) and table.rows.dtype == F32 and table.stochastic == (True, True, True, False)
    call = images(Objective.pred_res_noise, F32, F32, (1, 3, 8, 8), "contiguous")
    for number, step in enumerate(steps):
        z = torch.randn(1, 3, 8, 8)
        expected = reverse_step(**call, **{name: getattr(step, name) for name in names}, noise=z)
        ours = reverse_step_(**{**call, "I_t": call["I_t"].clone()}, table=table, step=number, noise=z)
        assert torch.equal(ours, expected)


def test_opcheck_and_one_graph() -> None:
    op = torch.ops.rddm_fast.reverse_step_.default
    for layout in FORMATS:
        call = images(Objective.pred_x0_noise, F32, BF16, (2, 3, 4, 5), layout)
        _, half = input_half(call, layout, BF16)
        index, seed = torch.ones(1, dtype=torch.int64), torch.ones(1, dtype=torch.int64)
        tensors = (call["I_t"], call["out0"], call["out1"], call["I_in"])
        rest = (3, int(Objective.pred_x0_noise), TABLE.rows)
        clean = torch.empty_like(call["out0"])
        torch.library.opcheck(op, (*tensors, None, 0, seed, *rest, 1, index, half.clone(), clean))
        torch.library.opcheck(op, (*tensors, call["I_in"].clone(), None, None, *rest, 0, None, None, None))


def test_it_compiles_into_one_graph() -> None:
    def two_steps(image: torch.Tensor, buffer: torch.Tensor, index: torch.Tensor, call: dict[str, Any]) -> torch.Tensor:
        for _ in range(2):
            reverse_step_(image, **call, table=TABLE, step=index, seed=4, next_input=buffer[:, :3])
            index += 1
        return buffer * 2

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    for layout in FORMATS:
        call = images(Objective.pred_res_noise, F32, F32, (2, 3, 4, 5), layout)
        image = call.pop("I_t")
        results = []
        for function in (two_steps, compiled):
            state = image.clone(), torch.ones(2, 6, 4, 5).to(memory_format=FORMATS[layout]), torch.ones(1).long()
            with torch.no_grad():
                results.append((function(*state, call), *state))
        for ours, theirs in zip(*results, strict=True):
            assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()


X = torch.zeros(2, 3, 4, 5)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "float64": (dict(I_t=X.double(), out0=X.double(), out1=X.double()), TypeError, "convert it to float32"),
    "shape": (dict(out0=torch.zeros(3)), ValueError, "out0 has shape"),
    "layout": (dict(I_t=X.transpose(2, 3), out0=X.mT, out1=X.mT), ValueError, "must be contiguous or channels-last"),
    "no noise": (dict(seed=None), ValueError, "this step is stochastic: pass a seed"),
    "both noises": (dict(noise=X), ValueError, "noise and seed were both given"),
    "step": (dict(step=4), ValueError, "there is no step 4 in a table of 4"),
    "step's dtype": (dict(step=torch.zeros(1)), ValueError, "step must be an int, or a tensor of one int64 number"),
    "seed's shape": (dict(seed=torch.zeros(2).long()), ValueError, "seed must be an int, or a tensor of one int64"),
    "next_input's shape": (dict(next_input=torch.zeros(2, 6, 4, 5)), ValueError, r"next_input must be \(B, C, H, W\)"),
    "next_input's dtype": (dict(next_input=X.half()), TypeError, "next_input is torch.float16 and out0 is"),
    "clean's layout": (dict(clean=torch.zeros(2, 3, 5, 4).mT), ValueError, "clean has strides .* must be channels"),
    "table's device": (dict(table=StepTable(TABLE.rows.to("meta"), (True,) * 4)), ValueError, "the table is on meta"),
    "k_in": (
        dict(table=StepTable.of([{**step, "k_in": 0.1} for step in STEPS]), I_in=None),
        ValueError,
        "a step of this table adds the degraded image: pass I_in",
    ),
    "gradient": (dict(out1=X.clone().requires_grad_()), RuntimeError, "reverse_step_ has no gradient: call it under"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    call: dict[str, Any] = dict(I_t=X.clone(), out0=X, out1=X, objective="pred_res_noise", table=TABLE, step=0, seed=1)
    with pytest.raises(error, match=sentence):
        reverse_step_(**{**call, **change})


def test_an_index_that_the_table_does_not_have() -> None:
    call: dict[str, Any] = dict(I_t=X.clone(), out0=X, out1=X, objective="pred_res_noise", table=TABLE, seed=1)
    for impl in ("cpp", "reference"):
        with pytest.raises(RuntimeError, match="there is no step 4 in a table of 4"):
            reverse_step_(**call, step=torch.tensor([4]), impl=impl)


def test_the_op_itself_refuses_what_it_cannot_read() -> None:
    op = torch.ops.rddm_fast.reverse_step_.default
    good: dict[str, Any] = dict(
        I_t=X.clone(), out0=X, out1=X, I_in=None, noise=None, seed=1, seed_tensor=None, stream=0, objective=0,
        table=TABLE.rows, step=0, index=None, next_input=None, clean=None,
    )  # fmt: skip
    op(**good)
    for change, sentence in (
        (dict(table=TABLE.rows[:, 1:]), "must be a contiguous float32 table"),
        (dict(index=torch.zeros(2).long()), "index of the step must be one int64 number"),
        (dict(seed=None), "sigma != 0 needs noise or a seed"),
        (dict(seed_tensor=torch.zeros(1)), "the seed must be one int64 number"),
        (dict(clean=X.half()), "clean must have out0's dtype"),
        (dict(next_input=X[:, :2]), "next_input must have I_t's shape"),
        (dict(I_t=X.mT, out0=X.mT, out1=X.mT), "I_t must be contiguous or channels-last"),
        (dict(step=-1), "there is no step -1"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            op(**{**good, **change})


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(ValueError, match="there are no steps"):
        StepTable.of([])


def test_float16_too_large_becomes_infinite_where_it_is_placed() -> None:
    call = images(Objective.pred_res_noise, F32, F16, (1, 3, 4, 4), "contiguous")
    call["I_t"][0, 0, 0, 0] = 1e6
    _, half = input_half(call, "contiguous", F16)
    reverse_step_(**call, table=TABLE, step=2, next_input=half)
    assert half[0, 0, 0, 0] == torch.inf and call["I_t"][0, 0, 0, 0] > 9e5
