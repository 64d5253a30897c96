"""`rddm_fast::channel_norm`: the layer norm over each pixel's channels, in one read and one write."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import NARROW, check_device, check_dtype, check_no_gradient


@without_autocast
def channel_norm_reference(x: Tensor, g: Tensor, eps: float) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as `torch.empty_like(x)`.
    """
    wide = x.to(torch.float64 if x.dtype == torch.float64 else torch.float32)
    mean = wide.mean(1, keepdim=True)
    variance = (wide - mean).square().mean(1, keepdim=True)
    return torch.empty_like(x).copy_((wide - mean) * (variance + eps).rsqrt() * g.to(wide.dtype).view(-1, 1, 1))


def channel_norm_torch(x: Tensor, g: Tensor, eps: float) -> Tensor:
    """Compute the same by torch's layer norm over the last axis of (B, H, W, C). Differentiable.

    That is how a channels-last image lies in memory. An image of another layout is copied, and the result copied back.
    """
    if x.device.type != "cpu":
        g = g.to(x.dtype)  # Only the CPU's kernel takes a gain of another dtype.
    y = F.layer_norm(x.permute(0, 2, 3, 1), g.shape, g, None, eps).to(x.dtype).permute(0, 3, 1, 2)
    return y if y.stride() == x.stride() else torch.empty_like(x).copy_(y)


CHANNEL_NORM = backends.define(
    "channel_norm",
    "(Tensor x, Tensor g, float eps) -> Tensor",
    reference=channel_norm_torch,
    triton="networks.channel_norm:channel_norm",
    lacking=("cpp", "cuda"),
)


def channel_norm(x: Tensor, g: Tensor, eps: float = 1e-5, *, impl: str | None = None) -> Tensor:
    """Normalise each pixel over its channels (layer norm, Ba et al., 2016), with a gain and no bias:

        y = (x - mean) / sqrt(variance + eps) g, with the biased variance

    Args:
        x: images (B, C, H, W), in float32, bfloat16 or float16.
        g: the gain (C,), in float32 or x's dtype.
        eps: added to a pixel's variance.
        impl: "reference", "torch" (its layer norm) or "triton"; None takes "torch" on the CPU, where it is the fastest
            (`fast.folded.attention.implementation` has the numbers), and "triton" on a GPU.

    Returns:
        y: x's shape and dtype, laid out as `torch.empty_like(x)`. Computed in float32 and rounded once; the statistics
        take two passes over a pixel's channels ("torch" uses Welford's method).

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient, which "triton" does not have.
    """
    _check(x, g)
    if impl == "torch" or (impl is None and x.device.type == "cpu"):
        return channel_norm_torch(x, g, eps)
    run = CHANNEL_NORM(impl, x.device)
    if impl != "reference":
        advice = "call it under torch.no_grad(), or pass impl='torch' or impl='reference', which are differentiable"
        check_no_gradient("channel_norm", x, g, advice=advice)
    return run(x, g, eps)


def _check(x: Tensor, g: Tensor) -> None:
    check_dtype("x", x, NARROW)
    if x.dim() != 4:
        raise ValueError(f"x must be images (B, C, H, W), not of shape {tuple(x.shape)}")
    if g.shape != x.shape[1:2] or g.dtype not in (torch.float32, x.dtype) or not g.is_contiguous():
        wanted = " or ".join(dict.fromkeys((str(torch.float32), str(x.dtype))))
        raise ValueError(
            f"g must be contiguous {wanted} of shape {tuple(x.shape[1:2])}, not {g.dtype} of {tuple(g.shape)}"
        )
    check_device(x.device, "x", g=g)
