"""`rddm_fast::conv3x3_weight_gradient`: the gradients of a 3x3 convolution's weights and bias, on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..networks.conv3x3 import instruction_sets, tiles


@without_autocast
def conv3x3_weight_gradient_reference(
    grad: Tensor, x: Tensor, tile: int = 1, instruction_set: int = -1
) -> tuple[Tensor, Tensor]:
    """The op's definition in plain torch, with the schema's arguments: what torch's convolution has."""
    weight = x.new_empty((grad.shape[1], x.shape[1], 3, 3))
    one, none = [1, 1], [0, 0]
    _, by_weight, by_bias = torch.ops.aten.convolution_backward(
        grad, x, weight, [len(weight)], one, one, one, False, none, 1, [False, True, True]
    )
    return by_weight.contiguous(memory_format=torch.channels_last), by_bias


def _fake(grad: Tensor, x: Tensor, tile: int, instruction_set: int) -> tuple[Tensor, Tensor]:
    shape = grad.shape[1], x.shape[1], 3, 3
    weight = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    return weight, x.new_empty(grad.shape[1])


CONV3X3_WEIGHT_GRADIENT = backends.define(
    "conv3x3_weight_gradient",
    "(Tensor grad, Tensor x, int tile, int instruction_set) -> (Tensor, Tensor)",
    reference=conv3x3_weight_gradient_reference,
    fake=_fake,
    lacking=("cuda",),
)


def conv3x3_weight_gradient(
    grad: Tensor,
    x: Tensor,
    *,
    tile: int | None = None,
    instruction_set: str | None = None,
    impl: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the gradients of the weights and the bias of a 3x3 convolution with a border of one zero.

    Args:
        grad: the gradient of the result, (B, K, H, W).
        x: the images that were convolved, (B, C, H, W), of grad's dtype and device. Channels-last ones are not copied.
        tile: of "cpp": 1 multiplies directly, in AMX. 4 is the transpose of Winograd's F(4x4, 3x3), for any processor.
            None takes 1 where there is AMX.
        instruction_set: for a tile of 4 one of `ops.networks.conv3x3.instruction_sets()`; None takes the fastest.
        impl: "reference", which is torch's, or "cpp", for float32 on a CPU; None takes "cpp" where it serves.

    Returns:
        weight: (K, C, 3, 3), channels-last, and bias: (K,). By "cpp" they are the same bits on one thread and on many.
        With a tile of 1 they are as near to exact sums as float32's, with 4 to within 1e-5 of their largest. With a
        tile of 1 all are NaN where a value is not finite, with 4 those that it meets.

    Raises:
        ValueError: shapes or devices that do not fit together, a tile or an instruction set that is not here.
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
        impl = "cpp" if x.device.type == "cpu" and x.dtype == torch.float32 and tiles() else "reference"
    run = CONV3X3_WEIGHT_GRADIENT(impl, x.device)
    if impl == "reference":
        return run(grad, x, 1, -1)
    if x.dtype != torch.float32:
        raise TypeError(f"x is {x.dtype}: conv3x3_weight_gradient by {impl!r} computes in float32")
    choices, sets = [choice for choice in tiles() if choice != 2], instruction_sets()
    if tile is not None and tile not in choices:
        here = ", ".join(map(str, choices))
        raise ValueError(f"tile is {tile}: this machine has {here}" + " (1 needs AMX)" * (tile == 1))
    if instruction_set is not None and instruction_set not in sets:
        raise ValueError(f"instruction_set is {instruction_set!r}: this machine has {', '.join(sets)}")
    return run(grad, x, tile or choices[0], -1 if instruction_set is None else sets.index(instruction_set))
