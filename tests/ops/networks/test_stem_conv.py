"""stem_conv's definition against torch's convolution, and its mistakes; test_triton.py has the kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.stem_conv import exact, few, inputs
from oracle import BF16, F16, check

from rddm_fast.ops import BackendUnavailable, pack_stem_conv, stem_conv, stem_conv_reference


def test_it_is_a_convolution() -> None:
    """The definition rounds once; the interpreter's grid holds the kernel against it."""
    for case in few("interpreted"):
        check(case, "reference")


def test_a_mean_of_ones_counts_the_neighbours_in_the_image() -> None:
    y = stem_conv(torch.ones(1, 2, 4, 5, dtype=BF16), pack_stem_conv(torch.ones(1, 2, 3, 3), BF16))
    assert y.float().tolist()[0][0] == [[8, 12, 12, 12, 8], *[[12, 18, 18, 18, 12]] * 2, [8, 12, 12, 12, 8]]


def test_opcheck_and_one_graph() -> None:
    given = inputs((2, 3, 6, 7), 8, 7, BF16)
    rows, rest = pack_stem_conv(given["weight"], BF16), {name: given[name] for name in ("bias", "addend")}
    torch.library.opcheck(torch.ops.rddm_fast.stem_conv.default, (given["x"], rows, *rest.values()))
    compiled = torch.compile(lambda x: stem_conv(x, rows, **rest) + 1, fullgraph=True, backend="eager")
    assert torch.equal(compiled(given["x"]), stem_conv(given["x"], rows, **rest) + 1)


def test_the_reference_is_differentiable() -> None:
    given = inputs((1, 3, 5, 4), 8, 3, F16)
    x = given["x"].float().double().requires_grad_()
    rows = pack_stem_conv(given["weight"], F16).double()
    y = stem_conv_reference(x, rows, given["bias"].double(), None)
    torch.testing.assert_close(y, exact(x, given["weight"], given["bias"], None))
    (ours,) = torch.autograd.grad(y.square().sum(), x)
    (torchs,) = torch.autograd.grad(exact(x, given["weight"], given["bias"], None).square().sum(), x)
    torch.testing.assert_close(ours, torchs)


G = inputs((2, 3, 6, 7), 8, 7, BF16)
CALL: dict[str, Any] = {"x": G["x"], "rows": pack_stem_conv(G["weight"], BF16)}
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "float32": (dict(x=G["x"].float()), TypeError, "x is torch.float32: x, rows and addend must all be bfloat16, or"),
    "two dtypes": (dict(x=G["x"].half()), TypeError, "rows is torch.bfloat16: x, rows and addend must all be"),
    "channels": (
        dict(x=G["x"][:, :1].repeat(1, 9, 1, 1)),
        ValueError,
        r"rows of shape \(7, 8, 32\) are not of a weight",
    ),
    "bias": (
        dict(bias=G["bias"][:3]),
        ValueError,
        r"bias must be float32 of shape \(8,\), not torch.float32 of \(3,\)",
    ),
    "addend": (dict(addend=G["addend"][:1]), ValueError, r"addend must be of shape \(2, 8, 6, 7\), not \(1, 8, 6, 7\)"),
    "device": (dict(bias=G["bias"].to("meta")), ValueError, "bias is on meta and x on cpu"),
    "backend": (dict(impl="cpp"), BackendUnavailable, "cpp: this op has no such kernel"),
    "gradient": (dict(x=G["x"].clone().requires_grad_()), RuntimeError, "stem_conv has no gradient"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        stem_conv(**{**CALL, **change})


def test_mistakes_in_packing_are_named() -> None:
    with pytest.raises(ValueError, match=r"with an odd side and C side up to 128, not \(8, 3, 4, 4\)"):
        pack_stem_conv(torch.zeros(8, 3, 4, 4), BF16)
    with pytest.raises(TypeError, match=r"dtype is torch\.float32: stem_conv computes in bfloat16 and float16"):
        pack_stem_conv(torch.zeros(8, 3, 7, 7), torch.float32)
