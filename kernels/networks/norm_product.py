"""The end of a residual block in Triton: group norm, SiLU, and a residual that a 1x1 convolution makes.

The residual is the product of a block's images, one or two, with a matrix. It is added where it is computed: neither
is it stored, nor does it take a launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .group_norm_silu import PIECES, affine, finish, to_columns
from .products import add_chunk, chunk_of, pixels_for
from .statistics import at_most, join_pieces

OUTPUTS = 64  # channels of the result that a program computes: whole groups
WARPS = 4


@triton.jit
def norm_product_kernel(
    x_pointer,
    norm_weight_pointer,
    norm_bias_pointer,
    scale_shift_pointer,
    parts_pointer,
    residual_pointer,
    residual_2_pointer,
    weight_pointer,
    bias_pointer,
    numel,
    pieces,
    blocks,
    by_row,
    eps,
    groups: tl.constexpr,
    width: tl.constexpr,
    channels: tl.constexpr,
    channels_2: tl.constexpr,
    all_pieces: tl.constexpr,
    pixels: tl.constexpr,
    of_tile: tl.constexpr,
    chunk: tl.constexpr,
):
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    first = tl.program_id(0) % blocks * pixels
    first_group = tl.program_id(1) * of_tile
    outputs: tl.constexpr = groups * width
    p, n = tl.arange(0, pixels), first_group * width + tl.arange(0, of_tile * width)
    exists, there = first + p < numel, n < outputs
    row = sample * numel + first
    residual = tl.zeros((pixels, of_tile * width), tl.float32)
    by_output: tl.constexpr = channels + channels_2
    source = residual_pointer + row * channels
    for start in tl.range(0, channels, chunk):
        c = start + tl.arange(0, chunk)
        residual = add_chunk(residual, source, weight_pointer, p, exists, n, there, c, by_output, channels)
    if residual_2_pointer is not None:
        source, rest = residual_2_pointer + row * channels_2, weight_pointer + channels
        for start in tl.range(0, channels_2, chunk):
            c = start + tl.arange(0, chunk)
            residual = add_chunk(residual, source, rest, p, exists, n, there, c, by_output, channels_2)
    if bias_pointer is not None:
        residual += tl.load(bias_pointer + n, mask=there, other=0.0)[None, :]

    # The statistics are computed while the image comes.
    here = x_pointer + row * outputs + p[:, None] * outputs + n[None, :]
    inside = exists[:, None] & there[None, :]
    x = tl.load(here, mask=inside, other=0.0)

    part = parts_pointer + sample * pieces * (3 * groups)
    mean, squares, total = join_pieces(part, pieces, first_group, groups, of_tile, all_pieces)
    rstd = 1.0 / tl.sqrt(squares / tl.maximum(total, 1.0) + eps)
    factor, scales = to_columns(rstd, of_tile, width), sample * by_row
    factor, term = affine(
        factor, norm_weight_pointer, norm_bias_pointer, scale_shift_pointer, scales, n, there, outputs
    )
    y = finish(x, residual, to_columns(mean, of_tile, width), factor, term)
    tl.store(here, y.to(x_pointer.dtype.element_ty), mask=inside)


def launch_config(numel: int, groups: int, width: int, *channels: int) -> dict[str, int]:
    """Return a program's tile, for so many pixels, groups of `width` channels, and the residual's images' channels."""
    all_groups = triton.next_power_of_2(groups)
    of_tile = max(min(all_groups, OUTPUTS // width), 16 // width, 1)  # a product takes no fewer than 16 columns
    pixels = pixels_for(numel, triton.cdiv(groups, of_tile))
    return {"pixels": pixels, "of_tile": of_tile, "chunk": chunk_of(*channels)}


def normalise_and_add_product(
    x: Tensor,
    parts: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor,
    residual_2: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
) -> None:
    """Launch the kernel, which writes its result over `x`.

    Args:
        x: (B, K, H, W), channels-last, and its statistics `parts` (`statistics`). A group has a power of 2 of channels.
        norm_weight, norm_bias, eps, scale_shift: as for `group_norm_silu`.
        residual, residual_2: channels-last, of any number of channels.
        weight, bias: of the 1x1 convolution, (K, C + C_2) in x's dtype and (K,) in float32.
    """
    samples, outputs, height, wide = x.shape
    with torch.cuda.device_of(x):
        parts = at_most(parts, PIECES)
    pieces, groups = parts.shape[1], parts.shape[3]
    channels = [residual.shape[1], 0 if residual_2 is None else residual_2.shape[1]]
    width, numel = outputs // groups, height * wide
    config = launch_config(numel, groups, width, *channels)
    blocks = triton.cdiv(numel, config["pixels"])
    with torch.cuda.device_of(x):
        norm_product_kernel[(samples * blocks, triton.cdiv(groups, config["of_tile"]))](
            x,
            norm_weight,
            norm_bias,
            scale_shift,
            parts,
            residual,
            residual_2,
            weight,
            bias,
            numel,
            pieces,
            blocks,
            0 if scale_shift is None or len(scale_shift) == 1 else 2 * outputs,
            eps,
            groups=groups,
            width=width,
            channels=channels[0],
            channels_2=channels[1],
            all_pieces=triton.next_power_of_2(pieces),
            num_warps=WARPS,
            **config,
        )
