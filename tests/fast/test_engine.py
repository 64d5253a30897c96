"""`FastSampler` gives the images of `ResidualDiffusion.sample`, and leaves the model alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from small_models import images, small_model
from torch import nn

from rddm_fast.benchmarks.end_to_end.network import measure
from rddm_fast.compat import ResidualDiffusion as PublishedDiffusion
from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.diffusion.unet import LinearAttention, ResnetBlock, WeightStandardizedConv2d, standardised
from rddm_fast.fast import FastSampler
from rddm_fast.fast import fold as fold_module
from rddm_fast.fast.fold import _REPLACEMENTS, fold, packs
from rddm_fast.fast.folded import FoldedBlock, PixelsFirstLinearAttention
from rddm_fast.fast.time_shares import kind_of
from rddm_fast.fast.together import together
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import built_in_models, load_model
from rddm_fast.restoration.demo import DEGRADATIONS, degraded_with_mask, photographs
from rddm_fast.restoration.metrics import psnr, ssim
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule


def both(diffusion: ResidualDiffusion, *inputs: torch.Tensor, **options: object) -> tuple[torch.Tensor, torch.Tensor]:
    """The eager image and the fast one, from the same seed."""
    steps = {name: options.pop(name) for name in ("steps", "eta") if name in options}
    eager = diffusion.sample(
        *inputs,
        generator=torch.Generator().manual_seed(3),
        sampling_timesteps=steps.get("steps"),
        eta=steps.get("eta"),
        **options,
    )[-1]
    sampler = FastSampler(diffusion, **steps)
    return eager, sampler.sample(*inputs, generator=torch.Generator().manual_seed(3), **options)[-1]


@pytest.mark.parametrize("objective", [o.name for o in Objective])
def test_the_same_image_for_every_objective(objective: str) -> None:
    eager, fast = both(small_model(objective), images(2, 3, 24, 16))
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "kind",
    [
        {"networks": "shared"},
        {"self_condition": True},
        {"input_condition": True, "input_condition_mask": True},
        {"path_independent": True},
        {"img_to_img_translation": False, "test_res_or_noise": "res"},
    ],
    ids=lambda kind: ",".join(kind),
)
def test_the_same_image_for_every_kind_of_network(kind: dict) -> None:
    inputs = [images(2, 3, 24, 16)]
    if kind.get("input_condition"):
        inputs.append(images(2, 3, 24, 16, seed=2).round())
    eager, fast = both(small_model(**kind), *inputs)
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


def test_the_same_image_when_translating() -> None:
    torch.manual_seed(0)
    networks = ResidualUnets(16, dim_mults=[1, 2], condition=True, img_to_img_translation=True)
    diffusion = ResidualDiffusion(
        networks, Schedule.power(1000, 1.0), condition=True, img_to_img_translation=True, sampling_timesteps=3
    )
    eager, fast = both(diffusion, images(2, 3, 24, 16))
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


def test_the_same_image_at_every_step_of_the_ancestral_sampler() -> None:
    diffusion = small_model(schedule=Schedule.triangular(6, 0.01), sampling_timesteps=None)
    x = images(1, 3, 16, 16)
    seeded = [torch.Generator().manual_seed(3) for _ in range(2)]
    eager = diffusion.sample(x, generator=seeded[0], every_step=True)
    fast = FastSampler(diffusion).sample(x, generator=seeded[1], every_step=True)
    assert len(fast) == len(eager) == 7
    for ours, theirs in zip(fast, eager, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("networks", ["one", "two", "shared"])
def test_folded_networks_answer_as_the_ones_they_were_made_from(networks: str) -> None:
    torch.manual_seed(0)
    sees = {"condition": True, "self_condition": True}
    unets = ResidualUnets(16, networks=networks, dim_mults=[1, 2, 4], **sees).eval()
    with torch.no_grad():
        for parameter in unets.parameters():  # norms of 1 and biases of 0 would hide a swapped one
            parameter.add_(0.05 * torch.randn_like(parameter))
    times = [torch.tensor([900.0, 3.0]), torch.tensor([30.0, 700.0])]
    folded = fold(unets, times)
    x, previous = torch.randn(2, 6, 20, 12), torch.randn(2, 3, 20, 12)
    with torch.no_grad():
        for step in range(2):
            own = [time[step : step + 1] for time in times]
            for ours, theirs in zip(folded(x, step, previous), unets(x, own, previous), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5)
            constant = folded.constant(x[:, 3:])
            for i in (step, torch.tensor([step])):  # the number, or a tensor that holds it
                split = folded(x[:, :3], i, previous, constant=constant)
                assert all(torch.equal(a, b) for a, b in zip(split, folded(x, step, previous), strict=True))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 18)])
def test_the_same_image_for_every_size(size: tuple[int, int]) -> None:
    eager, fast = both(small_model(), images(1, 3, *size))
    assert fast.shape == (1, 3, *size)
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)


def test_stochastic_steps_draw_the_same_noise() -> None:
    diffusion = small_model()
    eager, fast = both(diffusion, images(1, 3, 16, 16), steps=6, eta=1.0)
    torch.testing.assert_close(fast, eager, rtol=0, atol=1e-5)
    still, _ = both(diffusion, images(1, 3, 16, 16), steps=6, eta=0.0)
    assert (eager - still).abs().max() > 1e-2


def test_generation() -> None:
    eager, fast = both(small_model("pred_noise", condition=False), batch_size=2)
    assert fast.shape == (2, 3, 16, 16)
    torch.testing.assert_close(fast, eager, rtol=0, atol=2e-5)


def test_tables_of_the_steps_are_the_time_network_s_values() -> None:
    diffusion = small_model(path_independent=True, sampling_timesteps=4)
    networks = FastSampler(diffusion).networks
    indices = torch.tensor([999, 749, 499, 249])
    curves = (diffusion.schedule.alpha_bar, diffusion.schedule.beta_bar)
    for member, folded, curve in zip(diffusion.model.members, networks.members, curves, strict=True):
        times = torch.from_numpy(curve)[indices].float() * 1000
        blocks = {name: m for name, m in member.named_modules() if isinstance(m, ResnetBlock)}
        tables = {name: m.table for name, m in folded.named_modules() if isinstance(m, FoldedBlock)}
        assert blocks.keys() == tables.keys() and len(blocks) == 11
        with torch.no_grad():
            embedding = member.time_mlp(times)
            for name, block in blocks.items():
                torch.testing.assert_close(tables[name], block.mlp(embedding), rtol=0, atol=1e-5)


def test_called_it_returns_images_in_0_1() -> None:
    sampler = FastSampler(small_model(), steps=2)
    torch.manual_seed(0)
    called = sampler(images(1, 3, 16, 16))
    torch.manual_seed(0)
    raw = sampler.sample(images(1, 3, 16, 16))[-1]
    assert torch.equal(called, raw.clamp(0, 1)) and 0 <= called.min() < called.max() <= 1


def test_building_a_sampler_draws_no_random_number() -> None:
    diffusion = small_model()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    FastSampler(diffusion)
    assert torch.equal(torch.rand(1), expected)


def test_the_published_class_is_taken_as_it_is() -> None:
    torch.manual_seed(0)
    network = UnetRes(16, dim_mults=(1, 2), num_unet=2, condition=True)
    diffusion = PublishedDiffusion(network, image_size=16, sampling_timesteps=2, condition=True)
    x = images(1, 3, 16, 16)
    torch.manual_seed(5)
    published = diffusion.sample([x])[-1]
    torch.manual_seed(5)
    torch.testing.assert_close(FastSampler(diffusion).sample(x)[-1], published, rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was_and_does_not_reach_back() -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    sampler = FastSampler(diffusion)
    first = sampler(x, generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(value, before[name]) for name, value in diffusion.state_dict().items())
    assert all(p.requires_grad for p in diffusion.parameters())
    with torch.no_grad():
        for p in diffusion.parameters():
            p.zero_()
    assert torch.equal(sampler(x, generator=torch.Generator().manual_seed(0)), first)


def test_folding_leaves_the_networks_answers_to_the_bit() -> None:
    diffusion = small_model()
    x, t = torch.randn(1, 6, 16, 16), torch.tensor([500])
    with torch.no_grad():
        before = diffusion.model(x, t)
        folded = FastSampler(diffusion).networks
        after = diffusion.model(x, t)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
    shared = {id(p) for p in folded.parameters()} & {id(p) for p in diffusion.parameters()}
    assert not shared and not any(p.requires_grad for p in folded.parameters())
    assert diffusion.model.unet0.init_conv.weight.is_contiguous()  # not channels-last: that is the copy's


@pytest.mark.parametrize("change", ["sampling_timesteps", "eta"])
def test_a_sampler_keeps_the_steps_it_was_built_with(change: str) -> None:
    """Its tables are made for them: of other steps they would be silently wrong."""
    diffusion, x = small_model(sampling_timesteps=4), images(1, 3, 16, 16)
    sampler = FastSampler(diffusion)
    first = sampler(x, generator=torch.Generator().manual_seed(0))
    setattr(diffusion, change, {"sampling_timesteps": 2, "eta": 1.0}[change])
    assert torch.equal(sampler(x, generator=torch.Generator().manual_seed(0)), first)


def test_a_seed_of_the_global_generator_gives_the_same_image() -> None:
    sampler, x = FastSampler(small_model(eta=1.0)), images(1, 3, 16, 16)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(sampler(x))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_standardised_with_the_float32_epsilon_in_every_dtype(dtype: torch.dtype) -> None:
    """Checkpoints were trained with 1e-5; the published rule takes 1e-3 as soon as it is not float32."""
    conv = WeightStandardizedConv2d(4, 8, 3, padding=1)
    with torch.no_grad():
        conv.weight.mul_(0.1)  # a variance of about 1e-4, where the epsilon matters
    plain = _REPLACEMENTS[WeightStandardizedConv2d](conv.to(dtype))
    weight = conv.weight.detach().double().flatten(1)
    centred = weight - weight.mean(1, keepdim=True)
    expected = centred / (weight.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    assert plain.weight.dtype == dtype and type(plain) is nn.Conv2d
    torch.testing.assert_close(plain.weight.flatten(1), expected.to(dtype), rtol=1e-5, atol=1e-6)
    assert packs(torch.device("cpu"), torch.float32) == torch.backends.mkldnn.is_available()
    assert not packs(torch.device("cpu"), torch.float16) and not packs(torch.device("cuda"), torch.float32)


def test_networks_in_bfloat16_are_folded_with_the_float32_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fold_module, "packs", lambda *_: False)  # packed, a weight cannot be read
    torch.manual_seed(0)
    unets = ResidualUnets(16, dim_mults=[1, 2], networks="one")
    times = torch.tensor([900, 3])
    expected = unets.unet0.mid_block1.block1.proj.weight.detach().bfloat16().double()
    expected = standardised(expected, 1e-5).bfloat16()
    folded = fold(unets.bfloat16(), [times, times])
    assert torch.equal(folded.members[0].mid_block1.conv1.weight, expected)


def test_under_autocast_it_is_closer_to_float32_than_the_published_rule() -> None:
    diffusion, x = small_model(), images(1, 3, 32, 32)
    sampler = FastSampler(diffusion)

    def restored(sample: object, reduced: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            return sample(x, generator=torch.Generator().manual_seed(0))[-1]  # type: ignore[operator]

    exact = restored(diffusion.sample, False)
    ours, eager = (float((restored(s, True) - exact).abs().max()) for s in (sampler.sample, diffusion.sample))
    assert 0 < ours < 0.02 and ours < eager / 3


def test_folding_what_cannot_be_folded() -> None:
    diffusion = small_model()
    sampler = FastSampler(diffusion)
    times = torch.arange(3)
    with pytest.raises(ValueError, match="folded already"):
        fold(sampler.networks, [times, times])
    with pytest.raises(TypeError, match=r"only ResidualUnets .* can be folded, not Linear"):
        fold(torch.nn.Linear(1, 1), [times, times])  # type: ignore[arg-type]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_linear_attention_in_chunks_is_the_whole(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PixelsFirstLinearAttention, "CHUNK", chunk)
    torch.manual_seed(0)
    attention = LinearAttention(24).eval()
    folded = PixelsFirstLinearAttention(attention)
    x = 3 * torch.randn(2, 24, 9, 11).to(memory_format=torch.channels_last)
    with torch.no_grad():
        out = folded(x)
        torch.testing.assert_close(out, attention(x), rtol=1e-5, atol=1e-5)
    assert out.is_contiguous(memory_format=torch.channels_last)


def test_large_keys_do_not_overflow() -> None:
    torch.manual_seed(0)
    attention = LinearAttention(8).eval()
    with torch.no_grad():
        attention.to_qkv.weight.mul_(300)
        x = torch.randn(1, 8, 80, 80)
        torch.testing.assert_close(PixelsFirstLinearAttention(attention)(x), attention(x), rtol=1e-4, atol=1e-4)


def test_the_folded_network_s_benchmark_checks_its_outputs() -> None:
    result = measure("two", 64, repeats=2)
    assert (
        result["difference"] <= 1e-4
        and result["speedup"] == result["ms"]["eager"]["p50"] / result["ms"]["folded"]["p50"]
    )


def test_in_bfloat16_it_is_close_to_float32() -> None:
    """Random weights are the hardest case: no network has learnt to damp what rounding adds."""
    diffusion, x = small_model(dim=32), images(1, 3, 64, 64)
    exact = FastSampler(diffusion)(x, generator=torch.Generator().manual_seed(0))
    ours = FastSampler(diffusion, dtype=torch.bfloat16)(x, generator=torch.Generator().manual_seed(0))
    assert ours.dtype == torch.float32
    mean_square = (ours - exact).square().mean()
    assert 0 < mean_square < 10 ** (-45 / 10)  # a PSNR of 45 dB


@pytest.mark.parametrize(
    "kind", [dict(self_condition=True, eta=1.0), dict(input_condition=True), dict(networks="shared")]
)
def test_every_kind_of_network_in_bfloat16(kind: dict) -> None:
    diffusion, x = small_model(**kind), images(2, 3, 20, 13)
    mask = images(2, 3, 20, 13, seed=4) if kind.get("input_condition") else None
    found = [
        FastSampler(diffusion, dtype=dtype)(x, mask, generator=torch.Generator().manual_seed(0))
        for dtype in (None, torch.bfloat16)
    ]
    assert found[1].shape == x.shape
    torch.testing.assert_close(*found, rtol=0, atol=0.05)


def test_compiled_it_gives_the_same_image(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the compiler's front end alone, which shows that each network is one graph for all steps."""
    compilations: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> torch.fx.GraphModule:
        compilations.append(graph)
        return graph

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **given: compile_(f, backend=backend, **given))
    diffusion, x = small_model(), images(1, 3, 16, 16)
    sampler = FastSampler(diffusion, compile=True)
    state = torch.get_rng_state()
    assert sampler.warmup(x.shape) > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert len(compilations) == 1  # one for both networks, whose weights are its inputs
    assert capsys.readouterr().err == "rddm_fast: compiling the networks for 1x3x16x16 images, once for this size\n"
    ours = sampler(x, generator=torch.Generator().manual_seed(0))
    expected = diffusion.sample(x, generator=torch.Generator().manual_seed(0))[-1].clamp(0, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert len(compilations) == 1 and not capsys.readouterr().err


def test_what_it_returns_is_the_caller_s() -> None:
    sampler, x = FastSampler(small_model()), images(1, 3, 16, 16)
    first = sampler.sample(x, generator=torch.Generator().manual_seed(0), every_step=True)
    kept = [image.clone() for image in first]
    sampler.sample(images(1, 3, 16, 16, seed=9), generator=torch.Generator().manual_seed(1), every_step=True)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert all(image.is_contiguous() for image in first) and len({image.data_ptr() for image in first}) == len(first)


def test_it_takes_a_model_s_name() -> None:
    x = images(1, 3, 24, 24)
    sampler = FastSampler("derain", steps=2)
    assert sampler(x).shape == x.shape and len(sampler.steps) == 2


def test_warming_up_a_generator() -> None:
    sampler = FastSampler(small_model(condition=False))
    assert sampler.warmup((2, 3, 16, 16)) > 0


def test_explain_says_what_is_done() -> None:
    text = FastSampler(small_model(), steps=4, dtype=torch.bfloat16).explain()
    lines = dict(line.split(":", 1) for line in text.splitlines())
    assert lines["steps"].strip() == "4, eta 0" and lines["networks"].strip() == "two, bfloat16, channels-last"
    assert "time of 22 blocks as tables of 4 rows" in lines["hoisted"]
    assert lines["group_norm_silu"].strip() == lines["reverse_step_"].strip() == "cpp"
    assert lines["compiled"].strip() == lines["graphs"].strip() == "no"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(dtype=torch.float64), "dtype is torch.float64: choose torch.float32, torch.bfloat16 or torch.float16"),
        (dict(graphs=True), "there are no CUDA graphs on cpu: leave graphs out"),
        (dict(max_graphs=0), "max_graphs is 0: at least one"),
    ],
)
def test_options_that_are_not_there(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FastSampler(small_model(), **options)


def test_explained_for_a_shape_it_measures_what_takes_the_time() -> None:
    sampler = FastSampler(small_model(dim=32))
    assert "time:" not in sampler.explain()
    line = next(line for line in sampler.explain((1, 3, 32, 32)).splitlines() if line.startswith("time:"))
    parts = {name: int(part) for part, name in re.findall(r"(\d+)% ([^,]+)", line)}
    assert {"convolution", "group_norm_silu", "the rest"} <= parts.keys() and 95 <= sum(parts.values()) <= 105
    assert list(parts.values()) == sorted(parts.values(), reverse=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mkldnn::_convolution_pointwise", "convolution"),
        ("sm90_xmma_fprop_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolution"),
        ("nvjet_tst_128x64_64x10_1x2_h_bz_TNT", "matrix products and attention"),
        ("aten::bmm", "matrix products and attention"),
        ("rddm_fast::reverse_step_", "reverse_step_"),
        ("triton_poi_fused_add_silu_3", "compiled"),
        ("_group_norm_silu_apply", "group_norm_silu"),
        ("aten::native_layer_norm", "channel_norm"),
        ("aten::copy_", "the rest"),
    ],
)
def test_kernels_are_told_apart_by_their_names(name: str, kind: str) -> None:
    assert kind_of(name) == kind


@pytest.mark.parametrize("model", built_in_models())
def test_in_bfloat16_the_built_in_models_restore_photographs_as_in_float32(model: str) -> None:
    """45 dB between the two on each, and on average 0.05 dB at most of what separates them from the truth.

    And each is restored: nearer to the photograph than what the model was given.
    """
    diffusion = load_model(model)
    samplers = [FastSampler(diffusion, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    apart = []
    for number, path in enumerate(photographs()):
        truth = read_image(path).pixels[:, :128, :128]
        x, mask = degraded_with_mask(truth, DEGRADATIONS[model], 0, number)
        inputs = [x[None], *([mask[None]] if mask is not None and diffusion.input_condition else [])]
        exact, ours = (sampler(*inputs, generator=torch.Generator().manual_seed(0))[0] for sampler in samplers)
        assert psnr(ours, exact) >= 45, path.name
        assert psnr(exact, truth) > psnr(x, truth) + 3 and ssim(exact, truth) > ssim(x, truth), path.name
        apart.append(float(psnr(ours, truth) - psnr(exact, truth)))
    assert len(apart) == 8 and abs(sum(apart) / 8) <= 0.05


def test_what_one_process_compiled_the_next_one_finds(tmp_path: Path) -> None:
    """The machine code, which is what takes long. (Torch 2.15 makes its source again, of networks packed by oneDNN.)"""
    code = """
from small_models import small_model
from rddm_fast.fast import FastSampler
FastSampler(small_model(dim=8, networks="one", objective="pred_res"), steps=1, compile=True).warmup((1, 3, 16, 16))
"""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[1])}
    compiled = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path
        )
        assert "compiling the networks for 1x3x16x16 images, once for this size" in done.stderr, done.stderr
        compiled.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")})
    assert compiled[0] and compiled[1] == compiled[0]


def test_two_networks_are_computed_at_once_on_half_of_the_threads_each() -> None:
    diffusion, x = small_model(), images(1, 3, 24, 16)
    sampler = FastSampler(diffusion)
    threads = torch.get_num_threads()
    seen: list[tuple[str, int, bool]] = []
    member = sampler.loop.member[:]
    for i in range(2):

        def watched(*arguments: object, i: int = i) -> object:
            seen.append((threading.current_thread().name, torch.get_num_threads(), torch.is_grad_enabled()))
            return member[i](*arguments)

        sampler.loop.member[i] = watched
    try:
        torch.set_num_threads(4)
        together = sampler(x, generator=torch.Generator().manual_seed(0))
        assert all(name.startswith("rddm_fast") for name, _, _ in seen) and len(seen) == 2 * len(sampler.steps)
        assert {(count, grad) for _, count, grad in seen} == {(2, False)} and torch.get_num_threads() == 4
        seen.clear()
        torch.set_num_threads(1)  # nothing to share
        alone = sampler(x, generator=torch.Generator().manual_seed(0))
        assert {(name, count) for name, count, _ in seen} == {("MainThread", 1)}
    finally:
        torch.set_num_threads(threads)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_what_a_network_raises_at_once_with_another_is_raised() -> None:
    def fails() -> None:
        raise ValueError("of the second")

    with pytest.raises(ValueError, match="of the second"):
        together(lambda: None, fails)
    assert together(lambda: 1, lambda: 2) == (1, 2)
