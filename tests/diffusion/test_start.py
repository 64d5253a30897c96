"""How a sampler starts and ends: what may go in, the first noisy image, the draws, and what comes out."""

import pytest
import torch
from small_models import images, known_model, seeded, small_model

from rddm_fast.diffusion import to_signed, to_unit
from rddm_fast.theory.schedule import Schedule


def test_callback_progress_and_every_step() -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    called: list[tuple[int, int, torch.Tensor]] = []
    walked: list[int] = []

    def progress(steps):
        for step in steps:
            walked.append(step.t)
            yield step

    pictures = diffusion.sample(
        x, sampling_timesteps=4, every_step=True, callback=lambda *a: called.append(a), progress=progress
    )
    assert len(pictures) == 5 and walked == [999, 749, 499, 249]
    assert [c[:2] for c in called] == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert all(torch.equal(c[2], picture) for c, picture in zip(called, pictures[1:], strict=True))
    assert (pictures[0] - x).std() == pytest.approx(0.05, rel=0.1)  # noise of variance 0.01 in [-1, 1]


def test_a_generator_decides_the_image_and_the_global_one_is_left_alone() -> None:
    diffusion, x = small_model(eta=1.0), images(1, 3, 16, 16)
    state = torch.get_rng_state()
    runs = [diffusion.sample(x, generator=seeded(seed))[-1] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("shape", [(1, 3, 37, 23), (2, 3, 1, 1)])
def test_any_size_goes_in_and_comes_out(shape: tuple[int, ...]) -> None:
    assert small_model().sample(images(*shape), sampling_timesteps=1)[-1].shape == shape


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ({}, [None], "this model restores: pass the degraded images"),
        ({}, [torch.rand(3, 16, 16)], r"images must be \(B, 3, H, W\)"),
        ({}, [torch.rand(1, 1, 16, 16)], r"not of shape \(1, 1, 16, 16\)"),
        ({"input_condition": True}, [torch.rand(1, 3, 16, 16)], "trained with a mask"),
        ({"condition": False}, [torch.rand(1, 3, 16, 16)], "this model generates: it takes no degraded image"),
        ({"condition": False, "image_size": None}, [None], "the model needs image_size"),
    ],
)
def test_wrong_inputs_are_named(options: dict, arguments: list, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        small_model(**options).sample(*arguments)


def test_restoring_starts_from_the_input_with_the_schedule_s_noise_and_returns_it_first() -> None:
    x, draw = images(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    zero = torch.zeros_like(x)
    noisy, result = known_model(zero, zero).sample(x, draws=[draw])
    torch.testing.assert_close(noisy, to_unit(to_signed(x) + 0.1 * draw), rtol=0, atol=1e-6)
    # No residual and no noise predicted: the image stays as it is, clamped to [-1, 1] as the clean image is.
    torch.testing.assert_close(result, noisy.clamp(0, 1), rtol=0, atol=1e-6)
    assert noisy.min() < 0  # not clamped


def test_generating_starts_from_the_noise_alone() -> None:
    draw, zero = 0.2 * torch.randn(5, 3, 8, 8), torch.zeros(5, 3, 8, 8)
    diffusion = known_model(zero, zero, condition=False, schedule=Schedule.triangular(1000, 1.0))
    (result,) = diffusion.sample(batch_size=5, draws=[draw])
    torch.testing.assert_close(result, to_unit(draw), rtol=0, atol=1e-6)


def test_draws_take_the_generator_s_place_in_its_order() -> None:
    diffusion, x = small_model(eta=1.0), images(2, 3, 8, 8)
    generator = seeded(4)
    draws = [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(3)]  # the start, and 2 of 3 steps
    generated = diffusion.sample(x, generator=seeded(4), every_step=True)
    given = diffusion.sample(x, draws=draws, every_step=True)
    assert len(given) == 4
    torch.testing.assert_close(given, generated, rtol=0, atol=0)


@pytest.mark.parametrize(("stays", "seen"), [(True, (0.0, 1.0)), (False, (-1.0, 1.0))])
def test_a_mask_stays_in_0_1_only_where_the_model_says_so(stays: bool, seen: tuple[float, float]) -> None:
    zero = torch.zeros(1, 3, 8, 8)
    diffusion = known_model(zero, zero, input_condition=True, input_condition_mask=stays)
    mask = images(1, 3, 8, 8).round()
    kept = mask.clone()
    diffusion.sample(images(1, 3, 8, 8), mask)
    given = diffusion.model.asked[0][0][:, 6:]
    assert (float(given.min()), float(given.max())) == seen and torch.equal(mask, kept)


def test_translation_starts_from_an_image_that_the_network_does_not_see() -> None:
    x, zero = images(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    diffusion = known_model(zero, zero, img_to_img_translation=True)
    noisy, _ = diffusion.sample(x, draws=[zero])
    assert torch.equal(diffusion.model.asked[0][0], to_signed(x)) and torch.allclose(noisy, x, atol=1e-6)


def test_the_input_is_not_changed() -> None:
    x = images(1, 3, 8, 8)
    kept = x.clone()
    small_model().sample(x)
    assert torch.equal(x, kept)


def test_images_are_mapped_there_and_back() -> None:
    x = torch.tensor([0.0, 0.25, 1.0])
    assert to_signed(x).tolist() == [-1.0, -0.5, 1.0] and torch.equal(to_unit(to_signed(x)), x)


def test_too_few_draws_are_named() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="draws"):
        known_model(zero, zero, eta=1.0).sample(images(1, 3, 8, 8), draws=[zero])


def test_images_of_bytes_are_refused_and_not_restored_as_garbage() -> None:
    with pytest.raises((TypeError, ValueError), match="uint8"):
        small_model().sample((images(1, 3, 8, 8) * 255).to(torch.uint8))
