"""`conv3x3` in Triton: a 3x3 convolution of channels-last images as one matrix product (an implicit GEMM).

A program computes a tile of pixels by a tile of output channels. For each tap and each chunk of the input's channels it
takes the image's tile, shifted by the tap, and the weights' tile. Both come through tensor descriptors, by the tensor
memory accelerator (TMA) where there is one. What lies outside of the image arrives as zeros, which are the padding.

An image that is enlarged 2x first (nearest neighbour) is never stored: each pixel of the result sees 2x2 pixels of the
small image, so that four 2x2 convolutions with summed weights, the phases, make the result's pixels in turn.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from .conv3x3_tiles import Site, Tile, depth_for, gpu_of, launch_config
from .products import product
from .statistics import store_piece


@triton.jit
def pixels_at(
    image,
    sample,
    row,
    column,
    channel,
    height,
    width,
    in_channels,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
    described: tl.constexpr,
):
    """Return a tile of pixels by channels; zeros outside of the image."""
    if described:
        return tl.reshape(image.load([sample, row, column, channel]), (rows * columns, depth))
    else:
        p = tl.arange(0, rows * columns)
        i, j = row + p // columns, column + p % columns
        inside = (i >= 0) & (i < height) & (j >= 0) & (j < width)
        # 64 bits: the images of a batch can have more than 2^31 values.
        pixel = ((sample.to(tl.int64) * height + i) * width + j) * in_channels
        places = image + pixel[:, None] + (channel + tl.arange(0, depth))[None, :]
        return tl.load(places, mask=inside[:, None], other=0.0)


@triton.jit
def weights_at(
    weights,
    first_row,
    channel,
    rows_left,
    all_channels,
    channels: tl.constexpr,
    depth: tl.constexpr,
    described: tl.constexpr,
):
    """Return a tile of output channels by channels of one tap; rows from `rows_left` on are of no output channel."""
    if described:
        return weights.load([first_row, channel])
    else:
        k = tl.arange(0, channels)
        places = weights + (first_row + k)[:, None] * all_channels + (channel + tl.arange(0, depth))[None, :]
        return tl.load(places, mask=(k < rows_left)[:, None], other=0.0)


@triton.jit
def add_products(
    sums,
    image,
    weights,
    sample,
    row,
    column,
    height,
    width,
    first_row,
    rows_left,
    out_channels,
    in_channels: tl.constexpr,
    first_channel: tl.constexpr,
    all_channels: tl.constexpr,
    side: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    channels: tl.constexpr,
    depth: tl.constexpr,
    stages: tl.constexpr,
    described: tl.constexpr,
):
    """Add the products of all taps and channels of one image to the sums, with the weights from `first_channel` on."""
    # The taps of a chunk of channels follow each other: they read the same lines while those are in the cache.
    # The channels are constants, because with numpy 2 Triton's interpreter takes no other bounds of a loop.
    for step in tl.range(0, in_channels // depth * (side * side), num_stages=stages):
        channel, tap = step // (side * side) * depth, step % (side * side)
        i, j = row + tap // side, column + tap % side
        pixels = pixels_at(image, sample, i, j, channel, height, width, in_channels, rows, columns, depth, described)
        row_of_tap = first_row + tap * out_channels
        factors = weights_at(
            weights, row_of_tap, first_channel + channel, rows_left, all_channels, channels, depth, described
        )
        # As a second factor the pixels stay in shared memory. As a first one they would go through registers, because
        # Triton 3.6 does not see through `reshape` that they come from a load.
        sums = product(factors, tl.trans(pixels), sums)
    return sums


@triton.jit(do_not_specialize=["height", "width", "across", "down", "eights"])
def conv3x3_kernel(
    image,
    image_2,
    weights,
    bias_pointer,
    result_pointer,
    parts_pointer,
    height,
    width,
    across,
    down,
    eights,
    in_channels: tl.constexpr,
    in_channels_2: tl.constexpr,
    upsample: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    channels: tl.constexpr,
    depth: tl.constexpr,
    stages: tl.constexpr,
    described: tl.constexpr,
    whole: tl.constexpr,
    groups: tl.constexpr,
    of_group: tl.constexpr,
):
    out_channels = eights * 8  # so that the compiler knows where 16 bytes of a result begin
    # Programs of the same pixels follow each other: they read the same part of the image while it is in the cache.
    phases: tl.constexpr = 4 if upsample else 1
    side: tl.constexpr = 2 if upsample else 3
    blocks = tl.cdiv(out_channels, channels)
    program = tl.program_id(0)
    first = program % blocks * channels
    phase = program // blocks % phases
    tile = program // (blocks * phases)
    sample, row, column = tile // (across * down), tile // across % down * rows, tile % across * columns

    # Phase (a, b) makes the pixels (2 i + a, 2 j + b); its first tap is the pixel (i + a - 1, j + b - 1).
    a, b = phase // 2, phase % 2
    top, left = row + a - 1, column + b - 1
    first_row, rows_left = phase * (side * side) * out_channels + first, out_channels - first
    all_channels: tl.constexpr = in_channels + in_channels_2
    sums = tl.zeros((channels, rows * columns), tl.float32)
    for part in tl.static_range(1 if image_2 is None else 2):
        sums = add_products(
            sums,
            image if part == 0 else image_2,
            weights,
            sample,
            top,
            left,
            height,
            width,
            first_row,
            rows_left,
            out_channels,
            in_channels if part == 0 else in_channels_2,
            0 if part == 0 else in_channels,
            all_channels,
            side,
            rows,
            columns,
            channels,
            depth,
            stages,
            described,
        )

    k, p = tl.arange(0, channels), tl.arange(0, rows * columns)
    i, j = row + p // columns, column + p % columns
    if whole:  # noqa: SIM108, a condition of the compiler's; masks would cost registers
        inside = p >= 0
    else:
        inside = (i < height) & (j < width)
    there = k < rows_left
    factor: tl.constexpr = 2 if upsample else 1
    # 64 bits: a result can have more than 2^31 values.
    line = (sample * factor).to(tl.int64) * height + i * factor + a
    pixel = (line * (width * factor) + j * factor + b) * out_channels + first
    if bias_pointer is not None:
        sums += tl.load(bias_pointer + first + k, mask=there, other=0.0)[:, None]
    places, exists = pixel[None, :] + k[:, None], inside[None, :] & there[:, None]
    tl.store(result_pointer + places, sums.to(result_pointer.dtype.element_ty), mask=exists)

    if parts_pointer is not None:
        # The tile is a piece of the statistics that group norm needs; all of its values are still here.
        count = tl.minimum(rows, height - row) * tl.minimum(columns, width - column) * 1.0
        mean = tl.sum(tl.where(inside[None, :], sums, 0.0), 1) / count
        apart = tl.where(inside[None, :], sums - mean[:, None], 0.0)
        part = parts_pointer + tile.to(tl.int64) * (3 * groups)
        of_tile: tl.constexpr = channels // of_group
        squares = tl.sum(apart * apart, 1)
        store_piece(part, mean, squares, there, count, first // of_group, groups, of_group, of_tile, of_group)


def conv3x3(
    x: Tensor,
    x_2: Tensor | None,
    weight: Tensor,
    packed: Tensor | None,
    bias: Tensor | None,
    upsample: bool = False,
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/networks/conv3x3.py)."""
    return conv3x3_by_tile(x, x_2, weight.shape[0], packed, bias, upsample)[0]


def conv3x3_by_tile(
    x: Tensor,
    x_2: Tensor | None,
    out_channels: int,
    packed: Tensor | None,
    bias: Tensor | None,
    upsample: bool = False,
    tile: Tile | None = None,
    *,
    groups: int | None = None,
    described: bool | None = None,
    only_compile: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Launch the kernel with an explicit tile, or with `launch_config`'s; return the result and its statistics.

    Args:
        x, x_2, packed, bias, upsample: the op's.
        out_channels: K.
        tile: one of another depth than divides the channels takes a smaller depth.
        groups: those of a group norm, whose statistics (`statistics`) are to be returned too, not with `upsample`. A
            group's channels are a power of 2, and the tile has whole groups.
        described: whether to read through descriptors; None does so where there is TMA.
        only_compile: compile the kernel and do not run it; the result is not written.

    Raises:
        TypeError: images that are neither bfloat16 nor float16.
        ValueError: channels that the kernel does not serve, tensors that do not fit together, or weights that were not
            packed for this call.
    """
    parts = [x] if x_2 is None else [x, x_2]
    check(parts, out_channels, packed, bias, upsample)
    assert packed is not None
    samples, _, height, width = x.shape
    factor = 2 if upsample else 1
    size = samples, out_channels, factor * height, factor * width
    result = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if result.numel() == 0:
        return result, None
    gpu, of_group = gpu_of(x.device), out_channels // (groups or out_channels)
    if tile is None:
        least = 1 if groups is None else of_group
        tile = launch_config(Site((samples, packed.shape[1], height, width), out_channels, upsample, least), gpu)
    described = gpu.described if described is None else described
    depth = depth_for(*(part.shape[1] for part in parts), most=tile.depth)
    images = [aligned(part) for part in parts]
    sources = [*images, packed]
    if described:
        block = [1, tile.rows, tile.columns, depth]
        sources = [*(by_pixel(image, block) for image in images), by_row(packed, [tile.channels, depth])]
    across, down = triton.cdiv(width, tile.columns), triton.cdiv(height, tile.rows)
    statistics = None
    if groups is not None:
        statistics = torch.empty((samples, down * across, 3, groups), dtype=torch.float32, device=x.device)
    programs = samples * down * across * factor**2 * triton.cdiv(out_channels, tile.channels)
    launch = functools.partial(conv3x3_kernel.warmup, grid=(programs,)) if only_compile else conv3x3_kernel[(programs,)]
    with torch.cuda.device_of(result):
        launch(
            sources[0],
            None if x_2 is None else sources[1],
            sources[-1],
            None if bias is None else bias.contiguous(),
            result,
            statistics,
            height,
            width,
            across,
            down,
            out_channels // 8,
            in_channels=x.shape[1],
            in_channels_2=0 if x_2 is None else x_2.shape[1],
            upsample=upsample,
            rows=tile.rows,
            columns=tile.columns,
            channels=tile.channels,
            depth=depth,
            stages=tile.stages,
            described=described,
            whole=tile.divides(height, width),
            groups=groups or 1,
            of_group=of_group,
            num_warps=tile.warps,
        )
    return result, statistics


def check(
    parts: Sequence[Tensor], out_channels: int, packed: Tensor | None, bias: Tensor | None, upsample: bool
) -> None:
    """Raise TypeError or ValueError, as `conv3x3_by_tile` does."""
    x, channels = parts[0], [part.shape[1] for part in parts]
    if x.dtype not in (torch.bfloat16, torch.float16):
        raise TypeError(f"x is {x.dtype}: conv3x3 by Triton computes in bfloat16 or float16, so convert it to one")
    if any(c == 0 or c % 16 for c in channels) or out_channels % 8:
        raise ValueError(
            "conv3x3 by Triton takes images of a multiple of 16 channels to a multiple of 8, "
            f"not {' and '.join(map(str, channels))} to {out_channels}: use torch's convolution"
        )
    for part in parts[1:]:
        if part.dtype != x.dtype or part.shape[0] != x.shape[0] or part.shape[2:] != x.shape[2:]:
            raise ValueError(f"x_2 is {part.dtype} {tuple(part.shape)} beside x of {x.dtype} {tuple(x.shape)}")
    if bias is not None and (bias.dtype != torch.float32 or bias.shape != (out_channels,)):
        raise ValueError(f"bias must be float32 of shape ({out_channels},), not {bias.dtype} {tuple(bias.shape)}")
    wanted = (16 if upsample else 9) * out_channels, sum(channels)
    if packed is None or packed.shape != wanted or packed.dtype != x.dtype or not packed.is_contiguous():
        found = "missing" if packed is None else f"{packed.dtype} of shape {tuple(packed.shape)}"
        raise ValueError(
            f"packed is {found}, and must be {x.dtype} of shape {wanted}: "
            f"pass pack_conv3x3_taps(weight, {x.dtype}, upsample={upsample})"
        )


def aligned(x: Tensor) -> Tensor:
    """Return an image itself if it is channels-last from a multiple of 16 bytes on, else such a copy."""
    x = x.contiguous(memory_format=torch.channels_last)
    return x.clone(memory_format=torch.channels_last) if x.data_ptr() % 16 else x


def by_pixel(image: Tensor, block: list[int]) -> TensorDescriptor:
    """Describe a channels-last image (B, C, H, W) as (B, H, W, C)."""
    samples, channels, height, width = image.shape
    # Not `image.stride()`, which is arbitrary along an axis of size 1.
    strides = [height * width * channels, width * channels, channels, 1]
    return TensorDescriptor(image, [samples, height, width, channels], strides, block)


def by_row(matrix: Tensor, block: list[int]) -> TensorDescriptor:
    return TensorDescriptor(matrix, list(matrix.shape), [matrix.shape[1], 1], block)
