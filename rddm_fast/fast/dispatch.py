"""Which implementation of a network's op runs where: the one place that decides between ours and torch's own."""

from __future__ import annotations

import torch
from torch import Tensor

from ..ops import backends

OPS = ("channel_norm", "linear_attention")


def choose(op: str, device_type: str, dtype: torch.dtype, channels: int, pixels: int, *, triton: bool) -> str:
    """The implementation of `op` for a channels-last image of `channels` and `pixels` (H W) on a device of that type.

    The names are those that the modules of `rddm_fast.fast.folded` take as `impl`. `triton` says whether Triton serves
    the device. What each line rests on was measured on one thread of an x86-64 CPU with AVX-512, with torch 2.13, for
    64 to 512 channels of 8 x 8 to 256 x 256 pixels, in float32 and bfloat16:

    * channel_norm on a CPU: "torch", its layer norm. On channels-last images it is 5 to 20 times as fast as the
      reference, and on contiguous ones, which it copies there and back, 1.4 to 3.8 times.
    * linear_attention on a CPU: "chunked". From 64 x 64 pixels on the module is 1.3 to 4.8 times as fast as with the
      attention as an op of its own, whose time is 0.9 to 1.2 of it below. Of "whole", which is the same up to CHUNK
      pixels, it is 1.2 to 1.5 times as fast at 256 x 256.
    * both on a GPU that Triton serves: "triton". Not measured on a GPU yet; it rests on how many images are read and
      written alone.
    * elsewhere: "torch" and "whole", which need nothing but torch. Not measured on a GPU yet.

    The dtype, the channels and the pixels changed no choice wherever they were measured; they are asked for so that a
    measurement that does needs no other caller. Raises ValueError for an op that there is no choice for.
    """
    if op not in OPS:
        raise ValueError(f"there is no choice of implementations for {op!r}: the ops are {', '.join(OPS)}")
    if device_type == "cuda" and triton:
        return "triton"
    if op == "channel_norm":
        return "torch"
    return "chunked" if device_type == "cpu" else "whole"


def implementation(op: str, x: Tensor) -> str:
    """`choose` for images x (B, C, H, W), with what is installed here."""
    triton = x.device.type == "cuda" and backends.why_not("triton", x.device) is None
    return choose(op, x.device.type, x.dtype, x.shape[1], x.shape[2] * x.shape[3], triton=triton)
