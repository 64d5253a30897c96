"""The noise of csrc/common/noise.h inside Triton kernels, with the same polynomials in the same order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def log_of_unit(u):
    # ln u for u in [2^-24, 1], split into a mantissa in [sqrt(1/2), sqrt(2)) and its exponent.
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23
    x = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e = exponent.to(tl.float32)
    z = x * x
    y = 7.0376836292e-2 * x - 1.1514610310e-1
    y = y * x + 1.1676998740e-1
    y = y * x - 1.2420140846e-1
    y = y * x + 1.4249322787e-1
    y = y * x - 1.6668057665e-1
    y = y * x + 2.0000714765e-1
    y = y * x - 2.4999993993e-1
    y = y * x + 3.3333331174e-1
    y = y * x * z - 2.12194440e-4 * e - 0.5 * z
    return x + y + 0.693359375 * e


@triton.jit
def box_muller(a, b):
    u = ((a >> 8).to(tl.int32) + 1).to(tl.float32) * 5.9604644775390625e-08  # 2^-24
    radius = tl.sqrt(-2.0 * log_of_unit(u))
    turn = (b >> 8).to(tl.int32)
    quarter = (turn + (1 << 21)) >> 22
    x = (turn - (quarter << 22)).to(tl.float32) * 3.7450703e-7  # 2 pi / 2^24
    z = x * x
    sine = ((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + x
    cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z - 0.5 * z + 1.0
    swapped = (quarter & 1) != 0
    along = tl.where(swapped, sine, cosine)
    across = tl.where(swapped, cosine, sine)
    along = tl.where(((quarter + 1) & 2) != 0, -along, along)
    across = tl.where((quarter & 2) != 0, -across, across)
    return radius * along, radius * across


@triton.jit
def four_normals(seed, stream, blocks):
    # The four normals of each of `blocks` (of 32 or 64 bits). tl.philox is Philox4x32-10 with the seed as its key.
    # Triton passes an integer that fits in 32 bits as 32 bits; sign extension keeps its value.
    seed = seed.to(tl.int64)
    stream = stream.to(tl.int64)
    low = blocks.to(tl.uint32)
    high = (blocks >> 32).to(tl.uint32) if blocks.dtype.primitive_bitwidth == 64 else tl.zeros_like(low)
    stream_low = tl.zeros_like(low) + (stream & 0xFFFFFFFF).to(tl.uint32)
    stream_high = tl.zeros_like(low) + ((stream >> 32) & 0xFFFFFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, low, high, stream_low, stream_high)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return z0, z1, z2, z3


@triton.jit
def normals_of_blocks(seed, stream, blocks):
    # All of their normals, in order.
    z0, z1, z2, z3 = four_normals(seed, stream, blocks)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit
def drawn_noise(
    seed,
    stream,
    first,
    channels,
    pixels,
    pixels_together: tl.constexpr,
    block: tl.constexpr,
    in_fours: tl.constexpr = 0,
):
    """Return the noise of `block` elements of an image from `first` on, in memory order; 4 divides `first`.

    If `pixels_together` (channels-last), neighbours in memory are far apart in logical order, and each element needs a
    Philox block of its own. With `in_fours`, the number of channels if four pixels have whole blocks, each block is
    drawn once; `first` is then a multiple of 4 * in_fours, and the last block % (4 * in_fours) elements are arbitrary.

    All is computed in the type of `first`: int32 takes a third of the instructions of int64's divisions.
    """
    if in_fours > 0:
        # Unsigned numbers take the fewest instructions to divide.
        number: tl.constexpr = tl.uint64 if first.dtype == tl.int64 else tl.uint32
        draws = tl.arange(0, block // 4).to(tl.uint32)
        fours = (pixels >> 2).to(number)  # of an image
        four = first.to(number) // (4 * in_fours) + draws // in_fours
        blocks = (four // fours * (in_fours - 1) + draws % in_fours) * fours + four
        z0, z1, z2, z3 = four_normals(seed, stream, blocks)
        # By normal, then by block: the order in which the threads have them, so that only the gather exchanges any.
        normals = tl.permute(tl.join(tl.join(z0, z1), tl.join(z2, z3)), (2, 1, 0))
        elements = tl.arange(0, block).to(tl.uint32)
        pixel = elements // in_fours
        at = pixel % 4 * (block // 4) + pixel // 4 * in_fours + elements % in_fours
        return tl.gather(tl.reshape(normals, (block,)), tl.minimum(at.to(tl.int32), block - 1), 0)
    elif pixels_together:
        channels = channels.to(first.dtype)
        pixels = pixels.to(first.dtype)
        elements = first + tl.arange(0, block)
        within = elements % (channels * pixels)
        image = elements // (channels * pixels)
        logical = (image * channels + within % channels) * pixels + within // channels
        z0, z1, z2, z3 = four_normals(seed, stream, logical >> 2)
        which = logical & 3
        return tl.where(which == 0, z0, tl.where(which == 1, z1, tl.where(which == 2, z2, z3)))
    else:
        return normals_of_blocks(seed, stream, (first >> 2) + tl.arange(0, block // 4))
