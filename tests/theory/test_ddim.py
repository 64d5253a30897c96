"""DDPM's and DDIM's steps against the steps of diffusers' schedulers."""

from typing import Any

import numpy as np
import pytest
import torch
from small_models import seeded
from torch import Tensor, nn

from rddm_fast.diffusion import to_signed
from rddm_fast.diffusion.noise_network import NoiseDiffusion
from rddm_fast.models.from_diffusers import schedule_from_diffusers
from rddm_fast.theory.ddim import FORMS, PRESETS, VARIANCES, converted, ddim_steps
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import few_steps

diffusers = pytest.importorskip("diffusers")

SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


class Network(nn.Module):
    """Noise that depends on the image and the time, close to that of unit-variance data, so that images stay small."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        share = (t.double() / 1000).reshape(-1, 1, 1, 1).to(x)
        return (0.2 + 0.75 * share) * x + 0.02 * torch.sin(3 * x)


def theirs(scheduler: Any, count: int, double: bool = True, **options: Any) -> tuple[list[Tensor], list[Tensor]]:
    """The image after each step of diffusers' own loop, and the normal draws that it took.

    In double, its table of a_t is read as float64: the arithmetic of its steps then has no rounding to speak of.
    """
    if double:
        scheduler.alphas_cumprod = scheduler.alphas_cumprod.double()
        if isinstance(scheduler, diffusers.DDIMScheduler):
            scheduler.final_alpha_cumprod = scheduler.final_alpha_cumprod.double()
    generator = seeded(0)
    shape, dtype = (2, 1, 8, 8), torch.float64 if double else torch.float32
    scheduler.set_timesteps(count)
    draws = [torch.randn(shape, generator=generator, dtype=dtype)]
    x, images = draws[0], []
    for t in scheduler.timesteps:
        # Its noise comes from the generator; a copy of it says which one.
        copy = torch.Generator()
        copy.set_state(generator.get_state())
        with torch.no_grad():
            noise = Network()(x, t.expand(2))
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


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_rddms_deterministic_step_is_ddims(name: str, spacing: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=name, timestep_spacing=spacing, clip_sample=False)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, 10)
    steps = ddim_steps(schedule, 10, spacing=spacing, fixed_stride=True)
    assert [step.t for step in steps] == scheduler.timesteps.tolist()
    assert all(step.k_t == 1 and step.k_0 == 0 for step in steps)  # RDDM's own form, not DDIM's
    assert furthest(ours(schedule, steps, draws, clip=None), expected) < EXACT
    # The published few-step sampler is the same, except for its 1e-6 at the last index and its own last step.
    inner = [(s.t, s.s, s.k_res, s.k_noise) for s in ddim_steps(schedule, 10)[:-1]]
    published = [(s.t, s.s, s.k_res, s.k_noise) for s in few_steps(schedule, 10)[:-1]]
    assert np.allclose(inner, published, rtol=0, atol=1e-12)


@pytest.mark.parametrize("set_alpha_to_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddims_variance_with_the_same_noise(eta: float, set_alpha_to_one: bool) -> None:
    scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=set_alpha_to_one, steps_offset=1)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, 10, eta=eta)
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
    expected, draws = theirs(scheduler, 10, double=False)
    of_form = {form: ddim_steps(schedule, 10, form=form, spacing="leading") for form in ("rddm", "ddim")}
    images = {form: ours(schedule, steps, draws, clip=clip_sample_range) for form, steps in of_form.items()}
    assert furthest(images["ddim"], expected) < SINGLE
    assert furthest(images["rddm"], expected) > 1e-2
    wide = diffusers.DDIMScheduler(clip_sample=True, clip_sample_range=100.0)
    expected, draws = theirs(wide, 10, double=False)
    assert furthest(ours(schedule, of_form["rddm"], draws, clip=100.0), expected) < SINGLE


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize(("variance_type", "preset"), [("fixed_small", "ddpm"), ("fixed_large", "ddpm_large")])
@pytest.mark.parametrize(("timesteps", "count"), [(1000, 10), (50, 50)])
def test_ddpms_ancestral_steps(clip: bool, variance_type: str, preset: str, timesteps: int, count: int) -> None:
    scheduler = diffusers.DDPMScheduler(timesteps, variance_type=variance_type, clip_sample=clip)
    schedule = schedule_from_diffusers(scheduler.config)
    expected, draws = theirs(scheduler, count)
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
    generator = seeded(0)
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
