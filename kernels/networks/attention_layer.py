"""`attention_layer` in Triton: the contexts of pieces of the pixels, their join with the output projection, the result.

The first kernel's program takes a piece of one sample's pixels. It normalises and projects them to keys and values,
and sums their contexts online, as `linear_attention` does. The second joins the pieces and multiplies each head's
context with its part of the output projection. A program of the third takes some pixels with all of their
channels: it projects them to queries, multiplies their softmax with that product, and adds norm, gain and image.

A pixel's norm is linear in the pixel but for its mean and deviation. So the projection takes the image as it is, and
    to_qkv(norm(x) norm_g) = (W x - mean(x) sum(W)) / deviation(x),  W = to_qkv norm_g
is put right in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .conv3x3_tiles import H200, Gpu, gpu_of
from .linear_attention import above_minus_infinity
from .products import product

CHUNK = 128  # channels that a matrix product takes at a time
PIECES = 128  # largest number of pieces of an image: as many programs as a large GPU has multiprocessors
LEAST, MOST = 16, 64  # pixels that a program takes at a time; a matrix product takes no less than 16
CONTEXT_WARPS, WARPS = 8, 4
SHARED_BYTES = 114688  # of a program of the first kernel with 64 pixels; it takes 32 on GPUs that have less


@triton.jit
def add_sums(x, shift, sums, squares):
    """Add a chunk of channels to the pixels' sums and squares about `shift`."""
    d = x.to(tl.float32) - shift[:, None]
    return sums + tl.sum(d, 1), squares + tl.sum(d * d, 1)


@triton.jit
def mean_and_rstd(shift, sums, squares, channels, eps):
    """Return the mean and the inverse deviation of each pixel."""
    apart = sums / channels
    return shift + apart, 1.0 / tl.sqrt(tl.maximum(squares / channels - apart * apart, 0.0) + eps)


@triton.jit
def load_chunk(
    x_pointer, shift, exists, start: tl.constexpr, channels: tl.constexpr, pixels: tl.constexpr, chunk: tl.constexpr
):
    """Return a chunk of channels of some pixels. The rest of the last chunk is the pixel's `shift`, for its sums.

    It adds nothing to products either, because there the weights are zeros.
    """
    p, c = tl.arange(0, pixels), start + tl.arange(0, chunk)
    there = (c < channels)[None, :]
    x = tl.load(x_pointer + p[:, None] * channels + c[None, :], mask=exists[:, None] & there, other=0.0)
    if channels % chunk == 0:
        return x
    else:
        return tl.where(there, x, shift.to(x.dtype)[:, None])


@triton.jit
def load_rows(pointer, rows, first, c, channels: tl.constexpr):
    """Return a chunk of some rows of a matrix of `channels` columns."""
    return tl.load(
        pointer + rows[:, None] * channels + (first + c)[None, :], mask=(first + c < channels)[None, :], other=0.0
    )


@triton.jit
def attention_layer_context_kernel(
    x_pointer,
    weight_pointer,
    row_sums_pointer,
    parts_pointer,
    numel,
    pieces,
    eps,
    channels: tl.constexpr,
    heads: tl.constexpr,
    features: tl.constexpr,
    tiles: tl.constexpr,
    pixels: tl.constexpr,
    chunk: tl.constexpr,
):
    # A head's part of a piece has features + 2 rows: the largest keys, the sums of exponentials, and the context. The
    # features are the rows of all products, so that a feature's sums over the pixels stay within a warp. The contexts
    # are the blocks on the diagonal of one product: the rest of it costs less than reading the pixels for each head.
    inner: tl.constexpr = heads * features
    piece, sample = tl.program_id(0) % pieces, (tl.program_id(0) // pieces).to(tl.int64)
    x_pointer += sample * numel * channels
    p, f, c = tl.arange(0, pixels), tl.arange(0, inner), tl.arange(0, chunk)
    key_sums, value_sums = tl.load(row_sums_pointer + inner + f), tl.load(row_sums_pointer + 2 * inner + f)
    largest = tl.full((inner,), float("-inf"), tl.float32)
    total = tl.zeros((inner,), tl.float32)
    context = tl.zeros((inner, inner), tl.float32)
    for i in tl.range(tiles):
        first = (piece * tiles + i) * pixels
        exists = first + p < numel
        here = x_pointer + first.to(tl.int64) * channels
        shift = tl.load(here + p * channels, mask=exists, other=0.0).to(tl.float32)
        sums, squares = tl.zeros((pixels,), tl.float32), tl.zeros((pixels,), tl.float32)
        k, v = tl.zeros((inner, pixels), tl.float32), tl.zeros((inner, pixels), tl.float32)
        for start in tl.static_range(0, channels, chunk):
            x = load_chunk(here, shift, exists, start, channels, pixels, chunk)
            k = product(load_rows(weight_pointer, inner + f, start, c, channels), tl.trans(x), k)
            v = product(load_rows(weight_pointer, 2 * inner + f, start, c, channels), tl.trans(x), v)
            sums, squares = add_sums(x, shift, sums, squares)
        mean, rstd = mean_and_rstd(shift, sums, squares, channels, eps)
        k = (k - key_sums[:, None] * mean[None, :]) * rstd[None, :]
        v = (v - value_sums[:, None] * mean[None, :]) * rstd[None, :]
        k = tl.where(exists[None, :], k, float("-inf"))
        v = tl.where(exists[None, :], v, 0.0)
        top = tl.maximum(largest, tl.max(k, 1))
        base = above_minus_infinity(top)
        k = tl.exp(k - base[:, None])
        shrink = tl.exp(largest - base)
        dtype = x_pointer.dtype.element_ty
        context = product(k.to(dtype), tl.trans(v.to(dtype)), context * shrink[:, None])
        total = total * shrink + tl.sum(k, 1)
        largest = top
    head, row = f // features, f % features
    part = parts_pointer + (tl.program_id(0).to(tl.int64) * heads + head) * ((features + 2) * features)
    tl.store(part + row, largest)
    tl.store(part + features + row, total)
    places = part[:, None] + (row[:, None] + 2) * features + row[None, :]
    tl.store(places, context, mask=head[:, None] == head[None, :])


@triton.jit
def attention_layer_combine_kernel(
    parts_pointer,
    to_out_pointer,
    product_pointer,
    pieces,
    channels: tl.constexpr,
    heads: tl.constexpr,
    features: tl.constexpr,
    all_pieces: tl.constexpr,
    chunk: tl.constexpr,
):
    # One row of a head's context, one feature of the keys by all features of the values, times the head's projection.
    row = tl.program_id(0) % (heads * features)
    sample, head = (tl.program_id(0) // (heads * features)).to(tl.int64), row // features
    i, f = tl.arange(0, all_pieces), tl.arange(0, features)
    part = parts_pointer + ((sample * pieces + i) * heads + head) * ((features + 2) * features)
    largest = tl.load(part + row % features, mask=i < pieces, other=float("-inf"))
    weight = tl.exp(largest - above_minus_infinity(tl.max(largest, 0)))
    total = tl.sum(tl.load(part + features + row % features, mask=i < pieces, other=0.0) * weight, 0)
    rows = part[:, None] + (row % features + 2) * features + f[None, :]
    context = tl.sum(tl.load(rows, mask=(i < pieces)[:, None], other=0.0) * weight[:, None], 0) / total
    c = tl.arange(0, chunk)
    for start in tl.range(0, channels, chunk):
        at = (start + c)[:, None] * (heads * features) + head * features + f[None, :]
        to_out = tl.load(to_out_pointer + at, mask=(start + c < channels)[:, None], other=0.0)
        projected = tl.sum(to_out * context[None, :], 1)
        place = product_pointer + tl.program_id(0).to(tl.int64) * channels + start + c
        tl.store(place, projected.to(product_pointer.dtype.element_ty), mask=start + c < channels)


@triton.jit
def project_out(product_pointer, query, bias_pointer, rows, start, c, factor, channels: tl.constexpr):
    """Return a chunk of channels of the output projection in float32."""
    y = tl.zeros((query.shape[0], c.shape[0]), tl.float32)
    y = product(query, load_rows(product_pointer, rows, start, c, channels), y)
    return y * factor + tl.load(bias_pointer + start + c, mask=start + c < channels, other=0.0)[None, :]


@triton.jit
def attention_layer_kernel(
    x_pointer,
    weight_pointer,
    row_sums_pointer,
    product_pointer,
    bias_pointer,
    g_pointer,
    result_pointer,
    numel,
    blocks,
    factor,
    eps,
    channels: tl.constexpr,
    heads: tl.constexpr,
    features: tl.constexpr,
    pixels: tl.constexpr,
    chunk: tl.constexpr,
):
    sample, first = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * pixels
    here = (sample * numel + first) * channels
    p, c, rows = tl.arange(0, pixels), tl.arange(0, chunk), tl.arange(0, heads * features)
    exists = first + p < numel
    x_pointer += here
    shift = tl.load(x_pointer + p * channels, mask=exists, other=0.0).to(tl.float32)
    sums, squares = tl.zeros((pixels,), tl.float32), tl.zeros((pixels,), tl.float32)
    q = tl.zeros((pixels, heads * features), tl.float32)
    for start in tl.static_range(0, channels, chunk):
        x = load_chunk(x_pointer, shift, exists, start, channels, pixels, chunk)
        q = product(x, tl.trans(load_rows(weight_pointer, rows, start, c, channels)), q)
        sums, squares = add_sums(x, shift, sums, squares)
    mean, rstd = mean_and_rstd(shift, sums, squares, channels, eps)
    q = (q - mean[:, None] * tl.load(row_sums_pointer + rows)[None, :]) * rstd[:, None]

    # The softmax of each head's features.
    q = tl.reshape(q, (pixels, heads, features))
    q = tl.exp(q - tl.max(q, 2)[:, :, None])
    q = q / tl.sum(q, 2)[:, :, None]
    query = tl.reshape(q, (pixels, heads * features)).to(x_pointer.dtype.element_ty)

    # The mean and the deviation of a pixel's projection, about the mean of its first channels.
    product_pointer += sample * (heads * features * channels)
    y = project_out(product_pointer, query, bias_pointer, rows, 0, c, factor, channels)
    shift = tl.sum(tl.where((c < channels)[None, :], y, 0.0), 1) / tl.minimum(channels, chunk)
    sums, squares = tl.zeros((pixels,), tl.float32), tl.zeros((pixels,), tl.float32)
    for start in tl.static_range(0, channels, chunk):
        if start > 0:
            y = project_out(product_pointer, query, bias_pointer, rows, start, c, factor, channels)
        d = tl.where((start + c < channels)[None, :], y - shift[:, None], 0.0)
        sums += tl.sum(d, 1)
        squares += tl.sum(d * d, 1)
    mean, rstd = mean_and_rstd(shift, sums, squares, channels, eps)

    for start in tl.static_range(0, channels, chunk):
        if channels > chunk:  # Compute it once more: all channels together do not fit in the registers.
            y = project_out(product_pointer, query, bias_pointer, rows, start, c, factor, channels)
        there = start + c < channels
        y = (y - mean[:, None]) * rstd[:, None] * tl.load(g_pointer + start + c, mask=there, other=0.0)[None, :]
        at, inside = p[:, None] * channels + (start + c)[None, :], exists[:, None] & there[None, :]
        y += tl.load(x_pointer + at, mask=inside, other=0.0).to(tl.float32)
        tl.store(result_pointer + here + at, y.to(result_pointer.dtype.element_ty), mask=inside)


def launch_config(samples: int, channels: int, numel: int, gpu: Gpu = H200) -> dict[str, int]:
    """Return the tiles of the first kernel, (`tiles` of `pixels` a piece), the pixels of the third's, and the chunk."""
    most = MOST if gpu.shared_bytes >= SHARED_BYTES else MOST // 2

    def within(wanted: int, most: int) -> int:
        return max(LEAST, min(most, triton.next_power_of_2(wanted)))

    pixels = within(samples * numel // PIECES, most)
    return {
        "pixels": pixels,
        "tiles": triton.next_power_of_2(triton.cdiv(numel, pixels * PIECES)),
        "of_third": within(samples * numel // 128, MOST),
        "chunk": min(CHUNK, max(16, triton.next_power_of_2(channels))),
    }


def attention_layer(
    x: Tensor,
    norm_g: Tensor,
    to_qkv: Tensor,
    to_out: Tensor,
    bias: Tensor,
    g: Tensor,
    heads: int,
    eps: float,
    packed: Tensor | None,
) -> Tensor:
    """Launch the kernels; the arguments are the op's (rddm_fast/ops/networks/attention_layer.py).

    packed: the sums of the rows of to_qkv norm_g in float32, and behind them the rows in the image's dtype.
    """
    samples, channels, height, wide = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    result = torch.empty_like(x, memory_format=torch.channels_last)
    if result.numel() == 0:
        return result
    inner, numel = to_out.shape[1], height * wide
    assert packed is not None
    row_sums, weight = packed[: 3 * inner], packed[3 * inner :].view(x.dtype)
    each = {"channels": channels, "heads": heads, "features": inner // heads}
    config = launch_config(samples, channels, numel, gpu_of(x.device))
    chunk = {"chunk": config["chunk"]}
    pieces = triton.cdiv(numel, config["tiles"] * config["pixels"])
    blocks = triton.cdiv(numel, config["of_third"])
    features = inner // heads
    parts = torch.empty((samples, pieces, heads, features + 2, features), dtype=torch.float32, device=x.device)
    product = torch.empty((samples, inner, channels), dtype=x.dtype, device=x.device)
    with torch.cuda.device_of(result):
        attention_layer_context_kernel[(samples * pieces,)](
            x,
            weight,
            row_sums,
            parts,
            numel,
            pieces,
            eps,
            tiles=config["tiles"],
            pixels=config["pixels"],
            num_warps=CONTEXT_WARPS,
            **chunk,
            **each,
        )
        attention_layer_combine_kernel[(samples * inner,)](
            parts, to_out, product, pieces, all_pieces=triton.next_power_of_2(pieces), num_warps=WARPS, **chunk, **each
        )
        attention_layer_kernel[(samples * blocks,)](
            x,
            weight,
            row_sums,
            product,
            bias,
            g,
            result,
            numel,
            blocks,
            features**-0.5 / numel,
            eps,
            pixels=config["of_third"],
            num_warps=WARPS,
            **chunk,
            **each,
        )
    return result
