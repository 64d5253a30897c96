"""The loop over the steps: every step's image, its noise, and whose memory the images are."""

import torch
from small_models import assert_fast_is_eager, images, seeded, small_model

from rddm_fast.fast import FastSampler
from rddm_fast.theory.schedule import Schedule


def test_the_same_image_at_every_step_of_the_ancestral_sampler() -> None:
    diffusion = small_model(schedule=Schedule.triangular(6, 0.01), sampling_timesteps=None)
    assert_fast_is_eager(diffusion, images(1, 3, 16, 16), every_step=True, atol=2e-5)
    assert len(diffusion.sample(images(1, 3, 16, 16), every_step=True)) == 7


def test_stochastic_steps_draw_the_same_noise() -> None:
    diffusion = small_model()
    noisy, still = (assert_fast_is_eager(diffusion, images(1, 3, 16, 16), steps=6, eta=eta) for eta in (1.0, 0.0))
    assert (noisy - still).abs().max() > 1e-2


def test_diffuir_s_loop_is_fast_too() -> None:
    """Its steps add the degraded image, and an image of 12x12 is padded to 16, not to 12."""
    diffusion = small_model("pred_res", schedule=Schedule.diffuir(), padding_factor=8, path_independent=True)
    still, noisy = (
        assert_fast_is_eager(diffusion, images(1, 3, 12, 12), every_step=True, eta=eta) for eta in (0.0, 0.4)
    )
    assert (noisy - still).abs().max() > 1e-3


def test_two_passes_are_fast_too() -> None:
    diffusion = small_model(condition=False, schedule=Schedule.from_ddim(1000), official_two_pass=True)
    assert_fast_is_eager(diffusion, every_step=True, batch_size=1, eta=0.5)
    assert len(diffusion.steps(3)) == 6 and len(FastSampler(diffusion, steps=3).steps) == 6


def test_what_it_returns_is_the_caller_s() -> None:
    sampler, x = FastSampler(small_model()), images(1, 3, 16, 16)
    first = sampler.sample(x, generator=seeded(0), every_step=True)
    kept = [image.clone() for image in first]
    sampler.sample(images(1, 3, 16, 16, seed=9), generator=seeded(1), every_step=True)
    assert all(torch.equal(a, b) for a, b in zip(first, kept, strict=True))
    assert all(image.is_contiguous() for image in first) and len({image.data_ptr() for image in first}) == len(first)
