"""`group_norm_silu_training` in Triton: the norm with the numbers that its gradients need, and the gradients.

Backwards, one walk over the image sums what each channel's gradients add up to, piece by piece. A small kernel joins
the pieces. A second walk writes the image's gradient. Nothing else of the image's size is stored.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..networks.group_norm_silu import WARPS, affine, columns, launch_config, measured, normalise, to_columns
from ..networks.statistics import join_pieces

PIECES = 256  # largest number of pieces of a sample whose sums one program joins


@triton.jit
def group_statistics_kernel(
    parts_pointer,
    statistics_pointer,
    pieces,
    eps,
    groups: tl.constexpr,
    all_groups: tl.constexpr,
    together: tl.constexpr,
):
    # One program for each sample.
    sample = tl.program_id(0).to(tl.int64)
    part = parts_pointer + sample * pieces * (3 * groups)
    mean, squares, total = join_pieces(part, pieces, 0, groups, all_groups, together)
    g = tl.arange(0, all_groups)
    place = statistics_pointer + (sample * groups + g) * 2
    tl.store(place, mean, mask=g < groups)
    tl.store(place + 1, 1.0 / tl.sqrt(squares / tl.maximum(total, 1.0) + eps), mask=g < groups)


@triton.jit
def load_numbers(
    statistics_pointer,
    weight_pointer,
    bias_pointer,
    scale_shift_pointer,
    sample,
    channel,
    there,
    groups: tl.constexpr,
    channels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    """Return of each column: mean, inverse deviation, and the factor and term between the norm and SiLU."""
    g = tl.arange(0, all_groups)
    place = statistics_pointer + (sample * groups + g) * 2
    mean = to_columns(tl.load(place, mask=g < groups, other=0.0), all_groups, width)
    rstd = to_columns(tl.load(place + 1, mask=g < groups, other=0.0), all_groups, width)
    all_channels: tl.constexpr = groups * channels
    scales = sample * (2 * all_channels)
    factor, term = affine(1.0, weight_pointer, bias_pointer, scale_shift_pointer, scales, channel, there, all_channels)
    return mean, rstd, factor, term


@triton.jit
def by_silu(grad, normed, factor, term):
    """Return the gradient of what SiLU is applied to."""
    z = normed * factor[None, :] + term[None, :]
    sigmoid = 1.0 / (1.0 + tl.exp(-z))
    return grad * sigmoid * (1.0 + z * (1.0 - sigmoid))


@triton.jit
def gradient_sums_kernel(
    grad_pointer,
    x_pointer,
    statistics_pointer,
    weight_pointer,
    bias_pointer,
    scale_shift_pointer,
    sums_pointer,
    numel,
    pieces,
    groups: tl.constexpr,
    channels: tl.constexpr,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    # Of a piece of a sample: each channel's sums of the gradient before SiLU, and of that times the normalised value.
    sample = (tl.program_id(0) // pieces).to(tl.int64)
    first = tl.program_id(0) % pieces * (tiles * pixels)
    channel, there = columns(groups, channels, all_groups, width)
    mean, rstd, factor, term = load_numbers(
        statistics_pointer,
        weight_pointer,
        bias_pointer,
        scale_shift_pointer,
        sample,
        channel,
        there,
        groups,
        channels,
        all_groups,
        width,
    )
    p = tl.arange(0, pixels)
    offsets = (sample * numel + first) * (groups * channels) + p[:, None] * (groups * channels) + channel[None, :]
    plain, times = (
        tl.zeros((pixels, all_groups * width), tl.float32),
        tl.zeros((pixels, all_groups * width), tl.float32),
    )
    for i in tl.range(tiles):
        exists = (p < numel - first - i * pixels)[:, None] & there[None, :]
        here = offsets + i * (pixels * groups * channels)
        x = tl.load(x_pointer + here, mask=exists, other=0.0)
        grad = tl.load(grad_pointer + here, mask=exists, other=0.0)
        normed = (x - mean[None, :]) * rstd[None, :]
        slope = tl.where(exists, by_silu(grad, normed, factor, term), 0.0)
        plain += slope
        times += tl.where(exists, slope * normed, 0.0)
    place = sums_pointer + tl.program_id(0).to(tl.int64) * (2 * groups * channels) + channel
    tl.store(place, tl.sum(plain, 0), mask=there)
    tl.store(place + groups * channels, tl.sum(times, 0), mask=there)


@triton.jit
def join_sums_kernel(sums_pointer, joined_pointer, pieces, values, together: tl.constexpr, block: tl.constexpr):
    # A program adds up some values of all pieces of a sample.
    sample = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, together)[:, None], tl.program_id(1) * block + tl.arange(0, block)
    exists = (i < pieces) & (j < values)[None, :]
    pieces_of_sample = tl.load(sums_pointer + (sample * pieces + i) * values + j[None, :], mask=exists, other=0.0)
    tl.store(joined_pointer + sample * values + j, tl.sum(pieces_of_sample, 0), mask=j < values)


@triton.jit
def x_gradient_kernel(
    grad_pointer,
    x_pointer,
    statistics_pointer,
    weight_pointer,
    bias_pointer,
    scale_shift_pointer,
    sums_pointer,
    x_grad_pointer,
    numel,
    blocks,
    groups: tl.constexpr,
    channels: tl.constexpr,
    pixels: tl.constexpr,
    all_groups: tl.constexpr,
    width: tl.constexpr,
):
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * pixels
    channel, there = columns(groups, channels, all_groups, width)
    mean, rstd, factor, term = load_numbers(
        statistics_pointer,
        weight_pointer,
        bias_pointer,
        scale_shift_pointer,
        sample,
        channel,
        there,
        groups,
        channels,
        all_groups,
        width,
    )
    # The group's means of the normalised value's gradient, and of that times the value.
    place = sums_pointer + sample * (2 * groups * channels) + channel
    plain = tl.load(place, mask=there, other=0.0) * factor
    times = tl.load(place + groups * channels, mask=there, other=0.0) * factor
    count = numel * channels * 1.0
    plain = to_columns(tl.sum(tl.reshape(plain, (all_groups, width)), 1) / count, all_groups, width)
    times = to_columns(tl.sum(tl.reshape(times, (all_groups, width)), 1) / count, all_groups, width)

    p = tl.arange(0, pixels)
    exists = (p < numel - first)[:, None] & there[None, :]
    offsets = (sample * numel + first) * (groups * channels) + p[:, None] * (groups * channels) + channel[None, :]
    x = tl.load(x_pointer + offsets, mask=exists, other=0.0)
    grad = tl.load(grad_pointer + offsets, mask=exists, other=0.0)
    normed = (x - mean[None, :]) * rstd[None, :]
    by_normed = by_silu(grad, normed, factor, term) * factor[None, :]
    x_grad = rstd[None, :] * (by_normed - plain[None, :] - normed * times[None, :])
    tl.store(x_grad_pointer + offsets, x_grad, mask=exists)


def group_norm_silu_training(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale_shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Launch the kernels; the arguments and results are the op's (ops/training/group_norm_silu_training.py)."""
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    statistics = torch.zeros((len(x), groups, 2), dtype=torch.float32, device=x.device)
    if x.numel() == 0:
        return y, statistics
    with torch.cuda.device_of(x):
        parts = measured(x, None, groups, by_channel=1)
        pieces = parts.shape[1]
        group_statistics_kernel[(len(x),)](
            parts,
            statistics,
            pieces,
            eps,
            groups=groups,
            all_groups=triton.next_power_of_2(groups),
            together=triton.next_power_of_2(pieces),
            num_warps=WARPS,
        )
        normalise(x, None, parts, weight, bias, eps, scale_shift, None, y, by_channel=1)
    return y, statistics


def group_norm_silu_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale_shift: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels; the arguments and results are the op's (ops/training/group_norm_silu_training.py)."""
    grad, x = (t.contiguous(memory_format=torch.channels_last) for t in (grad, x))
    samples, all_channels = x.shape[:2]
    x_grad = torch.empty_like(x, memory_format=torch.channels_last)
    sums = torch.zeros((samples, 2, all_channels), dtype=torch.float32, device=x.device)
    numel = x.shape[2] * x.shape[3]
    if x.numel() != 0:
        each = {"groups": groups, "channels": all_channels // groups, "num_warps": WARPS}
        each |= launch_config(all_channels // groups, groups, numel)
        tiles = triton.next_power_of_2(triton.cdiv(numel, each["pixels"] * max(1, PIECES // samples)))
        pieces = triton.cdiv(numel, tiles * each["pixels"])
        blocks = triton.cdiv(numel, each["pixels"])
        parts = torch.empty((samples, pieces, 2, all_channels), dtype=torch.float32, device=x.device)
        numbers = statistics, weight, bias, scale_shift
        with torch.cuda.device_of(x):
            gradient_sums_kernel[(samples * pieces,)](grad, x, *numbers, parts, numel, pieces, tiles=tiles, **each)
            join_sums_kernel[(samples, triton.cdiv(2 * all_channels, 32))](
                parts, sums, pieces, 2 * all_channels, together=triton.next_power_of_2(pieces), block=32
            )
            x_gradient_kernel[(samples * blocks,)](grad, x, *numbers, sums, x_grad, numel, blocks, **each)
    plain, times = sums.unbind(1)
    if scale_shift is None:
        return x_grad, times.sum(0), plain.sum(0), x.new_empty(0, 0)
    factor = scale_shift[:, :all_channels] + 1
    table_grad = torch.cat((times * weight + plain * bias, plain), dim=1)
    return x_grad, (factor * times).sum(0), (factor * plain).sum(0), table_grad
