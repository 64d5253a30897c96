"""Pipelines of diffusers, read from their folders, sample the images that diffusers samples."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import seeded
from torch import Tensor

from rddm_fast.diffusion import to_signed
from rddm_fast.models.from_diffusers import from_diffusers, schedule_from_diffusers
from rddm_fast.theory.ddim import converted, ddim_steps
from rddm_fast.theory.schedule import Schedule

diffusers = pytest.importorskip("diffusers")

SINGLE = 1e-5  # how close a step in float32 is


def assert_images(ours: Tensor, pipelines: np.ndarray) -> None:
    """The images of whole runs agree. The network amplifies the rounding of float32 over ten steps and more."""
    assert np.abs(ours.clamp(0, 1).permute(0, 2, 3, 1).numpy() - pipelines).max() < 1e-4


def saved(folder: Path, scheduler: Any, **options: Any) -> Any:
    """A pipeline of a small network, written to `folder`."""
    torch.manual_seed(0)
    network = {"sample_size": 16, "in_channels": 1, "out_channels": 1, **options}
    network |= {"layers_per_block": 1, "block_out_channels": (8, 16), "norm_num_groups": 4, "attention_head_dim": 8}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    kind = diffusers.DDIMPipeline if isinstance(scheduler, diffusers.DDIMScheduler) else diffusers.DDPMPipeline
    pipeline = kind(unet=diffusers.UNet2DModel(**network, **blocks).eval(), scheduler=scheduler)
    pipeline.save_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def beside(pipeline: Any, images: list[Tensor], **options: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """Each of our ten images and the pipeline's own step from our image before it."""
    scheduler, generator = pipeline.scheduler, seeded(3)
    scheduler.set_timesteps(10)
    x = torch.randn(2, 1, 16, 16, generator=generator)
    for t, image in zip(scheduler.timesteps, images, strict=True):
        with torch.no_grad():
            after = scheduler.step(pipeline.unet(x, t).sample, t, x, generator=generator, **options).prev_sample
        x = to_signed(image)
        yield x, after


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize(
    "options",
    [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"timestep_spacing": "trailing", "beta_schedule": "scaled_linear"}],
)
def test_a_ddim_pipeline_samples_the_same_images(tmp_path: Path, options: dict[str, Any], eta: float) -> None:
    pipeline = saved(tmp_path, diffusers.DDIMScheduler(**options))
    model = from_diffusers(tmp_path)
    expected = pipeline(2, seeded(3), eta, 10, output_type="np").images
    images = model.sample(batch_size=2, sampling_timesteps=10, eta=eta, generator=seeded(3), every_step=True)
    assert len(images) == 10 and images[-1].shape == (2, 1, 16, 16)
    assert_images(images[-1], expected)
    assert model.sampling_timesteps == 50 and model.channels == 1

    for ours, theirs in beside(pipeline, images, eta=eta):
        assert (ours - theirs).abs().max() < SINGLE


def test_without_a_clamp_rddms_own_steps_sample_the_pipelines_images(tmp_path: Path) -> None:
    pipeline = saved(tmp_path, diffusers.DDIMScheduler(clip_sample=False))
    model = from_diffusers(tmp_path)
    assert math.isinf(model.clip_0)
    steps = ddim_steps(model.schedule, 10, spacing="leading")
    images = model.sample(batch_size=2, steps=steps, generator=seeded(3), every_step=True)
    for ours, theirs in beside(pipeline, images):
        assert (ours - theirs).abs().max() < SINGLE * theirs.abs().max()


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_ddpm_pipeline_samples_the_same_images(tmp_path: Path, variance_type: str) -> None:
    pipeline = saved(tmp_path, diffusers.DDPMScheduler(40, variance_type=variance_type))
    model = from_diffusers(tmp_path)
    expected = pipeline(2, seeded(3), num_inference_steps=40, output_type="np").images
    image = model.sample(batch_size=2, generator=seeded(3))[-1]
    assert_images(image, expected)


def test_another_preset_than_the_pipelines(tmp_path: Path) -> None:
    saved(tmp_path, diffusers.DDPMScheduler(40))
    pipeline = diffusers.DDIMPipeline.from_pretrained(tmp_path)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(2, seeded(3), num_inference_steps=8, output_type="np").images
    model = from_diffusers(tmp_path, "ddim")
    image = model.sample(batch_size=2, sampling_timesteps=8, generator=seeded(3))[-1]
    assert_images(image, expected)
    assert model.steps() == model.steps(40, 0.0)  # no more than there are
    rddm = from_diffusers(tmp_path, "rddm")
    assert rddm.steps(8) == ddim_steps(rddm.schedule, 8)
    with pytest.raises(ValueError, match="preset is 'dpm': choose one of rddm, ddim, ddpm, ddpm_large"):
        from_diffusers(tmp_path, "dpm")


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_converted_coefficients_are_those_of_the_scheduler(name: str) -> None:
    scheduler = diffusers.DDIMScheduler(beta_schedule=name)
    a = scheduler.alphas_cumprod.double().numpy()
    for schedule in (schedule_from_diffusers(scheduler.config), converted(scheduler.betas)):
        assert np.abs(schedule.alpha_bar - (1 - np.sqrt(a))).max() < 1e-12
        assert np.abs(schedule.beta_bar**2 - (1 - a)).max() < 1e-12
        # Float64 gives the same, up to the rounding of the scheduler's float32.
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
