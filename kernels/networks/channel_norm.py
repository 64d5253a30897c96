"""`channel_norm` in Triton: a program takes some pixels with all of their channels and holds them in registers.

Two strides say where the values lie, so one kernel serves both layouts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..images import in_layout_of, result_for

TILE = 4096  # values per program
SIDE_BY_SIDE = 32  # least number of pixels per program if pixels are adjacent in memory, to access whole cache lines


@triton.jit
def channel_norm_kernel(
    x_pointer,
    g_pointer,
    result_pointer,
    numel,
    blocks,
    channels,
    by_sample,
    by_channel,
    by_pixel,
    eps,
    pixels: tl.constexpr,
    width: tl.constexpr,
):
    sample, first = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * pixels
    start = sample * by_sample + first.to(tl.int64) * by_pixel
    p = tl.arange(0, pixels)
    c = tl.arange(0, width)
    exists = (first + p < numel)[:, None] & (c < channels)[None, :]
    # 64 bits: in a contiguous image the last channel can be more than 2^31 values behind the first.
    offsets = p[:, None].to(tl.int64) * by_pixel + c[None, :].to(tl.int64) * by_channel
    x = tl.load(x_pointer + start + offsets, mask=exists, other=0.0).to(tl.float32)
    g = tl.load(g_pointer + c, mask=c < channels, other=0.0).to(tl.float32)
    d = tl.where(exists, x - (tl.sum(x, 1) / channels)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(d * d, 1) / channels + eps)
    y = d * rstd[:, None] * g[None, :]
    tl.store(result_pointer + start + offsets, y.to(result_pointer.dtype.element_ty), mask=exists)


def launch_config(channels: int, numel: int, channels_together: bool) -> dict[str, int]:
    """Return a program's pixels, width and warps for images of `numel` pixels."""
    width = triton.next_power_of_2(channels)
    least = 1 if channels_together else SIDE_BY_SIDE
    pixels = min(max(TILE // width, least), triton.next_power_of_2(numel))
    return {"pixels": pixels, "width": width, "num_warps": 4 if pixels * width <= 2 * TILE else 8}


def channel_norm(x: Tensor, g: Tensor, eps: float) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/channel_norm.py)."""
    result, wanted, (together, _) = result_for(x, counted=True)
    if result.numel() == 0:
        return wanted
    samples, channels = x.shape[:2]
    numel = x.shape[2] * x.shape[3]
    by_channel, by_pixel = (numel, 1) if together == 1 else (1, channels)
    config = launch_config(channels, numel, channels_together=by_channel == 1)
    blocks = triton.cdiv(numel, config["pixels"])
    with torch.cuda.device_of(result):
        channel_norm_kernel[(samples * blocks,)](
            in_layout_of(x, result),
            g,
            result,
            numel,
            blocks,
            channels,
            channels * numel,
            by_channel,
            by_pixel,
            eps,
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
