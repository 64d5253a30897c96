"""Any matrix, by its SVD: for small images and for tests."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..operator import SpectralOperator
from .arguments import Constant, check_image, check_rank, check_threshold


class General(SpectralOperator):
    """y = M x for a dense matrix M and the image as one vector (GeneralH of DDRM, GeneralA of DDNM).

    It stores V, (C H W)² numbers: 0.3 GB in float64 for 3 × 45 × 45. `Function` stores nothing.

    Args:
        image: (C, H, W).
        matrix: (rows, C H W).
        threshold: singular values below it are set to 0, in A itself.

    Raises:
        ValueError: a matrix of another size, a bad threshold, or one above every singular value.
    """

    def __init__(self, image: Sequence[int], matrix: Tensor, threshold: float = 1e-3) -> None:
        self.image = c, height, width = check_image(image)
        threshold, size = check_threshold(threshold), c * height * width
        if matrix.dim() != 2 or len(matrix) == 0 or matrix.shape[1] != size:
            raise ValueError(
                f"the matrix has shape {tuple(matrix.shape)}: give (rows, {size}) for an image {self.image}"
            )
        matrix = matrix.detach().double().cpu()
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=len(matrix) < size)
        self._rank = int(((s >= threshold) & (s > s[0] * 1e-14)).sum())  # 1e-14: what float64 leaves of a zero
        check_rank(self._rank, threshold)
        self._U, self._s = Constant(U[:, : self._rank].contiguous()), Constant(s[: self._rank].clone())
        self._V = Constant(Vh.mT.contiguous())
        self.measured = (len(matrix),)

    def Vt(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self._V.like(x)

    def V(self, z: Tensor) -> Tensor:
        return (z @ self._V.like(z).mT).reshape(-1, *self.image)

    def Ut(self, y: Tensor) -> Tensor:
        return self._pad(y @ self._U.like(y))

    def U(self, z: Tensor) -> Tensor:
        return z[:, : self._rank] @ self._U.like(z).mT

    def singulars(self, like: Tensor) -> Tensor:
        return self._pad(self._s.like(like)[None])

    def _pad(self, z: Tensor) -> Tensor:
        c, height, width = self.image
        return torch.nn.functional.pad(z, (0, c * height * width - self._rank))
