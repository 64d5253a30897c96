"""Forward-mode differentiation: the ops refuse it with a sentence, and the reference is right."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from rddm_fast.ops import (
    StepTable,
    forward_diffuse,
    group_norm_silu,
    joint_loss,
    reverse_step,
    reverse_step_,
    walsh_hadamard,
)

STEP = dict(alpha_bar=0.6, beta_bar=0.3, k_t=0.7, k_res=0.2, k_noise=0.1, k_0=0.3)
Y, ONE = torch.full((1, 4, 2, 4), 0.25), torch.ones(4)
TIME = torch.tensor([0])
CALLS: dict[str, Callable[[Tensor, str | None], Tensor]] = {
    "reverse_step": lambda x, impl: reverse_step(x, Y, Y, objective=0, I_in=Y, **STEP, impl=impl),
    "forward_diffuse": lambda x, impl: forward_diffuse(x, Y, TIME, ONE / 2, ONE / 2, noise=Y, impl=impl),
    "walsh_hadamard": lambda x, impl: walsh_hadamard(x, impl=impl),
    "group_norm_silu": lambda x, impl: group_norm_silu(x, ONE, ONE, 2, impl=impl),
}
IN_PLACE: dict[str, Callable[[Tensor], object]] = {
    "reverse_step_": lambda x: reverse_step_(Y.clone(), x, Y, objective=0, I_in=Y, table=StepTable.of([STEP]), step=0),
    "joint_loss": lambda x: joint_loss(x, Y, Y, Y, objective=0, noise=Y),
}


@pytest.mark.parametrize("name", CALLS)
def test_it_is_refused_and_the_reference_has_it(name: str) -> None:
    call = CALLS[name]
    x, tangent = (torch.randn(1, 4, 2, 4, generator=torch.Generator().manual_seed(i)) / 4 for i in range(2))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, tangent)
        with pytest.raises(RuntimeError, match=f"^{name} has no forward-mode derivative: pass"):
            call(dual, None)
        assert torch.allclose(call(x, None), call(x, "reference"), atol=1e-5)
        derivative = forward_ad.unpack_dual(call(dual, "reference")).tangent
    step = 1e-2
    differences = (call(x + step * tangent, "reference") - call(x - step * tangent, "reference")) / (2 * step)
    torch.testing.assert_close(derivative, differences, rtol=1e-2, atol=1e-3)
    with pytest.raises(RuntimeError, match=f"{name} has no forward-mode derivative"):
        torch.func.jvp(lambda x: call(x, None), (x,), (tangent,))


@pytest.mark.parametrize("name", IN_PLACE)
def test_it_is_refused(name: str) -> None:
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=f"^{name} has no forward-mode derivative: pass"):
        IN_PLACE[name](forward_ad.make_dual(torch.zeros(1, 4, 2, 4), torch.ones(1, 4, 2, 4)))
