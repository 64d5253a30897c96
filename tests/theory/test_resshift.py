"""ResShift's schedule and sampler against the published formulas, written out again in float64."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.start import to_signed
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import Step, ancestral_steps, few_steps

Array = npt.NDArray[np.float64]
SHAPE = (2, 3, 8, 8)
# Its realsr configurations: 15 steps from the lowest noise 0.04, and the journal's 4 steps from 0.2.
CONFIGURATIONS = [(15, 0.04), (4, 0.2)]
KAPPA, POWER, LAST = 2.0, 0.3, 0.99


def clean_of(x: Tensor, y: Tensor, t: Tensor) -> Tensor:
    """A fixed network that predicts the clean image, a part of it beyond [-1, 1]."""
    share = (0.1 + t.double() / 15).reshape(-1, 1, 1, 1)
    return 1.6 * torch.tanh(y + 0.3 * x) + 0.2 * share * torch.sin(4 * x)


class Network(nn.Module):
    channels, outputs, self_condition = 3, 1, False

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual

    def forward(self, x: Tensor, t: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        x_t, y = x.chunk(2, dim=1)
        return y - clean_of(x_t, y, t) if self.residual else clean_of(x_t, y, t)


def published_etas(timesteps: int, lowest: float) -> Array:
    """eta_t: its root grows from lowest / kappa to 0.99, as a power of a warped time."""
    first = min(lowest / KAPPA, lowest)
    growth = math.exp(math.log(LAST / first) / (timesteps - 1))
    warped = [(i / (timesteps - 1)) ** POWER * (timesteps - 1) for i in range(timesteps)]
    return np.array([(first * growth**w) ** 2 for w in warped])


def published_walk(etas: Array, y: Array, draws: list[Tensor], clip: bool) -> list[Array]:
    """The start and the image after each step. All images are in [-1, 1]."""
    x = y + KAPPA * math.sqrt(etas[-1]) * draws[0].numpy()
    images = [x]
    for number, t in enumerate(reversed(range(len(etas)))):
        before = etas[t - 1] if t else 0.0
        alpha = etas[t] - before
        x_0 = clean_of(torch.from_numpy(x), torch.from_numpy(y), torch.full((SHAPE[0],), t)).numpy()
        x_0 = x_0.clip(-1, 1) if clip else x_0
        x = before / etas[t] * x + alpha / etas[t] * x_0
        if t:
            x = x + math.sqrt(KAPPA**2 * before / etas[t] * alpha) * draws[1 + number].numpy()
        images.append(x)
    return images


def draws(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


def our_walk(schedule: Schedule, steps: list[Step], objective: str, noise: list[Tensor], clip: bool) -> list[Array]:
    network = Network(residual=objective == "pred_res")
    model = ResidualDiffusion(network, schedule, objective=objective, condition=True, clip_res=math.inf)
    model.clip_0 = 1.0 if clip else math.inf
    images = model.sample(degraded(), steps=steps, draws=noise, every_step=True)
    return [to_signed(image).numpy() for image in images]


def degraded() -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def furthest(ours: list[Array], theirs: list[Array]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("timesteps", "lowest"), CONFIGURATIONS)
def test_the_forward_process(timesteps: int, lowest: float) -> None:
    etas = published_etas(timesteps, lowest)
    schedule = Schedule.resshift(timesteps, KAPPA, POWER, lowest)
    assert np.allclose(schedule.alpha_bar, etas, rtol=1e-12)
    assert np.allclose(schedule.beta_bar, KAPPA * np.sqrt(etas), rtol=1e-12)
    assert schedule.sum_scale == pytest.approx(KAPPA**2 * etas[-1], rel=1e-12)
    model = ResidualDiffusion(Network(residual=False), schedule, objective="pred_x0", condition=True)
    I_0, y, epsilon = (to_signed(degraded()) * factor for factor in (0.5, 1.0, 2.0))
    t = torch.tensor([1, timesteps - 1])
    eta = torch.from_numpy(etas)[t].reshape(-1, 1, 1, 1)
    expected = eta * (y - I_0) + I_0 + KAPPA * eta.sqrt() * epsilon
    assert (model.q_sample(I_0, y - I_0, t, epsilon) - expected).abs().max() < 1e-6  # the tables are float32


@pytest.mark.parametrize("objective", ["pred_x0", "pred_res"])
@pytest.mark.parametrize(("timesteps", "lowest"), CONFIGURATIONS)
def test_every_image_of_a_walk_is_the_published_one(timesteps: int, lowest: float, objective: str) -> None:
    schedule, noise = Schedule.resshift(timesteps, KAPPA, POWER, lowest), draws(timesteps)
    expected = published_walk(published_etas(timesteps, lowest), to_signed(degraded()).numpy(), noise, clip=False)
    assert len(expected) == timesteps + 1 and np.abs(expected[-1]).max() > 1
    exact = our_walk(schedule, few_steps(schedule, timesteps, 1.0), objective, noise, clip=False)
    assert furthest(exact, expected) < 1e-9
    # The ancestral steps are the default of T steps; their coefficients are float32, as in the published RDDM.
    ancestral = our_walk(schedule, ancestral_steps(schedule), objective, noise, clip=False)
    assert furthest(ancestral, expected) < 5e-6


@pytest.mark.parametrize(("timesteps", "lowest"), CONFIGURATIONS)
def test_with_the_clean_image_clamped(timesteps: int, lowest: float) -> None:
    """Where it works on pixels the published sampler clamps x_0; so do the ancestral steps, which are made of it."""
    schedule, noise = Schedule.resshift(timesteps, KAPPA, POWER, lowest), draws(timesteps)
    expected = published_walk(published_etas(timesteps, lowest), to_signed(degraded()).numpy(), noise, clip=True)
    ancestral = our_walk(schedule, ancestral_steps(schedule), "pred_x0", noise, clip=True)
    assert furthest(ancestral, expected) < 5e-6
    # The generalised step combines residual and noise, which no clamp of x_0 reaches.
    general = our_walk(schedule, few_steps(schedule, timesteps, 1.0), "pred_x0", noise, clip=True)
    assert furthest(general, expected) > 1e-3


@pytest.mark.parametrize(("timesteps", "lowest"), CONFIGURATIONS)
def test_its_posterior_has_no_share_of_the_residual(timesteps: int, lowest: float) -> None:
    etas = published_etas(timesteps, lowest)
    for step in ancestral_steps(Schedule.resshift(timesteps, KAPPA, POWER, lowest))[:-1]:
        before, eta = etas[step.s], etas[step.t]
        assert step.k_res == pytest.approx(0, abs=1e-7)
        assert (step.k_t, step.k_0) == pytest.approx((before / eta, 1 - before / eta), abs=1e-6)
        assert step.sigma**2 == pytest.approx(KAPPA**2 * before / eta * (eta - before), rel=1e-5)
