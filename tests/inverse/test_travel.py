"""Time travel: the published order of indices, and both ways of going up."""

import pytest
import torch
from golden import Golden, golden_cases
from recorded_prior import DDPM

from rddm_fast.inverse.solver_steps import SolverStep, solver_indices, solver_steps
from rddm_fast.inverse.travel import up_from_x_0, up_from_x_t, visited


@pytest.mark.parametrize("golden", golden_cases("time_travel", "inverse"))
def test_the_order_is_the_published_one(golden: Golden) -> None:
    schedules = golden.case["schedules"]
    assert len(schedules) == 6
    for count, length, repeat in schedules:
        recorded = golden.tensors[f"times_{count}_{length}_{repeat}"].tolist()
        assert visited(range(count - 1, -2, -1), length, repeat) == recorded


@pytest.mark.parametrize(
    ("count", "length", "repeat", "evaluations", "transitions"),
    [(100, 1, 1, 100, 100), (100, 2, 2, 198, 296), (100, 10, 2, 190, 280), (250, 10, 3, 730, 1210)],
)
def test_what_it_costs(count: int, length: int, repeat: int, evaluations: int, transitions: int) -> None:
    """The counts of the reference, section 3."""
    walk = solver_steps(DDPM, visited(solver_indices(1000, count, "ddnm"), length, repeat))
    assert len(walk) == transitions
    assert sum(not step.up for step in walk) == evaluations
    assert walk[-1].s == -1 and not any(step.t == -1 for step in walk)


def test_the_paper_s_way_up_keeps_the_forward_process() -> None:
    """Several steps up from x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) epsilon give that of the last index, in the mean and
    in the variance."""
    x_0, z = torch.full((1,), 2.0).double(), torch.zeros(1).double()
    steps = solver_steps(DDPM, [100, 300, 420, 800])
    mean, variance = steps[0].root_a_t * x_0, 1 - steps[0].a_t
    for step in steps:
        mean = up_from_x_t(step, mean, x_0, z)
        new = up_from_x_t(step, torch.zeros(1).double(), x_0, z + 1)  # the deviation of the new noise
        variance = step.a_s / step.a_t * variance + float(new) ** 2
    last = steps[-1]
    assert float(mean) == pytest.approx(last.root_a_s * 2.0, rel=1e-12)
    assert variance == pytest.approx(1 - last.a_s, rel=1e-12)


def test_the_published_way_up_forgets_x_t() -> None:
    step = SolverStep(t=3, s=5, a_t=0.9, a_s=0.64)
    x_0, z = torch.tensor([1.0]), torch.tensor([2.0])
    for x_t in (torch.tensor([7.0]), torch.tensor([-7.0])):
        assert float(up_from_x_0(step, x_t, x_0, z)) == pytest.approx(0.8 * 1 + 0.6 * 2)


@pytest.mark.parametrize(
    ("length", "repeat", "sentence"),
    [
        (11, 2, "time travel of 11 steps is longer than the walk of 10 steps: take at most 10"),
        (0, 2, r"time travel takes two numbers of at least 1, length and repeat, not \(0, 2\)"),
        (2, 0, r"time travel takes two numbers of at least 1, length and repeat, not \(2, 0\)"),
    ],
)
def test_a_bad_length_or_repeat(length: int, repeat: int, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        visited(range(9, -2, -1), length, repeat)


def test_the_rules_for_the_indices() -> None:
    assert solver_indices(1000, 20, "ddrm")[:2] == [950, 900] and solver_indices(1000, 20, "ddrm")[-2:] == [0, -1]
    assert [len(solver_indices(1000, n, "ddrm")) - 1 for n in (20, 30, 33, 300)] == [20, 31, 34, 334]
    assert solver_indices(1000, 100, "ddnm")[:2] == [990, 980]
    assert [len(solver_indices(1000, n, "ddnm")) - 1 for n in (20, 30, 300)] == [20, 30, 300]
    for count in (1, 7, 30, 999, 1000):
        ours = solver_indices(1000, count)
        assert len(ours) == count + 1 and ours[0] == 999 and ours[-1] == -1
        assert ours == sorted(set(ours), reverse=True)


@pytest.mark.parametrize("count", [0, 1001])
@pytest.mark.parametrize("rule", ["exact", "ddrm", "ddnm"])
def test_a_count_out_of_range(count: int, rule: str) -> None:
    with pytest.raises(ValueError, match=f"steps must be between 1 and the schedule's 1000, not {count}"):
        solver_indices(1000, count, rule)


def test_an_unknown_rule() -> None:
    with pytest.raises(ValueError, match="'ddim': choose one of exact, ddrm, ddnm"):
        solver_indices(1000, 10, "ddim")
