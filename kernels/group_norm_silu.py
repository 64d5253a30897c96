"""`group_norm_silu` in Triton: one kernel for the statistics of pieces, one that joins them, normalises and activates.

The arithmetic is that of csrc/group_norm_silu/group_norm_silu.h. A program takes some pixels of one group of one
sample. Two strides say where the values lie, so one kernel serves both layouts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import in_layout_of, result_for

TILE = 4096  # values that a program takes at a time
PIECES = 128  # largest number of pieces of a group


@triton.jit
def tile(begin, end, channels, by_channel, by_pixel, pixels: tl.constexpr, width: tl.constexpr):
    """Return the offsets of a tile of a group's values from the group's first value, and which of them exist."""
    p = begin + tl.arange(0, pixels)
    c = tl.arange(0, width)
    exists = (p < end)[:, None] & (c < channels)[None, :]
    return p[:, None] * by_pixel + c[None, :] * by_channel, exists


@triton.jit
def group_start(program, groups, channels, by_sample, by_channel):
    group = program.to(tl.int64)
    return group // groups * by_sample + group % groups * channels * by_channel


@triton.jit
def group_norm_silu_statistics_kernel(
    x_pointer,
    parts_pointer,
    numel,
    groups,
    channels,
    by_sample,
    by_channel,
    by_pixel,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    width: tl.constexpr,
):
    # A group's piece: its mean, and the sum of the squared distances from it, joined tile by tile (Chan's formula).
    x_pointer += group_start(tl.program_id(1), groups, channels, by_sample, by_channel)
    piece = tl.program_id(0)
    begin = piece * (tiles * pixels)
    end = tl.minimum(begin + tiles * pixels, numel)
    count = 0.0
    mean = 0.0
    squares = 0.0
    for i in range(tiles):
        at = begin + i * pixels
        offsets, exists = tile(at, end, channels, by_channel, by_pixel, pixels, width)
        x = tl.load(x_pointer + offsets, mask=exists, other=0.0).to(tl.float32)
        n = (tl.maximum(tl.minimum(end - at, pixels), 0) * channels).to(tl.float32)  # 0 beyond the last piece's end
        tile_mean = tl.sum(tl.sum(x, 1), 0) / tl.maximum(n, 1.0)
        d = tl.where(exists, x - tile_mean, 0.0)
        apart = tile_mean - mean
        total = count + n
        mean += apart * (n / total)
        squares += tl.sum(tl.sum(d * d, 1), 0) + apart * apart * (count * (n / total))
        count = total
    parts_pointer += (tl.program_id(1) * tl.num_programs(0) + piece) * 2
    tl.store(parts_pointer, mean)
    tl.store(parts_pointer + 1, squares)


@triton.jit
def group_norm_silu_kernel(
    x_pointer,
    weight_pointer,
    bias_pointer,
    scale_shift_pointer,
    residual_pointer,
    parts_pointer,
    result_pointer,
    numel,
    pieces,
    of_piece,
    groups,
    channels,
    by_sample,
    by_channel,
    by_pixel,
    by_row,
    eps,
    all_pieces: tl.constexpr,
    pixels: tl.constexpr,
    width: tl.constexpr,
):
    program = tl.program_id(1)
    i = tl.arange(0, all_pieces)
    there = i < pieces
    count = tl.where(there, tl.minimum(numel - i * of_piece, of_piece) * channels, 0).to(tl.float32)
    means = tl.load(parts_pointer + (program * pieces + i) * 2, mask=there, other=0.0)
    squares = tl.load(parts_pointer + (program * pieces + i) * 2 + 1, mask=there, other=0.0)
    total = (numel * channels).to(tl.float32)
    mean = tl.sum(means * (count / total), 0)
    apart = tl.where(there, means - mean, 0.0)
    rstd = 1.0 / tl.sqrt((tl.sum(squares, 0) + tl.sum(apart * apart * count, 0)) / total + eps)

    c = tl.arange(0, width)
    channel = program % groups * channels + c
    factor = rstd * tl.load(weight_pointer + channel, mask=c < channels, other=0.0)
    term = tl.load(bias_pointer + channel, mask=c < channels, other=0.0) - mean * factor
    if scale_shift_pointer is not None:
        row = scale_shift_pointer + program // groups * by_row + channel
        scale = tl.load(row, mask=c < channels, other=0.0) + 1.0
        shift = tl.load(row + groups * channels, mask=c < channels, other=0.0)
        factor *= scale
        term = term * scale + shift

    start = group_start(program, groups, channels, by_sample, by_channel)
    offsets, exists = tile(tl.program_id(0) * pixels, numel, channels, by_channel, by_pixel, pixels, width)
    y = tl.load(x_pointer + start + offsets, mask=exists, other=0.0).to(tl.float32)
    y = y * factor[None, :] + term[None, :]
    y = y / (1.0 + tl.exp(-y))
    if residual_pointer is not None:
        y += tl.load(residual_pointer + start + offsets, mask=exists, other=0.0).to(tl.float32)
    tl.store(result_pointer + start + offsets, y.to(result_pointer.dtype.element_ty), mask=exists)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """Launch the kernels; the arguments are the op's (rddm_fast/ops/group_norm_silu.py)."""
    result, wanted, (together, _) = result_for(x, counted=True)
    if result.numel() == 0:
        return wanted
    samples, all_channels = x.shape[:2]
    channels, numel = all_channels // groups, result.numel() // (samples * all_channels)
    by_channel, by_pixel = (numel, 1) if together == 1 else (1, all_channels)
    width = triton.next_power_of_2(channels)
    pixels = max(1, min(TILE // width, triton.next_power_of_2(numel)))
    tiles = triton.next_power_of_2(
        triton.cdiv(numel, pixels * PIECES)
    )  # per piece; a power of 2, so that few programs are compiled
    of_piece = tiles * pixels
    pieces = triton.cdiv(numel, of_piece)
    parts = torch.empty((samples * groups, pieces, 2), dtype=torch.float32, device=x.device)
    source = in_layout_of(x, result)
    shape = (groups, channels, all_channels * numel, by_channel, by_pixel)
    with torch.cuda.device_of(result):
        group_norm_silu_statistics_kernel[(pieces, samples * groups)](
            source, parts, numel, *shape, tiles=tiles, pixels=pixels, width=width, num_warps=4
        )
        group_norm_silu_kernel[(triton.cdiv(numel, pixels), samples * groups)](
            source,
            weight,
            bias,
            scale_shift,
            in_layout_of(residual, result),
            parts,
            result,
            numel,
            pieces,
            of_piece,
            *shape,
            0 if scale_shift is None or len(scale_shift) == 1 else 2 * all_channels,
            eps,
            all_pieces=triton.next_power_of_2(pieces),
            pixels=pixels,
            width=width,
            num_warps=4,
        )
    return result if result is wanted else wanted.copy_(result)
