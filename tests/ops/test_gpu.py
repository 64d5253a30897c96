"""The GPU backends against the float64 reference, where there is a GPU."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from cases import GRIDS, group_norm_silu_training
from cases.reverse_step import STEPS
from oracle import check
from small_models import images, small_model
from small_priors import small_prior

from rddm_fast.fast import FastPrior, FastSampler, FastSolver
from rddm_fast.inverse import operators
from rddm_fast.ops import StepTable, backends, forward_diffuse, joint_loss, reverse_step_

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda")
BACKENDS = ["cuda", "triton"]
STEP = {"alpha_bar": 0.6, "beta_bar": 0.3, **STEPS["all terms"]}
PARTS = 4  # An op's grid is split, so that pytest's processes share Triton's compiling.


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    reason = backends.why_not(request.param, CUDA)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


COMPILED = ("reverse_step", "reverse_step_", "forward_diffuse", "joint_loss", "range_null_step", "range_null_step_")
GRID = [
    *itertools.product((*COMPILED, "tacos_step"), BACKENDS, range(PARTS)),
    *itertools.product(("spectral_step_",), ["triton"], range(PARTS)),
]
TRITON_ALONE = (
    *("group_norm_silu", "channel_norm", "linear_attention", "attention_layer", "stem_conv", "conv3x3"),
    *("conv_norm_silu", "conv_by_taps", "walsh_hadamard"),
)


@pytest.mark.parametrize("op", TRITON_ALONE)
def test_an_op_of_one_gpu_backend_is_as_exact_as_plain_torch(op: str) -> None:
    for case in GRIDS[op]("gpu", CUDA):
        check(case, None, roundings=2, relative=1e-6, absolute=case.cancellation)


def test_a_norm_by_triton_has_the_gradients_of_the_published_modules() -> None:
    group_norm_silu_training.gradients_by("triton", CUDA)


@pytest.mark.parametrize(("op", "impl", "part"), GRID)
def test_an_op_is_as_exact_as_plain_torch(op: str, impl: str, part: int) -> None:
    if reason := backends.why_not(impl, CUDA):
        pytest.skip(f"{impl}: {reason}")
    for case in itertools.islice(GRIDS[op]("gpu", CUDA), part, None, PARTS):
        if op == "reverse_step_":  # In place, the bound is around plain torch's result.
            case = dataclasses.replace(case, exact=lambda c=case: [x.double() for x in c.run("reference")])
        check(case, impl, roundings=2, relative=2e-6 if op == "tacos_step" else 1e-6)


def test_one_captured_step_serves_all(backend: str) -> None:
    """A captured call serves every step and seed, because it reads both from memory."""
    steps = [{**STEP, "k_res": -0.1 * i} for i in range(3)]
    table = StepTable.of(steps, device=CUDA)
    start, out0, out1, I_in = (torch.randn(1, 3, 64, 64, device=CUDA) for _ in range(4))
    state, index, seed = (
        start.clone(),
        torch.zeros(1, dtype=torch.int64, device=CUDA),
        torch.zeros(1, device=CUDA).long(),
    )
    call = dict(objective="pred_res_noise", table=table, step=index, I_in=I_in, seed=seed, impl=backend)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        reverse_step_(state, out0, out1, **call)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        reverse_step_(state, out0, out1, **call)
        index += 1
    for given in (3, 4):
        state.copy_(start), index.zero_(), seed.fill_(given)
        expected = start.clone()
        for i in range(3):
            graph.replay()
            reverse_step_(expected, out0, out1, **{**call, "step": i, "seed": given, "impl": "reference"})
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-5)


def test_a_step_that_the_table_does_not_have_is_nan(backend: str) -> None:
    table = StepTable.of([STEP], device=CUDA)
    x = torch.zeros(1, 3, 8, 8, device=CUDA)
    step = torch.ones(1, dtype=torch.int64, device=CUDA)
    out = torch.ones_like(x)
    images = {"I_t": x, "out0": out, "out1": out, "I_in": out}
    reverse_step_(**images, objective="pred_res_noise", table=table, step=step, seed=1, impl=backend)
    assert x.isnan().all()


def test_an_index_outside_of_the_tables_is_nan(backend: str) -> None:
    table = torch.linspace(0, 1, 5, device=CUDA)
    x = torch.ones(3, 2, 4, device=CUDA)
    t = torch.tensor([0, 5, -1], device=CUDA)
    result = forward_diffuse(x, None, t, table, table, seed=1, impl=backend)
    assert result[0].isfinite().all() and result[1:].isnan().all()


def test_the_same_bits_twice(backend: str) -> None:
    out = [torch.randn(2, 3, 200, 200, device=CUDA) for _ in range(4)]
    runs = [joint_loss(*out, objective="pred_res_noise", seed=1, impl=backend)[1] for _ in range(3)]
    assert all(torch.equal(run, runs[0]) for run in runs)


def test_captured_losses_are_replayed_side_by_side(backend: str) -> None:
    """Each counts its blocks in memory of its own, and finds there what its last replay left."""
    batches = [
        [torch.randn(2, 3, 300, 300, device=CUDA, requires_grad=number < 2) for number in range(4)] for _ in range(2)
    ]

    def step(batch: list[torch.Tensor], impl: str) -> list[torch.Tensor]:
        loss, parts = joint_loss(*batch, objective="pred_res_noise", lam=0.3, seed=1, impl=impl)
        return [loss.detach(), parts, *torch.autograd.grad(loss, batch[:2])]

    streams, graphs, results = [], [], []
    for batch in batches:
        streams.append(torch.cuda.Stream())
        with torch.cuda.stream(streams[-1]):
            step(batch, backend)
        torch.cuda.synchronize()
        graphs.append(torch.cuda.CUDAGraph())
        with torch.cuda.graph(graphs[-1], stream=streams[-1]):
            results.append(step(batch, backend))
    for _ in range(5):
        with torch.no_grad():
            [x.normal_() for batch in batches for x in batch]
        torch.cuda.synchronize()
        for _ in range(20):
            for graph, stream in zip(graphs, streams, strict=True):
                with torch.cuda.stream(stream):
                    graph.replay()
        torch.cuda.synchronize()
        for batch, replayed in zip(batches, results, strict=True):
            same_bits, close = step(batch, backend), step(batch, "reference")
            for ours, now, exact in zip(replayed, same_bits, close, strict=True):
                assert torch.equal(ours, now)
                torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-6)


OPTIONS = [dict(compile=c, graphs=g, dtype=torch.float32) for c, g in ((False, False), (False, True), (True, True))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [{}, dict(networks="shared"), dict(eta=1.0, self_condition=True)], ids=str)
def test_the_sampler_gives_the_cpu_s_image(kind: dict, options: dict) -> None:
    diffusion = small_model(**kind)
    torch.backends.cudnn.allow_tf32 = False
    sampler = FastSampler(diffusion.to(CUDA), **options)
    reference = FastSampler(diffusion.to("cpu"))
    shapes = [(1, 3, 40, 24), (2, 3, 16, 16), (1, 3, 40, 24)]  # two sizes in turn
    kept = []
    for i, shape in enumerate(shapes):
        x, draws = images(*shape, seed=i), [torch.randn(shape) for _ in range(4)]
        diffusion.to("cpu")
        expected = reference.sample(x, draws=draws)[-1]
        diffusion.to(CUDA)
        ours = sampler.sample(x, draws=draws)[-1]
        torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-3)
        kept.append((ours, ours.clone()))
    assert all(torch.equal(image, copy) for image, copy in kept)  # no replay wrote into what a caller has


def test_graphs_on_a_side_stream_after_emptying_the_cache_and_interleaved() -> None:
    diffusion = small_model(eta=1.0).to(CUDA)
    x = images(1, 3, 32, 32).to(CUDA)
    plain = FastSampler(diffusion, dtype=torch.float32, compile=False, graphs=False)
    captured = [FastSampler(diffusion, dtype=torch.float32, compile=False, steps=n) for n in (3, 2)]

    def of(sampler: FastSampler, seed: int) -> torch.Tensor:
        return sampler(x, generator=torch.Generator(CUDA).manual_seed(seed))

    expected = [of(plain, seed) for seed in (0, 1)]
    assert not torch.equal(*expected)
    of(captured[1], 0)
    torch.cuda.empty_cache()
    with torch.cuda.stream(torch.cuda.Stream()):
        ours = [of(captured[0], seed) for seed in (0, 1)]
        torch.cuda.current_stream().synchronize()
    other = of(captured[1], 1)
    assert torch.equal(other, of(captured[1], 1)) and "1 captured" in captured[0].explain()
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
    captured[0].reset()
    torch.testing.assert_close(of(captured[0], 1), expected[1], rtol=0, atol=1e-5)


def test_in_bfloat16_by_default_it_is_close_to_float32() -> None:
    diffusion, x = small_model(dim=32).to(CUDA), images(1, 3, 64, 64).to(CUDA)
    exact, ours = (
        FastSampler(diffusion, dtype=dtype)(x, generator=torch.Generator(CUDA).manual_seed(0))
        for dtype in (torch.float32, None)
    )
    assert 0 < (ours - exact).square().mean() < 10 ** (-45 / 10)


SOLVED = ["sr:2", "inpaint", "color", "cs:0.5", "blur:gauss", "old:2", "denoising"]


@pytest.mark.parametrize("method", ["ddnm", "ddrm"])
@pytest.mark.parametrize("name", SOLVED)
def test_the_solver_s_graph_gives_the_cpu_s_image(name: str, method: str) -> None:
    torch.backends.cudnn.allow_tf32 = False
    shape, options = (2, 3, 32, 32), {"sigma_y": 0.1, "steps": 4}
    operator = operators.named(name, shape[1:])
    y = operator.A(2 * images(*shape, seed=1) - 1)
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(5)]
    method = "ddnm+" if method == "ddnm" else method
    expected = FastSolver(FastPrior(small_prior()), operator, method, **options)(y, noise=noise)
    prior = FastPrior(small_prior().to(CUDA), dtype=torch.float32, compile=False)
    solver = FastSolver(prior, operators.named(name, shape[1:]), method, **options)
    for _ in range(2):
        ours = solver(y.to(CUDA), noise=[z.to(CUDA) for z in noise])
        torch.testing.assert_close(ours.cpu(), expected, rtol=0, atol=1e-3)


def test_a_graph_made_in_inference_mode_serves_outside_of_it() -> None:
    diffusion, x = small_model().to(CUDA), images(1, 3, 32, 32).to(CUDA)
    sampler = FastSampler(diffusion, compile=False)
    with torch.inference_mode():
        first = sampler(x, generator=torch.Generator(CUDA).manual_seed(0))
    torch.testing.assert_close(sampler(x, generator=torch.Generator(CUDA).manual_seed(0)), first, rtol=0, atol=0)


def test_an_autocast_around_a_captured_sampler_changes_nothing() -> None:
    sampler, x = FastSampler(small_model().to(CUDA), dtype=torch.float32, compile=False), images(1, 3, 32, 32).to(CUDA)
    plain = sampler(x, generator=torch.Generator(CUDA).manual_seed(0))
    sampler.reset()
    with torch.autocast("cuda", torch.bfloat16):
        captured = sampler(x, generator=torch.Generator(CUDA).manual_seed(0))
    torch.testing.assert_close(captured, plain, rtol=0, atol=0)
