"""The GPU backends against the float64 reference, where there is a GPU."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from small_models import group_norm_cancellation, images, small_model

from rddm_fast.fast import FastSampler
from rddm_fast.ops import (
    StepTable,
    backends,
    channel_norm,
    channel_norm_reference,
    forward_diffuse,
    group_norm_silu,
    group_norm_silu_reference,
    joint_loss,
    linear_attention,
    linear_attention_reference,
    noise,
    reverse_step,
    reverse_step_,
)
from rddm_fast.theory.objective import Objective

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
CUDA = torch.device("cuda")
PAIRS = [
    *((torch.float32, output) for output in (torch.float32, torch.bfloat16, torch.float16)),
    (torch.bfloat16, torch.bfloat16),
    (torch.float16, torch.float16),
]
LAYOUTS = [torch.contiguous_format, torch.channels_last]
SHAPES = [(2, 3, 5, 7), (1, 3, 64, 64)]
BACKENDS = ["cuda", "triton"]
STEP = {"alpha_bar": 0.6, "beta_bar": 0.3, "k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.1, "sigma": 0.2}


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    reason = backends.why_not(request.param, CUDA)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason}")
    return request.param


def close(ours: torch.Tensor, exact: torch.Tensor, plain: torch.Tensor, extra: float = 0.0) -> None:
    lost = (plain.double() - exact).abs().max()
    rounding = (2 * torch.finfo(ours.dtype).eps + 1e-6 + extra) * exact.abs().max()
    assert (ours.double() - exact).abs().max() <= 2 * lost + rounding


def cases() -> Iterator[tuple[tuple[int, ...], tuple[torch.dtype, torch.dtype], Objective]]:
    """Every pair of dtypes with every objective, the shapes in turn: Triton compiles for each combination."""
    for shape, (pair, objective) in zip(itertools.cycle(SHAPES), itertools.product(PAIRS, Objective)):
        yield shape, pair, objective


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_reverse_step(backend: str, layout: torch.memory_format, drawn: bool) -> None:
    for shape, (image, output), objective in cases():
        torch.manual_seed(0)
        I_t, I_in, z = (torch.randn(shape, device=CUDA).to(image).to(memory_format=layout) for _ in range(3))
        outputs = [torch.randn(shape, device=CUDA).to(output) for _ in range(objective.outputs)]
        if drawn:
            z = noise(shape, 7, 2, CUDA)
        exact = reverse_step(
            I_t.double(),
            *(x.double() for x in outputs),
            objective=objective,
            I_in=I_in.double(),
            noise=z.double(),
            impl="reference",
            **STEP,
        )
        given = {"seed": 7, "stream": 2} if drawn else {"noise": z}
        plain, ours = (
            reverse_step(I_t, *outputs, objective=objective, I_in=I_in, impl=impl, **given, **STEP)
            for impl in ("reference", backend)
        )
        close(ours, exact, plain)
        assert ours.stride() == plain.stride() and ours.dtype == image


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_reverse_step_in_place(backend: str, layout: torch.memory_format) -> None:
    rows = [STEP, {**STEP, "k_0": 0.5}]
    table = StepTable.of(rows, device=CUDA)
    for shape, (image, output), objective in cases():
        torch.manual_seed(0)
        I_t, I_in = (torch.randn(shape, device=CUDA).to(image).to(memory_format=layout) for _ in range(2))
        outputs = [torch.randn(shape, device=CUDA).to(output) for _ in range(objective.outputs)]
        b, c, h, w = shape
        found = []
        for impl in ("reference", backend):
            buffer = torch.full((b, 2 * c, h, w), 5.0, dtype=output, device=CUDA).to(memory_format=layout)
            state, clean = I_t.clone(), torch.empty_like(outputs[0])
            reverse_step_(
                *(state, *outputs),
                objective=objective,
                I_in=I_in,
                table=table,
                step=torch.ones(1, dtype=torch.int64, device=CUDA),
                seed=torch.full((1,), 7, device=CUDA),
                next_input=buffer[:, :c],
                clean=clean,
                impl=impl,
            )
            assert (buffer[:, c:] == 5).all()
            found.append((state, buffer[:, :c], clean))
        for plain, ours in zip(*found, strict=True):
            close(ours, plain.double(), plain)


def test_one_captured_step_serves_all(backend: str) -> None:
    """A graph of one call, replayed: its step's number and its seed are read from memory."""
    steps = [{**STEP, "k_res": -0.1 * i} for i in range(3)]
    table = StepTable.of(steps, device=CUDA)
    start, out0, out1 = (torch.randn(1, 3, 64, 64, device=CUDA) for _ in range(3))
    state, index, seed = (
        start.clone(),
        torch.zeros(1, dtype=torch.int64, device=CUDA),
        torch.zeros(1, device=CUDA).long(),
    )
    call = dict(objective="pred_res_noise", table=table, step=index, seed=seed, impl=backend)
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
    reverse_step_(x, out, out, objective="pred_res_noise", table=table, step=step, seed=1, impl=backend)
    assert x.isnan().all()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_forward_diffuse_and_joint_loss(backend: str, layout: torch.memory_format) -> None:
    tables = torch.linspace(0, 1, 50, device=CUDA), torch.linspace(0, 0.5, 50, device=CUDA)
    for shape, (image, output), loss_type in itertools.product(SHAPES, PAIRS, ("l1", "l2")):
        torch.manual_seed(0)
        I_0, I_in = (torch.randn(shape, device=CUDA).to(image).to(memory_format=layout) for _ in range(2))
        t = torch.randint(0, 50, shape[:1], device=CUDA)
        arguments = (I_0, I_in, t, *tables)
        plain, ours = (forward_diffuse(*arguments, seed=5, impl=impl) for impl in ("reference", backend))
        close(ours, forward_diffuse(I_0.double(), I_in.double(), t, *tables, seed=5, impl="reference"), plain)

        z = torch.randn(shape, device=CUDA).to(image)
        outputs = [torch.randn(shape, device=CUDA).to(output) for _ in range(2)]
        found = []
        for impl, dtype in ((backend, None), ("reference", None), ("reference", torch.float64)):
            x = [v.detach().to(dtype or v.dtype) for v in (*outputs, I_0, I_in, z)]
            leaves = [v.clone().requires_grad_() for v in x[:2]]
            loss, _ = joint_loss(
                *leaves, *x[2:4], objective="pred_res_noise", noise=x[4], lam=0.3, loss_type=loss_type, impl=impl
            )
            (loss * 4).backward()
            found.append([loss.detach(), *(leaf.grad for leaf in leaves)])
        for a, b, exact in zip(*found, strict=True):
            close(a, exact.double(), b)


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


def test_group_norm_silu() -> None:
    for (shape, groups), dtype, layout, adds in itertools.product(
        [((2, 24, 9, 7), 8), ((1, 64, 128, 128), 8), ((3, 8, 1, 1), 2), ((2, 5, 1, 1), 5)],
        {p[0] for p in PAIRS},
        LAYOUTS,
        (False, True),
    ):
        torch.manual_seed(0)
        x, rest = (torch.randn(shape, device=CUDA).to(dtype).to(memory_format=layout) for _ in range(2))
        weight, bias, table = (torch.randn(n, device=CUDA) for n in (shape[1], shape[1], (1, 2 * shape[1])))
        given = {"scale_shift": table, "residual": rest} if adds else {}
        ours, plain = (group_norm_silu(x, weight, bias, groups, impl=impl, **given) for impl in (None, "reference"))
        wide = {name: v.double() for name, v in given.items()}
        exact = group_norm_silu_reference(
            x.double(), weight.double(), bias.double(), groups, 1e-5, wide.get("scale_shift"), wide.get("residual")
        )
        lost = 0.0
        if x[0].numel() == groups:  # a group of one value: nothing of it is left but what cancelling it loses
            lost = group_norm_cancellation(x, groups, weight, given.get("scale_shift")) / exact.abs().max()
        close(ours, exact, plain, lost)
        assert ours.stride() == plain.stride()


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


def test_channel_norm_and_linear_attention() -> None:
    for dtype, layout in itertools.product({p[0] for p in PAIRS}, LAYOUTS):
        torch.manual_seed(0)
        for shape in ((2, 24, 9, 7), (1, 64, 128, 128), (1, 512, 32, 32), (2, 5, 1, 1)):
            x, g = (
                torch.randn(shape, device=CUDA).to(dtype).to(memory_format=layout),
                torch.randn(shape[1], device=CUDA),
            )
            ours, plain = (channel_norm(x, g, impl=impl) for impl in (None, "reference"))
            close(ours, channel_norm_reference(x.double(), g, 1e-5), plain)
            assert ours.stride() == plain.stride()
        for b, heads, features, h, w in ((2, 4, 32, 9, 7), (1, 4, 32, 128, 128), (1, 2, 5, 1, 1)):
            qkv = torch.randn(b, 3 * heads * features, h, w, device=CUDA).to(dtype).to(memory_format=layout)
            ours, plain = (linear_attention(qkv, heads, impl=impl) for impl in (None, "reference"))
            close(ours, linear_attention_reference(qkv.double(), heads), plain)
            assert ours.stride() == plain.stride() and torch.equal(ours, linear_attention(qkv, heads))
