"""joint_loss against torch's own losses and autograd, on the backends that a machine without a GPU has."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from cases import SLOW
from cases.joint_loss import arguments, by_torch, by_us, few
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import ALL_PAIRS, BF16, F16, F32, F64, LAYOUTS, assert_as_exact_as_torch, check
from torch.utils._python_dispatch import TorchDispatchMode

from rddm_fast.ops import BackendUnavailable, backends, forward_diffuse, joint_loss, noise
from rddm_fast.theory.objective import Objective


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("image,output", ALL_PAIRS, ids=str)
@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_it_is_torch_s_loss_and_gradient(
    objective: Objective, image: torch.dtype, output: torch.dtype, loss_type: str
) -> None:
    c, lam = arguments(objective, image, output), torch.tensor(0.3)
    compute = F64 if output == F64 else F32
    exact = by_torch(c, lam, loss_type, F64)
    plain = by_torch(c, lam, loss_type, compute)
    for ours, theirs, right in zip(by_us(c, lam, loss_type), plain, exact, strict=True):
        # A float16 gradient is rounded twice, before and after its factor; lam's is the difference of two means, each
        # rounded; and nothing here is more exact than float64, whose own few roundings count.
        several = 4 * torch.finfo(compute).eps * max(x.abs().max() for x in exact)
        roundings = 2 if ours.dtype == F16 else 1
        assert_as_exact_as_torch(ours, theirs, right, roundings=roundings, absolute=several)


@pytest.mark.parametrize("backend", SLOW)
def test_the_cpu_passes_the_slow_backends_grids(backend: str) -> None:
    for case in few(backend):
        check(case, None, relative=1e-6)


@pytest.mark.parametrize("layouts", list(itertools.permutations(LAYOUTS, 2)), ids=",".join)
def test_every_layout(layouts: tuple[str, str]) -> None:
    c, lam = arguments(Objective.pred_res_noise, shape=(2, 3, 7, 7)), torch.tensor(0.6)
    lay = itertools.cycle(LAYOUTS[name] for name in layouts)
    mixed = {name: next(lay)(x) if isinstance(x, torch.Tensor) else x for name, x in c.items()}
    for ours, plain in zip(by_us(mixed, lam, "l1"), by_us(c, lam, "l1"), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-6, atol=1e-9)
    drawn = {**mixed, "noise": None}
    expected = by_us({**c, "noise": noise((2, 3, 7, 7), 5, 2)}, lam, "l2")
    for ours, plain in zip(by_us(drawn, lam, "l2", seed=5, stream=2), expected, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    objective=st.sampled_from(list(Objective)),
    loss_type=st.sampled_from(["l1", "l2"]),
    weight=st.floats(0, 1),
    restoring=st.booleans(),
)
def test_any_shape_and_weight(
    shape: tuple[int, ...], objective: Objective, loss_type: str, weight: float, restoring: bool
) -> None:
    c = arguments(objective, shape=shape)
    c["I_in"] = c["I_in"] if restoring else None
    lam = torch.tensor(weight, dtype=F32)
    for ours, exact in zip(by_us(c, lam, loss_type), by_torch(c, lam, loss_type, F64), strict=True):
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_training_step_draws_one_noise_twice() -> None:
    """A network that returns the truth has no loss: what forward_diffuse drew, joint_loss draws again."""
    torch.manual_seed(0)
    I_0, I_in, t = torch.rand(2, 3, 32, 32), torch.rand(2, 3, 32, 32), torch.tensor([3, 77])
    alpha_bar, beta_bar = torch.linspace(0, 1, 100), torch.linspace(0.01, 1, 100)
    I_t = forward_diffuse(I_0, I_in, t, alpha_bar, beta_bar, seed=8, stream=1)
    a, b = (table[t][:, None, None, None] for table in (alpha_bar, beta_bar))
    epsilon = (I_t - I_0 - a * (I_in - I_0)) / b
    loss, parts = joint_loss(I_in - I_0, epsilon, I_0, I_in, objective="pred_res_noise", seed=8, stream=1)
    assert parts[0] == 0 and loss < 1e-5
    other, _ = joint_loss(I_in - I_0, epsilon, I_0, I_in, objective="pred_res_noise", seed=8, stream=2)
    assert other > 0.5


def test_the_same_bits_whatever_the_threads() -> None:
    c = arguments(Objective.pred_x0_noise, shape=(3, 3, 111, 97))
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(by_us(c, torch.tensor(0.5), "l2"))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(other, found[0], strict=True))


def test_a_scaled_loss_has_scaled_gradients_even_in_float16() -> None:
    """As GradScaler does: 1 / numel alone would be lost in float16."""
    c = arguments(Objective.pred_res_noise, F32, F16, shape=(4, 3, 128, 128))
    ours = by_us(c, torch.tensor(0.5), "l1", scale=2.0**16)
    exact = by_torch(c, torch.tensor(0.5), "l1", F64)
    assert ours[2].dtype == F16
    torch.testing.assert_close(ours[2].double(), exact[2] * 2.0**16, rtol=1e-3, atol=0)


def test_under_autocast_with_accelerate_s_types() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Conv2d(3, 6, 3, padding=1)
    I_0, I_in = torch.rand(2, 3, 16, 16), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", BF16):
        res, eps = layer(I_in).chunk(2, dim=1)
        loss, _ = joint_loss(res, eps, I_0, I_in, objective="pred_res_noise", seed=1)
    assert res.dtype == BF16 and loss.dtype == F32
    loss.backward()
    assert layer.weight.grad is not None and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("lam", [0.25, torch.tensor(0.25, requires_grad=True)], ids=["number", "learnt"])
def test_compiled_into_one_graph(lam: float | torch.Tensor) -> None:
    torch._dynamo.reset()
    c = arguments(Objective.pred_res_noise, shape=(2, 3, 8, 8))
    weight = torch.randn(3, 1, 1)

    def step(out0: torch.Tensor, out1: torch.Tensor) -> torch.Tensor:
        loss, _ = joint_loss(
            out0 * weight, out1, c["I_0"], c["I_in"], objective="pred_res_noise", lam=lam, noise=c["noise"]
        )
        return loss * 2

    found = []
    for run in (step, torch.compile(step, fullgraph=True, backend="aot_eager")):
        outputs = [c[name].clone().requires_grad_() for name in ("out0", "out1")]
        if isinstance(lam, torch.Tensor):
            lam.grad = None
        loss = run(*outputs)
        loss.backward()
        found.append(
            [loss.detach(), *(o.grad for o in outputs), *([lam.grad] if isinstance(lam, torch.Tensor) else [])]
        )
    for eager, compiled in zip(*found, strict=True):
        torch.testing.assert_close(eager, compiled)


def test_a_learnt_weight_is_not_rounded_beside_float64() -> None:
    c = {
        name: x.double() if isinstance(x, torch.Tensor) else x
        for name, x in arguments(Objective.pred_res_noise).items()
    }
    call = {name: c[name] for name in ("out0", "out1", "I_0", "I_in", "noise")}
    by_impl = [
        joint_loss(**call, objective="pred_res_noise", lam=torch.tensor(0.1), impl=impl)[0]
        for impl in ("cpp", "reference")
    ]
    torch.testing.assert_close(*by_impl, rtol=1e-13, atol=0)


def test_opcheck() -> None:
    op = torch.ops.rddm_fast.joint_loss.default
    for objective in (Objective.pred_res_noise, Objective.pred_x0):
        c = arguments(objective)
        tensors = [c[name] for name in ("out0", "out1", "I_0", "I_in")]
        torch.library.opcheck(op, (*tensors, c["noise"], None, 0, None, 0.5, 0.5, int(objective), False))
        torch.library.opcheck(op, (*tensors, None, 7, 1, torch.tensor(0.5), 0.0, 0.0, int(objective), True))
    backward = torch.ops.rddm_fast.joint_loss_backward_.default
    for second, by_loss in ((torch.randn(2, 3), 2.0), (None, 1.0)):
        torch.library.opcheck(backward, (torch.randn(2, 3), second, torch.tensor(by_loss), 0.5))


def test_nan_stays_where_it_is() -> None:
    c = arguments(Objective.pred_res_noise)
    c["out0"][0, 0, 0, 0] = float("nan")
    loss, _, gradient0, gradient1, _ = by_us(c, torch.tensor(0.5), "l1")
    assert loss.isnan() and gradient0.isnan().sum() == 1 and gradient1.isfinite().all()


def test_the_gradient_is_given_once() -> None:
    c = arguments(Objective.pred_res_noise)
    out0 = c["out0"].requires_grad_()
    loss, _ = joint_loss(**c)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="call joint_loss again before a second backward"):
        loss.backward()
    loss, _ = joint_loss(**c)
    (gradient,) = torch.autograd.grad(loss, out0, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):  # there is no second derivative
        gradient.sum().backward()


def test_without_a_gradient_of_the_loss_there_are_none() -> None:
    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: Any, by_result: torch.Tensor) -> None:
            return None

    c = arguments(Objective.pred_res_noise)
    out0 = c["out0"].requires_grad_()
    Nothing.apply(joint_loss(**c)[0]).backward()
    assert out0.grad is None or not out0.grad.any()


def test_a_step_takes_the_two_gradients_and_nothing_else() -> None:
    c = arguments(Objective.pred_res_noise, shape=(4, 3, 256, 256))
    drawn = {**c, "noise": None, "out0": c["out0"].requires_grad_(), "out1": c["out1"].requires_grad_()}
    joint_loss(**drawn, seed=1)[0].backward()
    drawn["out0"].grad = drawn["out1"].grad = None
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        joint_loss(**drawn, seed=1)[0].backward()
    allocated = sum(e.self_cpu_memory_usage for e in profile.key_averages() if e.self_cpu_memory_usage > 0)
    gradients = 2 * c["out0"].numel() * 4
    assert gradients <= allocated <= gradients + 4096


class Log(TorchDispatchMode):
    """The names of the ops that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.called: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("impl", ["cuda", "triton"])
@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_a_gpu_is_asked_for_the_loss_and_its_backward_pass_and_nothing_else(
    impl: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a launch costs more than a small image's loss; and no result is waited for. Counted without a GPU, on meta."""
    monkeypatch.setattr(backends, f"_why_not_{impl}", lambda device: None)
    c = arguments(Objective.pred_res_noise, dtype, dtype, device="meta")
    outputs = {name: c[name].requires_grad_() for name in ("out0", "out1")}
    with Log() as log:
        joint_loss(**{**c, **outputs}, impl=impl)[0].backward()
    launched = [name for name in log.called if name != "aten::detach"]
    suffix = "_triton" if impl == "triton" else ""
    assert launched == [
        f"rddm_fast::joint_loss{suffix}",
        "aten::ones_like",  # autograd's own: the gradient that backward begins with
        f"rddm_fast::joint_loss_backward_{suffix}",
    ]
    assert outputs["out0"].grad.dtype == outputs["out1"].grad.dtype == dtype


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"lam": 1.5}, ValueError, "lam is 1.5: it weighs the two distances and must be between 0 and 1"),
        ({"lam": torch.tensor(-0.1)}, ValueError, "must be between 0 and 1"),
        ({"lam": torch.tensor([0.1, 0.2])}, ValueError, "lam must be one float32 number on cpu"),
        ({"lam": torch.tensor(0.5).double()}, ValueError, "lam must be one float32 number"),
        ({"loss_type": "huber"}, ValueError, "loss_type is 'l1' or 'l2'"),
        ({"out1": None}, ValueError, "pred_res_noise has two outputs, but out1 is missing"),
        ({"objective": "pred_res"}, ValueError, "pred_res has one output, but out1 was given"),
        ({"out0": torch.zeros(2, 3, 9, 8)}, ValueError, "out0 has shape"),
        ({"out1": torch.zeros(2, 3, 9, 7).half()}, TypeError, "out1 is torch.float16 and out0 is torch.float32"),
        ({"out0": torch.zeros(2, 3, 9, 7).double()}, TypeError, "out0 is torch.float64 beside an I_0"),
        ({"I_0": torch.zeros(2, 3, 9, 7).long()}, TypeError, "I_0 is torch.int64"),
        ({"I_in": torch.zeros(2, 3, 9, 7).half()}, TypeError, "I_in is torch.float16 and I_0 is torch.float32"),
        ({"noise": None}, ValueError, "pass either noise, .* or the seed"),
        ({"seed": 3}, ValueError, "pass either noise, .* or the seed"),
        ({"I_in": torch.zeros(2, 3, 9, 7, requires_grad=True)}, RuntimeError, "by its images has no gradient: detach"),
        ({"impl": "cuda"}, BackendUnavailable, "cuda: "),
    ],
)
def test_mistakes_are_named(change: dict[str, Any], error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        joint_loss(**{**arguments(Objective.pred_res_noise), **change})
