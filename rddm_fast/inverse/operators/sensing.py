"""Compressed sensing: a part of the Walsh–Hadamard coefficients, or a few random projections of each block."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from ...ops.inverse.walsh_hadamard import walsh_hadamard
from ..operator import SpectralOperator
from .arguments import Constant, check_image, check_multiple


class WalshHadamard(SpectralOperator):
    """Some of the coefficients of the orthonormal Walsh–Hadamard transform, the same for each channel; s = 1.

    The transform is in natural (Sylvester) order, H_H X H_W / sqrt(H W). A measurement is (C, M) in the order of
    `selected`. It stores `selected`, M integers (cs_walshhadamard of DDRM and DDNM).

    Args:
        image: (C, H, W); H and W are powers of 2.
        ratio: the share of the coefficients that are measured; M = ⌊H W ratio⌋ of them are drawn by `seed`.
        selected: which coefficients, instead: M different integers from 0 to H W - 1.
        seed: of the draw.

    Raises:
        ValueError: a size that is no power of 2, a ratio outside (0, 1], wrong indices.
    """

    def __init__(
        self, image: Sequence[int], ratio: float = 0.25, *, selected: Tensor | None = None, seed: int = 0
    ) -> None:
        self.image = c, height, width = check_image(image)
        if height & (height - 1) or width & (width - 1):
            raise ValueError(
                f"Walsh–Hadamard needs a height and width that are powers of 2, but the image is {height} × {width}: "
                f"crop it to {1 << height.bit_length() - 1} × {1 << width.bit_length() - 1}"
            )
        size = height * width
        if selected is None:
            order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
            selected = order[: _count(ratio, size)].clone()
        elif selected.dim() != 1 or not 0 < len(selected.unique()) == len(selected):
            raise ValueError("selected must be a list of different integers, the coefficients that are measured")
        elif selected.is_floating_point() or not 0 <= int(selected.min()) <= int(selected.max()) < size:
            raise ValueError(f"selected must be integers from 0 to {size - 1}, the coefficients of {height} × {width}")
        self._selected = Constant(selected.long())
        self.measured = (c, len(selected))

    def A(self, x: Tensor) -> Tensor:
        return self.U(self.Vt(x))

    def At(self, y: Tensor) -> Tensor:
        return self.V(self.Ut(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.At(y)

    def project(self, x: Tensor) -> Tensor:
        return self.At(self.A(x))

    def Vt(self, x: Tensor) -> Tensor:
        return walsh_hadamard(x).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return walsh_hadamard(z.reshape(-1, *self.image))

    def Ut(self, y: Tensor) -> Tensor:
        c, height, width = self.image
        z = y.new_zeros(len(y), c, height * width)
        return z.index_copy_(2, self._selected.like(y), y).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), self.image[0], -1).index_select(2, self._selected.like(z))

    def singulars(self, like: Tensor) -> Tensor:
        return self.Ut(like.new_ones(1, *self.measured))


class BlockSensing(SpectralOperator):
    """m orthonormal projections of each 32 × 32 block of each channel; s = 1 (cs_blockbased of DDNM).

    A measurement is (C, H W / 1024, m). It stores the m × 1024 rows, and V's other 1024 - m columns once a solver asks
    for V.

    Args:
        image: (C, H, W); H and W are multiples of the block's size.
        ratio: the share that is measured; m = ⌊1024 ratio⌋ rows are drawn by `seed`, uniformly.
        rows: (m, 1024) orthonormal rows, instead.
        block: the block's height and width.
        seed: of the draw.

    Raises:
        ValueError: blocks that do not fit, a ratio outside (0, 1], rows that are not orthonormal.
    """

    def __init__(
        self,
        image: Sequence[int],
        ratio: float = 0.25,
        *,
        rows: Tensor | None = None,
        block: int = 32,
        seed: int = 0,
    ) -> None:
        self.image = c, height, width = check_image(image)
        check_multiple(self.image, block, "the block's size")
        self.block, size = block, block * block
        if rows is None:
            noise = torch.randn(size, _count(ratio, size), dtype=torch.float64, generator=_generator(seed))
            rows = torch.linalg.qr(noise)[0].mT.contiguous()
        rows = rows.detach().double().cpu()
        if rows.dim() != 2 or rows.shape[1] != size or not 0 < len(rows) <= size:
            raise ValueError(f"rows has shape {tuple(rows.shape)}: give (m, {size}), with m from 1 to {size}")
        error = float((rows @ rows.mT - torch.eye(len(rows), dtype=torch.float64)).abs().max())
        if error > 1e-5:  # float32 rows of a float32 SVD are orthonormal to 1e-6
            raise ValueError(f"the rows are not orthonormal, by {error:.1e}: pass the rows of an orthogonal matrix")
        self._rows = Constant(rows)
        self.measured = (c, height * width // size, len(rows))

    def A(self, x: Tensor) -> Tensor:
        return self._blocks(x) @ self._rows.like(x).mT

    def At(self, y: Tensor) -> Tensor:
        return self._join(y @ self._rows.like(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self.At(y)

    def project(self, x: Tensor) -> Tensor:
        return self.At(self.A(x))

    def Vt(self, x: Tensor) -> Tensor:
        blocks = self._blocks(x)
        return torch.cat([blocks @ self._rows.like(x).mT, blocks @ self._rest.like(x)], -1).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        seen, rest = self._coordinates(z).split([self.measured[2], self.block**2 - self.measured[2]], -1)
        return self._join(seen @ self._rows.like(z) + rest @ self._rest.like(z).mT)

    def Ut(self, y: Tensor) -> Tensor:
        return torch.nn.functional.pad(y, (0, self.block**2 - self.measured[2])).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return self._coordinates(z)[..., : self.measured[2]]

    def singulars(self, like: Tensor) -> Tensor:
        return self.Ut(like.new_ones(1, *self.measured))

    @cached_property
    def _rest(self) -> Constant:
        """V's columns of singular value 0, (1024, 1024 - m)."""
        return Constant(torch.linalg.qr(self._rows.value.mT, mode="complete")[0][:, self.measured[2] :].contiguous())

    def _coordinates(self, z: Tensor) -> Tensor:
        return z.reshape(len(z), self.image[0], self.measured[1], -1)

    def _blocks(self, x: Tensor) -> Tensor:
        (c, height, width), n = self.image, self.block
        blocks = x.reshape(len(x), c, height // n, n, width // n, n).transpose(3, 4)
        return blocks.reshape(len(x), c, -1, n * n)

    def _join(self, blocks: Tensor) -> Tensor:
        (c, height, width), n = self.image, self.block
        return blocks.reshape(-1, c, height // n, width // n, n, n).transpose(3, 4).reshape(-1, c, height, width)


def _count(ratio: float, size: int) -> int:
    if not 0 < ratio <= 1 or int(size * ratio + 1e-9) == 0:
        raise ValueError(f"ratio is {ratio}: it is the share that is measured, above 0 and at most 1, such as 0.25")
    return int(size * ratio + 1e-9)  # 1e-9: 0.29 · 100 is 28.999…


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
