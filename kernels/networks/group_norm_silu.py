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

from ..images import in_layout_of, load_or_zeros, result_for
from .statistics import at_most, join_pieces, store_piece

TILE = 2048  # values that a program takes at a time
WARPS = 4
PIECES = 256  # largest number of pieces of a sample: two programs for each multiprocessor of a large GPU
LEAST_PIECES = 32  # of each of many samples; every program of the second kernel reads the numbers of all pieces
LEAST_VALUES = 16384  # of a piece, if an image has more than LEAST_PIECES: fewer numbers to read again
PROGRAMS = 512  # of the second kernel from which on a program takes several tiles, and reads those numbers for all


@triton.jit
def columns(groups: tl.constexpr, channels: tl.constexpr, all_groups: tl.constexpr, width: tl.constexpr):
    """Return a tile's columns, `width` to a group: the channel of each, and which of them exist."""
    j = tl.arange(0, all_groups * width)
    if (groups == all_groups) & (channels == width):
        # Said like this, the compiler sees that columns are adjacent, and takes 16 bytes at a time.
        return j, j >= 0
    else:
        return j // width * channels + j % width, (j // width < groups) & (j % width < channels)


@triton.jit
def to_columns(of_group, all_groups: tl.constexpr, width: tl.constexpr):
    """Repeat each group's value for its columns."""
    return tl.reshape(tl.broadcast_to(of_group[:, None], (all_groups, width)), (all_groups * width,))


@triton.jit
def affine(factor, weight_pointer, bias_pointer, scale_shift_pointer, row, channel, there, all_channels: tl.constexpr):
    """Return each column's factor and term after the norm: those of its affine map, and of the time's.

    Args:
        factor: what multiplies before, such as the inverse deviation.
        row: where the sample's scales begin; its shifts are behind them.
        channel, there: of each column, which channel it is and whether it exists.
    """
    factor *= tl.load(weight_pointer + channel, mask=there, other=0.0)
    term = tl.load(bias_pointer + channel, mask=there, other=0.0)
    if scale_shift_pointer is not None:
        numbers = scale_shift_pointer + row + channel
        scale = tl.load(numbers, mask=there, other=0.0) + 1.0
        factor *= scale
        term = term * scale + tl.load(numbers + all_channels, mask=there, other=0.0)
    return factor, term


@triton.jit
def finish(x, residual, about, factor, term):
    """Return SiLU of the normalised tile, plus the residual."""
    y = (x.to(tl.float32) - about[None, :]) * factor[None, :] + term[None, :]
    return y / (1.0 + tl.exp(-y)) + residual


@triton.jit
def group_norm_silu_statistics_kernel(
    x_pointer,
    x_bias_pointer,
    parts_pointer,
    numel,
    pieces,
    groups: tl.constexpr,
    channels: tl.constexpr,
    by_sample,
    by_channel,
    by_pixel,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    # The sums are taken about the values of the piece's first pixel, so that little of them cancels.
    sample = (tl.program_id(0) // pieces).to(tl.int64)
    first = tl.program_id(0) % pieces * (tiles * pixels)
    x_pointer += sample * by_sample + first.to(tl.int64) * by_pixel
    left = numel - first
    channel, there = columns(groups, channels, all_groups, width)
    p = tl.arange(0, pixels)
    # 64 bits: in a contiguous image the last channel can be more than 2^31 values behind the first.
    by_column = channel.to(tl.int64) * by_channel
    offsets = p[:, None] * by_pixel + by_column[None, :]
    about = tl.load(x_pointer + by_column, mask=there, other=0.0).to(tl.float32)
    sums, squares = tl.zeros((pixels, about.shape[0]), tl.float32), tl.zeros((pixels, about.shape[0]), tl.float32)
    for i in tl.range(tiles, num_stages=3):
        exists = (p < left - i * pixels)[:, None] & there[None, :]
        x = tl.load(x_pointer + i * (pixels * by_pixel) + offsets, mask=exists, other=0.0)
        d = tl.where(exists, x.to(tl.float32) - about[None, :], 0.0)
        sums += d
        squares += d * d
    count = tl.minimum(left, tiles * pixels) * 1.0
    apart = tl.sum(sums, 0) / count
    distances = tl.maximum(tl.sum(squares, 0) - apart * apart * count, 0.0)
    mean = about + apart
    if x_bias_pointer is not None:
        mean += tl.load(x_bias_pointer + channel, mask=there, other=0.0)
    part = parts_pointer + tl.program_id(0).to(tl.int64) * (3 * groups)
    store_piece(part, mean, distances, there, count, 0, groups, channels, all_groups, width)


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
    blocks,
    groups: tl.constexpr,
    channels: tl.constexpr,
    by_sample,
    by_channel,
    by_pixel,
    by_row,
    eps,
    all_pieces: tl.constexpr,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    sample = tl.program_id(0) // blocks
    first = tl.program_id(0) % blocks * (tiles * pixels)
    start = sample.to(tl.int64) * by_sample + first.to(tl.int64) * by_pixel
    channel, there = columns(groups, channels, all_groups, width)
    p = tl.arange(0, pixels)
    offsets = start + p[:, None] * by_pixel + channel.to(tl.int64)[None, :] * by_channel
    exists = (p < numel - first)[:, None] & there[None, :]
    # Ask for the first tile before all else: the statistics are computed while it comes.
    x = tl.load(x_pointer + offsets, mask=exists, other=0.0)
    residual = load_or_zeros(residual_pointer, offsets, exists)

    part = parts_pointer + sample.to(tl.int64) * pieces * (3 * groups)
    mean, squares, total = join_pieces(part, pieces, 0, groups, all_groups, all_pieces)
    rstd = 1.0 / tl.sqrt(squares / tl.maximum(total, 1.0) + eps)

    # Of each column, factor and term of the normalised value.
    factor = to_columns(rstd, all_groups, width)
    scales, all_channels = sample * by_row, groups * channels
    factor, term = affine(
        factor, weight_pointer, bias_pointer, scale_shift_pointer, scales, channel, there, all_channels
    )
    about = to_columns(mean, all_groups, width)
    if x_bias_pointer is not None:
        about -= tl.load(x_bias_pointer + channel, mask=there, other=0.0)

    result = finish(x, residual, about, factor, term)
    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=exists)
    for j in tl.range(1, tiles, num_stages=3):
        exists = (p < numel - first - j * pixels)[:, None] & there[None, :]
        here = offsets + j * (pixels * by_pixel)
        x = tl.load(x_pointer + here, mask=exists, other=0.0)
        residual = load_or_zeros(residual_pointer, here, exists)
        result = finish(x, residual, about, factor, term)
        tl.store(result_pointer + here, result.to(result_pointer.dtype.element_ty), mask=exists)


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
    """Launch the kernels; the arguments are the op's (rddm_fast/ops/networks/group_norm_silu.py)."""
    result, wanted, (together, _) = result_for(x, counted=True)
    if result.numel() == 0:
        return wanted
    source = in_layout_of(x, result)
    assert source is not None
    by_channel = result.numel() // (x.shape[0] * x.shape[1]) if together == 1 else 1
    parts = measured(source, x_bias, groups, by_channel)
    residual = in_layout_of(residual, result)
    normalise(source, x_bias, parts, weight, bias, eps, scale_shift, residual, result, by_channel)
    return result if result is wanted else wanted.copy_(result)


def measured(x: Tensor, x_bias: Tensor | None, groups: int, by_channel: int) -> Tensor:
    """Launch the first kernel; return x's statistics, with x_bias. `by_channel` is that of `normalise`."""
    samples, all_channels = x.shape[:2]
    numel = x.numel() // (samples * all_channels)
    config = launch_config(all_channels // groups, groups, numel)
    pixels = config["pixels"]
    # Tiles of a piece; a power of 2, so that few programs are compiled.
    most = max(LEAST_PIECES, min(PIECES // samples, all_channels * numel // LEAST_VALUES))
    tiles = triton.next_power_of_2(triton.cdiv(numel, pixels * most))
    pieces = triton.cdiv(numel, tiles * pixels)
    parts = torch.empty((samples, pieces, 3, groups), dtype=torch.float32, device=x.device)
    with torch.cuda.device_of(x):
        group_norm_silu_statistics_kernel[(pieces * samples,)](
            x,
            x_bias,
            parts,
            numel,
            pieces,
            groups,
            all_channels // groups,
            all_channels * numel,
            by_channel,
            all_channels if by_channel == 1 else 1,
            tiles=tiles,
            num_warps=WARPS,
            **config,
        )
    return parts


def normalise(
    x: Tensor,
    x_bias: Tensor | None,
    parts: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor | None,
    result: Tensor,
    by_channel: int,
) -> None:
    """Launch the second kernel.

    Args:
        x, residual, result: of the same shape and layout; the result may be x.
        parts: x's statistics, with x_bias (`statistics`).
        by_channel: 1 for channels-last images, else the distance between the channels of a contiguous one.
    """
    samples, all_channels = x.shape[:2]
    with torch.cuda.device_of(result):
        parts = at_most(parts, PIECES)
    pieces, groups = parts.shape[1], parts.shape[3]
    numel = x.numel() // (samples * all_channels)
    config = launch_config(all_channels // groups, groups, numel)
    tiles = max(1, triton.next_power_of_2(samples * triton.cdiv(numel, config["pixels"]) // PROGRAMS + 1) // 2)
    blocks = triton.cdiv(numel, tiles * config["pixels"])
    with torch.cuda.device_of(result):
        group_norm_silu_kernel[(blocks * samples,)](
            x,
            x_bias,
            weight,
            bias,
            scale_shift,
            residual,
            parts,
            result,
            numel,
            pieces,
            blocks,
            groups,
            all_channels // groups,
            all_channels * numel,
            by_channel,
            all_channels if by_channel == 1 else 1,
            0 if scale_shift is None or len(scale_shift) == 1 else 2 * all_channels,
            eps,
            all_pieces=triton.next_power_of_2(pieces),
            tiles=tiles,
            num_warps=WARPS,
            **config,
        )
