"""`rddm_fast::conv_norm_silu`: half of a U-Net's residual block, a 3x3 convolution and all that follows it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..backends import HALVES_CAPABILITY
from ..checks import HALVES, check_convolution, check_device, check_no_gradient
from .conv3x3 import conv3x3_reference, fake_convolution, pack_conv3x3_taps
from .group_norm_silu import check_norm, group_norm_silu_reference


@without_autocast
def conv_norm_silu_reference(
    x: Tensor,
    x_2: Tensor | None,
    weight: Tensor,
    packed: Tensor | None,
    conv_bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    scale_shift: Tensor | None,
    residual: Tensor | None,
    residual_2: Tensor | None,
    res_weight: Tensor | None,
    res_bias: Tensor | None,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments: torch's own ops. Differentiable."""
    y = conv3x3_reference(x, x_2, weight, packed, conv_bias)
    if res_weight is not None:
        assert residual is not None
        both = residual if residual_2 is None else torch.cat((residual, residual_2), dim=1)
        residual = F.conv2d(both.float(), res_weight[:, :, None, None].float(), res_bias).to(y.dtype)
    return group_norm_silu_reference(y, None, norm_weight, norm_bias, groups, eps, scale_shift, residual)


CONV_NORM_SILU = backends.define(
    "conv_norm_silu",
    "(Tensor x, Tensor? x_2, Tensor weight, Tensor? packed, Tensor? conv_bias, Tensor norm_weight, Tensor norm_bias, "
    "int groups, float eps, Tensor? scale_shift, Tensor? residual, Tensor? residual_2, Tensor? res_weight, "
    "Tensor? res_bias) -> Tensor",
    reference=conv_norm_silu_reference,
    triton="networks.conv_norm_silu:conv_norm_silu",
    capability=HALVES_CAPABILITY,
    fake=fake_convolution,
    lacking=("cpp", "cuda"),
)


def serves_groups(out_channels: int, groups: int) -> bool:
    """Return whether "triton" serves the norm of a convolution that it serves: groups of 1, 2, 4 ... 64 channels."""
    of_group = out_channels // groups
    return out_channels % groups == 0 and of_group <= 64 and of_group & (of_group - 1) == 0


def conv_norm_silu(
    x: Tensor,
    weight: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    *,
    eps: float = 1e-5,
    conv_bias: Tensor | None = None,
    x_2: Tensor | None = None,
    packed: Tensor | None = None,
    scale_shift: Tensor | None = None,
    residual: Tensor | None = None,
    residual_2: Tensor | None = None,
    res_weight: Tensor | None = None,
    res_bias: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Convolve, then apply group norm, the time's scale and shift, SiLU, and the block's residual:

        y = group_norm(conv3x3(x)) norm_weight + norm_bias;  y = y (scale + 1) + shift;  y = y sigmoid(y) + residual

    The convolution takes the statistics of its result while it has it, so that the result is read once. A residual that
    a convolution makes is never stored.

    Args:
        x, weight, x_2, packed: as for `conv3x3` on a GPU, without `upsample`.
        conv_bias: (K,), float32, the convolution's bias.
        norm_weight, norm_bias, groups, eps, scale_shift: as `weight`, `bias` and the others for `group_norm_silu`.
            A group has a power of 2 of channels, at most 64.
        residual: of the result's shape and dtype. With `res_weight`, the images that a 1x1 convolution makes it of.
        residual_2: more channels of those images, (B, C_2, H, W).
        res_weight: (K, C + C_2), of x's dtype.
        res_bias: (K,), float32, that convolution's bias.
        impl: "reference" or "triton"; None takes the best one available on the device.

    Returns:
        y: (B, K, H, W), of x's dtype, channels-last. "triton" takes the statistics before the convolution's result is
        rounded to x's dtype, the reference after it; and does not round a residual that a convolution makes.

    Raises:
        ValueError: shapes, channels or devices that do not fit together or are not served.
        TypeError: another dtype than bfloat16 or float16; "reference" serves float32 too.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    dtypes = (torch.float32, *HALVES) if impl == "reference" else HALVES
    check_convolution("conv_norm_silu", x, weight, conv_bias, x_2, dtypes)
    shape = torch.Size((x.shape[0], weight.shape[0], *x.shape[2:]))
    check_norm(shape, x, norm_weight, norm_bias, groups, scale_shift, residual if res_weight is None else None)
    check_device(x.device, "x", packed=packed)
    _check_residual(shape, x, residual, residual_2, res_weight, res_bias)
    run = CONV_NORM_SILU(impl, x.device)
    if impl != "reference":
        images = x, x_2, residual, residual_2
        weights = weight, conv_bias, norm_weight, norm_bias, scale_shift, res_weight, res_bias
        check_no_gradient("conv_norm_silu", *images, *weights)
        if not serves_groups(weight.shape[0], groups):
            of_group = weight.shape[0] // groups
            raise ValueError(f"a group has {of_group} channels: conv_norm_silu takes a power of 2, at most 64")
        if packed is None:
            packed = pack_conv3x3_taps(weight, x.dtype)
    convolution, norm = (x, x_2, weight, packed, conv_bias), (norm_weight, norm_bias, groups, eps, scale_shift)
    return run(*convolution, *norm, residual, residual_2, res_weight, res_bias)


def _check_residual(
    shape: torch.Size,
    x: Tensor,
    residual: Tensor | None,
    residual_2: Tensor | None,
    res_weight: Tensor | None,
    res_bias: Tensor | None,
) -> None:
    """Raise ValueError or TypeError unless a 1x1 convolution makes a residual of `shape` of these images."""
    if res_weight is None:
        if residual_2 is not None or res_bias is not None:
            raise ValueError("residual_2 and res_bias belong to a convolution: pass res_weight with them")
        return
    if residual is None:
        raise ValueError("res_weight makes the residual of images: pass them as residual")
    called = "residual", "res_weight", "res_bias"
    check_convolution("conv_norm_silu", residual, res_weight, res_bias, residual_2, (x.dtype,), called=called)
    made = torch.Size((residual.shape[0], res_weight.shape[0], *residual.shape[2:]))
    if made != shape or res_weight.dtype != x.dtype or res_weight.dim() != 2:
        raise ValueError(
            f"res_weight must be {x.dtype} of shape (K, C) and make a residual of shape {tuple(shape)}, not "
            f"{res_weight.dtype} of {tuple(res_weight.shape)} that makes {tuple(made)}"
        )
    check_device(x.device, "x", residual=residual)
