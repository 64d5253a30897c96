"""DDPM's and DDIM's steps against diffusers' schedulers, its pipelines read from their folders, and real digits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion, to_signed
from rddm_fast.diffusion.noise_network import NoiseDiffusion, NoiseNetwork
from rddm_fast.models.from_diffusers import from_diffusers, schedule_from_diffusers
from rddm_fast.theory.ddim import FORMS, PRESETS, VARIANCES, converted, ddim_steps
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import few_steps

diffusers = pytest.importorskip("diffusers")

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


class Network(nn.Module):
    """Noise that depends on the image and the time; nearly that of data of unit variance, so that images stay small."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        share = (t.double() / 1000).reshape(-1, 1, 1, 1).to(x)
        return (0.2 + 0.75 * share) * x + 0.02 * torch.sin(3 * x)


def theirs(
    scheduler: Any, count: int, network: nn.Module, shape: tuple[int, ...], double: bool, **options: Any
) -> tuple[list[Tensor], list[Tensor]]:
    """The image after each step of diffusers' own loop, and the normal draws that it took.

    In double, its table of a_t is read as float64: the arithmetic of its steps then has no rounding to speak of.
    """
    if double:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        if isinstance(scheduler, diffusers.DDIMScheduler):
            scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float64 if double else torch.float32
    scheduler.set_timesteps(count)
    draws = [torch.randn(shape, generator=generator, dtype=dtype)]
    x, images = draws[0], []
    for t in scheduler.timesteps:
        # Its noise comes from the generator; a copy of it says which one.
        copy = torch.Generator()
        copy.set_state(generator.get_state())
        with torch.no_grad():
            noise = network(x, t.expand(shape[0]))
        x = scheduler.step(noise, t, x, generator=generator, **options).prev_sample
        if not torch.equal(copy.get_state(), generator.get_state()):
            draws.append(torch.randn(shape, generator=copy, dtype=dtype))
        images.append(x)
    return images, draws


def ours(schedule: Schedule, steps: list[Any], draws: list[Tensor], clip: float | None) -> list[Tensor]:
    model = NoiseDiffusion(Network(), schedule, channels=1, image_size=8, clip=clip)
    images = model.sample(batch_size=2, steps=steps, draws=draws, every_step=True)
    return [to_signed(image) for image in images]


EXACT, SINGLE = 1e-8, 1e-5  # how close, in double and in float32


def furthest(a: list[Tensor], b: list[Tensor]) -> float:
    return max(float((x - y).abs().max()) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_converted_coefficients_are_those_of_the_scheduler(name: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=name)
    a = scheduler.alphas_cumprod.double().numpy()
    for schedule in (schedule_from_diffusers(scheduler.config), converted(scheduler.betas)):
        assert np.abs(schedule.alpha_bar - (1 - np.sqrt(a))).max() < 1e-12
        assert np.abs(schedule.beta_bar**2 - (1 - a)).max() < 1e-12
        # Float64 makes the same but for the rounding of the scheduler's float32.
        exact = Schedule.from_ddim(1000, name)
        assert np.abs(schedule.alpha_bar - exact.alpha_bar).max() < 2e-6
        assert np.abs(schedule.beta_bar**2 - exact.beta_bar**2).max() < 2e-6


@pytest.mark.parametrize(
    "options",
    [
        {"beta_schedule": "linear", "beta_start": 0.0015, "beta_end": 0.0195},
        {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        {"trained_betas": [0.01, 0.02, 0.03, 0.05], "num_train_timesteps": 4},
        {"beta_schedule": "linear", "num_train_timesteps": 100},
    ],
)
def test_other_variances_of_a_config(options: dict[str, Any]) -> None:
    scheduler = diffusers.DDIMScheduler(**options)
    schedule = schedule_from_diffusers(json.loads(scheduler.to_json_string()))
    assert schedule.timesteps == scheduler.config.num_train_timesteps and schedule.sum_scale == 1
    assert np.abs((1 - schedule.alpha_bar) ** 2 - scheduler.alphas_cumprod.double().numpy()).max() < 1e-12


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rddms_deterministic_step_is_ddims(name: str, spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=name, timestep_spacing=spacing, clip_sample=False)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, 10, Network(), (2, 1, 8, 8), double=True)
    steps = ddim_steps(schedule, 10, spacing=spacing, fixed_stride=True)
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    assert all(step.k_t == 1 and step.k_0 == 0 for step in steps)  # RDDM's own form, not DDIM's
    assert furthest(ours(schedule, steps, draws, clip=None), expected) < EXACT
    # The published few-step sampler is that, too, but for its 1e-6 at the last index and its name for the last step.
    inner = [(s.t, s.s, s.k_res, s.k_noise) for s in ddim_steps(schedule, 10)[:-1]]
    published = [(s.t, s.s, s.k_res, s.k_noise) for s in few_steps(schedule, 10)[:-1]]
    assert np.allclose(inner, published, rtol=0, atol=1e-12)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddims_variance_with_the_same_noise(eta: float, set_alpha_to_one: bool) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=set_alpha_to_one, steps_offset=1)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, 10, Network(), (2, 1, 8, 8), double=True, eta=eta)
    options: dict[str, Any] = {"spacing": "leading", "steps_offset": 1, "set_alpha_to_one": set_alpha_to_one}
    for form in ("rddm", "ddim"):
        steps = ddim_steps(schedule, 10, eta, form=form, variance="ddim", **options)
        assert furthest(ours(schedule, steps, draws, clip=None), expected) < EXACT
    with_rddms = ddim_steps(schedule, 10, eta, **options)
    assert (furthest(ours(schedule, with_rddms, draws, clip=None), expected) > 1e-2) == (eta > 0)


@pytest.mark.parametrize("clip_sample_range", [1.0, 0.5])
def test_forms_part_only_where_a_clamp_is_active(clip_sample_range: float) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=clip_sample_range)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, 10, Network(), (2, 1, 8, 8), double=False)
    of_form = {form: ddim_steps(schedule, 10, form=form, spacing="leading") for form in ("rddm", "ddim")}
    images = {form: ours(schedule, steps, draws, clip=clip_sample_range) for form, steps in of_form.items()}
    assert furthest(images["ddim"], expected) < SINGLE
    assert furthest(images["rddm"], expected) > 1e-2
    wide = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=100.0)
    expected, draws = theirs(wide, 10, Network(), (2, 1, 8, 8), double=False)
    assert furthest(ours(schedule, of_form["rddm"], draws, clip=100.0), expected) < SINGLE


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("variance_type", "preset"), [("fixed_small", "ddpm"), ("fixed_large", "ddpm_large")])
@pytest.mark.parametrize(("timesteps", "count"), [(1000, 10), (50, 50)])
def test_ddpms_ancestral_steps(clip: bool, variance_type: str, preset: str, timesteps: int, count: int) -> None:
    scheduler = diffusers.DDPMScheduler(timesteps, variance_type=variance_type, clip_sample=clip)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, count, Network(), (2, 1, 8, 8), double=True)
    steps = ddim_steps(schedule, count, spacing="leading", **PRESETS[preset])
    assert sum(step.draws for step in steps) == count - 1 == len(draws) - 1
    assert furthest(ours(schedule, steps, draws, clip=1.0 if clip else None), expected) < EXACT
    if not clip:  # the same sampler in RDDM's own form
        steps = ddim_steps(schedule, count, spacing="leading", **{**PRESETS[preset], "form": "rddm"})
        assert furthest(ours(schedule, steps, draws, clip=None), expected) < EXACT


def test_ddims_variance_is_rddms_over_a() -> None:
    schedule = Schedule.from_ddim()
    sigma = {v: ddim_steps(schedule, 5, 1.0, variance=v)[1].sigma for v in ("rddm", "ddim")}
    assert (sigma["ddim"] / sigma["rddm"]) ** 2 == pytest.approx(1 / (1 - schedule.alpha_bar[599]) ** 2)
    assert (sigma["ddim"] / sigma["rddm"]) ** 2 == pytest.approx(38.6, abs=0.05)
    half = {v: ddim_steps(schedule, 5, 0.5, variance=v)[1].sigma for v in ("rddm", "ddim")}
    assert half["rddm"] == pytest.approx(sigma["rddm"] * 0.5**0.5)  # eta multiplies the variance
    assert half["ddim"] == pytest.approx(sigma["ddim"] * 0.5)  # eta multiplies the deviation


FAMILIES = {
    "decreased 0.3": Schedule.power(1000, alpha=("decreased", 0.3)),
    "increased 2": Schedule.power(1000, alpha=("increased", 2.0)),
    "average": Schedule.power(1000, alpha=("average", 1.0)),
    "normal": Schedule.power(1000, alpha=("normal", 1.0)),
    "triangular": Schedule.triangular(1000),
    "ddim decreased 1": Schedule.from_ddim(alpha=("decreased", 1.0)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_readjusting_alpha_alone(family: str) -> None:
    # The published experiment in numpy: the path is the readjusted alpha_bar's, the residual's divisor the trained
    # one's, beta_bar and DDIM's variance are as they were.
    trained, followed = Schedule.from_ddim(), FAMILIES[family]
    steps = ddim_steps(trained, 10, 0.5, variance="ddim", spacing="leading", readjusted=followed)
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64) for _ in range(10)]
    found = ours(trained, steps, draws, clip=1.0)
    x, noise = draws[0].numpy(), iter(draws[1:])
    for number, t in enumerate(range(900, -1, -100)):
        s = t - 100
        b_t, b_s = trained.beta_bar[t], trained.beta_bar[s] if s >= 0 else 0.0
        epsilon = Network()(torch.from_numpy(x), torch.tensor([t, t])).numpy()
        I_res = np.clip((x - b_t * epsilon) / (trained.alpha_bar[t] - 1), -1, 1)
        a_t, a_s = 1 - b_t**2, 1 - b_s**2
        sigma = 0.5 * np.sqrt((1 - a_s) / (1 - a_t) * (1 - a_t / a_s))
        drop = followed.alpha_bar[t] - (followed.alpha_bar[s] if s >= 0 else 0.0)
        x = x - drop * I_res - (b_t - np.sqrt(b_s**2 - sigma**2)) * epsilon
        x = x + (sigma * next(noise).numpy() if s >= 0 else 0)
        assert np.abs(found[number].numpy() - x).max() < 1e-9
    assert all(step.one_minus_alpha_bar == 1 - trained.alpha_bar[step.t] for step in steps)


def test_readjusting_to_the_trained_schedule_changes_nothing() -> None:
    schedule = Schedule.from_ddim()
    assert ddim_steps(schedule, 7, readjusted=schedule) == ddim_steps(schedule, 7)


def test_rddms_form_serves_every_schedule() -> None:
    schedule = Schedule.power(100)  # beta_bar_0 is 0
    for ours_, published in zip(ddim_steps(schedule, 100, 0.5), few_steps(schedule, 100, 0.5), strict=True):
        assert ours_.t == published.t and ours_.sigma == pytest.approx(published.sigma)
        if ours_.s >= 0:
            assert (ours_.k_res, ours_.k_noise) == pytest.approx((published.k_res, published.k_noise))


# -- pipelines in folders -----------------------------------------------------------------------------------


def unet(**options: Any) -> Any:
    torch.manual_seed(0)
    settings = {
        "sample_size": 16,
        "in_channels": 1,
        "out_channels": 1,
        "layers_per_block": 1,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "attention_head_dim": 8,
        **options,
    }
    return diffusers.UNet2DModel(**settings).eval()


def saved(folder: Path, scheduler: Any, **options: Any) -> Any:
    kind = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    pipeline = kind(unet=unet(**options), scheduler=scheduler)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(
    "options",
    [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}],
)
def test_a_ddim_pipeline_samples_the_same_images(tmp_path: Path, options: dict[str, Any], eta: float) -> None:
    pipeline = saved(tmp_path, diffusers.DDIMScheduler(**options))
    model = from_diffusers(tmp_path)
    expected = pipeline(2, torch.Generator().manual_seed(3), eta, 10, output_type="np").images
    images = model.sample(
        batch_size=2, sampling_timesteps=10, eta=eta, generator=torch.Generator().manual_seed(3), every_step=True
    )
    assert len(images) == 10 and images[-1].shape == (2, 1, 16, 16)
    # The network amplifies what float32 rounds in ten steps.
    assert np.abs(images[-1].clamp(0, 1).permute(0, 2, 3, 1).numpy() - expected).max() < 1e-4
    assert model.sampling_timesteps == 50 and model.channels == 1

    # Step for step, each from our image before it.
    scheduler, generator = pipeline.scheduler, torch.Generator().manual_seed(3)
    scheduler.set_timesteps(10)
    x = torch.randn(2, 1, 16, 16, generator=generator)
    for t, image in zip(scheduler.timesteps, images, strict=True):
        with torch.no_grad():
            after = scheduler.step(pipeline.unet(x, t).sample, t, x, eta=eta, generator=generator).prev_sample
        x = to_signed(image)
        assert (x - after).abs().max() < SINGLE


def test_without_a_clamp_rddms_own_steps_sample_the_pipelines_images(tmp_path: Path) -> None:
    pipeline = saved(tmp_path, diffusers.DDIMScheduler(clip_sample=False))
    model = from_diffusers(tmp_path)
    assert math.isinf(model.clip_0)
    scheduler, generator = pipeline.scheduler, torch.Generator().manual_seed(3)
    scheduler.set_timesteps(10)
    steps = ddim_steps(model.schedule, 10, spacing="leading")
    images = model.sample(batch_size=2, steps=steps, generator=torch.Generator().manual_seed(3), every_step=True)
    x = torch.randn(2, 1, 16, 16, generator=generator)
    for t, image in zip(scheduler.timesteps, images, strict=True):
        with torch.no_grad():
            after = scheduler.step(pipeline.unet(x, t).sample, t, x).prev_sample
        x = to_signed(image)
        assert (x - after).abs().max() < SINGLE * after.abs().max()


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_ddpm_pipeline_samples_the_same_images(tmp_path: Path, variance_type: str) -> None:
    pipeline = saved(tmp_path, diffusers.DDPMScheduler(40, variance_type=variance_type))
    model = from_diffusers(tmp_path)
    expected = pipeline(2, torch.Generator().manual_seed(3), num_inference_steps=40, output_type="np").images
    image = model.sample(batch_size=2, generator=torch.Generator().manual_seed(3))[-1]
    assert np.abs(image.clamp(0, 1).permute(0, 2, 3, 1).numpy() - expected).max() < 1e-4


def test_another_preset_than_the_pipelines(tmp_path: Path) -> None:
    saved(tmp_path, diffusers.DDPMScheduler(40))
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(2, torch.Generator().manual_seed(3), num_inference_steps=8, output_type="np").images
    model = from_diffusers(tmp_path, "ddim")
    image = model.sample(batch_size=2, sampling_timesteps=8, generator=torch.Generator().manual_seed(3))[-1]
    assert np.abs(image.clamp(0, 1).permute(0, 2, 3, 1).numpy() - expected).max() < 1e-4
    assert model.steps() == model.steps(40, 0.0)  # no more than there are
    rddm = from_diffusers(tmp_path, "rddm")
    assert rddm.steps(8) == ddim_steps(rddm.schedule, 8)
    with pytest.raises(ValueError, match="preset is 'dpm': choose one of rddm, ddim, ddpm, ddpm_large"):
        from_diffusers(tmp_path, "dpm")


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        (("DDIMScheduler", {"prediction_type": "v_prediction"}), "predicts 'v_prediction': only prediction_type"),
        (("DDPMScheduler", {"prediction_type": "sample"}), "predicts 'sample': only prediction_type 'epsilon'"),
        (("DDIMScheduler", {"thresholding": True}), "thresholding has no counterpart"),
        (("DDIMScheduler", {"rescale_betas_zero_snr": True}), "rescale_betas_zero_snr has no counterpart"),
        (("DDPMScheduler", {"variance_type": "learned"}), "variance_type is 'learned'"),
        (("DDPMScheduler", {"beta_schedule": "sigmoid"}), "unknown beta_schedule 'sigmoid'"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(tmp_path: Path, scheduler: Any, sentence: str) -> None:
    saved(tmp_path, diffusers.DDPMScheduler())
    kind, options = scheduler
    getattr(diffusers, kind)(**options).save_pretrained(tmp_path / "scheduler")
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"][1] = kind
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=sentence):
        from_diffusers(tmp_path)


def test_folders_that_are_no_such_pipeline(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no .*model_index.json: pass a folder that a diffusers pipeline"):
        from_diffusers(tmp_path)
    saved(tmp_path / "two", diffusers.DDPMScheduler(), out_channels=2)
    with pytest.raises(ValueError, match="is not a network from square images of one size to their noise alone"):
        from_diffusers(tmp_path / "two")
    saved(tmp_path / "classes", diffusers.DDPMScheduler(), num_class_embeds=10)
    with pytest.raises(ValueError, match="to their noise alone"):
        from_diffusers(tmp_path / "classes")
    saved(tmp_path / "wide", diffusers.DDPMScheduler(), sample_size=(16, 32))
    with pytest.raises(ValueError, match="is not a network from square images of one size"):
        from_diffusers(tmp_path / "wide")
    index = tmp_path / "two" / "model_index.json"
    index.write_text(json.dumps({"unet": ["diffusers", "UNet2DConditionModel"], "scheduler": ["diffusers", "X"]}))
    with pytest.raises(ValueError, match="holds UNet2DConditionModel and X"):
        from_diffusers(tmp_path / "two")
    index.write_text("{")
    with pytest.raises(ValueError, match=r"model_index.json is damaged"):
        from_diffusers(tmp_path / "two")
    index.write_text("[]")
    with pytest.raises(ValueError, match="holds no JSON object"):
        from_diffusers(tmp_path / "two")


def test_bad_arguments() -> None:
    schedule = Schedule.from_ddim()
    for name, names in (("form", FORMS), ("variance", VARIANCES)):
        with pytest.raises(ValueError, match=f"{name} is 'x': choose one of {', '.join(names)}"):
            ddim_steps(schedule, 5, **{name: "x"})
    for options, sentence in (
        ({"spacing": "x"}, "spacing is 'x'"),
        ({"eta": 2.0}, "eta must be between 0"),
        ({"form": "ddpm"}, "the form 'ddpm' is that of eta=1"),
        ({"spacing": "leading", "steps_offset": 300}, "steps_offset=300 leads beyond the last index 999"),
        ({"form": "ddim", "readjusted": schedule}, "for the form 'rddm'"),
        ({"readjusted": Schedule.power(10)}, "one of 1000 steps"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ddim_steps(schedule, 5, **options)
    with pytest.raises(ValueError, match="between 1 and the schedule's 1000 steps, not 1001"):
        ddim_steps(schedule, 1001, spacing="leading")
    with pytest.raises(ValueError, match="pass an adjusted schedule as readjusted="):
        ddim_steps(Schedule.from_ddim(alpha=("decreased", 1.0)), 5, variance="ddim")
    with pytest.raises(ValueError, match="above 0 and below 1"):
        converted(torch.tensor([0.1, 1.0]))
    model = NoiseDiffusion(Network(), schedule, channels=1, image_size=8)
    with pytest.raises(ValueError, match="pass it alone"):
        model.sample(steps=model.steps(3), eta=0.5)


# -- real images --------------------------------------------------------------------------------------------


class Perceptron(nn.Module):
    """Noise of 8x8 images and their times, by three layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(64 + 16, 256), (256, 256), (256, 64)]
        self.layers = nn.Sequential(*[layer for a, b in widths for layer in (nn.Linear(a, b), nn.SiLU())][:-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        u = t[:, None] / 1000
        angles = u * torch.arange(1, 9)
        noise = self.layers(torch.cat([x.flatten(1), angles.sin(), angles.cos()], 1))
        return (noise + u**0.25 * x.flatten(1)).reshape(x.shape)


@pytest.fixture(scope="module")
def digits() -> tuple[ResidualDiffusion, Tensor, list[float]]:
    """A noise network trained on the UCI digits for a few seconds, the digits, and its losses."""
    pytest.importorskip("sklearn")
    from rddm_fast.images.digits import Digits

    torch.manual_seed(0)
    images = Digits(8).images
    network = NoiseNetwork(Perceptron(), channels=1)
    model = ResidualDiffusion(network, Schedule.from_ddim(), objective="pred_noise", loss_type="l2", image_size=8)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(800):
        batch = images[torch.randint(0, len(images), (64,))]
        loss = model.losses(to_signed(batch), None, torch.randint(0, 1000, (64,)))[0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), images, losses


def covariance(images: Tensor) -> Tensor:
    return torch.cov(images.flatten(1).T)


@pytest.mark.parametrize(("preset", "count"), [("ddim", 20), ("ddpm", 50), ("ddpm_large", 50), ("rddm", 20)])
def test_presets_sample_digits_from_one_network(digits: Any, preset: str, count: int) -> None:
    model, images, losses = digits
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])

    def sample() -> Tensor:
        steps = ddim_steps(model.schedule, count, **PRESETS[preset])
        return model.sample(batch_size=256, steps=steps, generator=torch.Generator().manual_seed(1))[-1].clamp(0, 1)

    found = sample()
    noise = (torch.randn(found.shape, generator=torch.Generator().manual_seed(1)) / 2 + 0.5).clamp(0, 1)

    def distances(x: Tensor) -> tuple[float, float]:
        off = (x.mean(0) - images.mean(0)).abs().mean()
        shape = (covariance(x) - covariance(images)).norm() / covariance(images).norm()
        return float(off), float(shape)

    assert distances(found)[0] < 0.5 * distances(noise)[0]
    assert distances(found)[1] < 0.85 * distances(noise)[1]
    assert torch.equal(found, sample())
