"""Separable operators: bicubic super-resolution, and blur along the columns and along the rows.

A channel X becomes A_down X A_along^T. Each matrix has its own SVD, so V is two small orthogonal matrices, and the
singular values are the products of both lists. 1-D singular values below `threshold` are set to 0 in A itself, as
published (3e-2): a real degraded image then has parts that this A does not model. `threshold=0` keeps A as it is.

The published blur classes drop the last tap of an odd kernel and pair the singular values with the wrong vectors. These
are blurs; `PublishedBlur` is what those are, to repeat published numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..operator import SpectralOperator
from .arguments import Constant, check_image, check_multiple, check_rank, check_threshold


class _Side:
    """The SVD of one of the two matrices: U (M, r), s (r,), V (N, N), with r singular values above the threshold."""

    def __init__(self, matrix: Tensor, threshold: float) -> None:
        measured, size = matrix.shape
        U, s, Vh = torch.linalg.svd(matrix, full_matrices=measured < size)
        self.rank = int(
            ((s >= threshold) & (s > s[0] * 1e-14)).sum()
        )  # 1e-14: what float64 leaves of a singular value 0
        check_rank(self.rank, threshold)
        self.measured, self.size = measured, size
        self.U, self.s = Constant(U[:, : self.rank].contiguous()), Constant(s[: self.rank].clone())
        self.V = Constant(Vh.mT.contiguous())


class Separable(SpectralOperator):
    """y = A_down X A_along^T for each channel X. It stores U, s and V of the two matrices, once if they are equal.

    Args:
        image: (C, H, W).
        down: A_down (M, H), which acts down the columns.
        along: A_along (N, W), which acts along the rows.
        threshold: singular values of either matrix below it are set to 0, in A itself.

    Raises:
        ValueError: a matrix of another size, a negative threshold, or one above every singular value.
    """

    def __init__(self, image: Sequence[int], down: Tensor, along: Tensor, threshold: float = 3e-2) -> None:
        self.image = c, height, width = check_image(image)
        threshold = check_threshold(threshold)
        for name, matrix, size in (("down", down, height), ("along", along, width)):
            if matrix.dim() != 2 or matrix.shape[1] != size:
                shape = f"{tuple(matrix.shape)}, but the image is {height} × {width}"
                raise ValueError(f"the matrix {name!r} has shape {shape}: it needs {size} columns")
        down, along = down.detach().double().cpu(), along.detach().double().cpu()
        self._down = _Side(down, threshold)
        self._along = self._down if torch.equal(down, along) else _Side(along, threshold)
        self.measured = (c, self._down.measured, self._along.measured)

    def A(self, x: Tensor) -> Tensor:
        return self._from_range(self._to_range(x) * self._products(x))

    def At(self, y: Tensor) -> Tensor:
        return self._lift(self._coordinates(y) * self._products(y))

    def pinv(self, y: Tensor) -> Tensor:
        return self._lift(self._coordinates(y) / self._products(y))

    def project(self, x: Tensor) -> Tensor:
        return self._lift(self._to_range(x))

    def Vt(self, x: Tensor) -> Tensor:
        return (self._down.V.like(x).mT @ x @ self._along.V.like(x)).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return self._down.V.like(z) @ z.reshape(-1, *self.image) @ self._along.V.like(z).mT

    def Ut(self, y: Tensor) -> Tensor:
        return self._pad(self._coordinates(y)).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return self._from_range(z.reshape(-1, *self.image)[..., : self._down.rank, : self._along.rank])

    def singulars(self, like: Tensor) -> Tensor:
        return self._pad(self._products(like)).expand(self.image).reshape(1, -1)

    # The range of A^T is spanned by the first r columns of either V, so what follows needs no more of them.

    def _to_range(self, x: Tensor) -> Tensor:
        down, along = self._down.V.like(x)[:, : self._down.rank], self._along.V.like(x)[:, : self._along.rank]
        return down.mT @ x @ along

    def _lift(self, z: Tensor) -> Tensor:
        down, along = self._down.V.like(z)[:, : self._down.rank], self._along.V.like(z)[:, : self._along.rank]
        return down @ z @ along.mT

    def _from_range(self, z: Tensor) -> Tensor:
        return self._down.U.like(z) @ z @ self._along.U.like(z).mT

    def _coordinates(self, y: Tensor) -> Tensor:
        return self._down.U.like(y).mT @ y @ self._along.U.like(y)

    def _products(self, like: Tensor) -> Tensor:
        return self._down.s.like(like)[:, None] * self._along.s.like(like)

    def _pad(self, z: Tensor) -> Tensor:
        _, height, width = self.image
        return torch.nn.functional.pad(z, (0, width - z.shape[-1], 0, height - z.shape[-2]))


class Bicubic(Separable):
    """Super-resolution by the cubic kernel with a = -0.5, f times as wide as for interpolation, edges mirrored.

    The mirror repeats the edge's pixel. For an even f the 4f taps are the published ones; for an odd f the kernel is
    centred on the block's middle pixel.

    Args:
        image: (C, H, W); H and W are multiples of f.
        factor: f, 1 or more.
        threshold: see `Separable`.

    Raises:
        ValueError: a factor that does not divide the image, or a bad threshold.
    """

    def __init__(self, image: Sequence[int], factor: int, threshold: float = 3e-2) -> None:
        _, height, width = shape = check_image(image)
        check_multiple(shape, factor, "factor")
        super().__init__(shape, bicubic_matrix(height, factor), bicubic_matrix(width, factor), threshold)
        self.factor = factor


class SeparableBlur(Separable):
    """Convolution with one kernel down the columns and one along the rows, zeros outside the image.

    A bright point becomes the kernels' product, with tap k // 2 on the point.

    Args:
        image: (C, H, W).
        kernel_down: the taps down the columns.
        kernel_along: the taps along the rows; the same by default.
        threshold: see `Separable`.

    Raises:
        ValueError: a kernel without taps, or a bad threshold.
    """

    def __init__(
        self,
        image: Sequence[int],
        kernel_down: Sequence[float] | Tensor,
        kernel_along: Sequence[float] | Tensor | None = None,
        threshold: float = 3e-2,
    ) -> None:
        _, height, width = shape = check_image(image)
        kernel_along = kernel_down if kernel_along is None else kernel_along
        super().__init__(shape, band(height, kernel_down), band(width, kernel_along), threshold)


class UniformBlur(SeparableBlur):
    """The mean of `taps` × `taps` pixels (`deblur_uni`: 9). Arguments and errors as for `SeparableBlur`."""

    def __init__(self, image: Sequence[int], taps: int = 9, threshold: float = 3e-2) -> None:
        super().__init__(image, gaussian_kernel(taps, float("inf")), threshold=threshold)


class GaussianBlur(SeparableBlur):
    """A Gaussian of standard deviation `sigma`, cut to `taps` taps (`deblur_gauss`: 5 taps, sigma 10)."""

    def __init__(self, image: Sequence[int], taps: int = 5, sigma: float = 10.0, threshold: float = 3e-2) -> None:
        super().__init__(image, gaussian_kernel(taps, sigma), threshold=threshold)


class AnisotropicBlur(SeparableBlur):
    """A Gaussian of `sigma_down` down the columns and one of `sigma_along` along the rows (`deblur_aniso`)."""

    def __init__(
        self,
        image: Sequence[int],
        taps: int = 9,
        sigma_down: float = 1.0,
        sigma_along: float = 20.0,
        threshold: float = 3e-2,
    ) -> None:
        super().__init__(image, gaussian_kernel(taps, sigma_down), gaussian_kernel(taps, sigma_along), threshold)


class PublishedBlur(SpectralOperator):
    """What DDRM's and DDNM's published classes make of a blur, with both defects: it is no blur.

    An odd kernel loses its last tap. The sorted singular values of one channel are repeated as a whole, while V lays
    its vectors out pixel by pixel, channels innermost. So vector k has the singular value k mod H W, and each channel
    is another operator. It stores U and V of the two matrices and the order, H W integers.

    Args:
        image: (C, H, W).
        kernel_down, kernel_along, threshold: as for `SeparableBlur`, before the tap is lost.
        order: which product of 1-D singular values comes first, second, …: (H W) integers into the H x W products, row
            by row. Equal products have no order of their own, and the result depends on it; by default the first of
            them comes first.

    Attributes:
        order: the order.

    Raises:
        ValueError: a kernel without taps, a bad threshold, or an order that is no permutation in descending order.
    """

    def __init__(
        self,
        image: Sequence[int],
        kernel_down: Sequence[float] | Tensor,
        kernel_along: Sequence[float] | Tensor | None = None,
        threshold: float = 3e-2,
        *,
        order: Tensor | None = None,
    ) -> None:
        self.image = self.measured = c, height, width = check_image(image)
        threshold = check_threshold(threshold)
        kernel_along = kernel_down if kernel_along is None else kernel_along
        sides = [
            torch.linalg.svd(band(size, kernel[:-1] if len(kernel) % 2 else kernel).mT)
            for size, kernel in ((height, kernel_down), (width, kernel_along))
        ]
        self._U = [Constant(U) for U, _, _ in sides]
        self._V = [Constant(Vh.mT.contiguous()) for _, _, Vh in sides]
        down, along = (torch.where(s < threshold, 0.0, s) for _, s, _ in sides)
        products = torch.outer(down, along).flatten()
        if order is None:
            order = products.sort(descending=True, stable=True).indices
        ordered = products[order]
        if len(order.unique()) != len(products) or bool((ordered.diff() > 1e-12).any()):
            raise ValueError(f"order must be the integers 0 to {len(products) - 1}, by descending singular value")
        self._s = Constant(ordered.repeat(c)[None])
        self.order = order
        self._order, self._place = Constant(order), Constant(order.argsort())

    def Vt(self, x: Tensor) -> Tensor:
        return self._listed(self._V[0].like(x).mT @ x @ self._V[1].like(x))

    def V(self, z: Tensor) -> Tensor:
        return self._V[0].like(z) @ self._placed(z) @ self._V[1].like(z).mT

    def Ut(self, y: Tensor) -> Tensor:
        listed = self._listed(self._U[0].like(y).mT @ y @ self._U[1].like(y))
        return listed.masked_fill(self._s.like(y) == 0, 0.0)

    def U(self, z: Tensor) -> Tensor:
        kept = z.masked_fill(self._s.like(z) == 0, 0.0)
        return self._U[0].like(z) @ self._placed(kept) @ self._U[1].like(z).mT

    def singulars(self, like: Tensor) -> Tensor:
        return self._s.like(like)

    def _listed(self, grid: Tensor) -> Tensor:
        """(B, C, H, W) to the published list, (B, H W C)."""
        return grid.flatten(2)[:, :, self._order.like(grid)].mT.flatten(1)

    def _placed(self, listed: Tensor) -> Tensor:
        """The published list, (B, H W C), to (B, C, H, W)."""
        c, height, width = self.image
        return listed.view(-1, height * width, c).mT[:, :, self._place.like(listed)].reshape(-1, c, height, width)


def gaussian_kernel(taps: int, sigma: float) -> Tensor:
    """Return `taps` values of a Gaussian around tap taps // 2, with sum 1, in float64; all equal if sigma is infinite.

    Raises:
        ValueError: less than one tap, or a sigma that is not positive.
    """
    if not isinstance(taps, int) or taps < 1:
        raise ValueError(f"taps is {taps!r}: it must be a positive integer")
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}: it must be positive")
    kernel = torch.exp(-0.5 * ((torch.arange(taps, dtype=torch.float64) - taps // 2) / sigma) ** 2)
    return kernel / kernel.sum()


def bicubic_matrix(size: int, factor: int) -> Tensor:
    """Return the matrix (size / f, size) of bicubic shrinking by f along one axis, in float64; each row sums to 1."""
    measured = size // factor
    centre = (torch.arange(measured, dtype=torch.float64) + 0.5) * factor  # in pixels; pixel j covers [j, j + 1]
    first = (torch.arange(measured) * factor) + factor // 2 - 2 * factor
    pixels = first[:, None] + torch.arange(4 * factor + 1)
    distance = ((pixels + 0.5 - centre[:, None]) / factor).abs()
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1  # Keys' cubic with a = -0.5
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = torch.where(distance <= 1, near, torch.where(distance < 2, far, 0.0))
    mirrored = pixels % (2 * size)
    mirrored = torch.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    matrix = torch.zeros(measured, size, dtype=torch.float64)
    return matrix.scatter_add_(1, mirrored, taps / taps.sum(1, keepdim=True))


def band(size: int, kernel: Sequence[float] | Tensor) -> Tensor:
    """Return the matrix (size, size) of the convolution with `kernel`, zeros outside, in float64.

    Raises:
        ValueError: a kernel that is not a list of one or more finite numbers.
    """
    taps = torch.as_tensor(kernel).detach().double().cpu()
    if taps.dim() != 1 or len(taps) == 0 or not bool(taps.isfinite().all()):
        raise ValueError(f"the kernel has shape {tuple(taps.shape)}: give a list of one or more finite numbers")
    tap = torch.arange(size)[:, None] - torch.arange(size) + len(taps) // 2
    inside = (tap >= 0) & (tap < len(taps))
    return torch.where(inside, taps[tap.clamp(0, len(taps) - 1)], 0.0)
