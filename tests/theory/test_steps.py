"""The reverse process against its equations, written out again in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from small_models import images, small_model

from rddm_fast.diffusion import ResidualDiffusion, to_signed
from rddm_fast.diffusion.reverse import reverse
from rddm_fast.theory.objective import Objective, targets
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import Step, ancestral_steps, few_steps, step_indices

SCHEDULE = Schedule.triangular(1000, 0.01)


def test_the_published_indices() -> None:
    assert step_indices(1000, 2) == [999, 499, -1]
    assert step_indices(1000, 3) == [999, 665, 332, -1]
    assert step_indices(1000, 5) == [999, 799, 599, 399, 199, -1]
    assert step_indices(8, 8) == list(range(7, -2, -1))
    # 84 counts round an index down in float32; 26 is the first.
    differing = [n for n in range(1, 1001) if step_indices(1000, n) != step_indices(1000, n, exact=True)]
    assert len(differing) == 84 and differing[0] == 26


@pytest.mark.parametrize(
    ("timesteps", "count", "indices"),
    [
        (10, 4, [9, 6, 4, 1, -1]),  # -1, 1.5, 4, 6.5, 9, towards zero
        (7, 3, [6, 3, 1, -1]),  # -1, 4/3, 11/3, 6
        (4, 3, [3, 1, 0, -1]),
        (1000, 1, [999, -1]),
        (1, 1, [0, -1]),
    ],
)
def test_indices_by_hand(timesteps: int, count: int, indices: list[int]) -> None:
    assert step_indices(timesteps, count) == step_indices(timesteps, count, exact=True) == indices


def test_float32_rounds_one_index_of_26_steps_down() -> None:
    published, exact = step_indices(1000, 26), step_indices(1000, 26, exact=True)
    assert [(a, b) for a, b in zip(published, exact, strict=True) if a != b] == [(498, 499)]
    assert [step.s for step in few_steps(SCHEDULE, 26, exact=True)] == exact[1:]
    assert [step.t for step in few_steps(SCHEDULE, 26)] == published[:-1]


@pytest.mark.parametrize("count", [0, 1001, -3])
def test_a_count_that_cannot_be(count: int) -> None:
    with pytest.raises(ValueError, match="sampling_timesteps must be between 1 and the schedule's 1000 steps"):
        few_steps(SCHEDULE, count)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_an_eta_that_cannot_be(eta: float) -> None:
    with pytest.raises(ValueError, match="eta must be between 0"):
        few_steps(SCHEDULE, 5, eta)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("schedule", [SCHEDULE, Schedule.power(1000), Schedule.from_ddim(1000)])
def test_the_generalised_step(schedule: Schedule, eta: float) -> None:
    a, b = schedule.alpha_bar, schedule.beta_bar
    *steps, last = few_steps(schedule, 5, eta)
    for step in steps:
        t, s = step.t, step.s
        variance = eta * (b[t] ** 2 - b[s] ** 2) * b[s] ** 2 / b[t] ** 2
        assert (step.k_t, step.k_0) == (1.0, 0.0)
        assert step.k_res == pytest.approx(-(a[t] - a[s]), rel=1e-12)
        assert step.k_noise == pytest.approx(-(b[t] - math.sqrt(b[s] ** 2 - variance)), rel=1e-12)
        assert step.sigma == pytest.approx(math.sqrt(variance), rel=1e-12)
        assert step.draws == (eta != 0)
    assert (last.k_t, last.k_res, last.k_noise, last.k_0, last.sigma, last.draws) == (0, 0, 0, 1, 0, False)


def test_the_posterior() -> None:
    """q(I_{t-1} | I_t, I_0, I_res) by Bayes' rule for Gaussians, for values the table's float32 has room for."""
    a, b = SCHEDULE.alpha_bar, SCHEDULE.beta_bar
    for step in ancestral_steps(SCHEDULE)[:-1][::97]:
        t, s = step.t, step.s
        # prior N(I_0 + a_s I_res, b_s^2), likelihood I_t = I_{t-1} + (a_t - a_s) I_res + N(0, b_t^2 - b_s^2)
        prior, noise = b[s] ** 2, b[t] ** 2 - b[s] ** 2
        gain = prior / (prior + noise)
        assert step.k_t == pytest.approx(gain, rel=1e-4)
        assert step.k_0 == pytest.approx(1 - gain, rel=1e-3)
        assert step.k_res == pytest.approx((1 - gain) * a[s] - gain * (a[t] - a[s]), abs=1e-5)
        assert step.sigma**2 == pytest.approx(prior * noise / (prior + noise), rel=1e-3, abs=1e-12)


def test_ancestral_sampling_is_eta_1_one_index_at_a_time() -> None:
    """The same mean and variance, written in other terms: substitute I_0 in the posterior's mean."""
    schedule = Schedule.power(50, 1.0)
    for posterior, general in zip(ancestral_steps(schedule)[:-1], few_steps(schedule, 50, 1.0)[:-1], strict=True):
        a, b = posterior.alpha_bar, posterior.beta_bar
        # I_0 = I_t - a I_res - b epsilon
        assert posterior.k_t + posterior.k_0 == pytest.approx(general.k_t, abs=1e-5)
        assert posterior.k_res - a * posterior.k_0 == pytest.approx(general.k_res, abs=1e-5)
        assert -b * posterior.k_0 == pytest.approx(general.k_noise, abs=1e-5)
        assert posterior.sigma == pytest.approx(general.sigma, abs=1e-5)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
@pytest.mark.parametrize("objective", list(Objective))
def test_an_oracle_recovers_the_clean_image(objective: Objective, count: int) -> None:
    """A network that knows I_0 and the noise that is in I_t is led back to I_0, for any steps and objective."""
    I_0, I_in = (to_signed(images(2, 3, 8, 8, seed=seed)) for seed in (1, 2))
    torch.manual_seed(0)
    start = torch.randn_like(I_0)

    def oracle(_number: int, step: Step, I_t: torch.Tensor, _previous: object) -> list[torch.Tensor]:
        I_res = I_in - I_0
        epsilon = (I_t - I_0 - step.alpha_bar * I_res) / step.beta_bar
        return list(targets(objective, I_0, I_res, epsilon))

    I_T = I_0 + SCHEDULE.alpha_bar_at(999) * (I_in - I_0) + SCHEDULE.beta_bar_at(999) * start
    if objective is Objective.pred_noise and count == 1:
        pytest.skip("alpha_bar is 1 at the last index: the noise alone says nothing of the clean image there")
    for eta in (0.0, 1.0):
        found = reverse(oracle, I_T, few_steps(SCHEDULE, count, eta), objective=objective, I_in=I_in, clip_res=2.0)
        torch.testing.assert_close(found, I_0, rtol=0, atol=2e-4)


@pytest.mark.parametrize("objective", list(Objective))
def test_an_oracle_recovers_the_clean_image_from_every_index_in_turn(objective: Objective) -> None:
    """The ancestral sampler, generating: I_in is 0, the residual the negated image."""
    schedule = Schedule.triangular(20, 1.0)
    I_0 = to_signed(images(2, 3, 8, 8, seed=1))
    visited: list[int] = []

    def oracle(_number: int, step: Step, I_t: torch.Tensor, _previous: object) -> list[torch.Tensor]:
        visited.append(step.t)
        epsilon = (I_t - (1 - step.alpha_bar) * I_0) / step.beta_bar
        return list(targets(objective, I_0, -I_0, epsilon))

    drawn: list[torch.Tensor] = []

    def draw(like: torch.Tensor) -> torch.Tensor:
        drawn.append(torch.randn_like(like))
        return drawn[-1]

    found = reverse(oracle, torch.randn_like(I_0), ancestral_steps(schedule), objective=objective, draw=draw)
    torch.testing.assert_close(found, I_0, rtol=0, atol=1e-4)
    assert visited == list(range(19, -1, -1)) and len(drawn) == 19


def test_the_last_step_is_the_clean_image_and_needs_no_noise() -> None:
    for last in (few_steps(SCHEDULE, 3, 1.0)[-1], ancestral_steps(SCHEDULE)[-1]):
        assert (last.s, last.k_t, last.k_res, last.k_noise, last.k_0) == (-1, 0.0, 0.0, 0.0, 1.0)
        assert last.sigma == 0.0 and not last.draws


def test_the_residual_is_clamped_to_1_unless_told_otherwise() -> None:
    I_in, residual = torch.full((1, 3, 4, 4), 1.0), torch.full((1, 3, 4, 4), 1.75)

    def predict(*_unused: object) -> list[torch.Tensor]:
        return [residual]

    known = {"objective": Objective.pred_res, "I_in": I_in}
    steps = few_steps(SCHEDULE, 2)
    assert torch.equal(reverse(predict, I_in, steps, **known), I_in - 1)
    assert torch.equal(reverse(predict, I_in, steps, clip_res=2.0, **known), I_in - residual)
    assert torch.equal(reverse(predict, I_in, steps, clip_res=2.0, clip_0=0.5, **known), I_in - 1.5)


def test_eta_1_keeps_the_marginals() -> None:
    """With an oracle for a fixed I_0, I_s is N(I_0 + alpha_bar_s I_res, beta_bar_s^2) at every index."""
    schedule = Schedule.power(1000, 1.0)
    I_0, I_in = torch.full((1, 1, 200, 200), 0.2), torch.full((1, 1, 200, 200), -0.5)
    torch.manual_seed(0)
    seen: list[tuple[int, float, float]] = []

    def oracle(_number: int, step: Step, I_t: torch.Tensor, _previous: object) -> list[torch.Tensor]:
        return [I_in - I_0, (I_t - I_0 - step.alpha_bar * (I_in - I_0)) / step.beta_bar]

    reverse(
        oracle,
        I_in + torch.randn_like(I_0),
        few_steps(schedule, 6, 1.0),
        objective=Objective.pred_res_noise,
        I_in=I_in,
        on_step=lambda _n, step, image: seen.append((step.s, float(image.mean()), float(image.std()))),
    )
    for s, mean, deviation in seen[:-1]:
        assert mean == pytest.approx(0.2 - 0.7 * schedule.alpha_bar_at(s), abs=0.02)
        assert deviation == pytest.approx(schedule.beta_bar_at(s), rel=0.02)


# -- ResidualDiffusion.sample -------------------------------------------------------------------------------


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
    runs = [diffusion.sample(x, generator=torch.Generator().manual_seed(seed))[-1] for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_the_previous_estimate_is_passed_on() -> None:
    seen: list[torch.Tensor | None] = []
    diffusion = small_model("pred_res", self_condition=True)
    network = diffusion.model.unet0
    network.register_forward_pre_hook(lambda _m, args: seen.append(args[2]))
    every = diffusion.sample(images(1, 3, 16, 16), sampling_timesteps=3)
    assert seen[0] is None and seen[1] is not None and seen[2] is not None
    assert seen[1].abs().max() <= 1 and len(every) == 2


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


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "pred_all"}, "unknown objective 'pred_all'"),
        ({"loss_type": "huber"}, "loss_type is 'l1' or 'l2'"),
        ({"sampling_timesteps": 2000}, "between 1 and the schedule's 1000"),
        ({"test_res_or_noise": "x0"}, "is no mode of pred_res_noise"),
        ({"networks": "one"}, "needs 2 outputs, but the model has 1"),
    ],
)
def test_wrong_settings_are_named(options: dict, sentence: str) -> None:
    objective = options.pop("objective", "pred_res_noise")
    with pytest.raises(ValueError, match=sentence):
        model = small_model("pred_res_noise" if objective == "pred_all" else objective, **options)
        ResidualDiffusion(model.model, SCHEDULE, objective=objective)


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
