"""`group_norm_silu` in Triton: one kernel for the statistics of pieces, one that joins them, normalises and activates.

The arithmetic is that of csrc/group_norm_silu/group_norm_silu.h. A program takes some pixels of one sample with all of
their channels, so that it reads and writes whole cache lines of a channels-last image. Two strides say where the values
lie, so one kernel serves both layouts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..images import in_layout_of, result_for

TILE = 4096  # values that a program takes at a time
WARPS = 4
PIECES = 128  # largest number of pieces of a sample: as many programs as a large GPU has multiprocessors
LEAST_PIECES = 32  # of each of many samples; every program of the second kernel reads the numbers of all pieces


@triton.jit
def columns(groups, channels, all_groups: tl.constexpr, width: tl.constexpr):
    """Return a tile's columns, `width` to a group: the channel of each, and which of them exist."""
    j = tl.arange(0, all_groups * width)
    return j // width * channels + j % width, (j // width < groups) & (j % width < channels)


@triton.jit
def of_groups(values, all_groups: tl.constexpr, width: tl.constexpr):
    """Return the sums of a tile over its pixels and each group's columns."""
    return tl.sum(tl.reshape(tl.sum(values, 0), (all_groups, width)), 1)


@triton.jit
def to_columns(of_group, all_groups: tl.constexpr, width: tl.constexpr):
    """Repeat each group's value for its columns."""
    return tl.reshape(tl.broadcast_to(of_group[:, None], (all_groups, width)), (all_groups * width,))


@triton.jit
def load_tile(pointer, x_bias_pointer, offsets, exists, channel, there):
    """Return a tile of x + x_bias in float32."""
    x = tl.load(pointer + offsets, mask=exists, other=0.0).to(tl.float32)
    if x_bias_pointer is not None:
        x += tl.load(x_bias_pointer + channel, mask=there, other=0.0)[None, :]
    return x


@triton.jit
def group_norm_silu_statistics_kernel(
    x_pointer,
    x_bias_pointer,
    parts_pointer,
    numel,
    pieces,
    groups,
    channels,
    by_sample,
    by_channel,
    by_pixel,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    # A piece's mean and squared distances from it, of each group. The sums are taken about the first tile's mean, so
    # that little of them cancels: the first tile is part of the spread.
    sample = (tl.program_id(0) // pieces).to(tl.int64)
    first = tl.program_id(0) % pieces * (tiles * pixels)
    x_pointer += sample * by_sample + first.to(tl.int64) * by_pixel
    left = numel - first
    channel, there = columns(groups, channels, all_groups, width)
    p = tl.arange(0, pixels)
    # 64 bits: in a contiguous image the last channel can be more than 2^31 values behind the first.
    offsets = p[:, None] * by_pixel + channel.to(tl.int64)[None, :] * by_channel
    exists = (p < left)[:, None] & there[None, :]
    x = load_tile(x_pointer, x_bias_pointer, offsets, exists, channel, there)
    start = of_groups(tl.where(exists, x, 0.0), all_groups, width) / (tl.minimum(left, pixels) * 1.0 * channels)
    about = to_columns(start, all_groups, width)[None, :]
    d = tl.where(exists, x - about, 0.0)
    sums = d
    squares = d * d
    for i in tl.range(1, tiles, num_stages=3):
        exists = (p < left - i * pixels)[:, None] & there[None, :]
        x = load_tile(x_pointer + i * (pixels * by_pixel), x_bias_pointer, offsets, exists, channel, there)
        d = tl.where(exists, x - about, 0.0)
        sums += d
        squares += d * d
    count = tl.minimum(left, tiles * pixels) * 1.0 * channels
    apart = of_groups(sums, all_groups, width) / count
    g = tl.arange(0, all_groups)
    part = parts_pointer + tl.program_id(0).to(tl.int64) * (2 * all_groups) + g
    tl.store(part, start + apart)
    tl.store(part + all_groups, tl.maximum(of_groups(squares, all_groups, width) - apart * apart * count, 0.0))


@triton.jit
def group_norm_silu_kernel(
    x_pointer,
    x_bias_pointer,
    weight_pointer,
    bias_pointer,
    scale_shift_pointer,
    residual_pointer,
    parts_pointer,
    result_pointer,
    numel,
    pieces,
    of_piece,
    blocks,
    groups,
    channels,
    by_sample,
    by_channel,
    by_pixel,
    by_row,
    eps,
    all_pieces: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    sample = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * pixels
    start = sample.to(tl.int64) * by_sample + first.to(tl.int64) * by_pixel
    channel, there = columns(groups, channels, all_groups, width)
    p = tl.arange(0, pixels)
    offsets = start + p[:, None] * by_pixel + channel.to(tl.int64)[None, :] * by_channel
    exists = (first + p < numel)[:, None] & there[None, :]
    # Ask for the image first: the statistics are computed while it comes.
    y = load_tile(x_pointer, x_bias_pointer, offsets, exists, channel, there)
    if residual_pointer is not None:
        residual = tl.load(residual_pointer + offsets, mask=exists, other=0.0)

    # Chan's formula, over all pieces at once.
    i = tl.arange(0, all_pieces)[:, None]
    part = parts_pointer + (sample.to(tl.int64) * pieces + i) * (2 * all_groups) + tl.arange(0, all_groups)[None, :]
    means = tl.load(part, mask=i < pieces, other=0.0)
    squares = tl.load(part + all_groups, mask=i < pieces, other=0.0)
    count = tl.where(i < pieces, tl.minimum(numel - i * of_piece, of_piece), 0) * 1.0 * channels
    total = numel * 1.0 * channels
    mean = tl.sum(means * (count / total), 0)
    apart = tl.where(i < pieces, means - mean[None, :], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(squares + apart * apart * count, 0) / total + eps)

    factor = to_columns(rstd, all_groups, width) * tl.load(weight_pointer + channel, mask=there, other=0.0)
    term = tl.load(bias_pointer + channel, mask=there, other=0.0)
    if scale_shift_pointer is not None:
        row = scale_shift_pointer + sample * by_row + channel
        scale = tl.load(row, mask=there, other=0.0) + 1.0
        shift = tl.load(row + groups * channels, mask=there, other=0.0)
        factor *= scale
        term = term * scale + shift
    y = (y - to_columns(mean, all_groups, width)[None, :]) * factor[None, :] + term[None, :]
    y = y / (1.0 + tl.exp(-y))
    if residual_pointer is not None:
        y += residual.to(tl.float32)
    tl.store(result_pointer + offsets, y.to(result_pointer.dtype.element_ty), mask=exists)


def launch_config(channels: int, groups: int, numel: int) -> dict[str, int]:
    """Return the tile of a program, for groups of `channels` channels in images of `numel` pixels."""
    width, all_groups = triton.next_power_of_2(channels), triton.next_power_of_2(groups)
    pixels = max(1, min(TILE // (all_groups * width), triton.next_power_of_2(numel)))
    return {"pixels": pixels, "all_groups": all_groups, "width": width}


def group_norm_silu(
    x: Tensor,
    x_bias: Tensor | None,
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
    config = launch_config(channels, groups, numel)
    pixels = config["pixels"]
    # Tiles of a piece; a power of 2, so that few programs are compiled.
    most = max(LEAST_PIECES, PIECES // samples)
    tiles = triton.next_power_of_2(triton.cdiv(numel, pixels * most))
    pieces, blocks = triton.cdiv(numel, tiles * pixels), triton.cdiv(numel, pixels)
    parts = torch.empty((samples, pieces, 2, config["all_groups"]), dtype=torch.float32, device=x.device)
    source = in_layout_of(x, result)
    shape = (groups, channels, all_channels * numel, by_channel, by_pixel)
    with torch.cuda.device_of(result):
        group_norm_silu_statistics_kernel[(pieces * samples,)](
            source, x_bias, parts, numel, pieces, *shape, tiles=tiles, num_warps=WARPS, **config
        )
        group_norm_silu_kernel[(blocks * samples,)](
            source,
            x_bias,
            weight,
            bias,
            scale_shift,
            in_layout_of(residual, result),
            parts,
            result,
            numel,
            pieces,
            tiles * pixels,
            blocks,
            *shape,
            0 if scale_shift is None or len(scale_shift) == 1 else 2 * all_channels,
            eps,
            all_pieces=triton.next_power_of_2(pieces),
            num_warps=WARPS,
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
