"""The tiles of `conv3x3`'s programs, and the choice among them."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import torch
import triton


class Gpu(NamedTuple):
    """What a choice of a tile depends on; an H200's numbers.

    Attributes:
        multiprocessors: their number.
        shared_bytes: the shared memory that a program may have.
        described: whether tensors are read through descriptors (TMA), and not by pointers with masks.
    """

    multiprocessors: int = 132
    shared_bytes: int = 227 << 10
    described: bool = True


H200 = Gpu()


class Tile(NamedTuple):
    """How a program computes its share.

    Attributes:
        rows, columns: its pixels, powers of 2.
        channels: its output channels, a power of 2.
        depth: at most so many input channels at a time, a power of 2 from 16.
        stages: how many tiles of both factors are in flight or in use.
        warps: a multiple of 4, the warps that share a tensor core instruction.
    """

    rows: int
    columns: int
    channels: int
    depth: int
    stages: int
    warps: int

    @property
    def pixels(self) -> int:
        return self.rows * self.columns

    @property
    def sums(self) -> int:
        """The sums that a thread keeps."""
        return self.pixels * self.channels // (32 * self.warps)

    def divides(self, height: int, width: int) -> bool:
        """Return whether an image consists of whole tiles."""
        return height % self.rows == 0 and width % self.columns == 0

    @property
    def shared_bytes(self) -> int:
        """The shared memory of both factors' tiles in halves, and of the barriers."""
        return 2 * self.stages * self.depth * (self.pixels + self.channels) + 16 * self.stages

    def runs_on(self, gpu: Gpu) -> bool:
        """Return whether the tile fits.

        Without descriptors a thread keeps the addresses of all 16 bytes that it copies. 12 of them beside 64 sums spill
        from its registers, and so do 128 sums.
        """
        copies = (self.pixels + self.channels) * self.depth // (8 * 32 * self.warps)
        return self.shared_bytes <= gpu.shared_bytes and (gpu.described or (self.sums <= 64 and copies <= 10))

    def __str__(self) -> str:
        pixels = f"{self.rows}x{self.columns}"
        return f"{pixels} by {self.channels}, {self.depth} deep, {self.stages} stages, {self.warps} warps"


CANDIDATES = (
    Tile(4, 8, 64, 64, stages=6, warps=4),
    Tile(8, 8, 64, 64, stages=6, warps=4),
    Tile(8, 8, 128, 64, stages=4, warps=4),
    Tile(8, 16, 64, 64, stages=4, warps=4),
    Tile(8, 16, 64, 64, stages=3, warps=4),
    Tile(16, 16, 64, 64, stages=4, warps=8),
    Tile(16, 16, 64, 64, stages=4, warps=4),
    Tile(16, 16, 64, 32, stages=4, warps=4),
    Tile(8, 16, 128, 64, stages=5, warps=8),
    Tile(8, 16, 128, 64, stages=3, warps=4),
    Tile(16, 16, 128, 64, stages=4, warps=8),
    Tile(8, 16, 256, 64, stages=4, warps=8),
)
"""What `launch_config` chooses among, and a benchmark times."""


@functools.lru_cache
def gpu_of(device: torch.device) -> Gpu:
    """Return what `launch_config` needs to know of a device; the interpreter's is taken for an H200."""
    if device.type != "cuda":
        return H200
    found = triton.runtime.driver.active.utils.get_device_properties(device.index)
    described = torch.cuda.get_device_capability(device) >= (9, 0)
    return Gpu(found["multiprocessor_count"], found["max_shared_mem"], described)


def depth_for(*channels: int, most: int = 64) -> int:
    """Return the input channels that a program takes at a time: the largest power of 2 that divides all `channels`."""
    common = math.gcd(*channels, most)
    return common & -common


class Site(NamedTuple):
    """What a tile is chosen for.

    Attributes:
        shape: (B, C, H, W) of the image, C counting the channels of both parts.
        out_channels, upsample: the op's.
        least: channels of a group, if the statistics of groups are wanted: a program computes as many.
    """

    shape: tuple[int, ...]
    out_channels: int
    upsample: bool = False
    least: int = 1


MEASURED: dict[tuple[Site, Gpu], Tile] = {}
"""Tiles that a measurement has chosen in this process; `launch_config` returns them in the place of its own."""


def launch_config(site: Site, gpu: Gpu = H200) -> Tile:
    """Return the tile that was measured to be the fastest, or the first by a simple count (`ranked`)."""
    return MEASURED.get((site, gpu)) or ranked(site, gpu)[0]


@functools.lru_cache(maxsize=4096)
def ranked(site: Site, gpu: Gpu = H200) -> list[Tile]:
    """Return those of CANDIDATES that serve, first the one that takes the fewest clocks by a simple count.

    A multiprocessor multiplies 2048 pairs of halves in a clock and reads about 40 bytes from the second-level cache,
    both at once. A program's start and end, in which it does neither, take about 2000 clocks, unless another program
    has room beside it. The numbers are estimates. On an H200 the first tile was at most 4 % slower than the best one
    in each of the 15 convolutions of the published network (`rddm-fast bench conv3x3 --candidates`).
    """
    samples, channels, height, width = site.shape
    phases, taps = (4, 4) if site.upsample else (1, 9)

    def clocks(tile: Tile) -> float:
        places = triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.columns)
        programs = samples * places * phases * triton.cdiv(site.out_channels, tile.channels)
        product = tile.pixels * tile.channels / 2048
        reading = 2 * (tile.pixels + tile.channels) / 40
        rounds = triton.cdiv(programs, gpu.multiprocessors)
        together = min(rounds, gpu.shared_bytes // tile.shared_bytes)
        return rounds * (taps * channels * max(product, reading) + 2000 / together)

    def serves(tile: Tile) -> bool:
        # Beside the masks of a border, 128 sums and their statistics spill registers.
        whole = site.least == 1 or tile.sums <= 64 or tile.divides(height, width)
        return tile.runs_on(gpu) and tile.channels >= site.least and whole

    return sorted(filter(serves, CANDIDATES), key=clocks)
