"""`rddm_fast::walsh_hadamard`: the orthonormal two-dimensional Walsh-Hadamard transform, by sums and differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import DTYPES, check_dtype, check_no_tangent


@without_autocast
def walsh_hadamard_reference(x: Tensor) -> Tensor:
    """The op's definition in plain torch, with the schema's argument. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into a contiguous image. One stage for each bit of
    a value's index in its image, since H_H X H_W on the H W values in a row is one transform of that length.
    """
    size = x.shape[-2] * x.shape[-1]
    z, stride = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32), 1
    while stride < size:
        first, second = z.reshape(*x.shape[:-2], size // (2 * stride), 2, stride).unbind(-2)
        z = torch.stack((first + second, first - second), -2)
        stride *= 2
    return x.new_empty(x.shape).copy_(z.reshape(x.shape) * size**-0.5)


WALSH_HADAMARD = backends.define(
    "walsh_hadamard",
    "(Tensor x) -> Tensor",
    reference=walsh_hadamard_reference,
    triton="inverse.walsh_hadamard:walsh_hadamard",
    fake=lambda x: x.new_empty(x.shape),
    lacking=("cuda",),
)


class _WalshHadamard(torch.autograd.Function):
    """Autograd's view of the op: the transform is symmetric, so the gradient is transformed as the image was."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, run: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.run = run
        return run(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _WalshHadamard.apply(gradient, ctx.run), None


def walsh_hadamard(x: Tensor, *, impl: str | None = None) -> Tensor:
    """Transform the last two axes by the orthonormal Walsh-Hadamard transform, in natural (Sylvester) order:

        H_H x H_W / sqrt(H W), with H_1 = (1) and H_2n = ((H_n, H_n), (H_n, -H_n))

    It is its own inverse and its own adjoint. It takes log2(H W) sums or differences and one multiplication a value.

    Args:
        x: (..., H, W), H and W powers of 2 (1 is one), in float32, bfloat16, float16 or float64.
        impl: "reference", "cpp" or "triton"; None takes the best one available on the device.

    Returns:
        z: x's shape and dtype, contiguous. Computed in float32 (float64 for float64) and rounded once. In float32 and
        float64, "cpp" has the reference's bits. It can be differentiated, any number of times.

    Raises:
        ValueError: fewer than two axes, or a height or width that is no power of 2.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: forward-mode differentiation, which only `impl="reference"` has.
    """
    _check(x)
    run = WALSH_HADAMARD(impl, x.device)
    if impl != "reference":
        check_no_tangent("walsh_hadamard", x)
    if impl != "reference" and x.requires_grad and torch.is_grad_enabled():
        return _WalshHadamard.apply(x, run)
    return run(x)


def _check(x: Tensor) -> None:
    check_dtype("x", x, DTYPES)
    if x.dim() < 2:
        raise ValueError(f"x must be images (..., H, W), not of shape {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if height < 1 or width < 1 or height & (height - 1) or width & (width - 1):
        raise ValueError(
            f"x is of {height} × {width} pixels, and the transform needs a height and width that are powers of 2: "
            "crop or pad it"
        )
