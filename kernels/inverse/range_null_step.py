"""`range_null_step` in Triton, with the arithmetic of csrc/range_null_step/range_null_step.h in the same order.

One kernel takes pixels that are blocks of their own. The other takes larger blocks: a program has a tile of whole
blocks, first sums <v, u> over each block, and then steps. It reads the tile once if it has it at once, else twice, the
second time from the cache.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..images import in_layout_of, launch_config, load_or_zeros
from ..noise import drawn_noise, four_normals

TILE = 1024  # elements that a program has at a time: 8 for each of 128 threads


@triton.jit
def combined(k_t, k_e, k_z, x_t, epsilon, noise):
    # A term is left out, not multiplied: the image may be infinite where its number is 0.
    return (
        tl.where(k_t != 0, k_t * x_t, 0.0)
        + tl.where(k_e != 0, k_e * epsilon, 0.0)
        + tl.where(k_z != 0, k_z * noise, 0.0)
    )


# These integers change from call to call. If specialised, each new value would be a new compilation.
@triton.jit(do_not_specialize=["seed", "stream"])
def pixels_kernel(
    x_t_pointer,
    out_pointer,  # epsilon
    pinv_y_pointer,
    mask_pointer,
    noise_pointer,
    result_pointer,
    numel,
    seed,
    stream,
    seed_pointer,
    numbers,  # of x_t, epsilon and the noise in the null space; in the range; their differences; of A⁺y
    pixels,
    sample,  # elements of an image
    mask_stride,
    draws: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    x_t = load_or_zeros(x_t_pointer, offsets, inside)
    epsilon = load_or_zeros(out_pointer, offsets, inside)
    pinv_y = load_or_zeros(pinv_y_pointer, offsets, inside)
    if seed_pointer is not None:
        seed = tl.load(seed_pointer)
    n_t, n_e, n_z, r_t, r_e, r_z = numbers[:6]
    if draws:
        noise = drawn_noise(seed, stream, first, 1, 1, False, block)
    else:
        noise = load_or_zeros(noise_pointer, offsets, inside)
    result = combined(r_t, r_e, r_z, x_t, epsilon, noise)
    if mask_pointer is not None:
        kept = tl.load(mask_pointer + offsets // sample * mask_stride + offsets % pixels, mask=inside, other=0)
        result = tl.where(kept != 0, result, combined(n_t, n_e, n_z, x_t, epsilon, noise))
    k_y = numbers[9]
    result += tl.where(k_y != 0, k_y * pinv_y, 0.0)
    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=inside)


@triton.jit
def noise_of(noise_pointer, seed, stream, row, at, inside, draws: tl.constexpr, fours: tl.constexpr):
    # The noise of a tile's elements `at`, whose rows begin at `row`. `fours`: rows have neither gaps nor parts of a
    # Philox block.
    if not draws:
        return load_or_zeros(noise_pointer, at, inside)
    elif fours:
        z0, z1, z2, z3 = four_normals(seed, stream, (row >> 2)[:, None] + tl.arange(0, at.shape[1] // 4)[None, :])
        return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))
    else:
        z0, z1, z2, z3 = four_normals(seed, stream, at >> 2)
        which = at & 3
        return tl.where(which == 0, z0, tl.where(which == 1, z1, tl.where(which == 2, z2, z3)))


@triton.jit
def weight_of(weights, channel):
    result = tl.zeros(channel.shape, tl.float32)
    for i in tl.static_range(len(weights)):
        result = tl.where(channel == i, weights[i], result)
    return result


@triton.jit(do_not_specialize=["seed", "stream"])
def blocks_kernel(
    x_t_pointer,
    out_pointer,  # epsilon
    pinv_y_pointer,
    mask_pointer,
    noise_pointer,
    result_pointer,
    seed,
    stream,
    seed_pointer,
    numbers,
    weights,  # of a block's channels
    pixels,
    width,
    down,  # rows of blocks in a channel
    per_image,  # blocks' channels in an image
    mask_stride,
    draws: tl.constexpr,
    fours: tl.constexpr,
    factor: tl.constexpr,
    side: tl.constexpr,  # the factor's next power of 2
    blocks: tl.constexpr,  # in a tile
    lines: tl.constexpr,  # rows of a tile that are read at a time
):
    # Where the tile is. Its columns are `blocks` times `side`, of which `factor` are there.
    row_of_blocks = tl.program_id(0).to(tl.int64)
    plane, row_of_blocks = row_of_blocks // down, row_of_blocks % down
    channels: tl.constexpr = len(weights)
    line = tl.arange(0, lines)
    slot = tl.arange(0, blocks * side)
    start = row_of_blocks * factor * width + tl.program_id(1).to(tl.int64) * (blocks * factor)
    if factor == side:
        column = slot
        there = column < width - tl.program_id(1) * (blocks * factor)
    else:
        column = slot // side * factor + slot % side
        there = (slot % side < factor) & (column < width - tl.program_id(1) * (blocks * factor))
    mask_start = plane // per_image * mask_stride + start
    start += plane * channels * pixels
    if seed_pointer is not None:
        seed = tl.load(seed_pointer)
    n_t, n_e, n_z = numbers[:3]
    d_t, d_e, d_z = numbers[6:9]
    k_y = numbers[9]

    # <v, u> and <v, v> of each block.
    sums = tl.zeros((blocks,), tl.float32)
    squares = tl.zeros((blocks,), tl.float32)
    for first in tl.range(0, factor * channels, lines):
        channel = (first + line) // factor
        y = (first + line) % factor
        inside = (channel < channels)[:, None] & there[None, :]
        row = start + channel * pixels + y * width
        at = row[:, None] + column[None, :]
        v = weight_of(weights, channel)[:, None]
        x_t = load_or_zeros(x_t_pointer, at, inside)
        epsilon = load_or_zeros(out_pointer, at, inside)
        noise = noise_of(noise_pointer, seed, stream, row, at, inside, draws, fours)
        kept = inside
        if mask_pointer is not None:
            kept &= (
                tl.load(mask_pointer + (mask_start + y * width)[:, None] + column[None, :], mask=inside, other=0) != 0
            )
        vu = tl.where(kept, v * combined(d_t, d_e, d_z, x_t, epsilon, noise), 0.0)
        vv = tl.where(kept, v * v, 0.0)
        sums += tl.sum(tl.sum(tl.reshape(vu, (lines, blocks, side)), 2), 0)
        squares += tl.sum(tl.sum(tl.reshape(vv, (lines, blocks, side)), 2), 0)
    along = tl.where(squares > 0, sums / tl.where(squares > 0, squares, 1.0), 0.0)
    along = tl.reshape(tl.broadcast_to(along[:, None], (blocks, side)), (blocks * side,))

    # The step.
    for first in tl.range(0, factor * channels, lines):
        channel = (first + line) // factor
        y = (first + line) % factor
        inside = (channel < channels)[:, None] & there[None, :]
        row = start + channel * pixels + y * width
        at = row[:, None] + column[None, :]
        x_t = load_or_zeros(x_t_pointer, at, inside)
        epsilon = load_or_zeros(out_pointer, at, inside)
        pinv_y = load_or_zeros(pinv_y_pointer, at, inside)
        noise = noise_of(noise_pointer, seed, stream, row, at, inside, draws, fours)
        range_part = weight_of(weights, channel)[:, None] * along[None, :]
        if mask_pointer is not None:
            kept = tl.load(mask_pointer + (mask_start + y * width)[:, None] + column[None, :], mask=inside, other=0)
            range_part = tl.where(kept != 0, range_part, 0.0)
        result = combined(n_t, n_e, n_z, x_t, epsilon, noise) + tl.where(k_y != 0, k_y * pinv_y, 0.0) + range_part
        tl.store(result_pointer + at, result.to(result_pointer.dtype.element_ty), mask=inside)


def range_null_step(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    factor: int,
    weights: list[float] | None,
    numbers: list[float],
) -> Tensor:
    """Launch a kernel; the arguments are the op's (rddm_fast/ops/inverse/range_null_step.py)."""
    wanted = torch.empty_like(x_t)
    result = wanted if wanted.is_contiguous() else torch.empty(x_t.shape, dtype=x_t.dtype, device=x_t.device)
    _launch(result, x_t, epsilon, pinv_y, mask, noise, seed, None, stream, factor, weights, numbers)
    return result if result is wanted else wanted.copy_(result)


def range_null_step_in_place(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    seed_tensor: Tensor | None,
    stream: int,
    factor: int,
    weights: list[float] | None,
    numbers: list[float],
) -> None:
    """Launch a kernel; the arguments are the op's (rddm_fast/ops/inverse/range_null_step.py)."""
    result = x_t.contiguous()
    _launch(result, result, epsilon, pinv_y, mask, noise, seed, seed_tensor, stream, factor, weights, numbers)
    if result is not x_t:
        x_t.copy_(result)


def tiles(width: int, channels: int, factor: int) -> dict[str, int]:
    """Return how the kernel for blocks cuts rows of blocks into tiles: side, blocks and lines.

    A tile has all lines of its blocks if 32 of its columns or one block fit beside them. Then each loop runs once, and
    the compiler joins the two reads of the image into one.
    """
    side = triton.next_power_of_2(factor)
    lines = min(triton.next_power_of_2(factor * channels), max(1, TILE // max(side, 32)))
    blocks = max(1, min(TILE // lines // side, triton.next_power_of_2(width // factor)))
    return {"side": side, "blocks": blocks, "lines": lines}


def ten(numbers: list[float]) -> tuple[float, ...]:
    """Return a step's seven numbers with the differences of range and null space before the last."""
    null, in_range = numbers[:3], numbers[3:6]
    return *null, *in_range, *(r - n for r, n in zip(in_range, null, strict=True)), numbers[6]


def _launch(
    result: Tensor,
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    seed_tensor: Tensor | None,
    stream: int,
    factor: int,
    weights: list[float] | None,
    numbers: list[float],
) -> None:
    """Compute into `result`, a contiguous image."""
    if x_t.dtype == torch.float64:
        raise TypeError("x_t is float64, which the Triton kernels do not take: use impl='reference'")
    if result.numel() == 0:
        return
    b, c, height, width = result.shape
    images = [in_layout_of(x, result) for x in (x_t, epsilon, pinv_y)]
    if mask is not None:
        mask = mask.contiguous().view(torch.uint8)
    mask_stride = height * width if mask is not None and mask.dim() == 3 and len(mask) > 1 else 0
    draws = seed is not None
    state = [*images, mask, in_layout_of(noise, result), result]
    drawn: list[Any] = [seed or 0, stream, seed_tensor, ten(numbers)]
    with torch.cuda.device_of(result):
        if factor == 1 and weights is None:
            config = launch_config(min(x_t.element_size(), epsilon.element_size()))
            grid = (triton.cdiv(result.numel(), config["block"]),)
            pixels = height * width
            pixels_kernel[grid](*state, result.numel(), *drawn, pixels, c * pixels, mask_stride, draws=draws, **config)
            return
        if factor == 1:
            height, width = 1, height * width
        of_block = c if weights is not None else 1
        cut = tiles(width, of_block, factor)
        rows = b * (c // of_block) * (height // factor)
        blocks_kernel[(rows, triton.cdiv(width // factor, cut["blocks"]))](
            *state,
            *drawn,
            tuple(weights or [1.0]),
            *(height * width, width, height // factor, c // of_block, mask_stride),
            draws=draws,
            fours=width % 4 == 0 and factor == cut["side"] and cut["blocks"] * cut["side"] % 4 == 0,
            factor=factor,
            **cut,
        )
