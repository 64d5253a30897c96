"""reverse_step on the CPU: the compiled kernel and the plain-torch definition, and the op as torch sees it."""

import math
import subprocess
import sys

import pytest
import torch
from cases import SLOW
from cases.reverse_step import STEPS, arguments, case, few, recorded_diffuir, with_nan_and_infinity
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_PAIRS, BF16, F16, F32, LAYOUTS, check, pair_name
from torch._subclasses.fake_tensor import FakeTensorMode

from rddm_fast.ops import BackendUnavailable, backends, reverse_step
from rddm_fast.ops.step_table import step_numbers
from rddm_fast.theory.objective import Objective

SHAPES = {"odd": (2, 3, 5, 7), "even": (2, 4, 16, 16), "size 1": (3, 1, 4, 1), "empty": (2, 0, 4, 4)}


def assert_as_exact_as_torch(call, impl, magnitude=0.0):
    """Judge a call; `magnitude` is the largest intermediate value, which is rounded too."""
    info = torch.finfo(torch.float64 if call["I_t"].dtype == torch.float64 else F32)
    absolute = info.eps * magnitude
    finite = reverse_step(**call, impl="reference").isfinite()
    if call["I_t"].dtype == torch.float64 and finite.any():
        # Nothing here is more exact, so plain torch's own error is bounded instead: a step has at most 10 roundings,
        # of values no larger than the inputs over 1 - alpha_bar.
        inputs = max(x[finite].abs().max() for x in call.values() if isinstance(x, torch.Tensor))
        absolute += 10 * info.eps * inputs / (1 - call["alpha_bar"])
    check(case(call), impl, absolute=absolute)


def test_the_library_is_compiled():
    assert backends.build_info is not None, backends.why_not_compiled
    assert backends.OPS["reverse_step"].backend(None, torch.device("cpu")) == "cpp"


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("pair", ALL_PAIRS, ids=pair_name)
@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_cpp_is_as_exact_as_plain_torch(objective, pair, step):
    for shape in SHAPES.values():
        for layout in LAYOUTS:
            assert_as_exact_as_torch(arguments(objective, *pair, shape, [layout], **STEPS[step]), "cpp")


@pytest.mark.parametrize("backend", SLOW)
def test_cpp_passes_the_slow_backends_grids(backend):
    for one in few(backend):
        check(one, "cpp", relative=1e-6 * one.sums)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
def test_diffuir_s_recorded_steps_come_out(impl):
    assert recorded_diffuir(impl) <= 1e-5


@pytest.mark.parametrize("first", LAYOUTS)
def test_layouts_that_differ_give_the_same_numbers(first):
    names = list(LAYOUTS)
    others = names[names.index(first) :] + names[: names.index(first)]
    for shape in SHAPES.values():
        same = reverse_step(**arguments(Objective.pred_x0_noise, F32, F32, shape), impl="cpp")
        mixed = reverse_step(**arguments(Objective.pred_x0_noise, F32, F32, shape, others), impl="cpp")
        assert torch.equal(same, mixed)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_are_those_of_empty_like_and_of_the_fake(layout, shape):
    call = arguments(Objective.pred_res_noise, F32, F32, SHAPES[shape], [layout])
    with FakeTensorMode() as mode:
        fakes = {k: mode.from_tensor(x) if isinstance(x, torch.Tensor) else x for k, x in call.items()}
        fake = reverse_step(**fakes, impl="cpp")
    wanted = torch.empty_like(call["I_t"])
    for impl in ("cpp", "reference"):
        result = reverse_step(**call, impl=impl)
        assert result.stride() == wanted.stride()
        # Of an empty tensor torch.empty_like itself keeps the strides where a fake one does not.
        assert result.stride() == fake.stride() or result.numel() == 0
        assert result.shape == fake.shape and result.dtype == fake.dtype


def test_large_images_cross_blocks_and_threads():
    for numel in (1, 1023, 1024, 1025, 32 * 1024 + 1, 3 * 32 * 1024 + 77):
        for pair in ((F32, F32), (F32, BF16), (F16, F16)):
            call = arguments(Objective.pred_noise, *pair, (numel,))
            assert_as_exact_as_torch(call, "cpp")


def test_absent_input_is_zero():
    for objective in Objective:
        call = arguments(objective, F32, F32, (2, 3, 5, 7))
        zeros = {**call, "I_in": torch.zeros_like(call["I_in"])}
        absent = {**call, "I_in": None}
        for impl in ("cpp", "reference"):
            assert torch.equal(reverse_step(**zeros, impl=impl), reverse_step(**absent, impl=impl))


@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_nan_and_infinity_go_where_plain_torch_lets_them(objective):
    for call in with_nan_and_infinity(objective):
        ours, plain = (reverse_step(**call, impl=impl) for impl in ("cpp", "reference"))
        torch.testing.assert_close(ours, plain, equal_nan=True)


@pytest.mark.parametrize("impl", ["cpp", "reference"])
def test_terms_with_zero_coefficients_are_left_out(impl):
    """At the last index of a schedule that ends at beta_bar = 0, epsilon is infinite and must not matter."""
    call = arguments(Objective.pred_res, F32, F32, (4, 9), **STEPS["last"])
    call["beta_bar"] = 0.0
    result = reverse_step(**call, impl=impl)
    assert torch.equal(result, (call["I_in"] - call["out0"].clamp(-1, 1)).clamp(-1, 1))
    nothing = reverse_step(**{**call, "k_0": 0.0}, impl=impl)
    assert torch.equal(nothing, torch.zeros(4, 9))


def test_half_precision_rounds_as_torch_does():
    """Every magnitude a half can have and what lies between, through a step that only copies."""
    bits = torch.arange(0, 2**31 - 2**23, 4099, dtype=torch.int64).to(torch.int32)
    positive = bits.view(torch.float32)
    copy = dict(k_t=1.0, k_res=0.0, k_noise=0.0, k_0=0.0, sigma=0.0, alpha_bar=0.5, beta_bar=0.5)
    # halves are exact in float32, so an I_t in half precision times k_t rounds like that product
    for dtype in (F16, BF16):
        x = torch.cat((positive, -positive)).to(dtype)
        for k in (1.0, 1 / 3, 2.0**-9, 65519 / 65504):
            ours = reverse_step(x, x, x, objective="pred_res_noise", impl="cpp", **{**copy, "k_t": k})
            assert torch.equal(ours, (x.float() * k).to(dtype))


@st.composite
def calls(draw):
    objective = draw(st.sampled_from(list(Objective)))
    image, output = draw(st.sampled_from(ALL_PAIRS))
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=4, max_size=4)))
    layouts = draw(st.lists(st.sampled_from(list(LAYOUTS)), min_size=1, max_size=5))
    call = arguments(objective, image, output, shape, layouts, draw(st.integers(0, 99)))
    coefficient = st.just(0.0) | st.floats(-2, 2, width=32)
    call |= {name: draw(coefficient) for name in ("k_t", "k_res", "k_noise", "k_0", "k_in", "sigma", "offset")}
    call |= {name: draw(st.floats(0, 2) | st.just(math.inf)) for name in ("clip_res", "clip_0")}
    call |= {"alpha_bar": draw(st.floats(0, 0.99)), "beta_bar": draw(st.just(0.0) | st.floats(0.01, 1))}
    # Without a degraded image nothing of it can be added.
    return call | draw(st.sampled_from(({}, {"I_in": None, "k_in": 0.0})))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(calls())
def test_any_call_is_as_exact_as_plain_torch(call):
    # A single element may be rounded luckily by torch: allow the rounding of the largest intermediate too.
    numbers = [x.double().abs().max().item() for x in call.values() if isinstance(x, torch.Tensor) and x.numel()]
    divisors = (call["beta_bar"], 1 - call["alpha_bar"])
    read_out = 3 * max(numbers, default=0.0) * max(1 / d if d else 1.0 for d in divisors)
    weight = sum(abs(call[name]) for name in ("k_t", "k_res", "k_noise", "k_0", "k_in", "sigma"))
    assert_as_exact_as_torch(call, "cpp", magnitude=weight * read_out)


@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_opcheck(objective):
    for layout in ("contiguous", "channels_last", "sliced"):
        call = arguments(objective, F32, BF16, (2, 3, 4, 5), [layout])
        tensors = [call.pop(name) for name in ("I_t", "out0", "out1", "I_in", "noise")]
        k = [call[name] for name in ("k_t", "k_res", "k_noise", "k_0")]
        numbers = step_numbers(call["alpha_bar"], call["beta_bar"], 0.4, *k, 0.1, call["sigma"], 0.5, 1.0, 1.0)
        op = torch.ops.rddm_fast.reverse_step.default
        torch.library.opcheck(op, (*tensors, None, 0, int(objective), numbers))
        torch.library.opcheck(op, (*tensors[:4], None, 7, 3, int(objective), numbers))


@pytest.mark.parametrize("impl", [None, "cpp", "reference"])
def test_compiles_into_one_graph(impl):
    torch._dynamo.reset()  # the parametrised runs share the function below, and its limit of recompilations

    def two_steps(call):
        x = reverse_step(**call, impl=impl) * 2
        return reverse_step(**{**call, "I_t": x, "objective": "pred_res_noise"}, impl=impl)

    compiled = torch.compile(two_steps, fullgraph=True, backend="aot_eager")
    for layout in ("contiguous", "channels_last", "sliced"):
        call = arguments(Objective.pred_res_add_noise, F32, F32, (2, 3, 4, 5), [layout])
        with torch.no_grad():
            expected, got = two_steps(call), compiled(call)
        assert torch.equal(expected, got) and expected.stride() == got.stride()


def test_inductor_keeps_the_layout():
    def step(call):
        return reverse_step(**{**call, "I_t": call["I_t"] * 2, "out0": call["out0"].relu()}) + 1

    call = arguments(Objective.pred_res_noise, F32, F32, (2, 3, 4, 5), ["channels_last", "contiguous"])
    got = torch.compile(step, fullgraph=True)(call)
    torch.testing.assert_close(got, step(call))
    assert got.stride() == step(call).stride()


BAD_CALLS = {
    "shape": (
        dict(out0=torch.zeros(2, 3)),
        ValueError,
        r"out0 has shape \(2, 3\) and I_t has \(2, 3, 4, 5\)",
    ),
    "k_in": (dict(k_in=0.1, I_in=None), ValueError, "k_in is 0.1, but there is no degraded image: pass I_in"),
    "noise shape": (dict(noise=torch.zeros(3)), ValueError, "noise has shape"),
    "image dtype": (dict(I_t=torch.zeros(2, 3, 4, 5, dtype=torch.int32)), TypeError, "convert it to float32"),
    "output dtype": (dict(out0=torch.zeros(2, 3, 4, 5).double()), TypeError, "out0 is torch.float64 beside"),
    "mixed outputs": (
        dict(out1=torch.zeros(2, 3, 4, 5).half()),
        TypeError,
        "out1 is torch.float16 and out0 is",
    ),
    "input dtype": (dict(I_in=torch.zeros(2, 3, 4, 5).half()), TypeError, "I_in is torch.float16 and I_t is"),
    "device": (
        dict(out0=torch.zeros(2, 3, 4, 5, device="meta")),
        ValueError,
        "out0 is on meta and I_t on cpu",
    ),
    "missing output": (dict(out1=None), ValueError, "has two outputs, but out1 is missing"),
    "extra output": (dict(objective="pred_res"), ValueError, "has one output, but out1 was given"),
    "objective": (dict(objective="pred_all"), ValueError, "unknown objective 'pred_all': choose one of"),
    "no noise": (dict(noise=None), ValueError, "sigma is 0.2, but there is no noise"),
    "clip": (dict(clip_0=-1.0), ValueError, "must be half-widths"),
    "nan clip": (dict(clip_res=math.nan), ValueError, "must be half-widths"),
    "impl": (
        dict(impl="cpu"),
        ValueError,
        "unknown backend 'cpu': choose one of reference, cpp, cuda, triton",
    ),
    "cuda": (dict(impl="cuda"), BackendUnavailable, "cuda: (it runs on CUDA devices only|not compiled)"),
    "triton": (dict(impl="triton"), BackendUnavailable, "triton: "),
    "gradient": (
        dict(out0=torch.zeros(2, 3, 4, 5, requires_grad=True)),
        RuntimeError,
        "reverse_step has no gradient: call it under",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_mistakes_are_named(name, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    change, error, sentence = BAD_CALLS[name]
    with pytest.raises(error, match=sentence):
        reverse_step(**{**arguments(Objective.pred_res_noise, F32, F32, (2, 3, 4, 5)), **change})


def test_the_op_itself_refuses_what_it_cannot_read():
    op, x = torch.ops.rddm_fast.reverse_step.default, torch.zeros(2, 3)
    numbers = (0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0)
    for tensors, objective, sigma, sentence in (
        ((x, torch.zeros(3), x, None, None), 0, 0.0, "out0 must have the image's shape"),
        ((x, x, None, None, None), 0, 0.0, "out1 must be given exactly where"),
        ((x, x, None, None, None), 4, 0.5, "sigma != 0 needs noise"),
        ((x, x, None, None, None), 7, 0.0, "objective 7 is not one of"),
        ((x, x.double(), None, None, None), 4, 0.0, "no CPU kernel for I_t in Float"),
    ):
        with pytest.raises(RuntimeError, match=sentence):
            op(*tensors, None, 0, objective, step_numbers(*numbers, sigma, 0.0, 1.0, 1.0))
    with pytest.raises(RuntimeError, match="a step has 14 numbers, not 2"):
        op(x, x, x, None, None, None, 0, 0, [0.5, 0.5])


def test_an_unavailable_backend_says_why(monkeypatch):
    monkeypatch.setattr(backends.OPS["reverse_step"], "_chosen", {})
    monkeypatch.setattr(backends, "build_info", None)
    monkeypatch.setattr(backends, "why_not_compiled", "not compiled: for this test")
    call = arguments(Objective.pred_res_noise, F32, F32, (2, 3))
    with pytest.raises(BackendUnavailable, match="cpp: not compiled: for this test"):
        reverse_step(**call, impl="cpp")
    assert backends.OPS["reverse_step"].backend(None, torch.device("cpu")) == "reference"
    assert backends.OPS["reverse_step"].best(torch.device("cpu")) == "reference"
    assert backends.OPS["reverse_step"].best(torch.device("meta")) is None
    with pytest.raises(BackendUnavailable, match="no backend for tensors on meta"):
        backends.OPS["reverse_step"].backend(None, torch.device("meta"))


def test_only_the_reference_is_differentiable():
    call = arguments(Objective.pred_res_noise, F32, F32, (2, 3))
    call["I_t"].requires_grad_()
    reverse_step(**call, impl="reference").sum().backward()
    assert torch.equal(call["I_t"].grad, torch.ones(2, 3))
    with pytest.raises(RuntimeError, match="has no gradient"):
        reverse_step(**call)
    with torch.no_grad():
        reverse_step(**call)


def test_importing_is_silent_and_light(tmp_path):
    check = (
        "import sys, torch, rddm_fast.ops\nassert 'triton' not in sys.modules\nassert not torch.cuda.is_initialized()\n"
    )
    run = [sys.executable, "-W", "error", "-c", check]
    done = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), done.stderr
