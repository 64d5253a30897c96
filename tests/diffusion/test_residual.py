"""`ResidualDiffusion` with networks of known answers: what it asks them, and what it makes of the answers."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from small_models import images, small_model
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion, to_signed, to_unit
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule

SCHEDULE = Schedule.triangular(1000, 0.01)
T_HALF = 500
A, B = float(SCHEDULE.alpha_bar[T_HALF]), float(SCHEDULE.beta_bar[T_HALF])


class Known(nn.Module):
    """A network that answers what `answer(x)` says, one image an output, and notes what it was asked."""

    channels = 3

    def __init__(self, answer: Callable[[Tensor], Sequence[Tensor]], self_condition: bool = False) -> None:
        super().__init__()
        self.answer, self.self_condition = answer, self_condition
        self.asked: list[tuple[Tensor, Any, Tensor | None]] = []

    def forward(self, x: Tensor, time: Any, x_self_cond: Tensor | None = None) -> list[Tensor]:
        self.asked.append((x, time, x_self_cond))
        return list(self.answer(x))


def model(*outputs: Tensor, self_condition: bool = False, **options: Any) -> ResidualDiffusion:
    """A model whose network answers `outputs`; restores unless told otherwise."""
    settings: dict[str, Any] = {"condition": True, "sampling_timesteps": 2, "image_size": 8, **options}
    schedule = settings.pop("schedule", SCHEDULE)
    return ResidualDiffusion(Known(lambda _x: outputs, self_condition), schedule, **settings)


def signed(seed: int, batch: int = 2) -> Tensor:
    return to_signed(images(batch, 3, 8, 8, seed=seed))


def at(*indices: int) -> Tensor:
    return torch.tensor(indices)


# -- the forward process ------------------------------------------------------------------------------------


def test_the_forward_process_is_its_closed_form_for_each_image_s_own_index() -> None:
    I_0, I_res, noise, t = signed(1), signed(2), torch.randn(2, 3, 8, 8), at(3, 900)
    I_t = model().q_sample(I_0, I_res, t, noise)
    a, b = (table[t.numpy()][:, None, None, None] for table in (SCHEDULE.alpha_bar, SCHEDULE.beta_bar))
    expected = I_0.double().numpy() + a * I_res.double().numpy() + b * noise.double().numpy()
    np.testing.assert_allclose(I_t.double().numpy(), expected, rtol=0, atol=1e-6)


def test_noise_that_is_not_given_is_standard_normal() -> None:
    """In an image of zeros at the last index, where beta_bar^2 is 0.01."""
    zeros = torch.zeros(1, 3, 128, 128)
    I_t = model().q_sample(zeros, zeros, at(999))
    assert float(I_t.mean()) == pytest.approx(0, abs=0.002)
    assert float(I_t.std()) == pytest.approx(0.1, rel=0.02)


# -- what the network is asked ------------------------------------------------------------------------------


def test_the_network_sees_the_image_then_the_input_then_the_mask() -> None:
    I_t, I_in, mask = signed(1), signed(2), signed(3)
    zero = torch.zeros_like(I_t)
    seen = {
        "restoring": ({}, (I_t, I_in)),
        "mask": ({"input_condition": True}, (I_t, I_in, mask)),
        "translating": ({"img_to_img_translation": True}, (I_t,)),
        "translating with a mask": ({"img_to_img_translation": True, "input_condition": True}, (I_t, mask)),
        "generating": ({"condition": False}, (I_t,)),
    }
    for name, (options, parts) in seen.items():
        diffusion = model(zero, zero, **options)
        diffusion.outputs(I_t, at(5, 5), I_in, mask)
        assert torch.equal(diffusion.model.asked[0][0], torch.cat(parts, dim=1)), name


@pytest.mark.parametrize(
    ("objective", "times"),
    [
        ("pred_res_noise", (A * 1000, B * 1000)),
        ("pred_x0_noise", (A * 1000, B * 1000)),
        ("pred_res", (A * 1000, A * 1000)),
        ("pred_x0", (A * 1000, A * 1000)),
        ("pred_noise", (B * 1000, B * 1000)),
    ],
)
def test_path_independent_networks_see_their_own_coefficient_as_the_time(
    objective: str, times: tuple[float, float]
) -> None:
    found = model(objective=objective, path_independent=True).network_times(at(T_HALF, 0))
    assert [float(t[0]) for t in found] == pytest.approx(times, rel=1e-6)
    index = at(T_HALF, 0)
    assert model(objective=objective).network_times(index) is index


def test_what_the_network_needs_and_does_not_get_is_named() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"needs the degraded image \(I_in\)"):
        model(zero, zero).outputs(zero, at(1))
    with pytest.raises(ValueError, match="trained with a mask"):
        model(zero, zero, input_condition=True).outputs(zero, at(1), zero)


# -- predictions: the table of the published read-out, with its clamps, in numpy -----------------------------


def table(
    objective: str, x: np.ndarray, x_in: np.ndarray, first: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, ...]:
    """(residual, noise, clean image) of the outputs at T_HALF, written out row by row."""

    def clip(image: np.ndarray) -> np.ndarray:
        return np.clip(image, -1, 1)

    if objective == "pred_noise":
        clean = clip((x - A * x_in - B * first) / (1 - A))
        return clip(x_in - clean), first, clean
    if objective == "pred_res":
        res = clip(first)
        return res, (x - x_in - (A - 1) * res) / B, clip(x_in - res)
    if objective == "pred_x0":
        res = clip(x_in - first)
        return res, (x - x_in - (A - 1) * res) / B, clip(x_in - res)
    noise = second - first if "add_noise" in objective else second
    if objective.startswith("pred_x0"):
        return clip(x_in - first), noise, clip(first)
    res = clip(first)
    return res, noise, clip(x - A * res - B * noise)


def predicted(diffusion: ResidualDiffusion, x: Tensor, x_in: Tensor) -> list[np.ndarray]:
    return [part.double().numpy() for part in diffusion.predict(x, at(T_HALF, T_HALF), x_in)]


@pytest.mark.parametrize("objective", [o.name for o in Objective])
def test_predictions_follow_the_published_table_and_its_clamps(objective: str) -> None:
    x, x_in, first, second = 1.3 * signed(1), signed(2), 1.5 * signed(3), torch.randn(2, 3, 8, 8)
    found = predicted(model(first, second, objective=objective), x, x_in)
    expected = table(objective, *(image.double().numpy() for image in (x, x_in, first, second)))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)
    assert np.abs(found[0]).max() == 1  # the clamps were active


@pytest.mark.parametrize(
    ("objective", "mode", "alone", "which"),
    [
        ("pred_res_noise", "res", "pred_res", 0),
        ("pred_res_noise", "noise", "pred_noise", 1),
        ("pred_x0_noise", "x0", "pred_x0", 0),
        ("pred_x0_noise", "noise", "pred_noise", 1),
    ],
)
def test_a_test_mode_reads_one_of_the_two_outputs_as_if_it_were_alone(
    objective: str, mode: str, alone: str, which: int
) -> None:
    x, x_in = signed(1), signed(2)
    outputs = (signed(3), torch.randn(2, 3, 8, 8))
    found = predicted(model(*outputs, objective=objective, test_res_or_noise=mode), x, x_in)
    expected = predicted(model(outputs[which], objective=alone), x, x_in)
    assert all(np.array_equal(ours, theirs) for ours, theirs in zip(found, expected, strict=True))


def test_without_clamps_the_three_images_add_up_to_the_fourth() -> None:
    x, x_in = 2 * signed(1), 2 * signed(2)
    for objective in Objective:
        if objective in (Objective.pred_x0_noise, Objective.pred_x0_add_noise):
            continue  # two independent answers: they need not agree
        diffusion = model(2 * signed(3), torch.randn(2, 3, 8, 8), objective=objective)
        res, noise, clean = diffusion.predict(x, at(T_HALF, T_HALF), x_in, clip=False)
        torch.testing.assert_close(clean + A * res + B * noise, x, rtol=0, atol=1e-5)
        assert clean.abs().max() > 1


def test_the_residual_s_clamp_is_adjustable_to_its_true_range() -> None:
    x, x_in, residual = signed(1), signed(2), 2 * signed(3)
    wide = model(residual, objective="pred_res", clip_res=2.0).predict(x, at(1, 1), x_in)
    assert torch.equal(wide.pred_res, residual)
    assert torch.equal(wide.pred_x_start, (x_in - residual).clamp(-1, 1))


# -- losses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("objective", [o.name for o in Objective])
def test_losses_compare_each_output_with_its_own_target(objective: str, loss_type: str) -> None:
    I_0, I_in, noise = signed(1), signed(2), torch.randn(2, 3, 8, 8)
    known = {"res": I_in - I_0, "x0": I_0, "noise": noise}
    first = known[objective.split("_")[1]]
    wanted = [first, known[objective.split("_")[1]] + noise if "add" in objective else noise]
    wanted = wanted[: Objective[objective].outputs]
    outputs = [signed(3), signed(4)][: len(wanted)]
    diffusion = model(*outputs, objective=objective, loss_type=loss_type)
    losses = diffusion.losses(I_0, I_in, at(7, 900), noise=noise)
    differences = [(out - target).double().numpy() for out, target in zip(outputs, wanted, strict=True)]
    expected = [np.mean(np.abs(d) if loss_type == "l1" else d**2) for d in differences]
    assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-5)
    assert all(loss.shape == () for loss in losses)


def test_when_generating_the_residual_is_the_negated_image() -> None:
    I_0 = signed(1)
    diffusion = model(-I_0, torch.zeros_like(I_0), condition=False, loss_type="l2")
    noise = torch.full_like(I_0, 0.5)
    losses = diffusion.losses(I_0, None, at(T_HALF, T_HALF), noise=noise)
    assert [float(loss) for loss in losses] == pytest.approx([0.0, 0.25])
    torch.testing.assert_close(diffusion.model.asked[0][0], (1 - A) * I_0 + B * noise, rtol=0, atol=1e-6)


def test_calling_the_model_is_its_losses() -> None:
    I_0, I_in, noise = signed(1), signed(2), torch.randn(2, 3, 8, 8)
    diffusion = model(signed(3), signed(4))
    called = diffusion(I_0, I_in, at(1, 2), noise=noise)
    assert called == diffusion.losses(I_0, I_in, at(1, 2), noise=noise)


def test_half_of_the_training_steps_are_self_conditioned_on_the_own_estimate() -> None:
    I_0, I_in, noise, residual = signed(1), signed(2), torch.randn(2, 3, 8, 8), 0.5 * signed(3)
    diffusion = model(residual, objective="pred_res", self_condition=True)
    random.seed(0)
    given: list[Tensor | None] = []
    for _ in range(200):
        diffusion.model.asked.clear()
        diffusion.losses(I_0, I_in, at(1, 2), noise=noise)
        given.append(diffusion.model.asked[-1][2])
    told = [estimate for estimate in given if estimate is not None]
    assert 70 <= len(told) <= 130
    assert all(torch.equal(estimate, (I_in - residual).clamp(-1, 1)) for estimate in told)


def test_a_given_self_condition_is_used_as_it_is() -> None:
    diffusion, own = model(signed(3), objective="pred_res", self_condition=True), signed(4)
    diffusion.losses(signed(1), signed(2), at(1, 2), x_self_cond=own)
    assert [asked[2] is own for asked in diffusion.model.asked] == [True]


# -- sampling -----------------------------------------------------------------------------------------------


def test_restoring_starts_from_the_input_with_the_schedule_s_noise_and_returns_it_first() -> None:
    x, draw = images(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    zero = torch.zeros_like(x)
    noisy, result = model(zero, zero).sample(x, draws=[draw])
    torch.testing.assert_close(noisy, to_unit(to_signed(x) + 0.1 * draw), rtol=0, atol=1e-6)
    # No residual and no noise predicted: the image stays as it is, clamped to [-1, 1] as the clean image is.
    torch.testing.assert_close(result, noisy.clamp(0, 1), rtol=0, atol=1e-6)
    assert noisy.min() < 0  # not clamped


def test_generating_starts_from_the_noise_alone() -> None:
    draw, zero = 0.2 * torch.randn(5, 3, 8, 8), torch.zeros(5, 3, 8, 8)
    diffusion = model(zero, zero, condition=False, schedule=Schedule.triangular(1000, 1.0))
    (result,) = diffusion.sample(batch_size=5, draws=[draw])
    torch.testing.assert_close(result, to_unit(draw), rtol=0, atol=1e-6)


def test_one_deterministic_step_by_hand() -> None:
    x, draw, residual, noise = images(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 0.5 * signed(1, 1), signed(2, 1)
    _start, between, end = model(residual, noise).sample(x, draws=[draw], every_step=True)
    t, s = 999, 499
    I_T = to_signed(x) + 0.1 * draw
    da = SCHEDULE.alpha_bar[t] - SCHEDULE.alpha_bar[s]
    db = SCHEDULE.beta_bar[t] - SCHEDULE.beta_bar[s]
    I_s = I_T - da * residual - db * noise
    torch.testing.assert_close(to_signed(between), I_s.float(), rtol=0, atol=1e-6)
    I_0 = (I_s - SCHEDULE.alpha_bar[s] * residual - SCHEDULE.beta_bar[s] * noise).clamp(-1, 1)
    torch.testing.assert_close(to_signed(end), I_0.float(), rtol=0, atol=1e-6)


def test_draws_take_the_generator_s_place_in_its_order() -> None:
    diffusion, x = small_model(eta=1.0), images(2, 3, 8, 8)
    generator = torch.Generator().manual_seed(4)
    draws = [torch.randn(2, 3, 8, 8, generator=generator) for _ in range(3)]  # the start, and 2 of 3 steps
    generated = diffusion.sample(x, generator=torch.Generator().manual_seed(4), every_step=True)
    given = diffusion.sample(x, draws=draws, every_step=True)
    assert len(given) == 4 and all(torch.equal(a, b) for a, b in zip(given, generated, strict=True))


def test_steps_and_eta_of_a_call_override_the_model_s() -> None:
    diffusion, x = small_model(sampling_timesteps=3, eta=0.0), images(1, 3, 8, 8)
    other = small_model(sampling_timesteps=4, eta=1.0)
    seeded = [torch.Generator().manual_seed(1) for _ in range(2)]
    here = diffusion.sample(x, sampling_timesteps=4, eta=1.0, generator=seeded[0], every_step=True)
    there = other.sample(x, generator=seeded[1], every_step=True)
    assert len(here) == 5 and all(torch.equal(a, b) for a, b in zip(here, there, strict=True))
    assert (diffusion.sampling_timesteps, diffusion.eta) == (3, 0.0)


def test_all_steps_are_the_ancestral_sampler_whatever_eta_says() -> None:
    schedule = Schedule.triangular(6, 0.01)
    diffusion = small_model(schedule=schedule, sampling_timesteps=None, eta=0.0)
    assert [step.t for step in diffusion.steps()] == [5, 4, 3, 2, 1, 0]
    assert [step.draws for step in diffusion.steps(eta=0.0)] == [True] * 5 + [False]
    assert not any(step.draws for step in diffusion.steps(5))


@pytest.mark.parametrize("count", [1, 5, 19, 20])
def test_a_schedule_without_noise_is_the_blend_at_every_step_of_any_count(count: int) -> None:
    """Cold Diffusion's: with the true residual the steps walk straight from the input to the target."""
    schedule = Schedule.straight(20, sum_scale=0.0)
    I_0, I_in = images(1, 3, 8, 8, seed=1), images(1, 3, 8, 8, seed=2)
    residual = to_signed(I_in) - to_signed(I_0)
    cold = model(residual, objective="pred_res", clip_res=2.0, schedule=schedule)
    _, *walked = cold.sample(I_in, sampling_timesteps=count, every_step=True)
    for step, image in zip(cold.steps(count), walked, strict=True):
        blend = I_0 + schedule.alpha_bar_at(step.s) * (I_in - I_0)
        torch.testing.assert_close(image, blend, rtol=0, atol=1e-5)


def test_the_previous_clean_image_is_the_self_condition() -> None:
    x = images(1, 3, 8, 8)
    residuals = [0.2 * signed(seed, 1) for seed in (1, 2, 3)]
    diffusion = model(objective="pred_res", self_condition=True, sampling_timesteps=3)
    diffusion.model.answer = lambda _x: [residuals[len(diffusion.model.asked) - 1]]
    diffusion.sample(x)
    first, *later = [asked[2] for asked in diffusion.model.asked]
    assert first is None and len(later) == 2
    for estimate, residual in zip(later, residuals[:2], strict=True):
        torch.testing.assert_close(estimate, (to_signed(x) - residual).clamp(-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("stays", "seen"), [(True, (0.0, 1.0)), (False, (-1.0, 1.0))])
def test_a_mask_stays_in_0_1_only_where_the_model_says_so(stays: bool, seen: tuple[float, float]) -> None:
    zero = torch.zeros(1, 3, 8, 8)
    diffusion = model(zero, zero, input_condition=True, input_condition_mask=stays)
    mask = images(1, 3, 8, 8).round()
    kept = mask.clone()
    diffusion.sample(images(1, 3, 8, 8), mask)
    given = diffusion.model.asked[0][0][:, 6:]
    assert (float(given.min()), float(given.max())) == seen and torch.equal(mask, kept)


def test_translation_starts_from_an_image_that_the_network_does_not_see() -> None:
    x, zero = images(2, 3, 8, 8), torch.zeros(2, 3, 8, 8)
    diffusion = model(zero, zero, img_to_img_translation=True)
    noisy, _ = diffusion.sample(x, draws=[zero])
    assert torch.equal(diffusion.model.asked[0][0], to_signed(x)) and torch.allclose(noisy, x, atol=1e-6)


@pytest.mark.parametrize("kind", [{"input_condition": True}, {"self_condition": True}])
def test_sides_that_the_network_cannot_halve_are_kept(kind: dict[str, Any]) -> None:
    extra = [images(1, 3, 13, 7, seed=2)] if "input_condition" in kind else []
    results = small_model(**kind).sample(images(1, 3, 13, 7), *extra, sampling_timesteps=2, every_step=True)
    assert [image.shape for image in results] == [(1, 3, 13, 7)] * 3 and results[-1].isfinite().all()


def test_the_input_is_not_changed() -> None:
    x = images(1, 3, 8, 8)
    kept = x.clone()
    small_model().sample(x)
    assert torch.equal(x, kept)


def test_images_are_mapped_there_and_back() -> None:
    x = torch.tensor([0.0, 0.25, 1.0])
    assert to_signed(x).tolist() == [-1.0, -0.5, 1.0] and torch.equal(to_unit(to_signed(x)), x)


def test_the_noise_network_alone_is_not_spoilt_by_alpha_bar_of_1() -> None:
    """Power schedules have alpha_bar = 1 before the last index; the division has a floor there."""
    schedule = Schedule.power(1000, 0.01)
    diffusion = model(torch.zeros(1, 3, 8, 8), objective="pred_noise", schedule=schedule)
    results = diffusion.sample(images(1, 3, 8, 8), sampling_timesteps=999, every_step=True)
    assert all(image.isfinite().all() for image in results)


# -- what is refused ----------------------------------------------------------------------------------------


def test_no_sampling_steps_are_refused_and_not_taken_for_all() -> None:
    with pytest.raises(ValueError, match="between 1 and the schedule's 1000"):
        model(sampling_timesteps=0)


@pytest.mark.parametrize("count", [-1, 1001])
def test_a_count_of_steps_that_cannot_be_is_refused_when_the_model_is_built(count: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the schedule's 1000 steps, not {count}"):
        model(sampling_timesteps=count)


def test_an_eta_that_cannot_be_is_refused_when_the_model_is_built() -> None:
    with pytest.raises(ValueError, match=r"eta must be between 0 .* not 2"):
        model(eta=2.0)


def test_too_few_draws_are_named() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match="draws"):
        model(zero, zero, eta=1.0).sample(images(1, 3, 8, 8), draws=[zero])


def test_images_of_bytes_are_refused_and_not_restored_as_garbage() -> None:
    with pytest.raises((TypeError, ValueError), match="uint8"):
        small_model().sample((images(1, 3, 8, 8) * 255).to(torch.uint8))


def test_loaded_coefficients_are_the_ones_that_are_sampled_with() -> None:
    """A state dict holds the published buffers: after loading, training and sampling use one schedule."""
    other = Schedule.triangular(1000, 0.01, alpha="increased")
    trained, fresh = small_model(seed=1), small_model(seed=2, schedule=other)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.betas_cumsum, trained.betas_cumsum)
    x = images(1, 3, 8, 8)
    results = [m.sample(x, generator=torch.Generator().manual_seed(0))[-1] for m in (trained, fresh)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)
