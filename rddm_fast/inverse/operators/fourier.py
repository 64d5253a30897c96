"""Blur with any kernel by the FFT, the image continued periodically.

A = F^-1 k̂ F has the singular values |k̂|. A real V is the Hartley transform, (Re F x - Im F x) / sqrt(H W): it is
orthogonal, symmetric and its own inverse. Its vectors k and -k span what the cosine and the sine of that frequency
span, and |k̂| is the same for both, so they are right singular vectors. U is V with the phases k̂ / |k̂| applied.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..operator import SpectralOperator
from .arguments import Constant, check_image, check_rank, check_threshold


class FourierBlur(SpectralOperator):
    """Circular convolution of each channel with a kernel. It stores H W complex numbers.

    A bright point becomes the kernel, with element (h // 2, w // 2) on the point. A kernel larger than the image wraps
    around.

    Args:
        image: (C, H, W).
        kernel: (h, w), any real numbers.
        threshold: singular values below it are set to 0, in A itself, as for the separable blurs.

    Raises:
        ValueError: a kernel that is not a matrix of finite numbers, a bad threshold, or one above every singular value.
    """

    def __init__(self, image: Sequence[int], kernel: Tensor, threshold: float = 3e-2) -> None:
        self.image = self.measured = check_image(image)
        threshold = check_threshold(threshold)
        kernel = kernel.detach().double().cpu()
        if kernel.dim() != 2 or kernel.numel() == 0 or not bool(kernel.isfinite().all()):
            raise ValueError(f"the kernel has shape {tuple(kernel.shape)}: give a matrix (h, w) of finite numbers")
        _, height, width = self.image
        h, w = kernel.shape
        rows, columns = (torch.arange(h) - h // 2) % height, (torch.arange(w) - w // 2) % width
        spread = torch.zeros(height, width, dtype=torch.float64)
        spread.index_put_((rows[:, None].expand(h, w), columns.expand(h, w)), kernel, accumulate=True)
        response = torch.fft.fft2(spread)
        s = response.abs()
        kept = (s >= threshold) & (s > s.max() * 1e-14)  # 1e-14: what float64 leaves of a zero
        check_rank(int(kept.sum()), threshold)
        # Complex numbers as pairs, so that they follow the image's dtype.
        self._response = Constant(torch.view_as_real(torch.where(kept, response, 0.0)))

    def A(self, x: Tensor) -> Tensor:
        return self._filter(x, self._k(x))

    def At(self, y: Tensor) -> Tensor:
        return self._filter(y, self._k(y).conj())

    def pinv(self, y: Tensor) -> Tensor:
        k = self._k(y)
        return self._filter(y, torch.where(k == 0, 0.0, 1.0 / torch.where(k == 0, 1.0, k)))

    def project(self, x: Tensor) -> Tensor:
        return self._filter(x, (self._k(x) != 0).to(x.dtype))

    def Vt(self, x: Tensor) -> Tensor:
        return _hartley(torch.fft.fft2(x, norm="ortho")).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return _hartley(torch.fft.fft2(z.reshape(-1, *self.image), norm="ortho"))

    def Ut(self, y: Tensor) -> Tensor:
        return _hartley(torch.fft.fft2(y, norm="ortho") * _phase(self._k(y)).conj()).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        return self._filter(self.V(z), _phase(self._k(z)))

    def singulars(self, like: Tensor) -> Tensor:
        return self._k(like).abs().expand(self.image).reshape(1, -1)

    def _k(self, like: Tensor) -> Tensor:
        return torch.view_as_complex(self._response.like(like))

    def _filter(self, x: Tensor, response: Tensor) -> Tensor:
        half = response[..., : x.shape[-1] // 2 + 1]
        return torch.fft.irfft2(torch.fft.rfft2(x) * half, s=x.shape[-2:])


def _hartley(frequencies: Tensor) -> Tensor:
    return frequencies.real - frequencies.imag


def _phase(k: Tensor) -> Tensor:
    """Return k / |k|, 0 where k is 0."""
    s = k.abs()
    return torch.where(s > 0, k / torch.where(s > 0, s, 1.0), 0.0)
