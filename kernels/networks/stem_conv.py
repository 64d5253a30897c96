"""`stem_conv` in Triton: a network's first convolution, of few channels, a matrix product for each row of the weight.

In a channels-last image the values under a row of the weight lie one behind the other: a pixel's neighbours and their
channels. So a row of the weight is multiplied as it lies, and the three channels of an image need no padding.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import product

PIXELS = 64  # of a row of the image that a program takes
OUTPUTS = 64  # channels of the result that a program computes
WARPS = 4


@triton.jit
def stem_conv_kernel(
    x_pointer,
    rows_pointer,
    bias_pointer,
    addend_pointer,
    result_pointer,
    height,
    wide,
    blocks,
    outputs,
    channels: tl.constexpr,
    side: tl.constexpr,
    width: tl.constexpr,
    pixels: tl.constexpr,
    columns: tl.constexpr,
):
    line, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * pixels
    h = line % height
    p, j = tl.arange(0, pixels), tl.arange(0, width)
    n = tl.program_id(1) * columns + tl.arange(0, columns)
    # From the first pixel under the weight; those beside the image are zeros.
    at = (first + p[:, None] - side // 2) * channels + j[None, :]
    inside = (at >= 0) & (at < wide * channels) & (j < side * channels)[None, :]
    y = tl.zeros((pixels, columns), tl.float32)
    for i in tl.range(side):
        above = i - side // 2
        there = (h + above >= 0) & (h + above < height)
        row = x_pointer + (line + above).to(tl.int64) * (wide * channels)
        x = tl.load(row + at, mask=inside & there, other=0.0)
        weight = tl.load(
            rows_pointer + (i * outputs + n)[:, None] * width + j[None, :], mask=(n < outputs)[:, None], other=0.0
        )
        y = product(x, tl.trans(weight), y)
    if bias_pointer is not None:
        y += tl.load(bias_pointer + n, mask=n < outputs, other=0.0)[None, :]
    place = (line.to(tl.int64) * wide + first) * outputs + p[:, None] * outputs + n[None, :]
    exists = (first + p < wide)[:, None] & (n < outputs)[None, :]
    if addend_pointer is not None:
        y += tl.load(addend_pointer + place, mask=exists, other=0.0).to(tl.float32)
    tl.store(result_pointer + place, y.to(result_pointer.dtype.element_ty), mask=exists)


def launch_config(wide: int, outputs: int) -> dict[str, int]:
    """Return a program's tile for images of `wide` pixels a row."""
    return {
        "pixels": max(16, min(PIXELS, triton.next_power_of_2(wide))),
        "columns": max(16, min(OUTPUTS, triton.next_power_of_2(outputs))),
    }


def stem_conv(x: Tensor, rows: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/networks/stem_conv.py)."""
    x = x.contiguous(memory_format=torch.channels_last)
    samples, channels, height, wide = x.shape
    side, outputs, width = rows.shape
    result = torch.empty(
        (samples, outputs, height, wide), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    if result.numel() == 0:
        return result
    if addend is not None:
        addend = addend.contiguous(memory_format=torch.channels_last)
    config = launch_config(wide, outputs)
    blocks = triton.cdiv(wide, config["pixels"])
    with torch.cuda.device_of(result):
        stem_conv_kernel[(samples * height * blocks, triton.cdiv(outputs, config["columns"]))](
            x,
            rows,
            bias,
            addend,
            result,
            height,
            wide,
            blocks,
            outputs,
            channels=channels,
            side=side,
            width=width,
            num_warps=WARPS,
            **config,
        )
    return result
