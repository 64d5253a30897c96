"""A linear degradation y = A x + n, as the inverse solvers see it.

    y = op.A(x)          measure                        x: (B, C, H, W), y: (B, *op.measured)
    x = op.At(y)         adjoint                        <A x, y> = <x, At y>
    x = op.pinv(y)       Moore-Penrose pseudo-inverse
    x = op.project(x)    A+ A x, the part of x that y knows

With a singular value decomposition A = U S V^T an operator is a `SpectralOperator`. Its spectral coordinates have as
many elements as the image: `Vt` maps an image to them, `V` back, `singulars` are the singular values in that layout,
0 where nothing is measured, and `Ut` lays a measurement out in it, with zeros there. So solvers need no index lists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RankOneBlocks:
    """A+ A as a projector onto one vector of each block of pixels; the arguments of `ops.range_null_step`.

    Attributes:
        factor: the height and width of a block.
        weights: of the channels, if a block has all of them; None if it has one.
        mask: (H, W) or (B, H, W), 0 where a pixel is not measured.
        s: the singular value, if all that are not 0 are equal.
    """

    factor: int = 1
    weights: tuple[float, ...] | None = None
    mask: Tensor | None = None
    s: float | None = None


class Operator(ABC):
    """A linear map from images (B, C, H, W) to measurements (B, *measured).

    Attributes:
        image: (C, H, W), the shape of an image.
        measured: the shape of a measurement, without the batch.
    """

    image: tuple[int, int, int]
    measured: tuple[int, ...]

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """Measure `x` (B, C, H, W); returns (B, *measured), in the dtype and on the device of `x`."""

    @abstractmethod
    def At(self, y: Tensor) -> Tensor:
        """Return the adjoint of `y` (B, *measured), an image (B, C, H, W)."""

    @abstractmethod
    def pinv(self, y: Tensor) -> Tensor:
        """Return A+ y, the image of least norm among those that fit `y` best."""

    def project(self, x: Tensor) -> Tensor:
        """Return A+ A x, the projection onto what a measurement knows."""
        return self.pinv(self.A(x))

    def rank_one_blocks(self, like: Tensor) -> RankOneBlocks | None:
        """Return A+ A in that form, on the device of `like`, if it has it: then a solver's step is one op in pixels."""
        return None


class SpectralOperator(Operator):
    """An operator with a singular value decomposition.

    Spectral coordinates are (B, C H W). `V` is orthogonal, so standard normal noise is standard normal in both.
    """

    @abstractmethod
    def Vt(self, x: Tensor) -> Tensor:
        """Return the spectral coordinates (B, C H W) of an image (B, C, H, W)."""

    @abstractmethod
    def V(self, z: Tensor) -> Tensor:
        """Return the image (B, C, H, W) of spectral coordinates (B, C H W): the inverse of `Vt`."""

    @abstractmethod
    def Ut(self, y: Tensor) -> Tensor:
        """Return U^T y in the layout of `Vt`, (B, C H W), with zeros where the singular value is 0."""

    @abstractmethod
    def U(self, z: Tensor) -> Tensor:
        """Return the measurement (B, *measured) of spectral coordinates (B, C H W).

        Coordinates of singular value 0 are dropped.
        """

    @abstractmethod
    def singulars(self, like: Tensor) -> Tensor:
        """Return the singular values as `Vt` lays them out, broadcastable to (B, C H W).

        They have the dtype and the device of `like`.
        """

    def A(self, x: Tensor) -> Tensor:
        return self.U(self.Vt(x) * self.singulars(x))

    def At(self, y: Tensor) -> Tensor:
        return self.V(self.Ut(y) * self.singulars(y))

    def pinv(self, y: Tensor) -> Tensor:
        s = self.singulars(y)
        unmeasured = s <= 0
        return self.V((self.Ut(y) / s.masked_fill(unmeasured, 1.0)).masked_fill(unmeasured, 0.0))

    def project(self, x: Tensor) -> Tensor:
        return self.V(self.Vt(x).masked_fill(self.singulars(x) <= 0, 0.0))
