"""IR-SDE's schedules and samplers against the published formulas, written out again in float64 on [0, 1] images."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.start import to_signed
from rddm_fast.theory.ir_sde import SAMPLERS, THETAS, ir_sde_schedule, ir_sde_steps
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import few_steps

Array = npt.NDArray[np.float64]
T, SIGMA, EPS = 20, 10 / 255, 0.005
SHAPE = (2, 3, 8, 8)


def noise_of(x: Tensor, mu: Tensor, t: Tensor) -> Tensor:
    """A fixed noise network of images in [-1, 1]."""
    share = (0.5 + t.double() / T).reshape(-1, 1, 1, 1)
    return 2 * share * torch.tanh(x - mu) + 0.3 * torch.sin(3 * x)


class Network(nn.Module):
    channels, outputs, self_condition = 3, 1, False

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        x_t, mu = x.chunk(2, dim=1)
        return noise_of(x_t, mu, t)


class Published:
    """The published process at its own times 0 .. T, for images in [0, 1]."""

    def __init__(self, theta: str) -> None:
        if theta == "constant":
            self.theta = [1.0] * (T + 1)
        elif theta == "linear":
            scale = 1000 / (T + 1)
            self.theta = [scale * (1e-4 + (0.02 - 1e-4) * i / T) for i in range(T + 1)]
        else:
            u = [math.cos((i / (T + 2) + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(T + 3)]
            self.theta = [1 - value / u[0] for value in u[1:-1]]
        self.cumulated = [sum(self.theta[1 : t + 1]) for t in range(T + 1)]
        self.dt = -math.log(EPS) / self.cumulated[T]

    def bar(self, t: int) -> float:
        return self.cumulated[t] * self.dt

    def deviation(self, t: int) -> float:
        return SIGMA * math.sqrt(1 - math.exp(-2 * self.bar(t)))

    def posterior(self, x: Array, mu: Array, noise: Array, t: int, z: Array) -> Array:
        x_0 = (x - mu - self.deviation(t) * noise) * math.exp(self.bar(t)) + mu
        A, B, C = (math.exp(-value) for value in (self.theta[t] * self.dt, self.bar(t), self.bar(t - 1)))
        mean = A * (1 - C**2) / (1 - B**2) * (x - mu) + C * (1 - A**2) / (1 - B**2) * (x_0 - mu) + mu
        return mean + SIGMA * math.sqrt((1 - A**2) * (1 - C**2) / (1 - B**2)) * z

    def sde(self, x: Array, mu: Array, noise: Array, t: int, z: Array) -> Array:
        rate, spread = self.theta[t], SIGMA * math.sqrt(2 * self.theta[t])
        drift = (rate * (mu - x) + spread**2 * noise / self.deviation(t)) * self.dt
        return x - drift - spread * math.sqrt(self.dt) * z

    def ode(self, x: Array, mu: Array, noise: Array, t: int, _z: Array) -> Array:
        return x - (self.theta[t] * (mu - x) + SIGMA**2 * self.theta[t] * noise / self.deviation(t)) * self.dt


def draws(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def degraded() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def diffusion(schedule: Schedule) -> ResidualDiffusion:
    model = ResidualDiffusion(Network(), schedule, objective="pred_noise", condition=True, clip_res=math.inf)
    model.clip_0 = math.inf
    return model


@pytest.mark.parametrize("theta", THETAS)
def test_the_marginals_are_the_published_ones(theta: str) -> None:
    schedule, theirs = ir_sde_schedule(T, theta=theta), Published(theta)
    for t in range(1, T + 1):
        assert 1 - schedule.alpha_bar[t - 1] == pytest.approx(math.exp(-theirs.bar(t)), rel=1e-12)
        assert schedule.beta_bar[t - 1] == pytest.approx(2 * theirs.deviation(t), rel=1e-12)
    assert schedule.sum_scale == pytest.approx((2 * SIGMA) ** 2)
    if theta == "constant":
        ours = Schedule.ir_sde(T)
        assert np.allclose(ours.alpha_bar, schedule.alpha_bar, rtol=0, atol=1e-12)
        assert np.allclose(ours.beta_bar, schedule.beta_bar, rtol=0, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("theta", THETAS)
def test_every_image_of_a_walk_is_the_published_one(theta: str, sampler: str) -> None:
    schedule, theirs = ir_sde_schedule(T, theta=theta), Published(theta)
    noise, I_in = draws(T + 1), degraded()
    images = diffusion(schedule).sample(
        I_in, steps=ir_sde_steps(schedule, sampler=sampler), draws=noise, every_step=True
    )
    mu = I_in.numpy()
    x = mu + SIGMA * noise[0].numpy()
    assert np.abs(images[0].numpy() - x).max() < 1e-12  # the start
    for number, t in enumerate(range(T, 0, -1)):
        index = torch.full((SHAPE[0],), t - 1)
        epsilon = noise_of(to_signed(torch.from_numpy(x)), to_signed(I_in), index).numpy()
        x = getattr(theirs, sampler)(x, mu, epsilon, t, noise[1 + number].numpy())
        assert np.abs(images[1 + number].numpy() - x).max() < 1e-9
    assert np.abs(x - mu).max() > 0.01


def test_its_posterior_is_rddms_with_another_variance() -> None:
    schedule = ir_sde_schedule(T)
    for ours, rddm in zip(ir_sde_steps(schedule, 5)[:-1], few_steps(schedule, 5, 1.0)[:-1], strict=True):
        kept = 1 - schedule.alpha_bar[ours.s]
        assert (ours.sigma / rddm.sigma) ** 2 == pytest.approx(1 / kept**2, rel=1e-9)
        assert (ours.t, ours.s, ours.k_t, ours.k_0) == (rddm.t, rddm.s, 1.0, 0.0)
        assert ours.k_res == pytest.approx(rddm.k_res, abs=1e-12)
        assert ours.one_minus_alpha_bar == pytest.approx(1 - schedule.alpha_bar[ours.t])  # never the published 1e-6


def test_bayes_rule_for_steps_that_leave_indices_out() -> None:
    """q(x_s | x_t, x_0) of jointly normal numbers, whose covariance is the variance at s times the factor s to t."""
    schedule, x_0, mu, x_t = ir_sde_schedule(T), 0.3, -0.2, 0.1
    *steps, last = ir_sde_steps(schedule, 4)
    assert len(steps) == 3 and (last.s, last.k_0, last.sigma) == (-1, 1.0, 0.0)
    for step in steps:
        kept_t, kept_s = 1 - schedule.alpha_bar[step.t], 1 - schedule.alpha_bar[step.s]
        variance_t, variance_s = schedule.beta_bar[step.t] ** 2, schedule.beta_bar[step.s] ** 2
        gain = variance_s * (kept_t / kept_s) / variance_t
        mean_t, mean_s = mu + kept_t * (x_0 - mu), mu + kept_s * (x_0 - mu)
        epsilon = (x_t - mean_t) / math.sqrt(variance_t)
        found = x_t + step.k_res * (mu - x_0) + step.k_noise * epsilon
        assert found == pytest.approx(mean_s + gain * (x_t - mean_t), abs=1e-12)
        assert step.sigma**2 == pytest.approx(variance_s - gain**2 * variance_t, rel=1e-9)


def test_an_oracle_is_led_to_the_clean_image() -> None:
    """Knowing x_0, the posterior ends at it exactly; Euler's steps end near it, nearer the more there are."""
    I_in, x_0 = degraded(), torch.full(SHAPE, 0.25, dtype=torch.float64)

    class Oracle(Network):
        def __init__(self, schedule: Schedule) -> None:
            super().__init__()
            self.schedule = schedule

        def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
            x_t, mu = x.chunk(2, dim=1)
            kept = 1 - self.schedule.alpha_bar_at(int(t[0]))
            return (x_t - mu - kept * (to_signed(x_0) - mu)) / self.schedule.beta_bar_at(int(t[0]))

    def error(count: int, sampler: str) -> float:
        schedule = ir_sde_schedule(count, theta="constant")
        model = diffusion(schedule)
        model.model = Oracle(schedule)
        steps = ir_sde_steps(schedule, sampler=sampler)
        image = model.sample(I_in, steps=steps, draws=draws(count + 1))[-1]
        return float((image - x_0).abs().max())

    assert error(20, "posterior") < 1e-12
    assert error(200, "ode") < 0.6 * error(50, "ode") < 0.1
    assert error(200, "sde") < 0.1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"theta": "sine"}, "theta is 'sine': choose one of cosine, linear, constant"),
        ({"eps": 1.0}, "eps=1.0: IR-SDE needs"),
        ({"max_sigma": 0.0}, "max_sigma=0.0"),
        ({"timesteps": 0}, "timesteps=0"),
    ],
)
def test_a_schedule_that_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        ir_sde_schedule(**options)


def test_steps_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="sampler is 'euler': choose one of posterior, sde, ode"):
        ir_sde_steps(ir_sde_schedule(T), sampler="euler")
    with pytest.raises(ValueError, match="between 1 and the schedule's 20 steps, not 21"):
        ir_sde_steps(ir_sde_schedule(T), 21)
    for schedule in (Schedule.resshift(), Schedule.power(50), Schedule.straight(10)):
        with pytest.raises(ValueError, match="make the schedule with ir_sde_schedule or Schedule"):
            ir_sde_steps(schedule)
