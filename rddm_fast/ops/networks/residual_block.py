"""`rddm_fast::residual_block`: a whole residual block of the U-Net, on a CPU with AMX."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import check_convolution, check_device, check_no_gradient
from .conv1x1 import conv1x1_reference
from .conv3x3 import conv3x3_reference, fake_convolution, tiles
from .group_norm_silu import check_norm, group_norm_silu_reference


@without_autocast
def residual_block_reference(
    x: Tensor,
    x_2: Tensor | None,
    weight_1: Tensor,
    weight_2: Tensor,
    res_weight: Tensor | None,
    packed: Tensor | None,
    bias_1: Tensor | None,
    bias_2: Tensor | None,
    res_bias: Tensor | None,
    norm_1_weight: Tensor,
    norm_1_bias: Tensor,
    norm_2_weight: Tensor,
    norm_2_bias: Tensor,
    groups: int,
    eps: float,
    scale_shift: Tensor | None,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments: torch's convolutions. Differentiable."""
    h = conv3x3_reference(x, x_2, weight_1, None, bias_1)
    h = group_norm_silu_reference(h, None, norm_1_weight, norm_1_bias, groups, eps, scale_shift, None)
    h = conv3x3_reference(h, None, weight_2, None, bias_2)
    residual = x
    if res_weight is not None:
        residual = conv1x1_reference(x, x_2, res_weight.flatten(1), None, res_bias)
    return group_norm_silu_reference(h, None, norm_2_weight, norm_2_bias, groups, eps, None, residual)


RESIDUAL_BLOCK = backends.define(
    "residual_block",
    "(Tensor x, Tensor? x_2, Tensor weight_1, Tensor weight_2, Tensor? res_weight, Tensor? packed, Tensor? bias_1, "
    "Tensor? bias_2, Tensor? res_bias, Tensor norm_1_weight, Tensor norm_1_bias, Tensor norm_2_weight, "
    "Tensor norm_2_bias, int groups, float eps, Tensor? scale_shift) -> Tensor",
    reference=residual_block_reference,
    fake=fake_convolution,
    lacking=("cuda",),
)

backends.library.define("pack_residual_block(Tensor weight_1, Tensor weight_2, Tensor? res_weight) -> Tensor")


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether "cpp" serves images: in float32 on a CPU that has AMX."""
    return dtype == torch.float32 and RESIDUAL_BLOCK.best(device) == "cpp" and 1 in tiles()


def pack_residual_block(weight_1: Tensor, weight_2: Tensor, res_weight: Tensor | None = None) -> Tensor:
    """Arrange the weights of a block for `residual_block` on this machine, as `pack_conv3x3` does for a tile of 1.

    Args:
        weight_1, weight_2: (K, C, 3, 3) and (K, K, 3, 3), float32, on the CPU.
        res_weight: (K, C, 1, 1), if there is one.

    Returns:
        packed: float32, of one axis.

    Raises:
        ValueError: weights of other shapes.
        TypeError: weights of another dtype.
        BackendUnavailable: the library is not compiled, or this machine has no AMX.
    """
    _check_weights(weight_1, weight_2, res_weight)
    backends.check_compiled()
    _check_amx()
    residual = None if res_weight is None else res_weight.detach()
    return torch.ops.rddm_fast.pack_residual_block(weight_1.detach(), weight_2.detach(), residual)


def residual_block(
    x: Tensor,
    weight_1: Tensor,
    weight_2: Tensor,
    norm_1: tuple[Tensor, Tensor],
    norm_2: tuple[Tensor, Tensor],
    groups: int,
    *,
    res_weight: Tensor | None = None,
    x_2: Tensor | None = None,
    biases: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
    packed: Tensor | None = None,
    eps: float = 1e-5,
    scale_shift: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Apply a residual block of the U-Net (Ho et al., 2020; RDDM's networks) to images:

        h = silu(group_norm(conv3x3(x)) (scale + 1) + shift);  y = silu(group_norm(conv3x3(h))) + conv1x1(x)

    Args:
        x: images (B, C, H, W), float32, in any layout; channels-last ones are not copied.
        weight_1, weight_2: (K, C, 3, 3) and (K, K, 3, 3), float32.
        norm_1, norm_2: each a norm's weight and bias, (K,), float32.
        groups: number of groups of consecutive channels; it divides K.
        res_weight: (K, C, 1, 1), float32; None adds x itself, which then has K channels.
        x_2: more channels of the images, (B, C_2, H, W): then the weights have C + C_2, and nothing is concatenated.
        biases: of the two convolutions and of the 1x1 one, (K,), float32, or None.
        packed: `pack_residual_block(weight_1, weight_2, res_weight)`; None packs at each call.
        eps: added to a group's variance.
        scale_shift: (1, 2 K) or (B, 2 K), float32: first the scales, then the shifts.
        impl: "reference", or "cpp" on a CPU with AMX; None takes the best one available on the device.

    Returns:
        y: (B, K, H, W), float32, channels-last. Of "cpp" its error is that of three float32 convolutions (see
        `conv3x3` for AMX), and it has the same bits on one thread and on many.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: another dtype than float32.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    _check_weights(weight_1, weight_2, res_weight)
    check_convolution("residual_block", x, weight_1, biases[0], x_2)
    shape = torch.Size((x.shape[0], weight_1.shape[0], *x.shape[2:]))
    for norm, table in ((norm_1, scale_shift), (norm_2, None)):
        check_norm(shape, x, *norm, groups, table, None)
    for name, bias in zip(("biases[1]", "biases[2]"), biases[1:], strict=True):
        if bias is not None and (bias.shape != weight_1.shape[:1] or bias.dtype != torch.float32):
            raise ValueError(f"{name} must be float32 of shape ({len(weight_1)},), not {tuple(bias.shape)}")
    if res_weight is None and (x_2 is not None or x.shape[1] != len(weight_1)):
        raise ValueError(f"without res_weight x must have the result's {len(weight_1)} channels, all in one part")
    check_device(x.device, "x", weight_2=weight_2, res_weight=res_weight, packed=packed)
    run = RESIDUAL_BLOCK(impl, x.device)
    if impl != "reference":
        given = (x, x_2, weight_1, weight_2, res_weight, *biases, *norm_1, *norm_2, scale_shift)
        check_no_gradient("residual_block", *given)
        _check_amx()
    convolutions = (x, x_2, weight_1, weight_2, res_weight, packed, *biases)
    return run(*convolutions, *norm_1, *norm_2, groups, eps, scale_shift)


def _check_amx() -> None:
    if 1 not in tiles():
        raise backends.BackendUnavailable(
            "cpp: residual_block needs AMX, which this machine lacks; impl='reference' always works"
        )


def _check_weights(weight_1: Tensor, weight_2: Tensor, res_weight: Tensor | None) -> None:
    if weight_1.dim() != 4 or weight_1.shape[2:] != (3, 3) or weight_1.numel() == 0:
        raise ValueError(f"weight_1 must be of shape (K, C, 3, 3), not {tuple(weight_1.shape)}")
    k, c = weight_1.shape[:2]
    for name, weight, shape in (("weight_2", weight_2, (k, k, 3, 3)), ("res_weight", res_weight, (k, c, 1, 1))):
        if weight is not None and weight.shape != shape:
            raise ValueError(f"{name} must be of shape {shape}, not {tuple(weight.shape)}")
    for name, weight in (("weight_1", weight_1), ("weight_2", weight_2), ("res_weight", res_weight)):
        if weight is not None and weight.dtype != torch.float32:
            raise TypeError(f"{name} is {weight.dtype}: residual_block computes in float32")
