"""float16 on the CPU: the processor's conversions, in blocks of any length, are torch's to the bit."""

from __future__ import annotations

import pytest
import torch
from oracle import BF16, F16

from rddm_fast.ops import StepTable, reverse_step_, tacos_step

ALL = torch.arange(1 << 16).to(torch.uint16)
STAY = dict(alpha_bar=0.5, beta_bar=0.5, k_t=1.0, k_res=0.0, k_noise=0.0, k_0=0.0, sigma=0.0)


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_each_number_comes_back_as_it_was(dtype: torch.dtype) -> None:
    """A step of Cold Diffusion that changes nothing; lengths that end within a vector, and begin at odd addresses."""
    numbers = ALL.view(dtype)
    finite = numbers[numbers.isfinite()]
    for first, length in ((0, len(finite)), (1, 1), (3, 7), (0, 15), (5, 16), (1, 17), (7, 1023), (2, 1041)):
        x = finite[first : first + length].view(1, 1, 1, length)
        result = tacos_step(x, torch.zeros_like(x), kind="mix", numbers=(0.0, 0.0))
        # A negative zero and a positive one add up to a positive one.
        assert torch.equal(result.view(torch.int16), (x + 0.0).view(torch.int16))


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_each_float32_is_rounded_as_torch_rounds(dtype: torch.dtype) -> None:
    """Ties, subnormal halves and overflow among them: a stay of the reverse process, and its next network input."""
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (200_000,), generator=generator, dtype=torch.int64).to(torch.int32)
    halves = ALL.view(F16)
    ties = halves[halves.isfinite()].float()
    ties = ties[:-1] / 2 + ties[1:] / 2  # between neighbours
    x = torch.cat((bits.view(torch.float32), ties, torch.tensor([65504.0, 65519.9, 65520.0, 65536.0, 1e-8, 2.0**-25])))
    x = x[x.isfinite() & (x.abs() < 1e37)].view(1, 1, 1, -1)
    out, next_input = torch.zeros_like(x, dtype=dtype), torch.empty_like(x, dtype=dtype)
    table = StepTable.of([STAY])
    state = x.clone()
    reverse_step_(state, out, out, objective="pred_res_noise", table=table, step=0, next_input=next_input)
    assert torch.equal(state, x) and torch.equal(next_input.view(torch.int16), (x + 0.0).to(dtype).view(torch.int16))
