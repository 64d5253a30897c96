"""`rddm_fast::conv_by_taps`: a convolution of any side, stride and border, and what is added to it, in one launch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..backends import HALVES_CAPABILITY
from ..checks import HALVES, check_added, check_device, check_halves, check_no_gradient


@without_autocast
def conv_by_taps_reference(
    x: Tensor, taps: Tensor, bias: Tensor | None, addend: Tensor | None, stride: int, padding: int
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into a channels-last image.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    weight = taps.permute(2, 3, 0, 1).to(compute)
    y = F.conv2d(x.to(compute), weight, None if bias is None else bias.to(compute), stride, padding)
    if addend is not None:
        y = y + addend.to(compute)
    return y.to(x.dtype).contiguous(memory_format=torch.channels_last)


def _fake(x: Tensor, taps: Tensor, bias: Tensor | None, addend: Tensor | None, stride: int, padding: int) -> Tensor:
    size = _result_size(x, taps, stride, padding)
    return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _result_size(x: Tensor, taps: Tensor, stride: int, padding: int) -> torch.Size:
    sides = ((length + 2 * padding - taps.shape[0]) // stride + 1 for length in x.shape[2:])
    return torch.Size((x.shape[0], taps.shape[2], *sides))


CONV_BY_TAPS = backends.define(
    "conv_by_taps",
    "(Tensor x, Tensor taps, Tensor? bias, Tensor? addend, int stride, int padding) -> Tensor",
    reference=conv_by_taps_reference,
    triton="networks.conv_by_taps:conv_by_taps",
    capability=HALVES_CAPABILITY,
    fake=_fake,
    lacking=("cpp", "cuda"),
)


def pack_taps(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Arrange a weight for `conv_by_taps`, tap by tap.

    Args:
        weight: (K, C, side, side).
        dtype: of the images, bfloat16 or float16.

    Returns:
        taps: (side, side, K, C) in `dtype`.

    Raises:
        ValueError: a weight of another shape.
        TypeError: another dtype.
    """
    if weight.dim() != 4 or weight.shape[2] != weight.shape[3] or weight.numel() == 0:
        raise ValueError(f"weight must be (K, C, side, side), not {tuple(weight.shape)}")
    if dtype not in HALVES:
        raise TypeError(f"dtype is {dtype}: conv_by_taps computes in bfloat16 and float16")
    return weight.detach().permute(2, 3, 0, 1).to(dtype).contiguous()


def conv_by_taps(
    x: Tensor,
    taps: Tensor,
    *,
    bias: Tensor | None = None,
    addend: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    impl: str | None = None,
) -> Tensor:
    """Convolve images, with zeros around them, and add to the result.

    Meant for few taps: 1x1, or 4x4 with a stride of 2. `conv3x3` and `stem_conv` are faster where they serve.

    Args:
        x: images (B, C, H, W), bfloat16 or float16; channels-last ones are not copied.
        taps: `pack_taps(weight, x.dtype)`, (side, side, K, C).
        bias: (K,), float32.
        addend: of the result's shape and x's dtype; channels-last ones are not copied.
        stride: at least 1.
        padding: rows and columns of zeros around the images, from 0 to side - 1.
        impl: "reference" or "triton"; None takes the best one available on the device.

    Returns:
        y: (B, K, (H + 2 padding - side) // stride + 1, ...), of x's dtype, channels-last. Summed in float32 and rounded
        once.

    Raises:
        ValueError: shapes, numbers or devices that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    check_halves(x, "taps", taps, addend)
    if x.dim() != 4 or taps.dim() != 4 or taps.shape[0] != taps.shape[1] or taps.shape[3] != x.shape[1]:
        raise ValueError(f"taps of shape {tuple(taps.shape)} are not of a weight for images of shape {tuple(x.shape)}")
    side = taps.shape[0]
    if stride < 1 or not 0 <= padding < side:
        raise ValueError(
            f"stride must be at least 1 and padding from 0 to {side - 1}, got stride {stride}, padding {padding}"
        )
    if min(x.shape[2:]) + 2 * padding < side:
        raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} are smaller than the {side} x {side} taps")
    check_added(_result_size(x, taps, stride, padding), bias, addend)
    check_device(x.device, "x", taps=taps, bias=bias, addend=addend)
    run = CONV_BY_TAPS(impl, x.device)
    if impl != "reference":
        check_no_gradient("conv_by_taps", x, taps, bias, addend)
    return run(x, taps, bias, addend, stride, padding)
