"""Matrix products of the networks' images."""

from __future__ import annotations

import triton
import triton.language as tl

CHUNK = 64  # channels that a product takes at a time
PIXELS = 64  # the most of a program; with 128, those of 64 outputs spill registers
PROGRAMS = 128  # as many as a large GPU has multiprocessors, if the image has the pixels
INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a, b, total):
    """Return total + a b, in float32, for factors of bfloat16 or float16."""
    if INTERPRETED:  # Triton's interpreter would multiply the bits of bfloat16 as if they were integers.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(a, b, total)


@triton.jit
def add_chunk(total, x_pointer, weight_pointer, pixel, exists, n, there, c, by_output, channels: tl.constexpr):
    """Return `total` (pixels, outputs) plus the product of a chunk of some pixels' channels and of some weight's rows.

    Args:
        total: float32.
        pixel, exists: the pixels' numbers in a channels-last image of so many `channels`, and which of them exist.
        n, there: the rows' numbers, and which of them exist.
        c: the channels of the chunk. Those that the image has not are zeros.
        by_output: the distance between rows.
    """
    inside = (c < channels)[None, :]
    x = tl.load(x_pointer + pixel[:, None] * channels + c[None, :], mask=exists[:, None] & inside, other=0.0)
    weight = tl.load(weight_pointer + n[:, None] * by_output + c[None, :], mask=there[:, None] & inside, other=0.0)
    return product(x, tl.trans(weight), total)


def chunk_of(*channels: int) -> int:
    """Return the channels that a product takes at a time, for images of so many."""
    return max(16, min(CHUNK, triton.next_power_of_2(max(channels))))


def pixels_for(pixels: int, columns: int) -> int:
    """Return the pixels of a program, for so many of an image and programs in each of so many columns of outputs.

    They are as many as leave each multiprocessor of a large GPU a program.
    """
    return max(16, min(PIXELS, triton.next_power_of_2(pixels * columns // PROGRAMS)))
