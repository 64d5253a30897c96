"""Operators that measure each pixel alone: denoising, inpainting, colourisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..operator import RankOneBlocks, SpectralOperator
from .arguments import Constant, check_image, check_mask, check_weights, fitting_mask
from .blocks import BlockRows


class Denoising(SpectralOperator):
    """The identity: y is the image with noise. It stores nothing, and its methods return what they are given.

    Args:
        image: (C, H, W).
    """

    def __init__(self, image: Sequence[int]) -> None:
        self.image = self.measured = check_image(image)

    def A(self, x: Tensor) -> Tensor:
        return x

    def At(self, y: Tensor) -> Tensor:
        return y

    def pinv(self, y: Tensor) -> Tensor:
        return y

    def project(self, x: Tensor) -> Tensor:
        return x

    def Vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.image)

    def Ut(self, y: Tensor) -> Tensor:
        return y.flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.image)

    def singulars(self, like: Tensor) -> Tensor:
        return like.new_ones(1, 1)

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks:
        return RankOneBlocks(s=1.0)


class Inpainting(SpectralOperator):
    """The kept pixels; A = A^T = A^+ = the mask. A measurement is an image with 0 where pixels are missing.

    What a given y holds at the missing pixels is ignored, NaN as well. It stores the mask, a byte a pixel.

    Args:
        image: (C, H, W).
        mask: 1 where a pixel is kept, for all channels alike; (H, W), or (B, H, W) for a batch of B images.

    Attributes:
        batch: B if each image has its own mask, else None.

    Raises:
        ValueError: a mask of another size, or with values other than 0 and 1.
    """

    def __init__(self, image: Sequence[int], mask: Tensor) -> None:
        self.image = self.measured = check_image(image)
        self.mask = Constant(check_mask(mask, self.image))
        self.batch = len(self.mask.value) if len(self.mask.value) > 1 else None

    def A(self, x: Tensor) -> Tensor:
        return torch.where(fitting_mask(self.mask, x)[:, None], x, 0.0)

    def At(self, y: Tensor) -> Tensor:
        return self.A(y)

    def pinv(self, y: Tensor) -> Tensor:
        return self.A(y)

    def project(self, x: Tensor) -> Tensor:
        return self.A(x)

    def Vt(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.image)

    def Ut(self, y: Tensor) -> Tensor:
        return self.A(y).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return self.A(z.reshape(-1, *self.image))

    def singulars(self, like: Tensor) -> Tensor:
        mask = fitting_mask(self.mask, like)[:, None].expand(-1, *self.image)
        return mask.flatten(1).to(like.dtype)

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks:
        return RankOneBlocks(mask=fitting_mask(self.mask, like), s=1.0)


class Colourisation(BlockRows):
    """The grey of each pixel, a weighted sum of its channels; singular value |weights|. It stores C numbers.

    Args:
        image: (C, H, W).
        weights: one for each channel; 0.3333, 0.3334, 0.3333 by default (DDRM's and DDNM's), 1/C unless C is 3.

    Raises:
        ValueError: another number of weights, or all of them 0.
    """

    def __init__(self, image: Sequence[int], weights: Sequence[float] | None = None) -> None:
        c = check_image(image)[0]
        super().__init__(image, c, 1)
        if weights is None:
            weights = (0.3333, 0.3334, 0.3333) if c == 3 else [1 / c] * c
        self.weights = Constant(check_weights(weights, c))

    def rows(self, like: Tensor) -> Tensor:
        return self.weights.like(like).view(1, 1, -1, 1, 1, 1, 1)

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks:
        weights = self.weights.value
        return RankOneBlocks(weights=tuple(weights.tolist()), s=float(weights.norm()))
