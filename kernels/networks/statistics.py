"""The statistics that group norm needs, of pieces of an image: written by one kernel, joined by the next.

Of each piece and group there are the mean, the squared distances from it, and the number of values: `parts` is
(samples, pieces, 3, groups). Chan's formula joins them, first the channels of a group and then the pieces.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

JOINED = 32  # pieces that a program of `join_pieces_kernel` joins


@triton.jit
def store_piece(
    parts_pointer,
    mean,
    squares,
    there,
    count,
    first_group,
    groups: tl.constexpr,
    channels: tl.constexpr,
    of_tile: tl.constexpr,
    width: tl.constexpr,
):
    """Join the columns of each of `of_tile` groups, and store the groups' parts of a piece.

    Args:
        mean, squares, there: of each column, `width` to a group; `there` says which exist.
        count: values of a column.
        first_group: the tile's first group, of all `groups` of `channels` channels.
    """
    there = tl.reshape(there, (of_tile, width))
    mean = tl.where(there, tl.reshape(mean, (of_tile, width)), 0.0)
    squares = tl.where(there, tl.reshape(squares, (of_tile, width)), 0.0)
    of_group = tl.sum(mean, 1) / channels
    apart = tl.where(there, mean - of_group[:, None], 0.0)
    group = first_group + tl.arange(0, of_tile)
    place = parts_pointer + group
    tl.store(place, of_group, mask=group < groups)
    tl.store(place + groups, tl.sum(squares, 1) + count * tl.sum(apart * apart, 1), mask=group < groups)
    tl.store(place + 2 * groups, tl.zeros((of_tile,), tl.float32) + count * channels, mask=group < groups)


@triton.jit
def join_pieces(
    parts_pointer, pieces, first_group, groups: tl.constexpr, of_tile: tl.constexpr, all_pieces: tl.constexpr
):
    """Return the mean, squared distances from it and number of values of `of_tile` groups from `first_group` on.

    They are those of the pieces from a pointer on.
    """
    i, g = tl.arange(0, all_pieces)[:, None], first_group + tl.arange(0, of_tile)
    there = g < groups
    part = parts_pointer + i * (3 * groups) + g[None, :]
    exists = (i < pieces) & there[None, :]
    # About the first piece's mean, so that little cancels and all sums are taken at once.
    about = tl.load(parts_pointer + g, mask=there, other=0.0)
    apart = tl.where(exists, tl.load(part, mask=exists, other=0.0) - about[None, :], 0.0)
    squares = tl.load(part + groups, mask=exists, other=0.0)
    count = tl.load(part + 2 * groups, mask=exists, other=0.0)
    total = tl.sum(count, 0)
    shift = tl.sum(apart * count, 0) / tl.maximum(total, 1.0)
    squares = tl.sum(squares + apart * apart * count, 0) - shift * shift * total
    return about + shift, tl.maximum(squares, 0.0), total


@triton.jit
def join_pieces_kernel(
    parts_pointer,
    joined_pointer,
    pieces,
    joined,
    groups: tl.constexpr,
    all_groups: tl.constexpr,
    together: tl.constexpr,
):
    # A program joins `together` pieces of a sample.
    sample, first = (tl.program_id(0) // joined).to(tl.int64), tl.program_id(0) % joined * together
    parts_pointer += (sample * pieces + first) * (3 * groups)
    mean, squares, total = join_pieces(parts_pointer, pieces - first, 0, groups, all_groups, together)
    g = tl.arange(0, all_groups)
    place = joined_pointer + tl.program_id(0).to(tl.int64) * (3 * groups) + g
    tl.store(place, mean, mask=g < groups)
    tl.store(place + groups, squares, mask=g < groups)
    tl.store(place + 2 * groups, total, mask=g < groups)


def at_most(parts: Tensor, most: int) -> Tensor:
    """Return statistics of at most `most` pieces, which hold those of `parts`."""
    samples, pieces, _, groups = parts.shape
    if pieces <= most:
        return parts
    joined = triton.cdiv(pieces, JOINED)
    fewer = torch.empty((samples, joined, 3, groups), dtype=torch.float32, device=parts.device)
    join_pieces_kernel[(samples * joined,)](
        parts, fewer, pieces, joined, groups, triton.next_power_of_2(groups), JOINED, num_warps=1
    )
    return at_most(fewer, most)
