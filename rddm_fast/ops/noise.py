"""Standard normal noise as a function of (seed, stream, element): the reference, in plain torch.

Philox4x32-10 (Salmon et al., SC 2011), with the seed as key and (block, stream) as counter, gives four words. Two
Box-Muller transforms turn them into four normals. Element e of an image, counted in logical (N, C, H, W) order, is
normal e % 4 of block e // 4. So the noise does not depend on device, backend, memory layout or on how an image is cut
into pieces, and one op can draw again what another drew. The compiled version is csrc/common/noise.h.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> list[Tensor]:
    """Return four words (int64 tensors in [0, 2^32)) for a counter of four such words and a key of two."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]  # modulo 2^64, as int64
        high0, high1 = (product0 >> 32) & _MASK, (product1 >> 32) & _MASK
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, product1 & _MASK, high0 ^ c3 ^ k1, product0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return [c0, c1, c2, c3]


def box_muller(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two float64 normals from two words: 24 bits of `a` for the radius, 24 of `b` for the angle."""
    radius = (-2 * torch.log(((a >> 8) + 1).double() / 2**24)).sqrt()
    angle = (b >> 8).double() * (2 * math.pi / 2**24)
    return radius * angle.cos(), radius * angle.sin()


def normals_at(elements: Tensor, seed: int, stream: int = 0) -> Tensor:
    """Return the normals of `elements`, an int64 tensor of logical indices (from 0, below 2^63), in float64."""
    block, which = elements >> 2, elements & 3
    seed, stream = seed & (2**64 - 1), stream & (2**64 - 1)
    counter = [block & _MASK, block >> 32, *(torch.full_like(block, word) for word in (stream & _MASK, stream >> 32))]
    words = philox(counter, (seed & _MASK, seed >> 32))
    four = [*box_muller(words[0], words[1]), *box_muller(words[2], words[3])]
    return torch.stack(four, dim=-1).gather(-1, which.unsqueeze(-1)).squeeze(-1)


def signed64(x: int) -> int:
    """Reinterpret a 64-bit integer, signed or unsigned, as the signed one of the same bits, which torch's ops take.

    Raises:
        ValueError: an integer of more bits.
    """
    if not -(2**63) <= x < 2**64:
        raise ValueError(f"seeds and streams are 64-bit integers, and {x} is not one")
    return x - 2**64 if x >= 2**63 else x


def noise(shape: Sequence[int], seed: int, stream: int = 0, device: torch.device | str = "cpu") -> Tensor:
    """Draw the noise that the ops draw for an image of `shape`, in float32.

    Args:
        shape: the image's shape, in logical order.
        seed, stream: 64-bit integers. The streams of a seed are independent; a sampler uses one per step.
    """
    elements = torch.arange(math.prod(shape), device=device)
    return normals_at(elements, seed, stream).float().reshape(tuple(shape))
