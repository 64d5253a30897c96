"""`FastSampler` gives the images of `ResidualDiffusion.sample`, and leaves the model alone."""

import os
from pathlib import Path

import pytest
import torch
from commands import python
from small_models import assert_fast_is_eager, assert_same_bits, images, published_model, seeded, small_model

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast import FastSampler
from rddm_fast.fast.fold import packs
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model
from rddm_fast.ops.networks.conv3x3 import tiles
from rddm_fast.restoration.demo import DEGRADATIONS, degraded_with_mask, photographs
from rddm_fast.restoration.metrics import psnr, ssim
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule


@pytest.mark.parametrize("objective", [o.name for o in Objective])
def test_the_same_image_for_every_objective(objective: str) -> None:
    assert_fast_is_eager(small_model(objective), images(2, 3, 24, 16))


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
    assert_fast_is_eager(small_model(**kind), *inputs)


def test_the_same_image_when_translating() -> None:
    diffusion = small_model(img_to_img_translation=True, schedule=Schedule.power(1000, 1.0))
    assert_fast_is_eager(diffusion, images(2, 3, 24, 16))


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 18)])
def test_the_same_image_for_every_size(size: tuple[int, int]) -> None:
    assert assert_fast_is_eager(small_model(), images(1, 3, *size)).shape == (1, 3, *size)


def test_generation() -> None:
    fast = assert_fast_is_eager(small_model("pred_noise", condition=False), batch_size=2, atol=2e-5)
    assert fast.shape == (2, 3, 16, 16)


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
    diffusion, x = published_model({"num_unet": 2}), images(1, 3, 16, 16)
    torch.manual_seed(5)
    published = diffusion.sample([x])
    torch.manual_seed(5)
    torch.testing.assert_close(FastSampler(diffusion).sample(x), published, rtol=0, atol=1e-5)


def test_the_model_is_left_as_it_was_and_does_not_reach_back() -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    sampler = FastSampler(diffusion)
    first = sampler(x, generator=seeded(0))
    assert_same_bits(diffusion.state_dict(), before)
    assert all(p.requires_grad for p in diffusion.parameters())
    with torch.no_grad():
        for p in diffusion.parameters():
            p.zero_()
    assert torch.equal(sampler(x, generator=seeded(0)), first)


@pytest.mark.parametrize("change", ["sampling_timesteps", "eta"])
def test_a_sampler_keeps_the_steps_it_was_built_with(change: str) -> None:
    """Its tables are made for them: of other steps they would be silently wrong."""
    diffusion, x = small_model(sampling_timesteps=4), images(1, 3, 16, 16)
    sampler = FastSampler(diffusion)
    first = sampler(x, generator=seeded(0))
    setattr(diffusion, change, {"sampling_timesteps": 2, "eta": 1.0}[change])
    assert torch.equal(sampler(x, generator=seeded(0)), first)


def test_a_seed_of_the_global_generator_gives_the_same_image() -> None:
    sampler, x = FastSampler(small_model(eta=1.0)), images(1, 3, 16, 16)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(sampler(x))
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


def test_under_autocast_it_is_closer_to_float32_than_the_published_rule() -> None:
    diffusion, x = small_model(), images(1, 3, 32, 32)
    sampler = FastSampler(diffusion)

    def restored(sample: object, reduced: bool) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=reduced):
            return sample(x, generator=seeded(0))[-1]  # type: ignore[operator]

    exact = restored(diffusion.sample, False)
    ours, eager = (float((restored(s, True) - exact).abs().max()) for s in (sampler.sample, diffusion.sample))
    assert 0 < ours < 0.02 and ours < eager / 3


def test_in_bfloat16_it_is_close_to_float32() -> None:
    """Random weights are the hardest case: no network has learnt to damp what rounding adds."""
    diffusion, x = small_model(dim=32), images(1, 3, 64, 64)
    exact = FastSampler(diffusion)(x, generator=seeded(0))
    ours = FastSampler(diffusion, dtype=torch.bfloat16)(x, generator=seeded(0))
    assert ours.dtype == torch.float32
    mean_square = (ours - exact).square().mean()
    assert 0 < mean_square < 10 ** (-45 / 10)  # a PSNR of 45 dB


@pytest.mark.parametrize(
    "kind", [dict(self_condition=True, eta=1.0), dict(input_condition=True), dict(networks="shared")]
)
def test_every_kind_of_network_in_bfloat16(kind: dict) -> None:
    diffusion, x = small_model(**kind), images(2, 3, 20, 13)
    mask = images(2, 3, 20, 13, seed=4) if kind.get("input_condition") else None
    found = [FastSampler(diffusion, dtype=dtype)(x, mask, generator=seeded(0)) for dtype in (None, torch.bfloat16)]
    assert found[1].shape == x.shape
    torch.testing.assert_close(*found, rtol=0, atol=0.05)


def test_compiled_it_gives_the_same_image(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the compiler's front end alone, which shows that each network is one graph for all steps."""
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
    ours = sampler(x, generator=seeded(0))
    expected = diffusion.sample(x, generator=seeded(0))[-1].clamp(0, 1)
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert len(compilations) == 1 and not capsys.readouterr().err
    for side in range(20, 56, 4):  # torch.compile itself refuses a ninth size
        sampler(images(1, 3, side, 16))
    assert len(compilations) == 10


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
    assert (
        lines["convolutions"]
        .strip()
        .endswith("packed for oneDNN" if packs(torch.device("cpu"), torch.bfloat16) else "torch's")
    )


def test_explain_says_how_the_convolutions_are_computed() -> None:
    fast = FastSampler(small_model(), accuracy="fast").explain()
    exact = FastSampler(small_model(), accuracy="exact").explain()
    how = "in AMX" if 1 in tiles() else "by Winograd's filtering"
    assert f"50 3x3 {how}, 6 packed for oneDNN" in fast or not tiles()
    assert "Winograd" not in exact and "AMX" not in exact


@pytest.mark.skipif(1 not in tiles(), reason="this machine has no AMX")
def test_explain_says_that_wide_blocks_hold_their_norms() -> None:
    networks = ResidualUnets(64, networks="one", dim_mults=[1], channels=3, condition=True)
    wide = ResidualDiffusion(networks, Schedule.triangular(1000), objective="pred_res", condition=True)
    lines = dict(line.split(":", 1) for line in FastSampler(wide, steps=2).explain().splitlines())
    assert lines["group_norm_silu"].strip() == "in the blocks"
    assert "blocks of two with their norms in AMX" in lines["convolutions"]


@pytest.mark.parametrize("steps", [5, 10])
def test_the_convolutions_error_does_not_grow_over_the_steps(steps: int) -> None:
    """Two networks of four stages: fast images are 1e-5 from the eager ones at each step, exact ones 4e-6."""
    torch.manual_seed(0)
    networks = ResidualUnets(16, networks="two", dim_mults=[1, 2, 4, 8], channels=3, condition=True)
    diffusion = ResidualDiffusion(networks, Schedule.triangular(1000), condition=True, sampling_timesteps=steps)
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    eager = diffusion.sample(image, generator=torch.Generator().manual_seed(2), every_step=True)
    for accuracy, bound in (("fast", 1e-5), ("exact", 4e-6)):
        sampler = FastSampler(diffusion, accuracy=accuracy)  # type: ignore[arg-type]
        images = sampler.sample(image, generator=torch.Generator().manual_seed(2), every_step=True)
        errors = [float((a - b).abs().max()) for a, b in zip(eager, images, strict=True)]
        assert max(errors) <= bound, errors


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (dict(dtype=torch.float64), "dtype is torch.float64: choose torch.float32, torch.bfloat16 or torch.float16"),
        (dict(graphs=True), "there are no CUDA graphs on cpu: leave graphs out"),
        (dict(max_graphs=0), "max_graphs is 0: at least one"),
        (dict(accuracy="best"), "accuracy is 'best': choose fast or exact"),
    ],
)
def test_options_that_are_not_there(options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        FastSampler(small_model(), **options)


@pytest.mark.parametrize("model", sorted(DEGRADATIONS))
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
        exact, ours = (sampler(*inputs, generator=seeded(0))[0] for sampler in samplers)
        assert psnr(ours, exact) >= 45, path.name
        if model == "deblur" and path.name == "rocket.png":  # a rocket in the night hardly shows its blur
            assert torch.equal(exact, x)
            continue
        least = 0.3 if model == "dejpeg" else 3  # dB
        assert psnr(exact, truth) > psnr(x, truth) + least and ssim(exact, truth) > ssim(x, truth), path.name
        apart.append(float(psnr(ours, truth) - psnr(exact, truth)))
    assert len(apart) == (7 if model == "deblur" else 8) and abs(sum(apart) / len(apart)) <= 0.05


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
        done = python("-c", code, env=environment, cwd=tmp_path)
        assert "compiling the networks for 1x3x16x16 images, once for this size" in done.stderr, done.stderr
        compiled.append({path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.so")})
    assert compiled[0] and compiled[1] == compiled[0]
