"""`RDDMScheduler` does what diffusers asks of every scheduler (its common tests), and steps as the model does."""

import inspect
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import images, known_model, seeded, signed, small_model
from torch import Tensor

pytest.importorskip("diffusers")

from diffusers import ConfigMixin, DDPMPipeline, SchedulerMixin, UNet2DModel

from rddm_fast.diffusion import to_signed
from rddm_fast.integrations.diffusers import RDDMScheduler
from rddm_fast.theory.ddim import converted
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import ancestral_steps, few_steps

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "power": {"family": "power", "alpha_ratio": 0.5, "num_train_timesteps": 200, "sum_scale": 0.01, "eta": 1.0},
    "ddim": {"family": "ddim", "objective": "pred_noise", "clip_residual": None, "eta": 0.5},
}


@pytest.fixture(params=list(CONFIGS), name="scheduler")
def _scheduler(request: pytest.FixtureRequest) -> RDDMScheduler:
    return RDDMScheduler(**CONFIGS[request.param])


def sample() -> Tensor:
    return to_signed(images(4, 3, 8, 8))


# -- the ten checks of diffusers' SchedulerCommonTest -------------------------------------------------------------


def test_a_saved_config_steps_alike(scheduler: RDDMScheduler, tmp_path: Path) -> None:
    scheduler.save_config(tmp_path)
    loaded = RDDMScheduler.from_pretrained(tmp_path)
    results = []
    for one in (scheduler, loaded):
        one.set_timesteps(10)
        results.append(one.step(0.1 * sample(), 1, sample(), generator=seeded(0)).prev_sample)
    assert torch.equal(*results) and not torch.equal(results[0], sample())


def test_compatibles(scheduler: RDDMScheduler) -> None:
    assert scheduler.compatibles == [RDDMScheduler]
    there = scheduler.compatibles[0].from_config(scheduler.config)
    back = RDDMScheduler.from_config(there.config)
    assert {key: value for key, value in back.config.items() if key in scheduler.config} == dict(scheduler.config)
    more = back.config.keys() - scheduler.config.keys()
    assert not more & inspect.signature(RDDMScheduler.__init__).parameters.keys()


def test_from_pretrained(scheduler: RDDMScheduler, tmp_path: Path) -> None:
    scheduler.save_pretrained(tmp_path)
    config = {key: value for key, value in scheduler.config.items() if key != "_use_default_values"}
    assert RDDMScheduler.from_pretrained(tmp_path).config == config


def test_shape_of_a_step(scheduler: RDDMScheduler) -> None:
    for count in (None, 10):
        if count:
            scheduler.set_timesteps(count)
        for t in (0, 1):
            assert scheduler.step(0.1 * sample(), t, sample()).prev_sample.shape == sample().shape


def test_tuple_and_output_are_equal(scheduler: RDDMScheduler) -> None:
    scheduler.set_timesteps(50)
    as_dict = scheduler.step(0.1 * sample(), 0, sample(), generator=seeded(0))
    as_tuple = scheduler.step(0.1 * sample(), 0, sample(), generator=seeded(0), return_dict=False)
    assert len(as_tuple) == 3
    for one, other in zip(as_tuple, as_dict.values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def test_public_api(scheduler: RDDMScheduler) -> None:
    assert isinstance(scheduler, SchedulerMixin) and isinstance(scheduler, ConfigMixin)
    assert scheduler.init_noise_sigma == math.sqrt(scheduler.config.sum_scale)
    assert scheduler.scale_model_input(sample(), 0.0).shape == sample().shape
    assert len(scheduler) == scheduler.config.num_train_timesteps and scheduler.order == 1


def test_add_noise_to_a_timestep(scheduler: RDDMScheduler) -> None:
    scheduler.set_timesteps(100)
    noised = scheduler.add_noise(sample(), torch.ones_like(sample()), scheduler.timesteps[5][None])
    t = int(scheduler.timesteps[5])
    alpha_bar, beta_bar = scheduler.schedule.alpha_bar_at(t), scheduler.schedule.beta_bar_at(t)
    torch.testing.assert_close(noised, (1 - alpha_bar) * sample() + beta_bar)


def test_no_deprecated_arguments() -> None:
    assert "kwargs" not in inspect.signature(RDDMScheduler.__init__).parameters
    assert RDDMScheduler._deprecated_kwargs == []


def test_trained_betas(scheduler: RDDMScheduler, tmp_path: Path) -> None:
    trained = RDDMScheduler.from_config(scheduler.config, trained_betas=np.array([0.1, 0.3]))
    trained.save_pretrained(tmp_path)
    loaded = RDDMScheduler.from_pretrained(tmp_path)
    assert trained.betas.tolist() == loaded.betas.tolist() and len(loaded) == 2
    assert np.array_equal(loaded.schedule.alpha_bar, converted(torch.tensor([0.1, 0.3])).alpha_bar)


def test_attributes_are_not_the_config(scheduler: RDDMScheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.dummy_attribute = 5  # type: ignore[attr-defined]
    scheduler.register_to_config(test_attribute=5)
    assert scheduler.dummy_attribute == 5 and scheduler.save_pretrained == scheduler.save_pretrained  # type: ignore[attr-defined]
    assert not caplog.records
    with pytest.warns(FutureWarning):
        assert scheduler.test_attribute == 5  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="'RDDMScheduler' object has no attribute 'does_not_exist'"):
        _ = scheduler.does_not_exist  # type: ignore[attr-defined]


# -- and ours -----------------------------------------------------------------------------------------------------


def test_indices_are_the_samplers() -> None:
    scheduler = RDDMScheduler()
    scheduler.set_timesteps(3)
    assert scheduler.timesteps.tolist() == [step.t for step in few_steps(scheduler.schedule, 3)]
    assert scheduler.previous_timestep(999) == 666 - 1 and scheduler.previous_timestep(0) == -1
    scheduler.set_timesteps(timesteps=[900, 30])
    assert scheduler.timesteps.tolist() == [900, 30] and scheduler.num_inference_steps == 2
    scheduler.set_timesteps(1000)
    assert scheduler._step_at(5, 0.0) == ancestral_steps(scheduler.schedule)[-6]


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.triangular(50, 0.01),
        Schedule.power(50, 1.0, ("average", 1.0)),
        Schedule.from_ddim(50, "scaled_linear"),
        Schedule.from_ddim(50, alpha=("decreased", 0.3)),
        Schedule.from_ddim(50, boundary="test"),
        Schedule.resshift(),
        Schedule.ir_sde(20),
        Schedule.straight(20, 0.5),
        Schedule.diffuir(20),
    ],
    ids=lambda schedule: schedule.recipe["family"],
)
def test_every_schedule_becomes_a_config(schedule: Schedule, tmp_path: Path) -> None:
    RDDMScheduler.from_schedule(schedule, eta=0.25).save_pretrained(tmp_path)
    loaded = RDDMScheduler.from_pretrained(tmp_path)
    for name in ("alpha_bar", "beta_bar", "delta_bar"):
        assert np.array_equal(getattr(loaded.schedule, name), getattr(schedule, name)), name
    assert loaded.schedule.sum_scale == schedule.sum_scale and loaded.config.eta == 0.25


@pytest.mark.parametrize("mode", [None, "res", "noise"])
def test_steps_walk_as_the_model_does(mode: str | None) -> None:
    """Outputs as a tuple, along the channels, or only the one that is read."""
    residual, noise, x = signed(1), signed(2), images(2, 3, 8, 8)
    diffusion = known_model(residual, noise, eta=0.5, objective="pred_res_noise", test_res_or_noise=mode)
    expected = diffusion.sample(x, generator=seeded(0))[-1]
    wanted = {None: (residual, noise), "res": (residual,), "noise": (noise,)}[mode]
    for outputs in ((residual, noise), torch.cat((residual, noise), dim=1), wanted):
        scheduler = RDDMScheduler.from_schedule(
            diffusion.schedule, eta=0.5, objective="pred_res_noise", test_res_or_noise=mode, condition=True
        )
        scheduler.set_timesteps(2)
        generator = seeded(0)
        I_t = to_signed(x) + scheduler.init_noise_sigma * torch.randn(x.shape, generator=generator)
        for t in scheduler.timesteps:
            I_t = scheduler.step(outputs, t, I_t, image=to_signed(x), generator=generator).prev_sample
        torch.testing.assert_close((I_t + 1) / 2, expected, rtol=0, atol=1e-6)


def test_a_step_shows_clean_image_and_residual() -> None:
    scheduler = RDDMScheduler(sum_scale=0.01, clip_residual=0.5)
    I_in = signed(3)
    stepped = scheduler.step(signed(1), 700, signed(2), image=I_in)
    residual = signed(1).clamp(-0.5, 0.5)
    torch.testing.assert_close(stepped.pred_residual, residual)
    torch.testing.assert_close(stepped.pred_original_sample, (I_in - residual).clamp(-1, 1))


def test_noise_can_be_given_and_eta_changed() -> None:
    scheduler = RDDMScheduler()
    scheduler.set_timesteps(4)
    t = scheduler.timesteps[0]
    results = [
        scheduler.step(signed(1), t, signed(2), eta=1.0, variance_noise=noise).prev_sample
        for noise in (signed(3), torch.zeros(2, 3, 8, 8))
    ]
    sigma = few_steps(scheduler.schedule, 4, 1.0)[0].sigma
    torch.testing.assert_close(results[0] - results[1], sigma * signed(3))
    assert sigma > 0.1


def test_add_noise_is_the_models_forward_process() -> None:
    for diffusion in (small_model("pred_res"), small_model("pred_res", schedule=Schedule.diffuir())):
        scheduler = RDDMScheduler.from_schedule(diffusion.schedule)
        I_0, I_in, noise, t = signed(1), signed(2), signed(3), torch.tensor([3, 900])
        expected = diffusion.noised(I_0, I_in - I_0, t, noise)
        torch.testing.assert_close(scheduler.add_noise(I_0, noise, t, image=I_in), expected)


def test_half_precision_images_keep_their_dtype() -> None:
    scheduler = RDDMScheduler()
    scheduler.set_timesteps(3)
    exact = scheduler.step(signed(1), 999, signed(2)).prev_sample
    half = scheduler.step(signed(1), 999, signed(2).bfloat16()).prev_sample
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0, atol=0.05)


def test_a_pipeline_of_diffusers_runs_with_it() -> None:
    """`DDPMPipeline` keeps its scheduler; RDDM's ancestral steps are those of DDPM."""
    unet = UNet2DModel(
        8,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        layers_per_block=1,
    )
    scheduler = RDDMScheduler(5, family="ddim", objective="pred_noise")
    made = DDPMPipeline(unet, scheduler)
    made.set_progress_bar_config(disable=True)
    image = made(num_inference_steps=5, generator=seeded(0), output_type="np").images
    assert image.shape == (1, 8, 8, 3) and np.isfinite(image).all()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"family": "cosine"}, "unknown family 'cosine': choose one of triangular, power, ddim"),
        ({"objective": "v"}, "unknown objective 'v': choose one of pred_res_noise, "),
        ({"alpha_bar": [0.5, 1.0]}, "alpha_bar and beta_bar are one schedule's two tables: pass both or neither"),
        ({"trained_betas": [0.1, 1.5]}, "DDPM's variances (betas) must be a table of numbers above 0 and below 1"),
        ({"eta": 2.0}, "eta must be between 0 (deterministic) and 1 (posterior), not 2.0"),
    ],
)
def test_a_wrong_setting_is_named(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        RDDMScheduler(**settings)
    assert str(error.value).startswith(sentence)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "pass either num_inference_steps or timesteps"),
        ({"num_inference_steps": 3, "timesteps": [1]}, "pass either num_inference_steps or timesteps"),
        ({"num_inference_steps": 0}, "sampling_timesteps must be between 1 and the schedule's 1000 steps, not 0"),
        ({"timesteps": [3, 3]}, "timesteps must descend within 999 to 0, not [3, 3]"),
        ({"timesteps": [1000]}, "timesteps must descend within 999 to 0, not [1000]"),
        ({"timesteps": []}, "timesteps must descend within 999 to 0, not []"),
    ],
)
def test_wrong_timesteps_are_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError) as error:
        RDDMScheduler().set_timesteps(**arguments)
    assert str(error.value) == sentence


def test_a_wrong_step_is_named() -> None:
    scheduler = RDDMScheduler(objective="pred_res_noise", condition=True)
    x = signed(1)
    for arguments, sentence in (
        ((x, 5, x), "this scheduler belongs to a model that restores: pass the degraded image as image="),
        (((x, x), 1000, x, x), "the timestep is 1000: choose one from 0 to 999"),
        (
            (x, 5, x, x),
            "objective pred_res_noise takes 2 outputs of the sample's shape (2, 3, 8, 8), as a tuple or along the "
            "channels, not (2, 3, 8, 8)",
        ),
    ):
        with pytest.raises(ValueError) as error:
            scheduler.step(*arguments)  # type: ignore[arg-type]
        assert str(error.value) == sentence
