"""The tiles of `conv3x3` and `conv_norm_silu` by Triton, by name, so that a measurement can choose among them.

A tile says how a convolution is divided into programs. Without a measurement a count of clocks chooses it
(`kernels/networks/conv3x3_tiles.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class TiledConvolution:
    """A 3x3 convolution by Triton of images of one size.

    Attributes:
        device: where it runs.
        shape: (B, C, H, W) of its images, C counting the channels of both parts.
        out_channels, upsample: the op's.
        group: channels of a group of the norm that follows in the same op; 1 without a norm.
    """

    device: torch.device
    shape: Sequence[int]
    out_channels: int
    upsample: bool = False
    group: int = 1

    def names(self) -> list[str]:
        """Return the names of the tiles that serve it, the likely fastest first."""
        return [str(tile) for tile in self._ranked()]

    def take(self, name: str) -> None:
        """Let the convolution take the tile of this name, from now on and in the whole process.

        Raises ValueError if no such tile serves it.
        """
        from ...kernels.networks.conv3x3_tiles import MEASURED

        tile = next((tile for tile in self._ranked() if str(tile) == name), None)
        if tile is None:
            raise ValueError(f"no tile {name!r} serves a 3x3 convolution of {tuple(self.shape)} images")
        MEASURED[self._key()] = tile

    @contextmanager
    def taking(self, name: str) -> Iterator[None]:
        """Return a context in which the convolution takes the tile of this name."""
        from ...kernels.networks.conv3x3_tiles import MEASURED

        before = MEASURED.get(self._key())
        self.take(name)
        try:
            yield
        finally:
            del MEASURED[self._key()]
            if before is not None:
                MEASURED[self._key()] = before

    def _ranked(self):  # type: ignore[no-untyped-def]  # Triton may not be here, so its module has no types
        from ...kernels.networks.conv3x3_tiles import ranked

        return ranked(*self._key())

    def _key(self):  # type: ignore[no-untyped-def]
        from ...kernels.networks.conv3x3_tiles import Site, gpu_of

        return Site(tuple(self.shape), self.out_channels, self.upsample, self.group), gpu_of(self.device)
