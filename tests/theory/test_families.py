"""The families of schedules: their published values, end points and increments."""

import math

import numpy as np
import pytest
import torch
from golden import Golden, golden_cases

from rddm_fast.theory.families import ddim_betas, increments
from rddm_fast.theory.schedule import Schedule

FAMILIES = {
    "triangular": Schedule.triangular(1000, 0.01),
    "power": Schedule.power(1000, 1.0, ("decreased", 2.0), ("average", 1.0)),
    "ddim": Schedule.from_ddim(1000),
    "ddim cosine": Schedule.from_ddim(1000, "squaredcos_cap_v2"),
    "ddim scaled": Schedule.from_ddim(1000, "scaled_linear"),
    "readjusted": Schedule.from_ddim(1000, alpha=("decreased", 0.3)),
    "resshift": Schedule.resshift(),
    "ir_sde": Schedule.ir_sde(),
    "straight": Schedule.straight(100),
    "cold": Schedule.straight(100, sum_scale=0.0),
}


# The values published for T = 1000 (reference/rddm.md, C6), to the six digits given there.
@pytest.mark.parametrize(
    ("schedule", "alpha_bar_0", "alpha_bar_500", "beta2_bar_0", "beta2_bar_500"),
    [
        (Schedule.triangular(1000), 0.001998, 0.750749, 1.998e-6, 0.251251),
        (Schedule.power(1000), 0.002, 0.751249, 0.0, 0.250751),
        # The published file has 5.00083e-5 and 1.00017e-4, which is 1 - 0.9999 in float32; in float64:
        (Schedule.from_ddim(1000), 1 - (1 - 1e-4) ** 0.5, 0.721079, 1e-4, 0.922203),
        (Schedule.power(1000, 1.0, ("decreased", 2.0), ("average", 1.0)), 0.0029985, 0.875936, 0.001, 0.501),
    ],
)
def test_published_values(schedule, alpha_bar_0, alpha_bar_500, beta2_bar_0, beta2_bar_500) -> None:
    got = [schedule.alpha_bar[0], schedule.alpha_bar[500], schedule.beta_bar[0] ** 2, schedule.beta_bar[500] ** 2]
    assert got == pytest.approx([alpha_bar_0, alpha_bar_500, beta2_bar_0, beta2_bar_500], rel=3e-5, abs=1e-12)


def test_end_points() -> None:
    assert FAMILIES["triangular"].beta_bar[-1] ** 2 == pytest.approx(0.01)
    assert FAMILIES["triangular"].alpha_bar[-1] == pytest.approx(1.0)
    # ResShift ends at eta_T = 0.99^2 with noise kappa sqrt(eta_T); IR-SDE at 1 - eps.
    assert FAMILIES["resshift"].alpha_bar[-1] == pytest.approx(0.99**2)
    assert FAMILIES["resshift"].beta_bar[-1] == pytest.approx(2 * 0.99)
    assert FAMILIES["ir_sde"].alpha_bar[-1] == pytest.approx(1 - 0.005)
    assert FAMILIES["cold"].beta_bar.max() == 0.0


def test_ddim_conversion_is_the_coefficient_transformation() -> None:
    a = torch.cumprod(1 - ddim_betas(1000), 0).numpy()
    schedule = Schedule.from_ddim(1000)
    assert np.allclose((1 - schedule.alpha_bar) ** 2, a, rtol=1e-12)
    assert np.allclose(schedule.beta_bar**2, 1 - a, rtol=1e-12)
    readjusted = FAMILIES["readjusted"]
    assert np.array_equal(readjusted.beta_bar, schedule.beta_bar)
    assert readjusted.alpha_bar[-1] == pytest.approx(1.0)


def test_cosine_betas_are_capped() -> None:
    betas = ddim_betas(1000, "squaredcos_cap_v2")
    assert betas[-1] == 0.999 and betas[0] == pytest.approx(
        1 - (math.cos((1e-3 + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)) ** 2
    )


@pytest.mark.parametrize("golden", golden_cases("coefficients"))
def test_coefficients(golden: Golden) -> None:
    case = golden.case
    power = case["form"].startswith("linspace")
    ours = increments(
        case["timesteps"],
        case["schedule"],
        form="power" if power else "triangular",
        ratio=case.get("ratio", 1),
        sum_scale=case["sum_scale"],
    )
    torch.testing.assert_close(ours.float(), golden.tensors["coefficients"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_recipe_makes_the_same_schedule_again(name: str) -> None:
    schedule = FAMILIES[name]
    again = Schedule.from_recipe(schedule.recipe)
    assert np.array_equal(again.alpha_bar, schedule.alpha_bar) and np.array_equal(again.beta_bar, schedule.beta_bar)
    assert again.sum_scale == schedule.sum_scale


@pytest.mark.parametrize("name", FAMILIES)
def test_cumulative_tables_rise_from_the_clean_image(name: str) -> None:
    schedule = FAMILIES[name]
    assert schedule.alpha_bar.dtype == schedule.beta_bar.dtype == np.float64
    assert schedule.alpha_bar_at(-1) == schedule.beta_bar_at(-1) == 0.0
    assert schedule.alpha_bar[0] >= 0 and schedule.alpha_bar[-1] <= 1
    assert (np.diff(schedule.alpha_bar) >= 0).all() and (np.diff(schedule.beta_bar) >= 0).all()
