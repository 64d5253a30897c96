"""range_null_step on the CPU, functional and in place: against the operators, the published projections and itself."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import SLOW
from cases.inverse.range_null_step import (
    AT,
    BLOCKS,
    NOT_A_GREY,
    STEPS,
    arguments,
    case,
    few,
    few_in_place,
    in_place,
    noise_alone,
    with_nan_and_infinity,
)
from golden import Golden, golden_cases
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_PAIRS, BF16, F32, F64, LAYOUTS, check, pair_name
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from rddm_fast.inverse.operators.blocks import OldPhotograph, SuperResolution
from rddm_fast.inverse.operators.pixelwise import Colourisation, Denoising, Inpainting
from rddm_fast.ops import backends, noise, range_null_step, range_null_step_
from rddm_fast.ops.inverse.range_null_step import step_numbers

SHAPES = {"wide": (2, 3, 12, 36), "tall": (1, 4, 24, 12), "one channel": (3, 1, 12, 12), "empty": (0, 3, 12, 12)}
IMPLS = ("cpp", "reference")


def assert_as_exact_as_torch(call: dict[str, Any], impl: str, one: Any = case) -> None:
    """A block's sum of n values loses sqrt(n) roundings at random, at most n; a step has 10 more."""
    eps = torch.finfo(F64 if call["x_t"].dtype == F64 else F32).eps
    of_block = call["factor"] ** 2 * len(call.get("weights") or [1])
    inputs = max((x.double().abs().max() for x in _images(call) if x.numel()), default=torch.tensor(0.0))
    weight = sum(abs(number) for number in step_numbers(**_step(call)))
    check(one(call), impl, absolute=(10 + of_block) * eps * float(inputs) * weight)


def _images(call: dict[str, Any]) -> list[Tensor]:
    return [call[name] for name in ("x_t", "epsilon", "pinv_y", "noise") if call.get(name) is not None]


def _step(call: dict[str, Any]) -> dict[str, float]:
    return {name: call[name] for name in (*AT, *STEPS["DDNM"])}


def test_it_is_compiled() -> None:
    for name in ("range_null_step", "range_null_step_"):
        assert backends.OPS[name].backend(None, torch.device("cpu")) == "cpp"


@pytest.mark.parametrize("pair", ALL_PAIRS, ids=pair_name)
@pytest.mark.parametrize("kind", BLOCKS)
def test_cpp_is_as_exact_as_plain_torch(kind: str, pair: tuple[torch.dtype, torch.dtype]) -> None:
    combinations = itertools.product(SHAPES.values(), LAYOUTS)
    for (shape, layout), step in zip(combinations, itertools.cycle(list(STEPS.values())[:-1]), strict=False):
        call = arguments(kind, *pair, shape, [layout], **step)
        assert_as_exact_as_torch(call, "cpp")
        if layout in ("contiguous", "channels_last", "unaligned"):
            assert_as_exact_as_torch(call, "cpp", in_place)


@pytest.mark.parametrize("backend", SLOW)
def test_cpp_passes_the_slow_backends_grids(backend: str) -> None:
    for one in (*few(backend), *few_in_place(backend)):
        check(one, "cpp", relative=1e-6)


def kept(shape: tuple[int, ...]) -> Tensor:
    """A mask for each image, which leaves a whole block of 4 × 4 out."""
    mask = torch.rand(shape[0], *shape[2:], generator=torch.Generator().manual_seed(1)) < 0.6
    mask[:, :4, :4] = False
    return mask


IMAGE, MASK = (2, 3, 12, 20), kept((2, 3, 12, 20))
GREY = NOT_A_GREY[:3]
OPERATORS = {
    "denoising": (Denoising(IMAGE[1:]), {}),
    "inpainting": (Inpainting(IMAGE[1:], MASK), {"mask": MASK}),
    "one mask": (Inpainting(IMAGE[1:], MASK[0]), {"mask": MASK[0].to(torch.uint8)}),
    "super-resolution": (SuperResolution(IMAGE[1:], 4), {"factor": 4}),
    "colourisation": (Colourisation(IMAGE[1:]), {"weights": GREY}),
    "old photograph": (OldPhotograph(IMAGE[1:], 4, MASK), {"factor": 4, "weights": [1 / 3] * 3, "mask": MASK}),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [(F32, 3e-6), (F64, 1e-13)])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", OPERATORS)
def test_it_is_the_papers_step_of_the_operator(name: str, step: str, dtype: torch.dtype, tolerance: float) -> None:
    operator, blocks = OPERATORS[name]
    generator = torch.Generator().manual_seed(5)
    x_t, epsilon, z = (torch.randn(IMAGE, generator=generator, dtype=F64) for _ in range(3))
    pinv_y = operator.pinv(torch.randn(IMAGE[0], *operator.measured, generator=generator, dtype=F64))
    k = STEPS[step]
    x_0 = (x_t - AT["sigma_t"] * epsilon) / AT["root_a_t"]
    null = k["n_0"] * x_0 + k["n_e"] * epsilon + k["n_z"] * z
    in_range = k["r_0"] * x_0 + k["r_e"] * epsilon + k["r_z"] * z
    expected = null + operator.project(in_range - null) + k["k_y"] * pinv_y
    stored = [x.to(dtype) for x in (x_t, epsilon, pinv_y)]
    for impl in IMPLS:
        ours = range_null_step(*stored, **AT, **k, **blocks, noise=z.to(dtype), impl=impl)
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=tolerance)


RANK_ONE = {"denoising": {}, "inpainting": {}, "sr_averagepooling": {"factor": 4}, "colorization": {"weights": GREY}}
GOLDEN = [c for c in golden_cases("operator", "inverse") if c.values[0].case["operator"] in RANK_ONE]


@pytest.mark.parametrize("golden", GOLDEN)
def test_it_projects_as_the_published_operator(golden: Golden) -> None:
    """With x_0 = x: P x alone, and Algorithm 1's x - P x + A⁺y."""
    x, P_x, pinv_y = (golden.tensors[name].float() for name in ("x", "H_pinv_H_x", "H_pinv_y"))
    blocks: dict[str, Any] = dict(RANK_ONE[golden.case["operator"]])
    if golden.case["operator"] == "inpainting":
        blocks["mask"] = golden.tensors["mask"] != 0
    at = dict(root_a_t=1.0, sigma_t=0.0, **blocks)
    nothing = dict.fromkeys(("n_0", "n_e", "n_z", "r_0", "r_e", "r_z", "k_y"), 0.0)
    for impl in IMPLS:
        projected = range_null_step(x, x, **at, **{**nothing, "r_0": 1.0}, impl=impl)
        torch.testing.assert_close(projected, P_x, rtol=0, atol=1e-5)
        corrected = range_null_step(x, x, pinv_y, **at, **{**nothing, "n_0": 1.0, "k_y": 1.0}, impl=impl)
        torch.testing.assert_close(corrected, x - P_x + pinv_y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_noise_is_the_packages(kind: str) -> None:
    """Also in images whose rows begin inside of a Philox block."""
    factor = BLOCKS[kind].get("factor", 1)
    shapes = [shape for shape in ((2, 3, 12, 36), (2, 3, 6, 18), (1, 2, 9, 9)) if shape[3] % factor == 0]
    for layout, shape in itertools.product(("contiguous", "channels_last", "sliced"), shapes):
        like, seed = LAYOUTS[layout](torch.zeros(shape)), 2**62 + 3
        for impl in IMPLS:
            ours = noise_alone(like, seed, 2**33 + 1, kind, impl)
            torch.testing.assert_close(ours, noise(like.shape, seed, 2**33 + 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", BLOCKS)
def test_channels_last_images_are_not_copied_as_on_a_gpu(kind: str) -> None:
    for shape, drawn in itertools.product(((2, 3, 12, 36), (2, 4, 12, 36)), (False, True)):
        call = arguments(kind, F32, BF16, shape, ["channels_last"])
        call |= {"noise": None, "seed": 3} if drawn else {}
        with torch.profiler.profile() as profile:
            range_null_step_(**call)
        ran = {event.key for event in profile.key_averages() if "::" in event.key}
        assert ran <= {"rddm_fast::range_null_step_", "aten::contiguous"}  # The mask is contiguous already.


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_seed_in_a_tensor_and_the_forms_agree(kind: str) -> None:
    for layout in ("contiguous", "channels_last"):
        call = arguments(kind, F32, BF16, (2, 3, 24, 36), [layout])
        del call["noise"]
        expected = range_null_step(**call, seed=-9, stream=4)
        for seed in (-9, torch.tensor(-9), torch.tensor([-9])):
            state = call["x_t"].clone()
            assert range_null_step_(**{**call, "x_t": state}, seed=seed, stream=4) is state
            assert torch.equal(state, expected)


@pytest.mark.parametrize("kind", BLOCKS)
def test_nan_and_infinity_go_where_plain_torch_lets_them(kind: str) -> None:
    for call in with_nan_and_infinity(kind):
        ours, plain = (range_null_step(**call, impl=impl) for impl in IMPLS)
        torch.testing.assert_close(ours, plain, equal_nan=True, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_term_whose_number_is_0_is_left_out(impl: str) -> None:
    """Nothing of epsilon is left: 0 in the null space, and in the range r_e = r_0 sigma_t / root_a_t."""
    call = arguments("inpainting", F32, F32, (2, 3, 12, 12), **{**STEPS["last"], "n_0": 0.0, "k_y": 0.0})
    call["epsilon"].fill_(torch.inf), call["noise"].fill_(torch.nan), call["pinv_y"].fill_(torch.nan)
    assert torch.equal(range_null_step(**call, impl=impl), torch.zeros(2, 3, 12, 12))
    finite = range_null_step(**{**call, "root_a_t": 0.5, "sigma_t": 0.75, "r_0": 0.5, "r_e": 0.75}, impl=impl)
    expected = torch.where(call["mask"][:, None], call["x_t"], 0.0)
    assert torch.equal(finite, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_missing_pixels_do_not_reach_their_block(impl: str) -> None:
    call = arguments("old photograph", F32, F32, (2, 3, 12, 12), **STEPS["DDRM"])
    missing = ~call["mask"][:, None].expand(2, 3, 12, 12)
    spoilt = {**call, "x_t": call["x_t"].masked_fill(missing, torch.nan)}
    ours, whole = (range_null_step(**each, impl=impl) for each in (spoilt, call))
    assert ours[missing].isnan().all() and torch.equal(ours[~missing], whole[~missing])


def test_large_images_cross_tiles_and_threads() -> None:
    for kind, blocks, shape in (
        ("inpainting", {}, (2, 3, 111, 700)),
        ("colour", {}, (2, 5, 111, 701)),
        ("super-resolution", {"factor": 16}, (1, 3, 112, 2064)),
        ("super-resolution", {"factor": 1100}, (1, 1, 1100, 2200)),
        ("old photograph", {"factor": 37}, (1, 3, 74, 1110)),
        ("old photograph", {"factor": 1}, (3, 3, 64, 65)),
    ):
        for pair in ((F32, F32), (F32, BF16), (BF16, BF16)):
            assert_as_exact_as_torch(arguments(kind, *pair, shape) | blocks, "cpp")


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    factor, joined = draw(st.integers(1, 5)), draw(st.booleans())
    b, c, down, across = (draw(st.integers(0, 3) if i == 0 else st.integers(1, 5)) for i in range(4))
    shape = (b, c, down * factor, across * factor)
    layouts = draw(st.lists(st.sampled_from(list(LAYOUTS)), min_size=1, max_size=4))
    number = st.just(0.0) | st.floats(-2, 2, width=32)
    step = {name: draw(number) for name in STEPS["DDNM"]}
    call = arguments("denoising", *draw(st.sampled_from(ALL_PAIRS)), shape, layouts, draw(st.integers(0, 99)), **step)
    call |= {"factor": factor, "root_a_t": draw(st.floats(0.05, 1)), "sigma_t": draw(st.floats(0, 1))}
    if joined:
        call["weights"] = [draw(st.floats(0.1, 1)) for _ in range(c)]
    if draw(st.booleans()):
        masks = draw(st.sampled_from([(), (1,), (b,)]))
        mask = torch.rand(*masks, *shape[2:], generator=torch.Generator().manual_seed(draw(st.integers(0, 9)))) < 0.5
        call["mask"] = draw(st.sampled_from([mask, mask.to(torch.uint8), mask.mT.contiguous().mT]))
    return call


@settings(max_examples=150, deadline=None, derandomize=True)
@given(calls())
def test_any_call_is_as_exact_as_plain_torch(call: dict[str, Any]) -> None:
    assert_as_exact_as_torch(call, "cpp")


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_those_of_empty_like_and_of_the_fake(layout: str, shape: str) -> None:
    call = arguments("super-resolution", F32, F32, SHAPES[shape], [layout])
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(x) if isinstance(x, Tensor) else x for k, x in call.items()}
        fake = range_null_step(**fakes, impl="cpp")
    for impl in IMPLS:
        result = range_null_step(**call, impl=impl)
        assert result.stride() == torch.empty_like(call["x_t"]).stride()
        assert result.stride() == fake.stride() or result.numel() == 0
        assert result.shape == fake.shape and result.dtype == fake.dtype


@pytest.mark.parametrize("kind", BLOCKS)
def test_opcheck(kind: str) -> None:
    ops = torch.ops.rddm_fast.range_null_step.default, torch.ops.rddm_fast.range_null_step_.default
    for layout in ("contiguous", "channels_last", "sliced"):
        call = arguments(kind, F32, BF16, (2, 3, 12, 12), [layout])
        images = [*_images(call)[:3], call.get("mask")]
        step = (3, call["factor"], call.get("weights"), step_numbers(**_step(call)))
        torch.library.opcheck(ops[0], (*images, call["noise"], None, *step))
        torch.library.opcheck(ops[0], (*images, None, 7, *step))
        if layout != "sliced":
            torch.library.opcheck(ops[1], (*images, call["noise"], None, None, *step))
            torch.library.opcheck(ops[1], (*images, None, 0, torch.tensor([7]), *step))


def test_it_compiles_into_one_graph() -> None:
    def two_steps(state: Tensor, call: dict[str, Any]) -> Tensor:
        x = range_null_step(**{**call, "x_t": state}, seed=3) * 2
        return range_null_step_(**{**call, "x_t": x}, seed=4) + 1

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    for layout in ("contiguous", "channels_last"):
        call = arguments("old photograph", F32, F32, (2, 3, 4, 6), [layout])
        del call["noise"]
        state = call.pop("x_t")
        with torch.no_grad():
            expected, got = two_steps(state, call), compiled(state, call)
        assert torch.equal(expected, got) and expected.stride() == got.stride()


X = torch.zeros(2, 3, 8, 12)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "dimensions": (dict(x_t=X[0], epsilon=X[0], pinv_y=X[0]), ValueError, r"must be a batch of images \(B, C, H, W\)"),
    "epsilon": (dict(epsilon=X[:1]), ValueError, r"epsilon has shape \(1, 3, 8, 12\) and x_t has \(2, 3, 8, 12\)"),
    "pinv_y": (dict(pinv_y=X[..., :3, :3]), ValueError, "pinv_y has shape .* they must be equal"),
    "no pinv_y": (dict(pinv_y=None), ValueError, "k_y is 0.9, but there is no measurement: pass pinv_y"),
    "factor": (dict(factor=5), ValueError, "must be multiples of factor 5, but it is 8 × 12: crop it to 5 × 10"),
    "no factor": (dict(factor=0), ValueError, "factor is 0: it must be a positive integer"),
    "weights": (dict(weights=[0.5, 0.5]), ValueError, "there are 2 weights and x_t has 3 channels: give one for each"),
    "no weight": (dict(weights=[0.0] * 3), ValueError, "they must be finite, and not all 0"),
    "mask": (dict(mask=X[0, 0, :4] > 0), ValueError, r"mask has shape \(4, 12\): it must be \(8, 12\)"),
    "masks": (dict(mask=torch.ones(3, 8, 12).bool()), ValueError, r"or \(2, 8, 12\) for the batch"),
    "mask's dtype": (dict(mask=X[0, 0]), TypeError, "mask is torch.float32: convert it to bool or uint8"),
    "root_a_t": (dict(root_a_t=0.0), ValueError, "root_a_t is 0.0: it must be more than 0"),
    "no noise": (dict(seed=None), ValueError, "n_z is 0.3 and r_z is 0.3, but there is no noise: pass a seed"),
    "both noises": (dict(noise=X), ValueError, "noise and seed were both given"),
    "dtype": (dict(x_t=X.int()), TypeError, "x_t is torch.int32: convert it to float32"),
    "epsilon's dtype": (dict(epsilon=X.double()), TypeError, "epsilon is torch.float64 beside an x_t of torch.float32"),
    "pinv_y's dtype": (dict(pinv_y=X.half()), TypeError, "pinv_y is torch.float16 and x_t is"),
    "device": (dict(epsilon=X.to("meta")), ValueError, "epsilon is on meta and x_t on cpu: move one"),
    "gradient": (dict(pinv_y=X.clone().requires_grad_()), RuntimeError, "has no gradient: call it under"),
}
IN_PLACE = {
    "layout": (dict(x_t=X.clone().mT.contiguous().mT), ValueError, "must be contiguous or channels-last"),
    "seed's shape": (dict(seed=torch.zeros(2).long()), ValueError, "seed must be an int, or a tensor of one int64"),
    "seed's dtype": (dict(seed=torch.zeros(1)), ValueError, "seed must be an int, or a tensor of one int64"),
}


@pytest.mark.parametrize("name", [*MISTAKES, *IN_PLACE])
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = {**MISTAKES, **IN_PLACE}[name]
    call: dict[str, Any] = dict(x_t=X.clone(), epsilon=X, pinv_y=X, seed=1, **AT, **STEPS["DDNM"])
    for step in (range_null_step_, range_null_step)[: 1 if name in IN_PLACE else 2]:
        with pytest.raises(error, match=sentence):
            step(**{**call, **change})


def test_the_op_itself_refuses_what_it_cannot_read() -> None:
    op = torch.ops.rddm_fast.range_null_step.default
    good: dict[str, Any] = dict(
        **dict(x_t=X, epsilon=X, pinv_y=X, mask=None, noise=None, seed=1, stream=0, factor=4, weights=None),
        numbers=step_numbers(**AT, **STEPS["DDNM"]),
    )
    op(**good)
    for change, sentence in (
        (dict(numbers=[1.0]), "a step has 7 numbers, not 1"),
        (dict(factor=5), "factor 5 must divide 8 and 12"),
        (dict(weights=[1.0]), "there are 1 weights for 3 channels"),
        (dict(mask=torch.ones(8, 11).bool()), r"mask must be \(H, W\) or"),
        (dict(mask=X[0, 0]), "mask must be bool or uint8"),
        (dict(seed=None), "which needs noise or a seed, one of them"),
        (dict(epsilon=X[:1]), "epsilon must have the image's shape"),
        (dict(pinv_y=X.half()), "pinv_y has the wrong dtype"),
        (dict(epsilon=X.double()), "no CPU kernel for x_t in Float beside outputs in Double"),
        (dict(x_t=X[0]), r"x_t must be \(B, C, H, W\)"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            op(**{**good, **change})
    in_place_op = torch.ops.rddm_fast.range_null_step_.default
    for change, sentence in (
        (dict(seed_tensor=torch.zeros(1)), "the seed must be one int64 number"),
        (dict(x_t=X.mT.contiguous().mT, seed_tensor=None), "x_t must be contiguous or channels-last"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            in_place_op(**{**good, **change})


def test_only_the_reference_is_differentiable() -> None:
    call = arguments("old photograph", F64, F64, (1, 3, 4, 4), **STEPS["DDRM"])
    x_t = call.pop("x_t").requires_grad_()
    range_null_step(x_t, **call, impl="reference").square().sum().backward()
    step = 1e-6 * torch.ones_like(x_t)
    with torch.no_grad():
        up, down = (range_null_step(x, **call, impl="reference").square().sum() for x in (x_t + step, x_t - step))
    torch.testing.assert_close(x_t.grad.sum(), (up - down) / 2e-6, rtol=1e-6, atol=0)
    with pytest.raises(RuntimeError, match="has no gradient"):
        range_null_step(x_t, **call)
