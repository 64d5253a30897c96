"""Operators that measure one number of each block: super-resolution by block mean, and old photographs.

The image falls apart into blocks of c channels and f × f pixels, and block g is measured by one row r_g:
y_g = <r_g, x_g>. The singular value is |r_g|, and V is a Householder reflection in each block: with u = r / |r|, e the
block's first element and σ = ±1 the sign of u's first element,

    V = I - v v^T / (1 + |u_1|),   v = u + σ e,   V e = -σ u

It needs no more memory than the row, works in place of an f² × f² matrix, and keeps the image's layout: a block's first
element is the measured coordinate. The sum in v never cancels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..operator import RankOneBlocks, SpectralOperator
from .arguments import Constant, check_image, check_mask, check_multiple, check_weights, fitting_mask

_BLOCK = (2, 4, 6)
"""The axes within a block of an image as (B, C / c, c, H / f, f, W / f, f)."""


class BlockRows(SpectralOperator):
    """y_g = <r_g, x_g> for blocks of `channels` channels and `factor` × `factor` pixels.

    Attributes:
        channels: how many channels a block has: 1 or all.
        factor: the block's height and width.
    """

    def __init__(self, image: Sequence[int], channels: int, factor: int) -> None:
        self.image = check_image(image)
        check_multiple(self.image, factor, "factor")
        self.channels, self.factor = channels, factor
        c, height, width = self.image
        self.measured = (c // channels, height // factor, width // factor)

    @abstractmethod
    def rows(self, like: Tensor) -> Tensor:
        """Return the rows r, broadcastable to (B, C / c, c, H / f, f, W / f, f); the axes of a block are whole."""

    def A(self, x: Tensor) -> Tensor:
        return (self._blocks(x) * self.rows(x)).sum(_BLOCK)

    def At(self, y: Tensor) -> Tensor:
        return self._image(self._spread(y) * self.rows(y))

    def pinv(self, y: Tensor) -> Tensor:
        rows = self.rows(y)
        square = rows.square().sum(_BLOCK, keepdim=True)
        return self._image(self._spread(y) * torch.where(square > 0, rows / torch.where(square > 0, square, 1.0), 0.0))

    def project(self, x: Tensor) -> Tensor:
        return self.pinv(self.A(x))

    def Vt(self, x: Tensor) -> Tensor:
        return self._reflect(x).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return self._image(self._reflect(z.reshape(-1, *self.image)))

    def Ut(self, y: Tensor) -> Tensor:
        z = y.new_zeros(len(y), *self.image)
        self._blocks(z)[:, :, 0, :, 0, :, 0] = y * self._signs(y)
        return z.flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return self._blocks(z.reshape(-1, *self.image))[:, :, 0, :, 0, :, 0] * self._signs(z)

    def singulars(self, like: Tensor) -> Tensor:
        norm = self.rows(like).square().sum(_BLOCK).sqrt()
        s = like.new_zeros(len(norm), *self.image)
        self._blocks(s)[:, :, 0, :, 0, :, 0] = norm
        return s.flatten(1)

    def _blocks(self, x: Tensor) -> Tensor:
        c, f, (_, h, w) = self.channels, self.factor, self.measured
        return x.reshape(len(x), self.measured[0], c, h, f, w, f)

    def _image(self, blocks: Tensor) -> Tensor:
        return blocks.reshape(len(blocks), *self.image)

    def _spread(self, y: Tensor) -> Tensor:
        return y[:, :, None, :, None, :, None]

    def _signs(self, like: Tensor) -> Tensor:
        """Return -σ, 0 for a row of zeros; broadcastable to y."""
        rows = self.rows(like)
        signs = 1.0 - 2.0 * (rows[:, :, 0, :, 0, :, 0] >= 0).to(like.dtype)
        return signs * rows.any(2).any(3).any(4)

    def _reflect(self, x: Tensor) -> Tensor:
        rows, blocks = self.rows(x), self._blocks(x)
        norm = rows.square().sum(_BLOCK, keepdim=True).sqrt()
        v = torch.where(norm > 0, rows / torch.where(norm > 0, norm, 1.0), 0.0)
        first = v[:, :, 0, :, 0, :, 0]
        scale = self._spread(1.0 + first.abs())
        first -= self._signs(x)  # rows of zeros stay zeros: the identity
        return blocks - v * ((v * blocks).sum(_BLOCK, keepdim=True) / scale)


class SuperResolution(BlockRows):
    """The mean of each block of f × f pixels; singular value 1/f (DDRM's and DDNM's `sr_averagepooling`).

    It stores nothing.

    Args:
        image: (C, H, W); H and W are multiples of f.
        factor: f, 1 or more.

    Raises:
        ValueError: a factor that does not divide the image.
    """

    def __init__(self, image: Sequence[int], factor: int) -> None:
        super().__init__(image, 1, factor)

    def rows(self, like: Tensor) -> Tensor:
        f = self.factor
        return like.new_full((1, 1, 1, 1, f, 1, f), 1.0 / f**2)

    def A(self, x: Tensor) -> Tensor:
        return self._blocks(x).mean(_BLOCK)

    def pinv(self, y: Tensor) -> Tensor:
        f = self.factor
        return self._image(self._spread(y).expand(-1, -1, 1, -1, f, -1, f))

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks:
        return RankOneBlocks(self.factor, s=1.0 / self.factor)


class OldPhotograph(BlockRows):
    """A torn grey photograph, shrunk: the mean over f × f blocks of the kept pixels' grey (`mask_color_sr`).

    A = block mean ∘ grey ∘ mask. The published inverse, mask ∘ grey ∘ repeat, is no pseudo-inverse; this one is exact:
    a block's pixels become y f² / (number of kept ones), and 0 where none is kept. It stores the mask, a byte a pixel.

    Args:
        image: (C, H, W); H and W are multiples of f.
        factor: f, 1 or more.
        mask: 1 where a pixel is kept; (H, W), or (B, H, W) for a batch of B images.
        weights: of the channels, for the grey; 1/C each by default, as published.

    Attributes:
        batch: B if each image has its own mask, else None.

    Raises:
        ValueError: a factor that does not divide the image, a mask of another size, wrong weights.
    """

    def __init__(self, image: Sequence[int], factor: int, mask: Tensor, weights: Sequence[float] | None = None) -> None:
        c = check_image(image)[0]
        super().__init__(image, c, factor)
        self.mask = Constant(check_mask(mask, self.image))
        self.weights = Constant(check_weights([1 / c] * c if weights is None else weights, c))
        self.batch = len(self.mask.value) if len(self.mask.value) > 1 else None

    def rows(self, like: Tensor) -> Tensor:
        f, (_, h, w) = self.factor, self.measured
        mask = fitting_mask(self.mask, like).view(-1, 1, 1, h, f, w, f)
        return self.weights.like(like).view(1, 1, -1, 1, 1, 1, 1) * mask / f**2

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks:
        weights = tuple(self.weights.value.tolist())
        return RankOneBlocks(
            self.factor, weights, fitting_mask(self.mask, like)
        )  # s depends on the block's kept pixels
