"""Operators of recorded cases by their definitions: dense matrices and their SVD in float64, not the package's own."""

from __future__ import annotations

from typing import Any

import torch
from golden import Golden
from safetensors.torch import load_file
from torch import Tensor

from rddm_fast.inverse.operator import Operator, SpectralOperator

SVD = tuple[Tensor, Tensor, Tensor]
"""U (m, r), s (r,) and V (n, n)."""


class DenseOperator(SpectralOperator):
    """One matrix (m, n), applied alike to each channel ("channel", n = H W), to each pixel ("pixel", n = C), or to the
    whole image ("image", n = C H W).

    A measurement is flat. Its order is group by group, or entry by entry with the channels innermost.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        matrix: Tensor | SVD,
        group: str = "channel",
        threshold: float = 1e-6,
        channels_innermost: bool = False,
    ) -> None:
        c, h, w = image
        self.image, self.group, self.channels_innermost = image, group, channels_innermost
        self.size = {"channel": h * w, "pixel": c, "image": c * h * w}[group]
        self.groups = c * h * w // self.size
        if isinstance(matrix, Tensor):
            U, s, Vh = torch.linalg.svd(matrix.double())
            matrix = U[:, : len(s)], s[: Vh.shape[0]], Vh.T
        U, s, self.vectors = (part.double() for part in matrix)
        s = torch.where(s > threshold, s, 0.0)
        self.measures = torch.zeros(len(U), self.size, dtype=torch.float64)
        self.measures[:, : len(s)] = torch.where(s > 0, U, 0.0)
        self.values = torch.zeros(self.size, dtype=torch.float64)
        self.values[: len(s)] = s
        self.measured = (self.groups * len(U),)

    def Vt(self, x: Tensor) -> Tensor:
        grouped = x.flatten(2).transpose(1, 2) if self.group == "pixel" else x.reshape(len(x), self.groups, self.size)
        return (grouped @ self.vectors.to(x)).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        grouped = z.reshape(len(z), self.groups, self.size) @ self.vectors.T.to(z)
        return (grouped.transpose(1, 2) if self.group == "pixel" else grouped).reshape(len(z), *self.image)

    def Ut(self, y: Tensor) -> Tensor:
        m = len(self.measures)
        grouped = (
            y.reshape(len(y), m, self.groups).transpose(1, 2)
            if self.channels_innermost
            else y.reshape(len(y), self.groups, m)
        )
        return (grouped @ self.measures.to(y)).flatten(1)

    def U(self, z: Tensor) -> Tensor:
        grouped = z.reshape(len(z), self.groups, self.size) @ self.measures.T.to(z)
        return (grouped.transpose(1, 2) if self.channels_innermost else grouped).flatten(1)

    def singulars(self, like: Tensor) -> Tensor:
        return self.values.to(like).repeat(self.groups)


def block_mean(size: int, factor: int) -> Tensor:
    """The mean of `factor` neighbours, (size / factor, size)."""
    return torch.kron(torch.eye(size // factor), torch.full((1, factor), 1 / factor)).double()


def _bicubic(size: int, factor: int, kernel: Tensor) -> Tensor:
    A = torch.zeros(size // factor, size, dtype=torch.float64)
    for i in range(size // factor):
        for m in range(4 * factor):
            j = i * factor + factor // 2 - 2 * factor + m
            j = -j - 1 if j < 0 else 2 * size - 1 - j if j >= size else j  # mirrored, the edge repeated
            A[i, j] += kernel[m]
    return A


def _banded(size: int, kernel: Tensor, taps: int) -> Tensor:
    A = torch.zeros(size, size, dtype=torch.float64)
    for i in range(size):
        for m in range(taps):
            j = i - len(kernel) // 2 + m
            if 0 <= j < size:
                A[i, j] = kernel[m]
    return A


def _without_small(A: Tensor) -> Tensor:
    """`A` with its singular values below 3e-2 set to 0, as both published codes do in one dimension."""
    U, s, Vh = torch.linalg.svd(A, full_matrices=False)
    return U * torch.where(s < 3e-2, 0.0, s) @ Vh


def _published_blur(golden: Golden, image: tuple[int, int, int], kernel: Tensor) -> DenseOperator:
    """The published deblurring, defects included: the last tap is lost, and singular values go to the wrong vectors.

    So the order of equal values s_i s_j = s_j s_i matters, which an unstable sort chose. The recorded operator tells
    it: the coefficients of V z are z in that order, up to signs.
    """
    channels, size, _ = image
    U, s, Vh = torch.linalg.svd(_banded(size, kernel, len(kernel) - 1))
    s = torch.where(s < 3e-2, 0.0, s)
    recorded = load_file(golden.path.parent / f"operator_{golden.case['operator']}_published.safetensors")
    assert torch.equal(recorded["kernel"], golden.tensors["kernel"])
    z = recorded["z"][0].reshape(size**2, channels).double()
    coefficients = (Vh @ recorded["V_z"][0].reshape(image).double() @ Vh.T).flatten(1).T
    order = torch.cdist(z.abs(), coefficients.abs()).argmin(1)
    ordered = torch.outer(s, s).flatten()[order]
    assert sorted(order.tolist()) == list(range(size**2)) and bool((ordered.diff() <= 1e-12).all())
    pixels = [torch.kron(vectors, vectors)[:, order] for vectors in (U, Vh.T)]
    # Vector 3 j + c is pixel vector j in channel c, while the list of values starts anew for each channel.
    whole = [
        torch.einsum("pj,cd->cpjd", v, torch.eye(channels).double()).reshape(channels * size**2, -1) for v in pixels
    ]
    return DenseOperator(image, (whole[0], ordered.repeat(channels), whole[1]), "image")


def recorded_operator(golden: Golden) -> DenseOperator:
    """The operator of a recorded case, as the README of the golden data defines it."""
    case, tensors = golden.case, golden.tensors
    name, args, size = case["operator"], case["args"], case["image_size"]
    image = (case["channels"], size, size)

    def separable(down: Tensor, along: Tensor) -> DenseOperator:
        return DenseOperator(image, torch.kron(_without_small(down), _without_small(along)))

    if name == "denoising":
        return DenseOperator(image, torch.eye(size**2))
    if name == "inpainting":
        kept = tensors["mask"].flatten().nonzero()[:, 0]
        return DenseOperator(image, torch.eye(size**2)[kept], channels_innermost=True)
    if name == "sr_averagepooling":
        return DenseOperator(image, torch.kron(block_mean(size, args["factor"]), block_mean(size, args["factor"])))
    if name == "colorization":
        return DenseOperator(image, torch.tensor([[0.3333, 0.3334, 0.3333]]), "pixel")
    if name == "cs_walshhadamard":
        walsh = torch.ones(1, 1).double()
        while len(walsh) < size**2:
            walsh = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]).double(), walsh)
        rows = tensors["perm"][: size**2 // args["ratio"]]
        return DenseOperator(image, walsh[rows] / size, channels_innermost=True)
    if name == "cs_blockbased":
        assert size == 32, "one block of 32 x 32"
        return DenseOperator(image, tensors["rows"])
    if name == "sr_bicubic":
        A = _bicubic(size, args["factor"], tensors["kernel"].double())
        return separable(A, A)
    if name == "deblur_aniso":
        kernels = (tensors["kernel_rows"].double(), tensors["kernel_columns"].double())
        down, along = (_banded(size, kernel, len(kernel)) for kernel in kernels)
        return separable(down, along)
    if name in ("deblur_uni", "deblur_gauss"):
        kernel = tensors["kernel"].double()
        if args["published"]:
            return _published_blur(golden, image, kernel)
        A = _banded(size, kernel, len(kernel))
        return separable(A, A)
    assert name == "general", name
    return DenseOperator(image, tensors["matrix"], "image", threshold=1e-3)


class Simplified(Operator):
    """The operators of DDNM's simplified code, functions of images. Its `pinv` of an old photograph is not A+."""

    def __init__(self, case: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        name, size, f = case["operator"], case["image_size"], case["args"].get("factor", 1)
        self.image = (case["channels"], size, size)
        self.measured = (case["channels"], size // f, size // f)
        self.factor, self.grey = f, name in ("colorization", "mask_color_sr")
        self.mask = tensors.get("mask", torch.ones(size, size))

    def _grey(self, x: Tensor) -> Tensor:
        return x.mean(1, keepdim=True).expand_as(x) if self.grey else x

    def A(self, x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(self._grey(self.mask * x), self.factor)

    def At(self, y: Tensor) -> Tensor:
        raise NotImplementedError("DDNM takes A and A+ alone")

    def pinv(self, y: Tensor) -> Tensor:
        return self.mask * self._grey(y.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3))
