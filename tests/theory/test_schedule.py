"""Schedules: the buffers of their tables, the floor of 1 - alpha_bar, and what cannot be a schedule."""

import pytest
import torch
from golden import Golden, golden_cases

from rddm_fast.theory.families import ddim_betas, increments
from rddm_fast.theory.schedule import BUFFER_NAMES, Schedule


def test_one_minus_alpha_bar_has_a_floor() -> None:
    # Power "decreased" is exactly 1 from index 998 on, and the published code divides by 0 there.
    schedule = Schedule.power(1000)
    assert schedule.one_minus_alpha_bar_at(998) == schedule.one_minus_alpha_bar_at(999) == 1e-6
    assert Schedule.from_ddim(1000).one_minus_alpha_bar_at(998) == pytest.approx(0.00641733, rel=1e-5)


def test_buffers_of_tables() -> None:
    source = Schedule.triangular(20, 0.5)
    tables = Schedule.from_tables(source.alpha_bar, source.beta_bar)
    assert tables.sum_scale == pytest.approx(0.5)
    for name, values in source.buffers().items():
        torch.testing.assert_close(tables.buffers()[name], values, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: increments(10, "rising"), "unknown schedule shape 'rising': choose one of increased"),
        (lambda: increments(10, "average", form="round"), "unknown schedule form 'round'"),
        (lambda: increments(0, "average"), "at least 1 step"),
        (lambda: ddim_betas(10, "cosine"), "unknown beta_schedule 'cosine'"),
        (lambda: Schedule.from_recipe({"family": "x"}), "unknown schedule family 'x'"),
        (lambda: Schedule.from_ddim(10, boundary="end"), "boundary is 'train' or 'test'"),
        (lambda: Schedule.from_tables([0.5, 0.1], [0.1, 0.2]), "must not decrease"),
        (lambda: Schedule.from_tables([0.5], [0.1, 0.2]), "two tables of one length"),
    ],
)
def test_what_is_no_schedule(make, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


@pytest.mark.parametrize("golden", golden_cases("schedule"))
def test_schedule_buffers(golden: Golden) -> None:
    case = golden.case
    if "source" in case:
        schedule = Schedule.from_ddim(1000, boundary="test" if "rebuilt" in case["boundary"] else "train")
    else:
        schedule = Schedule.triangular(case["timesteps"], case["sum_scale"])
    ours = schedule.buffers()
    assert tuple(ours) == BUFFER_NAMES
    # DDIM's alpha_bar is 1 minus a float32 root. MKL does not round roots alike on all processors, so the last bit,
    # 6e-8, differs between machines; a difference of two of them differs by twice that.
    of_roots = ("alphas", "alphas_cumsum", "one_minus_alphas_cumsum", "posterior_mean_coef2")
    for name, recorded in golden.tensors.items():
        atol = 2 * 2.0**-24 if "source" in case and name in of_roots else 0.0
        torch.testing.assert_close(ours[name], recorded, rtol=1e-6, atol=atol, msg=lambda m, n=name: f"{n}: {m}")
