"""`ResidualDiffusion` with networks of known answers: what it asks them, and what it makes of the answers."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from small_models import SCHEDULE, images, known_model, seeded, signed, small_model
from torch import Tensor

from rddm_fast.diffusion import to_signed
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule

T_HALF = 500
A, B = float(SCHEDULE.alpha_bar[T_HALF]), float(SCHEDULE.beta_bar[T_HALF])


def at(*indices: int) -> Tensor:
    return torch.tensor(indices)


# -- the forward process ------------------------------------------------------------------------------------


def test_the_forward_process_is_its_closed_form_for_each_image_s_own_index() -> None:
    I_0, I_res, noise, t = signed(1), signed(2), torch.randn(2, 3, 8, 8), at(3, 900)
    I_t = known_model().q_sample(I_0, I_res, t, noise)
    a, b = (table[t.numpy()][:, None, None, None] for table in (SCHEDULE.alpha_bar, SCHEDULE.beta_bar))
    expected = I_0.double().numpy() + a * I_res.double().numpy() + b * noise.double().numpy()
    np.testing.assert_allclose(I_t.double().numpy(), expected, rtol=0, atol=1e-6)


def test_noise_that_is_not_given_is_standard_normal() -> None:
    """In an image of zeros at the last index, where beta_bar^2 is 0.01."""
    zeros = torch.zeros(1, 3, 128, 128)
    I_t = known_model().q_sample(zeros, zeros, at(999))
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
        diffusion = known_model(zero, zero, **options)
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
    found = known_model(objective=objective, path_independent=True).network_times(at(T_HALF, 0))
    assert [float(t[0]) for t in found] == pytest.approx(times, rel=1e-6)
    index = at(T_HALF, 0)
    assert known_model(objective=objective).network_times(index) is index


def test_what_the_network_needs_and_does_not_get_is_named() -> None:
    zero = torch.zeros(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"needs the degraded image \(I_in\)"):
        known_model(zero, zero).outputs(zero, at(1))
    with pytest.raises(ValueError, match="trained with a mask"):
        known_model(zero, zero, input_condition=True).outputs(zero, at(1), zero)


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
    diffusion = known_model(*outputs, objective=objective, loss_type=loss_type)
    losses = diffusion.losses(I_0, I_in, at(7, 900), noise=noise)
    differences = [(out - target).double().numpy() for out, target in zip(outputs, wanted, strict=True)]
    expected = [np.mean(np.abs(d) if loss_type == "l1" else d**2) for d in differences]
    assert [float(loss) for loss in losses] == pytest.approx(expected, rel=1e-5)
    assert all(loss.shape == () for loss in losses)


def test_when_generating_the_residual_is_the_negated_image() -> None:
    I_0 = signed(1)
    diffusion = known_model(-I_0, torch.zeros_like(I_0), condition=False, loss_type="l2")
    noise = torch.full_like(I_0, 0.5)
    losses = diffusion.losses(I_0, None, at(T_HALF, T_HALF), noise=noise)
    assert [float(loss) for loss in losses] == pytest.approx([0.0, 0.25])
    torch.testing.assert_close(diffusion.model.asked[0][0], (1 - A) * I_0 + B * noise, rtol=0, atol=1e-6)


def test_calling_the_model_is_its_losses() -> None:
    I_0, I_in, noise = signed(1), signed(2), torch.randn(2, 3, 8, 8)
    diffusion = known_model(signed(3), signed(4))
    assert diffusion(I_0, I_in, at(1, 2), noise=noise) == diffusion.losses(I_0, I_in, at(1, 2), noise=noise)


def test_half_of_the_training_steps_are_self_conditioned_on_the_own_estimate() -> None:
    I_0, I_in, noise, residual = signed(1), signed(2), torch.randn(2, 3, 8, 8), 0.5 * signed(3)
    diffusion = known_model(residual, objective="pred_res", self_condition=True)
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
    diffusion, own = known_model(signed(3), objective="pred_res", self_condition=True), signed(4)
    diffusion.losses(signed(1), signed(2), at(1, 2), x_self_cond=own)
    assert [asked[2] is own for asked in diffusion.model.asked] == [True]


# -- sampling -----------------------------------------------------------------------------------------------


def test_steps_and_eta_of_a_call_override_the_model_s() -> None:
    diffusion, x = small_model(sampling_timesteps=3, eta=0.0), images(1, 3, 8, 8)
    other = small_model(sampling_timesteps=4, eta=1.0)
    here = diffusion.sample(x, sampling_timesteps=4, eta=1.0, generator=seeded(1), every_step=True)
    there = other.sample(x, generator=seeded(1), every_step=True)
    assert len(here) == 5
    torch.testing.assert_close(here, there, rtol=0, atol=0)
    assert (diffusion.sampling_timesteps, diffusion.eta) == (3, 0.0)


def test_all_steps_are_the_ancestral_sampler_whatever_eta_says() -> None:
    schedule = Schedule.triangular(6, 0.01)
    diffusion = small_model(schedule=schedule, sampling_timesteps=None, eta=0.0)
    assert [step.t for step in diffusion.steps()] == [5, 4, 3, 2, 1, 0]
    assert [step.draws for step in diffusion.steps(eta=0.0)] == [True] * 5 + [False]
    assert not any(step.draws for step in diffusion.steps(5))


@pytest.mark.parametrize("kind", [{"input_condition": True}, {"self_condition": True}])
def test_sides_that_the_network_cannot_halve_are_kept(kind: dict[str, Any]) -> None:
    extra = [images(1, 3, 13, 7, seed=2)] if "input_condition" in kind else []
    results = small_model(**kind).sample(images(1, 3, 13, 7), *extra, sampling_timesteps=2, every_step=True)
    assert [image.shape for image in results] == [(1, 3, 13, 7)] * 3 and results[-1].isfinite().all()


def test_loaded_coefficients_are_the_ones_that_are_sampled_with() -> None:
    """A state dict holds the published buffers: after loading, training and sampling use one schedule."""
    other = Schedule.triangular(1000, 0.01, alpha="increased")
    trained, fresh = small_model(seed=1), small_model(seed=2, schedule=other)
    fresh.load_state_dict(trained.state_dict())
    assert torch.equal(fresh.betas_cumsum, trained.betas_cumsum)
    x = images(1, 3, 8, 8)
    results = [m.sample(x, generator=seeded(0))[-1] for m in (trained, fresh)]
    torch.testing.assert_close(*results, rtol=0, atol=1e-5)


def test_the_previous_estimate_is_passed_on() -> None:
    seen: list[torch.Tensor | None] = []
    diffusion = small_model("pred_res", self_condition=True)
    network = diffusion.model.unet0
    network.register_forward_pre_hook(lambda _m, args: seen.append(args[2]))
    every = diffusion.sample(images(1, 3, 16, 16), sampling_timesteps=3)
    assert seen[0] is None and seen[1] is not None and seen[2] is not None
    assert seen[1].abs().max() <= 1 and len(every) == 2


def test_losses_are_the_definition() -> None:
    diffusion = small_model("pred_x0_noise", loss_type="l2")
    I_0, I_in = (to_signed(images(2, 3, 16, 16, seed=seed)) for seed in (1, 2))
    noise, t = torch.randn_like(I_0), torch.tensor([3, 900])
    a, b = (
        torch.from_numpy(table[t.numpy()])[:, None, None, None] for table in (SCHEDULE.alpha_bar, SCHEDULE.beta_bar)
    )
    I_t = (I_0.double() + a * (I_in - I_0).double() + b * noise.double()).float()
    with torch.no_grad():
        out = diffusion.outputs(I_t, t, I_in)
        losses = diffusion.losses(I_0, I_in, t, noise=noise)
    wanted = [np.mean((out[i] - target).double().numpy() ** 2) for i, target in enumerate((I_0, noise))]
    assert [float(loss) for loss in losses] == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "pred_all"}, "unknown objective 'pred_all'"),
        ({"loss_type": "huber"}, "loss_type is 'l1' or 'l2'"),
        *(
            ({"sampling_timesteps": n}, f"between 1 and the schedule's 1000 steps, not {n}")
            for n in (-1, 0, 1001, 2000)
        ),
        ({"eta": 2.0}, "eta must be between 0 .* not 2"),
        ({"test_res_or_noise": "x0"}, "is no mode of pred_res_noise"),
    ],
)
def test_wrong_settings_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        known_model(**options)


def test_one_network_does_not_predict_two_images() -> None:
    with pytest.raises(ValueError, match="needs 2 outputs, but the model has 1"):
        small_model(networks="one")
