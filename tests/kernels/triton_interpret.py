"""Run by test_triton.py in a process of its own, because triton reads TRITON_INTERPRET when imported.

Each kernel on CPU tensors, in Triton's interpreter, against its reference; what was found is printed as JSON.
"""

from __future__ import annotations

import itertools
import json

import torch
from cases import GRIDS, group_norm_silu_training
from cases.reverse_step import BY_FOURS, noise_alone, recorded_diffuir, with_nan_and_infinity
from oracle import LAYOUTS, check

from rddm_fast.diffusion.unet import LinearAttention
from rddm_fast.fast.folded.attention import PixelsFirstLinearAttention
from rddm_fast.kernels.inverse import walsh_hadamard as transform_kernels
from rddm_fast.kernels.networks import attention_layer as layer_kernels
from rddm_fast.kernels.networks import linear_attention as attention_kernels
from rddm_fast.kernels.training import group_norm_silu_training as training_kernels
from rddm_fast.ops import channel_norm, linear_attention, noise, reverse_step
from rddm_fast.theory.objective import Objective

IMPLS = ("triton", "reference")


def grid(op: str) -> dict[str, object]:
    """How many results of an op's grid were judged, and the cases that failed."""
    judged, failed = 0, []
    for case in GRIDS[op]("interpreted"):
        try:
            judged += check(case, "triton", relative=1e-6 * case.sums, subnormal=True)
        except AssertionError as error:
            failed.append(f"{case.name}: {error}")
    return {"judged": judged, "failed": failed}


def folded() -> float:
    """The greatest difference between a folded linear attention by our kernels and the published module."""
    torch.manual_seed(0)
    module = LinearAttention(24).eval()
    ours = PixelsFirstLinearAttention(module)
    ours.impl = "triton"
    x = torch.randn(2, 24, 9, 7).to(memory_format=torch.channels_last)
    with torch.no_grad():
        return (ours(x) - module(x)).abs().max().item()


def network_ops_non_finite() -> bool:
    """Whether NaN and infinity come out of channel_norm and linear_attention where they come out of the references."""
    for bad, layout in ((float("nan"), "contiguous"), (float("inf"), "channels_last"), (-float("inf"), "sliced")):
        torch.manual_seed(0)
        x, g = LAYOUTS[layout](torch.randn(2, 8, 5, 7)), torch.randn(8)
        x[1, 2, 3, 4] = bad
        pairs = [[channel_norm(x, g, impl=i) for i in IMPLS]]
        # A query, a key and a value, each in one pixel, in a whole piece and everywhere.
        for channel, pixels in itertools.product((3, 19, 35), (slice(21, 22), slice(0, 128), slice(0, 300))):
            qkv = torch.randn(1, 48, 300, 1)
            qkv[0, channel, pixels] = bad
            pairs.append([linear_attention(LAYOUTS[layout](qkv), 2, impl=i) for i in IMPLS])
        if not all(torch.allclose(*pair, rtol=1e-4, atol=1e-7, equal_nan=True) for pair in pairs):
            return False
    return True


def drawn() -> float:
    """The greatest difference between the noise that the kernel draws and the reference's."""
    differences = []
    images = itertools.product(BY_FOURS, ("contiguous", "channels_last", "transposed"))
    for shape, layout in (*images, ((11,), "contiguous")):
        for seed, stream in ((0, 0), (5, -1), (2**63 + 99, 2**33 + 1)):
            ours = noise_alone(LAYOUTS[layout](torch.zeros(shape)), seed, stream, "triton")
            differences.append((ours - noise(shape, seed, stream)).abs().max().item())
    return max(differences)


def diffuir() -> float:
    """The greatest difference of a step from what DiffUIR's own code recorded."""
    return recorded_diffuir("triton")


def non_finite() -> bool:
    """Whether NaN and infinity come out of reverse_step where they come out of the reference."""
    calls = itertools.chain.from_iterable(with_nan_and_infinity(objective) for objective in Objective)
    results = ([reverse_step(**call, impl=i) for i in IMPLS] for call in calls)
    return all(torch.allclose(*pair, equal_nan=True) for pair in results)


def gradients() -> bool:
    """Whether group_norm_silu_training and its gradients are right; raises an error if not."""
    group_norm_silu_training.gradients_by("triton")
    return True


if __name__ == "__main__":
    attention_kernels.PIECES = layer_kernels.PIECES = training_kernels.PIECES = (
        4  # so that a small image has pieces of several tiles, and the last one is not full
    )
    transform_kernels.FURTHER_BITS = 2  # so that 128 x 256 pixels take three passes, of 12, 1 and 2 bits
    found: dict[str, object] = {op: grid(op) for op in GRIDS}
    for check_ in (non_finite, drawn, diffuir, network_ops_non_finite, folded, gradients):
        found[check_.__name__] = check_()
    print(json.dumps(found))
