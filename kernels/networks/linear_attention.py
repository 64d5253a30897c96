"""`linear_attention` in Triton: the context of pieces of the pixels, their combination, and its product with q.

A program takes one piece of the pixels of one head of one sample. The keys' softmax over the pixels is computed
online: it sums exponentials of the differences from the largest key so far, and rescales the sum at every larger key.
The pieces are combined in a fixed order, so a result has the same bits every time. Two strides say where the values
lie, so one kernel serves both layouts.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS = 64  # pixels that a program takes at a time
PIECES = 128  # largest number of pieces of an image
WARPS = 2  # 4 take 7 % longer at 256 x 256 on an H200, and 25 % for 16 images (benchmarks/results/h200/notes.md)
PRECISION = {torch.float32: "ieee", torch.bfloat16: "tf32", torch.float16: "tf32x3"}
"""The precision of matrix products, by the image's dtype.

TF32 has 11 bits, which hold bfloat16 and float16 values exactly. The other factor is computed in float32. Rounded to
11 bits, it still has 3 more than bfloat16. float16 has 11 bits itself, so "tf32x3" adds a second TF32 term.
"""


@triton.jit
def head_start(head, heads, features, by_sample, by_channel):
    # The offset of a sample's head: of its queries, or of its result in an image with a third of the channels.
    return head // heads * by_sample + head % heads * features * by_channel


@triton.jit
def places(p, f, by_channel, by_pixel):
    # 64 bits: in a contiguous image the last feature can be more than 2^31 values behind the first.
    return p[:, None].to(tl.int64) * by_pixel + f[None, :].to(tl.int64) * by_channel


@triton.jit
def above_minus_infinity(largest):
    # What to subtract from the exponents. If all keys are minus infinity, all exponentials are 0.
    return tl.where(largest == float("-inf"), 0.0, largest)


@triton.jit
def linear_attention_context_kernel(
    qkv_pointer,
    parts_pointer,
    numel,
    pieces,
    heads,
    by_sample,
    by_part,
    by_channel,
    by_pixel,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    features: tl.constexpr,
    width: tl.constexpr,
    precision: tl.constexpr,
):
    # A piece's part has features + 2 rows: the largest keys, the sums of exponentials, and the context.
    p = tl.arange(0, pixels)
    f = tl.arange(0, width)
    # 64 bits: with all heads of a large batch an offset can be more than 2^31.
    head = (tl.program_id(0) // pieces).to(tl.int64)
    first = tl.program_id(0) % pieces * (tiles * pixels)
    keys = qkv_pointer + head_start(head, heads, features, by_sample, by_channel) + by_part
    offsets = places(p, f, by_channel, by_pixel)
    largest = tl.full((width,), float("-inf"), tl.float32)
    total = tl.zeros((width,), tl.float32)
    context = tl.zeros((width, width), tl.float32)
    for i in range(tiles):
        at = first + i * pixels
        exists = (at + p < numel)[:, None] & (f < features)[None, :]
        here = keys + at.to(tl.int64) * by_pixel
        k = tl.load(here + offsets, mask=exists, other=float("-inf")).to(tl.float32)
        v = tl.load(here + by_part + offsets, mask=exists, other=0.0).to(tl.float32)
        top = tl.maximum(largest, tl.max(k, 0))
        base = above_minus_infinity(top)
        k = tl.exp(k - base[None, :])
        shrink = tl.exp(largest - base)
        context = context * shrink[:, None] + tl.dot(tl.trans(k), v, input_precision=precision)
        total = total * shrink + tl.sum(k, 0)
        largest = top
    part = parts_pointer + tl.program_id(0).to(tl.int64) * ((features + 2) * features)
    tl.store(part + f, largest, mask=f < features)
    tl.store(part + features + f, total, mask=f < features)
    rows = part + (f[:, None] + 2) * features + f[None, :]
    tl.store(rows, context, mask=(f < features)[:, None] & (f < features)[None, :])


@triton.jit
def linear_attention_combine_kernel(
    parts_pointer,
    context_pointer,
    pieces,
    factor,
    all_pieces: tl.constexpr,
    features: tl.constexpr,
    width: tl.constexpr,
):
    # One row of a head's context: one feature of the keys by all features of the values.
    head, row = (tl.program_id(0) // features).to(tl.int64), tl.program_id(0) % features
    i = tl.arange(0, all_pieces)
    f = tl.arange(0, width)
    there = i < pieces
    part = parts_pointer + (head * pieces + i) * ((features + 2) * features)
    largest = tl.load(part + row, mask=there, other=float("-inf"))
    weight = tl.exp(largest - above_minus_infinity(tl.max(largest, 0)))
    total = tl.sum(tl.load(part + features + row, mask=there, other=0.0) * weight, 0)
    exists = there[:, None] & (f < features)[None, :]
    context = tl.load(part[:, None] + (row + 2) * features + f[None, :], mask=exists, other=0.0)
    context = tl.sum(context * weight[:, None], 0) / total * factor
    tl.store(context_pointer + (head * features + row) * features + f, context, mask=f < features)


@triton.jit
def linear_attention_kernel(
    qkv_pointer,
    context_pointer,
    result_pointer,
    numel,
    blocks,
    heads,
    by_sample,
    by_channel,
    by_pixel,
    by_result_sample,
    by_result_pixel,
    pixels: tl.constexpr,
    features: tl.constexpr,
    width: tl.constexpr,
    precision: tl.constexpr,
):
    p = tl.arange(0, pixels)
    f = tl.arange(0, width)
    head, first = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * pixels
    exists = (first + p < numel)[:, None] & (f < features)[None, :]
    queries = qkv_pointer + head_start(head, heads, features, by_sample, by_channel)
    queries += first.to(tl.int64) * by_pixel
    q = tl.load(queries + places(p, f, by_channel, by_pixel), mask=exists, other=float("-inf")).to(tl.float32)
    q = tl.exp(q - tl.max(q, 1)[:, None])
    q = q / tl.sum(q, 1)[:, None]
    rows = context_pointer + (head * features + f[:, None]) * features + f[None, :]
    context = tl.load(rows, mask=(f < features)[:, None] & (f < features)[None, :], other=0.0)
    y = tl.dot(q, context, input_precision=precision)
    result_pointer += head_start(head, heads, features, by_result_sample, by_channel)
    result_pointer += first.to(tl.int64) * by_result_pixel
    offsets = places(p, f, by_channel, by_result_pixel)
    tl.store(result_pointer + offsets, y.to(result_pointer.dtype.element_ty), mask=exists)


def linear_attention(qkv: Tensor, heads: int) -> Tensor:
    """Launch the kernels; the arguments are the op's (rddm_fast/ops/linear_attention.py)."""
    samples, channels, height, wide = qkv.shape
    pixels_together = qkv.is_contiguous(memory_format=torch.channels_last) and not qkv.is_contiguous()
    memory_format = torch.channels_last if pixels_together else torch.contiguous_format
    shape = (samples, channels // 3, height, wide)
    result = torch.empty(shape, dtype=qkv.dtype, device=qkv.device, memory_format=memory_format)
    if result.numel() == 0:
        return result
    inner, numel = channels // 3, height * wide
    features = inner // heads
    if result.is_contiguous():
        qkv, by_channel, by_pixel, by_result_pixel = qkv.contiguous(), numel, 1, 1
    else:
        by_channel, by_pixel, by_result_pixel = 1, channels, inner
    tiles = triton.next_power_of_2(triton.cdiv(numel, PIXELS * PIECES))  # per piece; a power of 2, to compile few
    pieces, blocks = triton.cdiv(numel, tiles * PIXELS), triton.cdiv(numel, PIXELS)
    each = {"features": features, "width": max(16, triton.next_power_of_2(features))}  # tl.dot takes no less than 16
    parts = torch.empty((samples * heads, pieces, features + 2, features), dtype=torch.float32, device=qkv.device)
    context = torch.empty((samples * heads, features, features), dtype=torch.float32, device=qkv.device)
    product = {"pixels": PIXELS, "precision": PRECISION[qkv.dtype], "num_warps": WARPS, **each}
    place = (heads, channels * numel)
    with torch.cuda.device_of(result):
        linear_attention_context_kernel[(samples * heads * pieces,)](
            qkv, parts, numel, pieces, *place, inner * by_channel, by_channel, by_pixel, tiles=tiles, **product
        )
        linear_attention_combine_kernel[(samples * heads * features,)](
            parts,
            context,
            pieces,
            features**-0.5 / numel,
            all_pieces=triton.next_power_of_2(pieces),
            **each,
            num_warps=WARPS,
        )
        linear_attention_kernel[(samples * heads * blocks,)](
            qkv, context, result, numel, blocks, *place, by_channel, by_pixel, inner * numel, by_result_pixel, **product
        )
    return result
