"""`rddm_fast::stem_conv`: the first convolution of a network, of images with few channels, and what is added to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..backends import HALVES_CAPABILITY
from ..checks import HALVES, check_added, check_device, check_halves, check_no_gradient


@without_autocast
def stem_conv_reference(x: Tensor, rows: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into a channels-last image.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    side, channels = len(rows), x.shape[1]
    weight = rows[..., : side * channels].unflatten(-1, (side, channels)).permute(1, 3, 0, 2).to(compute)
    y = F.conv2d(x.to(compute), weight, None if bias is None else bias.to(compute), padding=side // 2)
    if addend is not None:
        y = y + addend.to(compute)
    return _fake(x, rows, bias, addend).to(y.dtype).copy_(y).to(x.dtype)


def _fake(x: Tensor, rows: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    shape = (x.shape[0], rows.shape[1], *x.shape[2:])
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


STEM_CONV = backends.define(
    "stem_conv",
    "(Tensor x, Tensor rows, Tensor? bias, Tensor? addend) -> Tensor",
    reference=stem_conv_reference,
    triton="networks.stem_conv:stem_conv",
    capability=HALVES_CAPABILITY,
    fake=_fake,
    lacking=("cpp", "cuda"),
)


def serves(weight: Tensor) -> bool:
    """Return whether `stem_conv` serves a weight: square, of an odd side, with at most 128 values in a row."""
    side = weight.shape[2]
    return weight.shape[3] == side and side % 2 == 1 and weight.shape[1] * side <= 128


def pack_stem_conv(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Arrange a weight for `stem_conv`, row by row.

    Args:
        weight: (K, C, side, side), as `serves` says.
        dtype: of the images, bfloat16 or float16.

    Returns:
        rows: (side, K, width) in `dtype`: of each row of the weight the values of its pixels and their channels, and
        zeros up to a width that is a power of 2.

    Raises:
        ValueError: a weight of another shape.
        TypeError: another dtype.
    """
    if weight.dim() != 4 or not serves(weight):
        raise ValueError(
            f"weight must be (K, C, side, side) with an odd side and C side up to 128, not {tuple(weight.shape)}"
        )
    if dtype not in HALVES:
        raise TypeError(f"dtype is {dtype}: stem_conv computes in bfloat16 and float16")
    rows = weight.detach().permute(2, 0, 3, 1).flatten(2).to(dtype)
    width = max(16, 1 << (rows.shape[-1] - 1).bit_length())
    return F.pad(rows, (0, width - rows.shape[-1])).contiguous()


def stem_conv(
    x: Tensor,
    rows: Tensor,
    *,
    bias: Tensor | None = None,
    addend: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Convolve images of few channels, with stride 1 and zeros around them, and add to the result.

    Args:
        x: images (B, C, H, W), bfloat16 or float16; channels-last ones are not copied.
        rows: `pack_stem_conv(weight, x.dtype)`.
        bias: (K,), float32.
        addend: (B, K, H, W), of x's dtype; channels-last ones are not copied.
        impl: "reference" or "triton"; None takes the best one available on the device.

    Returns:
        y: (B, K, H, W), of x's dtype, channels-last. Summed in float32 and rounded once.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    check_halves(x, "rows", rows, addend)
    if x.dim() != 4 or rows.dim() != 3 or not 0 <= rows.shape[2] - len(rows) * x.shape[1] < max(16, rows.shape[2] // 2):
        raise ValueError(f"rows of shape {tuple(rows.shape)} are not of a weight for images of shape {tuple(x.shape)}")
    check_added((x.shape[0], rows.shape[1], *x.shape[2:]), bias, addend)
    check_device(x.device, "x", rows=rows, bias=bias, addend=addend)
    run = STEM_CONV(impl, x.device)
    if impl != "reference":
        check_no_gradient("stem_conv", x, rows, bias, addend)
    return run(x, rows, bias, addend)
