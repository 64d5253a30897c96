"""`rddm_fast::group_norm_silu`: all that follows a convolution in the U-Net's blocks, in two reads and one write."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import NARROW, check_device, check_dtype, check_no_gradient


@without_autocast
def group_norm_silu_reference(
    x: Tensor,
    x_bias: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor | None,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as `torch.empty_like(x)`.
    """
    if x.numel() == 0:  # torch 2.15's group_norm refuses images without pixels.
        return torch.empty_like(x)
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    per_channel = (-1, x.shape[1], *(1,) * (x.dim() - 2))
    y = x.to(compute)
    if x_bias is not None:
        y = y + x_bias.to(compute).reshape(per_channel)
    # torch.group_norm, because torch.nn.functional.group_norm refuses groups of one value.
    y = torch.group_norm(y, groups, weight.to(compute), bias.to(compute), eps)
    if scale_shift is not None:
        scale, shift = (part.reshape(per_channel) for part in scale_shift.to(compute).chunk(2, dim=1))
        y = y * (scale + 1) + shift
    y = F.silu(y)
    if residual is not None:
        y = y + residual.to(compute)
    return torch.empty_like(x).copy_(y)


GROUP_NORM_SILU = backends.define(
    "group_norm_silu",
    "(Tensor x, Tensor? x_bias, Tensor weight, Tensor bias, int groups, float eps, Tensor? scale_shift, "
    "Tensor? residual) -> Tensor",
    reference=group_norm_silu_reference,
    triton="networks.group_norm_silu:group_norm_silu",
    lacking=("cuda",),
)


def group_norm_silu(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-5,
    x_bias: Tensor | None = None,
    scale_shift: Tensor | None = None,
    residual: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Apply group norm (Wu and He, 2018), the time's scale and shift, SiLU, and the block's residual:

        y = group_norm(x + x_bias) weight + bias;  y = y (scale + 1) + shift;  y = y sigmoid(y) + residual

    Args:
        x: images (B, C, ...), in float32, bfloat16 or float16.
        weight, bias: (C,), float32.
        groups: number of groups of consecutive channels; it divides C.
        eps: added to a group's variance.
        x_bias: (C,), float32: the bias of the convolution that computed x without it. On a GPU torch would add it in a
            pass of its own.
        scale_shift: (1, 2 C) or (B, 2 C), float32: first the scales, then the shifts.
        residual: of x's shape and dtype.
        impl: "reference", "cpp" or "triton"; None takes the best one available on the device.

    Returns:
        y: x's shape and dtype, laid out as `torch.empty_like(x)`. Computed in float32 and rounded once. The statistics
        take two passes over each piece of a group, and Chan's formula joins the pieces.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    check_dtype("x", x, NARROW)
    check_norm(x.shape, x, weight, bias, groups, scale_shift, residual, x_bias)
    run = GROUP_NORM_SILU(impl, x.device)
    if impl != "reference":
        check_no_gradient("group_norm_silu", x, x_bias, weight, bias, scale_shift, residual)
    return run(x, x_bias, weight, bias, groups, eps, scale_shift, residual)


def check_norm(
    shape: Sequence[int],
    like: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale_shift: Tensor | None,
    residual: Tensor | None,
    x_bias: Tensor | None = None,
) -> None:
    """Raise ValueError unless the arguments fit an image of a shape, with the dtype and the device of `like`."""
    if len(shape) < 2 or groups < 1 or shape[1] % groups:
        raise ValueError(f"x of shape {tuple(shape)} does not divide into {groups} groups of channels")
    channels = shape[1]
    rows: list[tuple[str, Tensor, tuple[int, ...]]] = [("weight", weight, (channels,)), ("bias", bias, (channels,))]
    if x_bias is not None:
        rows.append(("x_bias", x_bias, (channels,)))
    if scale_shift is not None:
        batch = 1 if scale_shift.shape[:1] == (1,) else shape[0]
        rows.append(("scale_shift", scale_shift, (batch, 2 * channels)))
    for name, row, wanted in rows:
        if row.shape != wanted or row.dtype != torch.float32 or not row.is_contiguous():
            raise ValueError(
                f"{name} must be contiguous float32 of shape {wanted}, not {row.dtype} of {tuple(row.shape)}"
            )
    if residual is not None and (residual.shape != shape or residual.dtype != like.dtype):
        raise ValueError(
            f"residual must be {like.dtype} of x's shape {tuple(shape)}, "
            f"not {residual.dtype} of {tuple(residual.shape)}"
        )
    check_device(like.device, "x", x_bias=x_bias, weight=weight, bias=bias, scale_shift=scale_shift, residual=residual)
