"""The reverse process: an oracle leads to the clean image, and one step by hand."""

import pytest
import torch
from small_models import SCHEDULE, images, known_model, signed

from rddm_fast.diffusion import to_signed
from rddm_fast.diffusion.reverse import reverse
from rddm_fast.theory.objective import Objective, targets
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import Step, ancestral_steps, few_steps


@pytest.mark.parametrize("count", [1, 2, 5, 10])
@pytest.mark.parametrize("objective", list(Objective))
def test_an_oracle_recovers_the_clean_image(objective: Objective, count: int) -> None:
    """A network that knows I_0 and the noise that is in I_t is led back to I_0, for any steps and objective."""
    I_0, I_in, start = signed(1), signed(2), torch.randn(2, 3, 8, 8)

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
    I_0 = signed(1)
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


def test_one_deterministic_step_by_hand() -> None:
    x, draw, residual, noise = images(1, 3, 8, 8), torch.randn(1, 3, 8, 8), 0.5 * signed(1, 1), signed(2, 1)
    _start, between, end = known_model(residual, noise).sample(x, draws=[draw], every_step=True)
    t, s = 999, 499
    I_T = to_signed(x) + 0.1 * draw
    da = SCHEDULE.alpha_bar[t] - SCHEDULE.alpha_bar[s]
    db = SCHEDULE.beta_bar[t] - SCHEDULE.beta_bar[s]
    I_s = I_T - da * residual - db * noise
    torch.testing.assert_close(to_signed(between), I_s.float(), rtol=0, atol=1e-6)
    I_0 = (I_s - SCHEDULE.alpha_bar[s] * residual - SCHEDULE.beta_bar[s] * noise).clamp(-1, 1)
    torch.testing.assert_close(to_signed(end), I_0.float(), rtol=0, atol=1e-6)


def test_the_previous_clean_image_is_the_self_condition() -> None:
    x = images(1, 3, 8, 8)
    residuals = [0.2 * signed(seed, 1) for seed in (1, 2, 3)]
    diffusion = known_model(objective="pred_res", self_condition=True, sampling_timesteps=3)
    diffusion.model.answer = lambda _x: [residuals[len(diffusion.model.asked) - 1]]
    diffusion.sample(x)
    first, *later = [asked[2] for asked in diffusion.model.asked]
    assert first is None and len(later) == 2
    for estimate, residual in zip(later, residuals[:2], strict=True):
        torch.testing.assert_close(estimate, (to_signed(x) - residual).clamp(-1, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 5, 19, 20])
def test_a_schedule_without_noise_is_the_blend_at_every_step_of_any_count(count: int) -> None:
    """Cold Diffusion's: with the true residual the steps walk straight from the input to the target."""
    schedule = Schedule.straight(20, sum_scale=0.0)
    I_0, I_in = images(1, 3, 8, 8, seed=1), images(1, 3, 8, 8, seed=2)
    residual = to_signed(I_in) - to_signed(I_0)
    cold = known_model(residual, objective="pred_res", clip_res=2.0, schedule=schedule)
    _, *walked = cold.sample(I_in, sampling_timesteps=count, every_step=True)
    for step, image in zip(cold.steps(count), walked, strict=True):
        blend = I_0 + schedule.alpha_bar_at(step.s) * (I_in - I_0)
        torch.testing.assert_close(image, blend, rtol=0, atol=1e-5)


def test_the_noise_network_alone_is_not_spoilt_by_alpha_bar_of_1() -> None:
    """Power schedules have alpha_bar = 1 before the last index; the division has a floor there."""
    schedule = Schedule.power(1000, 0.01)
    diffusion = known_model(torch.zeros(1, 3, 8, 8), objective="pred_noise", schedule=schedule)
    results = diffusion.sample(images(1, 3, 8, 8), sampling_timesteps=999, every_step=True)
    assert all(image.isfinite().all() for image in results)
