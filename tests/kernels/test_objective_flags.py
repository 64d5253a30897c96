"""The Triton kernels know an objective by its code; what they make of it is what the objective says."""

import pytest

from rddm_fast.kernels.objective import flags_of
from rddm_fast.theory.objective import Objective


@pytest.mark.parametrize("objective", Objective, ids=lambda o: o.name)
def test_flags_are_the_objectives(objective: Objective) -> None:
    expected = {
        "noise_only": objective is Objective.pred_noise,
        "x0_known": objective.x0_known,
        "added": objective.added,
    }
    assert flags_of(int(objective)) == expected
