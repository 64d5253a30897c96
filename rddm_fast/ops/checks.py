"""Argument checks that several ops share; each error is one sentence with the argument's name."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..theory.objective import Objective

HALVES = (torch.bfloat16, torch.float16)
NARROW = (torch.float32, *HALVES)
DTYPES = (*NARROW, torch.float64)

_DETACH = "call it under torch.no_grad(), detach its inputs, or pass impl='reference', which is differentiable"


def check_dtype(name: str, x: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    """Raise TypeError for a dtype that the op does not serve."""
    if x.dtype not in dtypes:
        raise TypeError(f"{name} is {x.dtype}: convert it to float32, bfloat16 or float16")


def check_device(device: torch.device, of: str, **others: Tensor | None) -> None:
    """Raise ValueError if a tensor of `others` is not on `device`, the device of the argument named `of`."""
    for name, x in others.items():
        if x is not None and x.device != device:
            raise ValueError(f"{name} is on {x.device} and {of} on {device}: move one to the other")


def check_alike(image_name: str, image: Tensor, out0: Tensor | None = None, **others: Tensor | None) -> None:
    """Raise ValueError or TypeError unless `out0` and `others` have the image's shape, device and dtype.

    They are checked in order. "out1" must have the dtype of "out0" instead, which may be a half beside float32.
    """
    # Reading a tensor's attributes costs as much as comparing them, and a call checks up to five tensors.
    shape, device, dtype = image.shape, image.device, image.dtype
    of_outputs = None if out0 is None else out0.dtype
    for name, x in {"out0": out0, **others}.items():
        if x is None:
            continue
        if x.shape != shape:
            shapes = f"{tuple(x.shape)} and {image_name} has {tuple(shape)}"
            raise ValueError(f"{name} has shape {shapes}: they must be equal")
        if x.device != device:
            raise ValueError(f"{name} is on {x.device} and {image_name} on {device}: move one to the other")
        like_name, like = ("out0", of_outputs) if name in ("out0", "out1") else (image_name, dtype)
        if like is not None and x.dtype != like:
            raise TypeError(f"{name} is {x.dtype} and {like_name} is {like}: convert {name} to that")


def check_outputs(
    objective: Objective, out0: Tensor, out1: Tensor | None, image_name: str, image: Tensor, otherwise: str
) -> None:
    """Raise unless the objective has these outputs and they have the image's dtype, or a half beside float32.

    `otherwise` is the advice for a superfluous output.
    """
    if objective.outputs == 2 and out1 is None:
        raise ValueError(f"{objective.name} has two outputs, but out1 is missing: pass the network's second one")
    if objective.outputs == 1 and out1 is not None:
        raise ValueError(f"{objective.name} has one output, but out1 was given: {otherwise}")
    check_output_dtype("out0", out0, image_name, image)


def check_output_dtype(name: str, output: Tensor, image_name: str, image: Tensor) -> None:
    """Raise TypeError unless the network's output has the image's dtype, or is a half beside float32."""
    if output.dtype != image.dtype and not (image.dtype == torch.float32 and output.dtype in HALVES):
        raise TypeError(
            f"{name} is {output.dtype} beside an {image_name} of {image.dtype}: "
            f"convert it to {image_name}'s dtype, or to bfloat16 or float16 beside a float32 {image_name}"
        )


def check_convolution(
    op: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    x_2: Tensor | None,
    dtypes: tuple[torch.dtype, ...] = (torch.float32,),
    *,
    called: tuple[str, str, str] = ("x", "weight", "bias"),
) -> None:
    """Raise ValueError or TypeError unless images, one or two in a row, have the channels of `weight`.

    The images have one of `dtypes`, both the same, and the bias is float32. `called` are the arguments' names in `op`;
    the second images' is that of the first with _2.
    """
    first, of_weight, of_bias = called
    second = f"{first}_2"
    if x.dim() != 4:
        raise ValueError(f"{first} must be images (B, C, H, W), not of shape {tuple(x.shape)}")
    allowed = {first: dtypes, second: (x.dtype,), of_bias: (torch.float32,)}
    for name, tensor in ((first, x), (second, x_2), (of_bias, bias)):
        if tensor is not None and tensor.dtype not in allowed[name]:
            names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed[name])
            verb = "computes in" if name == first else f"takes {name} in"
            raise TypeError(f"{name} is {tensor.dtype}: {op} {verb} {names}")
    if x_2 is not None and (x_2.dim() != 4 or x_2.shape[0] != x.shape[0] or x_2.shape[2:] != x.shape[2:]):
        raise ValueError(
            f"{second} has shape {tuple(x_2.shape)} and {first} {tuple(x.shape)}: only the channels may differ"
        )
    channels = x.shape[1] + (0 if x_2 is None else x_2.shape[1])
    if weight.shape[1] != channels:
        raise ValueError(
            f"{of_weight} of shape {tuple(weight.shape)} takes {weight.shape[1]} channels, and {first} has {channels}"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"{of_bias} must have shape ({weight.shape[0]},), not {tuple(bias.shape)}")
    check_device(x.device, first, **{of_weight: weight, of_bias: bias, second: x_2})


def check_halves(x: Tensor, packed: str, weight: Tensor, addend: Tensor | None) -> None:
    """Raise TypeError unless images, their packed weight, called `packed`, and an addend share a 2-byte dtype."""
    for name, tensor in (("x", x), (packed, weight), ("addend", addend)):
        if tensor is not None and (tensor.dtype not in HALVES or tensor.dtype != x.dtype):
            raise TypeError(f"{name} is {tensor.dtype}: x, {packed} and addend must all be bfloat16, or all float16")


def check_added(shape: Sequence[int], bias: Tensor | None, addend: Tensor | None) -> None:
    """Raise ValueError unless a bias and an addend fit a result of `shape`, (B, K, H, W)."""
    if bias is not None and (bias.shape != (shape[1],) or bias.dtype != torch.float32):
        raise ValueError(f"bias must be float32 of shape ({shape[1]},), not {bias.dtype} of {tuple(bias.shape)}")
    if addend is not None and addend.shape != tuple(shape):
        raise ValueError(f"addend must be of shape {tuple(shape)}, not {tuple(addend.shape)}")


def check_number(name: str, number: object, device: torch.device) -> None:
    """Raise ValueError for a tensor that is not one int64 number on `device`, which a kernel reads there."""
    if isinstance(number, Tensor) and (number.dtype != torch.int64 or number.numel() != 1 or number.device != device):
        raise ValueError(
            f"{name} must be an int, or a tensor of one int64 number on {device}, "
            f"not {number.dtype} of shape {tuple(number.shape)} on {number.device}"
        )


def check_written_in_place(name: str, image: Tensor) -> None:
    """Raise ValueError unless the image is contiguous or channels-last."""
    if not (image.is_contiguous() or (image.dim() == 4 and image.is_contiguous(memory_format=torch.channels_last))):
        raise ValueError(
            f"{name} has strides {image.stride()}: it is written in place and must be contiguous or channels-last"
        )


def check_no_gradient(op: str, *tensors: Tensor | None, advice: str = _DETACH) -> None:
    """Raise RuntimeError if a gradient through `op` is needed, in reverse mode or in forward mode: it has none."""
    check_no_tangent(op, *tensors)
    if not torch.is_grad_enabled():
        return
    for x in tensors:
        if x is not None and x.requires_grad:
            raise RuntimeError(f"{op} has no gradient: {advice}")


def check_no_tangent(op: str, *tensors: Tensor | None) -> None:
    """Raise RuntimeError if a tensor carries a tangent of forward-mode differentiation, which `op` would drop."""
    if forward_ad._current_level < 0:  # Outside dual_level no tensor does; asking each would take longer.
        return
    for x in tensors:
        if x is not None and forward_ad.unpack_dual(x).tangent is not None:
            raise RuntimeError(
                f"{op} has no forward-mode derivative: pass forward_ad.unpack_dual(x).primal, "
                "or differentiate the reference, impl='reference' of the ops that are not in place"
            )
