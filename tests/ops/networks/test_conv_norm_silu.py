"""conv_norm_silu's definition, and its mistakes; test_triton.py has the kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from cases.conv_norm_silu import call, few
from oracle import BF16, F16, check

from rddm_fast.ops import BackendUnavailable, conv_norm_silu
from rddm_fast.ops.networks.conv_norm_silu import serves_groups

CPU = torch.device("cpu")


def test_its_definition_is_torch_s_convolution_and_norm() -> None:
    for case in few("interpreted"):
        check(case, "reference")


def test_opcheck_and_one_graph() -> None:
    one = call((2, 16, 16, 24, 5, 6), 3, BF16, "two", CPU)
    order = (
        "x",
        "x_2",
        "weight",
        None,
        "conv_bias",
        "norm_weight",
        "norm_bias",
        "groups",
        1e-5,
        "scale_shift",
        "residual",
        "residual_2",
        "res_weight",
        "res_bias",
    )
    arguments = [one[name] if isinstance(name, str) else name for name in order]
    torch.library.opcheck(torch.ops.rddm_fast.conv_norm_silu.default, arguments)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return conv_norm_silu(**{**one, "x": x}, impl="reference") * 2

    assert torch.equal(torch.compile(twice, fullgraph=True, backend="eager")(one["x"]), twice(one["x"]))


def test_which_norms_it_serves() -> None:
    served = {(64, 8), (512, 8), (64, 64), (24, 3), (8, 1)}
    refused = {(60, 8), (1024, 8), (48, 8), (64, 128), (24, 2)}
    for out_channels, groups in served | refused:
        assert serves_groups(out_channels, groups) == ((out_channels, groups) in served)


G = call((2, 16, 16, 24, 5, 6), 3, F16, True, CPU)
MADE = call((2, 16, 16, 24, 5, 6), 3, F16, "one image", CPU)
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "float32": (
        dict(x=G["x"].float()),
        TypeError,
        "x is torch.float32: conv_norm_silu computes in bfloat16 or float16",
    ),
    "channels": (dict(x_2=None), ValueError, r"weight of shape \(24, 32, 3, 3\) takes 32 channels, and x has 16"),
    "bias": (dict(conv_bias=G["conv_bias"][:3]), ValueError, r"bias must have shape \(24,\), not \(3,\)"),
    "groups": (dict(groups=5), ValueError, r"x of shape \(2, 24, 5, 6\) does not divide into 5 groups"),
    "residual": (dict(residual=G["residual"][:1]), ValueError, r"residual must be torch.float16 of x's shape \(2, 24"),
    "residual's shape": (
        dict(residual=MADE["residual"][:1], res_weight=MADE["res_weight"]),
        ValueError,
        r"make a residual of shape \(2, 24, 5, 6\), not torch.float16 of \(24, 29\) that makes \(1, 24",
    ),
    "residual's channels": (
        dict(res_weight=MADE["res_weight"]),
        ValueError,
        r"res_weight of shape \(24, 29\) takes 29 channels, and residual has 24",
    ),
    "residual's dtype": (
        dict(residual=MADE["residual"].float(), res_weight=MADE["res_weight"]),
        TypeError,
        "residual is torch.float32: conv_norm_silu computes in float16",
    ),
    "no images": (
        dict(residual=None, res_weight=MADE["res_weight"]),
        ValueError,
        "res_weight makes the residual of images: pass them as residual",
    ),
    "no weight": (dict(res_bias=MADE["res_bias"]), ValueError, "pass res_weight with them"),
    "device": (dict(norm_bias=G["norm_bias"].to("meta")), ValueError, "bias is on meta and x on cpu"),
    "backend": (dict(impl="cpp"), BackendUnavailable, "cpp: this op has no such kernel"),
    "gradient": (dict(x=G["x"].clone().requires_grad_()), RuntimeError, "conv_norm_silu has no gradient"),
    "of a group": (
        dict(groups=2),
        ValueError,
        "a group has 12 channels: conv_norm_silu takes a power of 2, at most 64",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_named(name: str) -> None:
    change, error, sentence = MISTAKES[name]
    with pytest.raises(error, match=sentence):
        conv_norm_silu(**{**G, **change})
