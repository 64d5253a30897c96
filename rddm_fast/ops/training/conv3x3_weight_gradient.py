"""`rddm_fast::conv3x3_weight_gradient`: the gradients of a 3x3 convolution's weights and bias, on a CPU with AMX."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..networks.conv3x3 import tiles


@without_autocast
def conv3x3_weight_gradient_reference(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """The op's definition in plain torch, with the schema's arguments: what torch's convolution has."""
    weight = x.new_empty((grad.shape[1], x.shape[1], 3, 3))
    one, none = [1, 1], [0, 0]
    _, by_weight, by_bias = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], one, one, one, False, none, 1, [False, True, True]
    )
    return by_weight.contiguous(memory_format=torch.channels_last), by_bias


def _fake(grad: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    shape = grad.shape[1], x.shape[1], 3, 3
    weight = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return weight, x.new_empty(grad.shape[1])


CONV3X3_WEIGHT_GRADIENT = backends.define(
    "conv3x3_weight_gradient",
    "(Tensor grad, Tensor x) -> (Tensor, Tensor)",
    reference=conv3x3_weight_gradient_reference,
    fake=_fake,
    lacking=("cuda",),
)


def conv3x3_weight_gradient(grad: Tensor, x: Tensor, *, impl: str | None = None) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights and the bias of a 3x3 convolution with a border of one zero.

    Args:
        grad: the gradient of the result, (B, K, H, W).
        x: the images that were convolved, (B, C, H, W), of grad's dtype and device. Channels-last ones are not copied.
        impl: "reference", which is torch's, or "cpp", for float32 on a CPU with AMX; None takes "cpp" where it serves.

    Returns:
        weight: (K, C, 3, 3), channels-last, and bias: (K,). By "cpp" they are as near to exact sums as float32's, and
        the same bits on one thread and on many. They are NaN where a value is not finite.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: two dtypes, or for "cpp" another one than float32.
        BackendUnavailable: "cpp" cannot be used here; the message says why.
    """
    if grad.dtype != x.dtype:
        raise TypeError(f"grad is {grad.dtype} and x is {x.dtype}: convert grad to that")
    alike = grad.dim() == x.dim() == 4 and grad.shape[0] == x.shape[0] and grad.shape[2:] == x.shape[2:]
    if not alike or grad.device != x.device:
        raise ValueError(
            "grad and x must be images of one size on one device, "
            f"not {tuple(grad.shape)} on {grad.device} and {tuple(x.shape)} on {x.device}"
        )
    if impl is None:
        impl = "cpp" if x.device.type == "cpu" and x.dtype == torch.float32 and 1 in tiles() else "reference"
    run = CONV3X3_WEIGHT_GRADIENT(impl, x.device)
    if impl != "reference":
        if x.dtype != torch.float32:
            raise TypeError(f"x is {x.dtype}: conv3x3_weight_gradient by {impl!r} computes in float32")
        if 1 not in tiles():
            raise backends.BackendUnavailable("conv3x3_weight_gradient by 'cpp' needs a CPU with AMX")
    return run(grad, x)
