"""`walsh_hadamard` in Triton: a program transforms a tile of rows that it holds in registers, by sums and differences.

In natural order H_H x H_W is one transform of the image's H W values in a row, with one stage for each bit of a value's
index. A pass takes some of the bits, from the lowest up: the first one up to 12, which is a whole image of 64 x 64
pixels; a further one up to 8, of columns of the rows that are done.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 4096  # values that a program takes: 32 a thread
FIRST_BITS = 12
FURTHER_BITS = 8  # leaves a tile 16 adjacent columns, to access whole sectors of 32 bytes


@triton.jit
def walsh_hadamard_kernel(
    x_pointer,
    result_pointer,
    rows,
    factor: tl.constexpr,
    low: tl.constexpr,
    length: tl.constexpr,
    tile_rows: tl.constexpr,
    stages: tl.constexpr,
):
    # Row r is `length` values, each `low` behind the one before.
    r = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    i = tl.arange(0, length)
    offsets = (r // low * (length * low) + r % low)[:, None] + i[None, :] * low
    exists = (r < rows)[:, None] & (i < length)[None, :]
    x = tl.load(x_pointer + offsets, mask=exists, other=0.0)
    if x.dtype != tl.float64:
        x = x.to(tl.float32)
    # A stage combines the values whose lowest bits differ, and makes that bit the highest. So the next bit is the
    # lowest one then, and after all stages each is in its place.
    for _ in tl.static_range(stages):
        first, second = tl.split(tl.reshape(x, (tile_rows, length // 2, 2)))
        x = tl.join(first + second, first - second)
        x = tl.reshape(tl.permute(x, (0, 2, 1)), (tile_rows, length))
    if factor != 1.0:
        x = x * factor
    tl.store(result_pointer + offsets, x.to(result_pointer.dtype.element_ty), mask=exists)


def passes_of(bits: int) -> list[int]:
    """Return how many bits of an index each pass takes, for images of 2^bits values."""
    further = max(0, bits - FIRST_BITS)
    count = triton.cdiv(further, FURTHER_BITS)
    return [min(bits, FIRST_BITS), *((further + k) // count for k in range(count))]


def config_of(bits: int) -> dict[str, int]:
    """Return a pass's length, rows of a tile, stages and warps."""
    return {"length": 1 << bits, "tile_rows": TILE >> bits, "stages": bits, "num_warps": 4}


def walsh_hadamard(x: Tensor) -> Tensor:
    """Launch the kernel once a pass; the argument is the op's (rddm_fast/ops/inverse/walsh_hadamard.py)."""
    x = x.contiguous()
    result = x.new_empty(x.shape)
    if result.numel() == 0:
        return result
    size = x.shape[-2] * x.shape[-1]
    passes = passes_of(size.bit_length() - 1)
    # Between the passes the values are in the precision in which they are computed.
    narrow = x.dtype in (torch.bfloat16, torch.float16) and len(passes) > 1
    between = x.new_empty(x.shape, dtype=torch.float32) if narrow else result
    source, done = x, 0
    with torch.cuda.device_of(result):
        for bits in passes:
            last = done + bits == size.bit_length() - 1
            target, config = result if last else between, config_of(bits)
            rows = result.numel() >> bits
            grid = (triton.cdiv(rows, config["tile_rows"]),)
            factor = size**-0.5 if last else 1.0
            walsh_hadamard_kernel[grid](source, target, rows, factor=factor, low=1 << done, **config)
            source, done = target, done + bits
    return result
