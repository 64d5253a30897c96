"""Matrix products of the networks' images."""

from __future__ import annotations

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a, b, total):
    """Return total + a b, in float32, for factors of bfloat16 or float16."""
    if INTERPRETED:  # Triton's interpreter would multiply the bits of bfloat16 as if they were integers.
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    else:
        return tl.dot(a, b, total)
