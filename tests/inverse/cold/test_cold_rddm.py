"""Cold Diffusion's two algorithms: TACoS as RDDM without noise where D is a blend, and the published shifts."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from rddm_fast.diffusion.reverse import reverse
from rddm_fast.inverse import cold
from rddm_fast.theory.objective import Objective
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import Step, few_steps

T = 3


def picture(size: tuple[int, int], seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, *size, generator=generator, dtype=torch.float64) * 2 - 1


class Straight(cold.Blend):
    """D(x, s) = x + s / T (I_in - x), a person's own blend: the forward process of Schedule.straight without noise."""

    def __init__(self, T: int, far: Tensor) -> None:
        super().__init__(T)
        self.far = far

    def alpha_bar(self, s: Any, like: Tensor) -> float:
        return s / self.T

    def I_in(self, x: Tensor) -> Tensor:
        return self.far


def estimate(x_s: Tensor, s: int) -> Tensor:
    """A restorer that is wrong, differently at every pixel and time."""
    return x_s + 0.3 * torch.sin(3 * x_s + s)


def rddm(x_T: Tensor, alpha_bar: Any, residual: Callable[[Tensor, int], Tensor]) -> list[Tensor]:
    """The images of RDDM's reverse process with beta_bar = 0, told the residual of x_s at s = t + 1 and no noise."""
    schedule = Schedule.from_tables(alpha_bar, [0.0] * len(alpha_bar)) if isinstance(alpha_bar, list) else alpha_bar
    images: list[Tensor] = []

    def predict(_i: int, step: Step, I_t: Tensor, _I_0: Tensor | None) -> tuple[Tensor, Tensor]:
        return residual(I_t, step.t + 1), torch.zeros_like(I_t)

    reverse(
        predict,
        x_T,
        few_steps(schedule, schedule.timesteps),
        objective=Objective.pred_res_noise,
        clip_res=math.inf,
        clip_0=math.inf,
        on_step=lambda i, step, x: images.append(x),
    )
    return images


def tacos(restorer: cold.Restorer, degradation: cold.Degradation, x_T: Tensor) -> list[Tensor]:
    images: list[Tensor] = []
    cold.sample(restorer, degradation, x_T, on_step=lambda i, step, x: images.append(x))
    return images


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() <= 1e-12


def test_tacos_on_a_straight_blend_is_rddm_without_noise() -> None:
    x_0, I_in = picture((5, 8)), picture((5, 8), seed=2)
    degradation = Straight(7, I_in)
    theirs = rddm(degradation.start(x_0), Schedule.straight(7, sum_scale=0), lambda x_s, s: I_in - estimate(x_s, s))
    assert_same(tacos(estimate, degradation, degradation.start(x_0)), theirs)


@pytest.mark.parametrize(
    "generation", [{}, {"x_end": torch.tensor([0.4])}, {"x_end": torch.tensor([0.4]), "reverse": True}]
)
def test_tacos_on_fade_is_rddm_with_one_alpha_bar_a_pixel(generation: dict[str, Any]) -> None:
    degradation, x_0 = cold.Fade((3, 4), 6, std=0.3, **generation), picture((3, 4))
    x_T = degradation.start(x_0)
    ours = tacos(estimate, degradation, x_T)
    far = degradation.I_in(x_0)
    for row in range(3):
        for column in range(4):
            pixel = (..., slice(row, row + 1), slice(column, column + 1))
            alpha_bar = [float(degradation.alpha_bar(s, x_0)[0, 0, row, column]) for s in range(1, 7)]
            theirs = rddm(x_T[pixel], alpha_bar, lambda x_s, s: far - estimate(x_s, s))
            assert_same([x[pixel] for x in ours], theirs)


def test_tacos_on_decolour_is_rddm_with_the_grey_of_the_estimate() -> None:
    degradation, x_0 = cold.Decolour(6), picture((5, 4))
    straight = Schedule.straight(6, sum_scale=0)

    def residual(x_s: Tensor, s: int) -> Tensor:
        x = estimate(x_s, s)
        return x.mean(1, keepdim=True) - x

    x_T = degradation.start(x_0)
    assert_same(tacos(estimate, degradation, x_T), rddm(x_T, straight, residual))

    # Where the restorer keeps the grey, it is that of x_T all along: RDDM's I_in.
    def same_grey(x_s: Tensor, s: int) -> Tensor:
        x = estimate(x_s, s)
        return x + (x_s - x).mean(1, keepdim=True)

    I_in = x_T.mean(1, keepdim=True)
    assert_same(tacos(same_grey, degradation, x_T), rddm(x_T, straight, lambda x_s, s: I_in - same_grey(x_s, s)))


def test_tacos_on_animorphosis_is_the_linear_form_of_reverse_step() -> None:
    degradation = cold.Animorphosis(5, picture((4, 6), seed=2))
    x_T, one = degradation.start(picture((4, 6))), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    zero, end = 0 * one, cold.Animorphosis(5, one)
    k_0 = [float(cold.Animorphosis(5, zero).D(one, s)) for s in range(6)]
    k_end = [float(end.D(zero, s)) for s in range(6)]
    steps = [
        Step(s - 1, s - 2, 0.0, 1.0, 1.0, 1.0, 0.0, k_end[s - 1] - k_end[s], k_0[s - 1] - k_0[s], 0.0, draws=False)
        for s in range(5, 0, -1)
    ]
    theirs: list[Tensor] = []
    reverse(
        lambda i, step, I_t, I_0: (estimate(I_t, step.t + 1), picture((4, 6), seed=2)),
        x_T,
        steps,
        objective=Objective.pred_x0_noise,
        clip_res=math.inf,
        clip_0=math.inf,
        on_step=lambda i, step, x: theirs.append(x),
    )
    assert_same(tacos(estimate, degradation, x_T), theirs)


def test_to_first_order_tacos_does_not_feel_the_restorer() -> None:
    """Cold Diffusion, section 3.3: for D(x, s) = x + s e a wrong restorer does no harm, but naive sampling shows it."""
    e = picture((6, 5), seed=3)

    class Drift(cold.Degradation):
        def _degraded(self, x: Tensor, s: Any) -> Tensor:
            return x + s * e

    x_0, drift = picture((6, 5)), Drift(4)
    assert (cold.sample(estimate, drift, drift.start(x_0)) - x_0).abs().max() <= 1e-12
    assert (cold.sample(estimate, drift, drift.start(x_0), "naive") - x_0).abs().max() > 0.1


@pytest.mark.parametrize(
    "degradation",
    [cold.Decolour(T), cold.Snow.drawn((30, 33), T, 2), cold.Snow.drawn((30, 33), T, 1, fix_brightness=False)],
    ids=["decolour", "snow", "snow bright"],
)
def test_the_published_shift_of_one_leaves_a_difference_of_levels_over(degradation: cold.Degradation) -> None:
    x_0 = picture((30, 33))
    x_T = degradation.start(x_0)
    official = cold.sample(lambda x_s, s: x_0, degradation, x_T, official=True)
    left = x_T - degradation.D(x_0, T - 1)
    assert left.abs().max() > 0.01
    assert (official - x_0 - left).abs().max() <= 1e-12
    naive = cold.sample(lambda x_s, s: x_0, degradation, x_T, "naive", official=True)
    assert torch.equal(naive, x_0)


def test_officially_individual_blur_ends_with_the_strongest_kernel() -> None:
    degradation, x_0 = cold.Blur((9, 7), T, "Individual_Incremental"), picture((9, 7))
    x_T = degradation.start(x_0)
    ended = cold.sample(lambda x_s, s: x_0, degradation, x_T, "naive", official=True)
    assert torch.equal(ended, x_T)
    assert [(step.told, step.leaves, step.enters) for step in cold.cold_steps(degradation, official=True)] == [
        (2, 3, 2),
        (1, 2, 1),
        (0, 1, 3),
    ]


def test_progress_and_on_step_see_every_step() -> None:
    degradation, x_0 = cold.Decolour(T), picture((4, 5))
    wrapped, seen = [], []
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    result = cold.sample(
        lambda x_s, s: weight * estimate(x_s, s),
        degradation,
        degradation.start(x_0),
        progress=lambda steps: (wrapped.append(len(steps)), steps)[1],
        on_step=lambda i, step, x: seen.append((i, step.s, x)),
    )
    assert wrapped == [3] and [(i, s) for i, s, _ in seen] == [(0, 3), (1, 2), (2, 1)]
    assert seen[-1][2] is result and not result.requires_grad  # sampling keeps no graph
