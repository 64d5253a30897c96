"""conv_by_taps' definition against torch's convolution, and its mistakes; test_triton.py has the kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.conv_by_taps import call, exact, few, ours
from oracle import BF16, F16, check

from rddm_fast.ops import BackendUnavailable, conv_by_taps, conv_by_taps_reference, pack_taps

HALVING = (2, 5, 6, 8), 8, 4, 2, 1


def test_it_is_a_convolution() -> None:
    for case in few("interpreted"):
        check(case, "reference")


def test_a_mean_of_ones_counts_the_pixels_under_the_square() -> None:
    y = conv_by_taps(torch.ones(1, 2, 6, 6, dtype=BF16), pack_taps(torch.ones(1, 2, 4, 4), BF16), stride=2, padding=1)
    assert y.float().tolist()[0][0] == [[18, 24, 18], [24, 32, 24], [18, 24, 18]]


def test_opcheck_and_one_graph() -> None:
    one = call(HALVING, BF16, True, "channels_last", "cpu")
    arguments = one["x"], pack_taps(one["weight"], BF16), one["bias"], one["addend"], 2, 1
    torch.library.opcheck(torch.ops.rddm_fast.conv_by_taps.default, arguments)
    compiled = torch.compile(lambda x: ours({**one, "x": x}, None) + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(one["x"]), ours(one, None) + 1)


def test_the_reference_is_differentiable() -> None:
    one = call(HALVING, F16, True, "contiguous", "cpu")
    x = one["x"].double().requires_grad_()
    taps = pack_taps(one["weight"], F16).double()
    y = conv_by_taps_reference(x, taps, one["bias"].double(), one["addend"].double(), 2, 1)
    (mine,) = torch.autograd.grad(y.square().sum(), x)
    (torchs,) = torch.autograd.grad(exact({**one, "x": x}).square().sum(), x)
    torch.testing.assert_close(mine, torchs)


G = call(HALVING, BF16, True, "contiguous", "cpu")
CALL: dict[str, Any] = {"x": G["x"], "taps": pack_taps(G["weight"], BF16), "stride": 2, "padding": 1}
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "float32": (dict(x=G["x"].float()), TypeError, "x is torch.float32: x, taps and addend must all be bfloat16, or"),
    "two dtypes": (dict(x=G["x"].half()), TypeError, "taps is torch.bfloat16: x, taps and addend must all be"),
    "channels": (dict(x=G["x"][:, :4]), ValueError, r"taps of shape \(4, 4, 8, 5\) are not of a weight for images"),
    "stride": (
        dict(stride=0),
        ValueError,
        "stride must be at least 1 and padding from 0 to 3, got stride 0, padding 1",
    ),
    "padding": (dict(padding=4), ValueError, "padding from 0 to 3, got stride 2, padding 4"),
    "small": (dict(x=G["x"][..., :1]), ValueError, "images of 6 x 1 are smaller than the 4 x 4 taps"),
    "bias": (
        dict(bias=G["bias"][:3]),
        ValueError,
        r"bias must be float32 of shape \(8,\), not torch.float32 of \(3,\)",
    ),
    "addend": (dict(addend=G["addend"][:1]), ValueError, r"addend must be of shape \(2, 8, 3, 4\), not \(1, 8, 3, 4\)"),
    "device": (dict(bias=G["bias"].to("meta")), ValueError, "bias is on meta and x on cpu"),
    "backend": (dict(impl="cpp"), BackendUnavailable, "cpp: this op has no such kernel"),
    "gradient": (dict(x=G["x"].clone().requires_grad_()), RuntimeError, "conv_by_taps has no gradient"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        conv_by_taps(**{**CALL, **change})


def test_mistakes_in_packing_are_named() -> None:
    with pytest.raises(ValueError, match=r"weight must be \(K, C, side, side\), not \(8, 3, 4, 5\)"):
        pack_taps(torch.zeros(8, 3, 4, 5), BF16)
    with pytest.raises(TypeError, match=r"dtype is torch\.float32: conv_by_taps computes in bfloat16 and float16"):
        pack_taps(torch.zeros(8, 3, 4, 4), torch.float32)
