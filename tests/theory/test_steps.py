"""The steps against their equations, written out again in numpy."""

import math

import pytest
from small_models import SCHEDULE

from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import ancestral_steps, diffuir_steps, few_steps, step_between, step_indices


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


def test_a_step_alone_is_that_of_the_samplers() -> None:
    for schedule, steps in ((SCHEDULE, few_steps), (Schedule.diffuir(), diffuir_steps)):
        walked = steps(schedule, 5, 0.5)
        assert [step_between(schedule, step.t, step.s, 0.5) for step in walked] == walked
    for t, s in ((1000, 3), (3, 3), (3, -2)):
        with pytest.raises(ValueError, match=f"an index up to 999 to an earlier one, not {t} to {s}$"):
            step_between(SCHEDULE, t, s)


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


def test_the_last_step_is_the_clean_image_and_needs_no_noise() -> None:
    for last in (few_steps(SCHEDULE, 3, 1.0)[-1], ancestral_steps(SCHEDULE)[-1]):
        assert (last.s, last.k_t, last.k_res, last.k_noise, last.k_0) == (-1, 0.0, 0.0, 0.0, 1.0)
        assert last.sigma == 0.0 and not last.draws


@pytest.mark.parametrize(
    ("count", "eta", "sentence"),
    [
        *((n, 0.0, "sampling_timesteps must be between 1 and the schedule's 1000 steps") for n in (0, 1001, -3)),
        *((5, eta, "eta must be between 0") for eta in (-0.1, 1.1)),
    ],
)
def test_a_count_or_an_eta_that_cannot_be(count: int, eta: float, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        few_steps(SCHEDULE, count, eta)
