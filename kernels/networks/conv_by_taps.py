"""`conv_by_taps` in Triton: a convolution as one matrix product for each value of its square, its taps.

A program takes some pixels of the result and some of their channels. Each tap's pixels are read where they lie, and
those beside the image are zeros. So a 1x1 convolution is one product, and a 4x4 one with stride 2 is sixteen.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .products import add_chunk, chunk_of, pixels_for

OUTPUTS = 64  # channels of the result that a program computes
WARPS = 4


@triton.jit
def conv_by_taps_kernel(
    x_pointer,
    taps_pointer,
    bias_pointer,
    addend_pointer,
    result_pointer,
    height,
    wide,
    down,
    across,
    numel,
    outputs,
    channels: tl.constexpr,
    side: tl.constexpr,
    stride: tl.constexpr,
    padding: tl.constexpr,
    pixels: tl.constexpr,
    columns: tl.constexpr,
    chunk: tl.constexpr,
):
    p = tl.program_id(0).to(tl.int64) * pixels + tl.arange(0, pixels)
    n = tl.program_id(1) * columns + tl.arange(0, columns)
    exists, there = p < numel, n < outputs
    line = p // across
    top, left = line % down * stride - padding, p % across * stride - padding
    sample = line // down
    y = tl.zeros((pixels, columns), tl.float32)
    chunks: tl.constexpr = (channels + chunk - 1) // chunk
    for k in tl.range(side * side * chunks):  # one loop, so that the next tap is read while this one is multiplied
        tap, c = k // chunks, k % chunks * chunk + tl.arange(0, chunk)
        row, column = top + tap // side, left + tap % side
        inside = exists & (row >= 0) & (row < height) & (column >= 0) & (column < wide)
        pixel = (sample * height + row) * wide + column
        weight = taps_pointer + tap * outputs * channels
        y = add_chunk(y, x_pointer, weight, pixel, inside, n, there, c, channels, channels)
    if bias_pointer is not None:
        y += tl.load(bias_pointer + n, mask=there, other=0.0)[None, :]
    place = p[:, None] * outputs + n[None, :]
    written = exists[:, None] & there[None, :]
    if addend_pointer is not None:
        y += tl.load(addend_pointer + place, mask=written, other=0.0).to(tl.float32)
    tl.store(result_pointer + place, y.to(result_pointer.dtype.element_ty), mask=written)


def launch_config(numel: int, outputs: int, channels: int) -> dict[str, int]:
    """Return a program's tile, for so many pixels of the result and its channels, and the images' channels."""
    columns = max(16, min(OUTPUTS, triton.next_power_of_2(outputs)))
    pixels = pixels_for(numel, triton.cdiv(outputs, columns))
    return {"pixels": pixels, "columns": columns, "chunk": chunk_of(channels)}


def conv_by_taps(
    x: Tensor, taps: Tensor, bias: Tensor | None, addend: Tensor | None, stride: int, padding: int
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/networks/conv_by_taps.py)."""
    x = x.contiguous(memory_format=torch.channels_last)
    samples, channels, height, wide = x.shape
    side, outputs = taps.shape[0], taps.shape[2]
    down, across = ((length + 2 * padding - side) // stride + 1 for length in (height, wide))
    result = torch.empty(
        (samples, outputs, down, across), dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    if result.numel() == 0:
        return result
    if addend is not None:
        addend = addend.contiguous(memory_format=torch.channels_last)
    numel = samples * down * across
    config = launch_config(numel, outputs, channels)
    grid = triton.cdiv(numel, config["pixels"]), triton.cdiv(outputs, config["columns"])
    with torch.cuda.device_of(result):
        conv_by_taps_kernel[grid](
            x,
            taps,
            bias,
            addend,
            result,
            height,
            wide,
            down,
            across,
            numel,
            outputs,
            channels=channels,
            side=side,
            stride=stride,
            padding=padding,
            num_warps=WARPS,
            **config,
        )
    return result
