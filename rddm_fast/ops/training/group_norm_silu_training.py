"""`rddm_fast::group_norm_silu_training`: `group_norm_silu` for training, with its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import check_device
from ..networks.group_norm_silu import check_norm, group_norm_silu_reference


@without_autocast
def group_norm_silu_training_reference(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale_shift: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The op's definition in plain torch, with the schema's arguments."""
    y = group_norm_silu_reference(x, None, weight, bias, groups, eps, scale_shift, None)
    if x.numel() == 0:
        return y, x.new_zeros(len(x), groups, 2)
    variance, mean = torch.var_mean(x.reshape(len(x), groups, -1), dim=2, correction=0)
    return y, torch.stack((mean, (variance + eps).rsqrt()), dim=2)


@without_autocast
def group_norm_silu_backward_reference(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    scale_shift: Tensor | None,
    statistics: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, weight, bias and scale_shift (empty without one), in plain torch."""

    def by_group(t: Tensor) -> Tensor:
        return t.reshape(len(x), groups, -1)

    if x.numel() == 0:
        table = x.new_empty(0, 0) if scale_shift is None else torch.zeros_like(scale_shift)
        return torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias), table
    mean, rstd = statistics[..., :1], statistics[..., 1:]
    normed = ((by_group(x) - mean) * rstd).view(x.shape)
    w, b = weight[:, None, None], bias[:, None, None]
    scale, shift = (0, 0) if scale_shift is None else scale_shift[..., None, None].chunk(2, dim=1)
    before = (normed * w + b) * (scale + 1) + shift
    sigmoid = before.sigmoid()
    by_before = grad * sigmoid * (1 + before * (1 - sigmoid))
    by_affine = by_before * (scale + 1)
    by_normed = by_group(by_affine * w)
    slope = (by_normed * by_group(normed)).mean(2, keepdim=True)
    x_grad = rstd * (by_normed - by_normed.mean(2, keepdim=True) - by_group(normed) * slope)
    tables = [(by_before * (normed * w + b)).sum((2, 3)), by_before.sum((2, 3))]
    return (
        torch.empty_like(x).copy_(x_grad.view(x.shape)),
        (by_affine * normed).sum((0, 2, 3)),
        by_affine.sum((0, 2, 3)),
        x.new_empty(0, 0) if scale_shift is None else torch.cat(tables, dim=1),
    )


GROUP_NORM_SILU_TRAINING = backends.define(
    "group_norm_silu_training",
    "(Tensor x, Tensor weight, Tensor bias, int groups, float eps, Tensor? scale_shift) -> (Tensor, Tensor)",
    reference=group_norm_silu_training_reference,
    triton="training.group_norm_silu_training:group_norm_silu_training",
    fake=lambda x, weight, bias, groups, *_: (
        torch.empty_like(x, memory_format=torch.channels_last),
        x.new_empty(len(x), groups, 2),
    ),
    lacking=("cuda",),
)
GROUP_NORM_SILU_BACKWARD = backends.define(
    "group_norm_silu_backward",
    "(Tensor grad, Tensor x, Tensor weight, Tensor bias, int groups, Tensor? scale_shift, Tensor statistics) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    reference=group_norm_silu_backward_reference,
    triton="training.group_norm_silu_training:group_norm_silu_backward",
    fake=lambda grad, x, weight, bias, groups, scale_shift, _: (
        torch.empty_like(x, memory_format=torch.channels_last),
        torch.empty_like(weight),
        torch.empty_like(bias),
        x.new_empty(0, 0) if scale_shift is None else torch.empty_like(scale_shift),
    ),
    lacking=("cuda",),
)


class _GroupNormSilu(torch.autograd.Function):
    """Autograd's view of the op. It saves its arguments, and the mean and the deviation of each group."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, scale_shift: Any, backend: str
    ) -> Tensor:
        run = GROUP_NORM_SILU_TRAINING.functions[backend]
        y, statistics = run(x, weight, bias, groups, eps, scale_shift)
        ctx.save_for_backward(x, weight, bias, scale_shift, statistics)
        ctx.groups, ctx.backend = groups, backend
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight, bias, scale_shift, statistics = ctx.saved_tensors
        run = GROUP_NORM_SILU_BACKWARD.functions[ctx.backend]
        x_grad, weight_grad, bias_grad, table_grad = run(grad, x, weight, bias, ctx.groups, scale_shift, statistics)
        return x_grad, weight_grad, bias_grad, None, None, table_grad if scale_shift is not None else None, None


def group_norm_silu_training(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-5,
    scale_shift: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Apply group norm (Wu and He, 2018), the time's scale and shift, and SiLU, as `group_norm_silu` does:

        y = group_norm(x) weight + bias;  y = y (scale + 1) + shift;  y = y sigmoid(y)

    Once differentiable. For the backward pass it keeps x and two values of each group. Torch keeps four images.

    Args:
        x: images (B, C, H, W). "cpp" and "triton" take float32; channels-last ones are not copied.
        weight, bias: (C,), of x's dtype.
        groups: number of groups of consecutive channels; it divides C.
        eps: added to a group's variance.
        scale_shift: (B, 2 C), of x's dtype: first the scales, then the shifts.
        impl: "reference", or for float32 "cpp" on a CPU and "triton" on a GPU; None takes the best that serves.

    Returns:
        y: x's shape and dtype; channels-last by "cpp" and "triton". The same bits on one thread and on many, and so the
        gradients.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: tensors of several dtypes, or for "cpp" and "triton" another one than float32.
        BackendUnavailable: `impl` cannot be used here; the message says why.
    """
    named = {"weight": weight, "bias": bias, "scale_shift": scale_shift}
    for name, t in named.items():
        if t is not None and t.dtype != x.dtype:
            raise TypeError(f"{name} is {t.dtype} and x is {x.dtype}: convert {name} to that")
    check_device(x.device, "x", **named)
    if x.dim() != 4:
        raise ValueError(f"x must be images (B, C, H, W), not of shape {tuple(x.shape)}")
    check_norm(x.shape, x, weight.float(), bias.float(), groups, None, None)
    if scale_shift is not None and scale_shift.shape != (len(x), 2 * x.shape[1]):
        wanted = len(x), 2 * x.shape[1]
        raise ValueError(f"scale_shift must have shape {wanted}, not {tuple(scale_shift.shape)}")
    if impl in ("cpp", "triton") and x.dtype != torch.float32:
        raise TypeError(f"x is {x.dtype}: group_norm_silu_training by {impl!r} computes in float32")
    best = GROUP_NORM_SILU_TRAINING.best(x.device) if x.dtype == torch.float32 else None
    backend = (best or "reference") if impl is None else GROUP_NORM_SILU_TRAINING.backend(impl, x.device)
    scale_shift = None if scale_shift is None else scale_shift.contiguous()
    return _GroupNormSilu.apply(x, weight, bias, groups, eps, scale_shift, backend)
