"""`rddm_fast::pixel_attention`: linear attention over pixels with its projections, and its gradients, for training."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import DTYPES, check_device, check_dtype

PIXELS_AT_ONCE = 4096
"""Pixels that the reference takes at once on a CPU: 128 features of them are 2 MiB, and stay in the cache."""


@without_autocast
def pixel_attention_reference(
    x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The op's definition in plain torch, with the schema's arguments. A few images at a time. Differentiable."""
    parts = [_attention(x[part], to_qkv, to_out, bias, heads, scale) for part in _parts(x)]
    out, keys, context = (torch.cat(results) for results in zip(*parts, strict=True))
    return out, keys, context


def _attention(
    x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    def by_head(t: Tensor) -> Tensor:  # (B, pixels, heads features) as (B, heads, pixels, features)
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = (F.linear(x, weight) for weight in to_qkv.chunk(3))
    # Softmax in float32 for every dtype, because its sums run over all pixels.
    accurate = torch.promote_types(x.dtype, torch.float32)
    q = q.unflatten(-1, (heads, -1)).softmax(-1, dtype=accurate).to(x.dtype).flatten(-2)
    keys = k.to(accurate).logsumexp(1)
    k = (k - keys[:, None]).exp().to(x.dtype)
    context = by_head(k).transpose(-1, -2) @ by_head(v)
    projection = (context * (scale / max(x.shape[1], 1)) @ to_out.t().unflatten(0, (heads, -1))).flatten(1, 2)
    return q @ projection + bias, keys, context.flatten(1, 2).to(accurate)


def _parts(x: Tensor) -> list[slice]:
    """Return the slices of the batch that are processed at once."""
    images, pixels = x.shape[:2]
    at_once = max(1, PIXELS_AT_ONCE // max(pixels, 1)) if x.device.type == "cpu" else max(images, 1)
    return [slice(i, i + at_once) for i in range(0, max(images, 1), at_once)]


@without_autocast
def pixel_attention_backward_reference(
    grad: Tensor, x: Tensor, to_qkv: Tensor, to_out: Tensor, keys: Tensor, context: Tensor, heads: int, scale: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of x, to_qkv, to_out and bias: autograd's, of a few images' outputs that are computed again.

    A backward pass written out by hand is at most 1 % faster, and torch.utils.checkpoint is 5 % slower.
    """
    weights = [tensor.detach() for tensor in (to_qkv, to_out, x.new_zeros(x.shape[-1]))]
    x_grad, totals = torch.empty_like(x), [torch.zeros_like(weight) for weight in weights]
    for part in _parts(x):
        given = own_x, own_qkv, own_out, own_bias = [t.detach().requires_grad_() for t in (x[part], *weights)]
        with torch.enable_grad():
            out, *_ = _attention(own_x, own_qkv, own_out, own_bias, heads, scale)
        x_grad[part], *own = torch.autograd.grad(out, given, grad[part])
        torch._foreach_add_(totals, own)
    return x_grad, totals[0], totals[1], totals[2]


def _fake(x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float) -> tuple[Tensor, ...]:
    accurate, inner = torch.promote_types(x.dtype, torch.float32), to_out.shape[1]
    keys = x.new_empty((len(x), inner), dtype=accurate)
    return torch.empty_like(x), keys, x.new_empty((len(x), inner, inner // heads), dtype=accurate)


PIXEL_ATTENTION = backends.define(
    "pixel_attention",
    "(Tensor x, Tensor to_qkv, Tensor to_out, Tensor bias, int heads, float scale) -> (Tensor, Tensor, Tensor)",
    reference=pixel_attention_reference,
    fake=_fake,
    lacking=("cuda",),
)
PIXEL_ATTENTION_BACKWARD = backends.define(
    "pixel_attention_backward",
    "(Tensor grad, Tensor x, Tensor to_qkv, Tensor to_out, Tensor keys, Tensor context, int heads, float scale) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    reference=pixel_attention_backward_reference,
    fake=lambda grad, x, to_qkv, to_out, *_: (
        *(torch.empty_like(tensor) for tensor in (x, to_qkv, to_out)),
        x.new_empty(x.shape[-1]),
    ),
    lacking=("cuda",),
)


class _PixelAttention(torch.autograd.Function):
    """Autograd's view of the op. It saves its arguments, and of the keys and values their context alone."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float, backend: str
    ) -> Tensor:
        out, keys, context = PIXEL_ATTENTION.functions[backend](x, to_qkv, to_out, bias, heads, scale)
        ctx.save_for_backward(x, to_qkv, to_out, keys, context)
        ctx.arguments, ctx.backend = (heads, scale), backend
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        run = PIXEL_ATTENTION_BACKWARD.functions[ctx.backend]
        return *run(grad, *ctx.saved_tensors, *ctx.arguments), None, None, None


def serves(channels: int, features: int) -> bool:
    """Return whether "cpp" serves so many channels and features of a head: multiples of 4 and of 8."""
    return channels % 4 == 0 and features % 8 == 0


def pixel_attention(
    x: Tensor,
    to_qkv: Tensor,
    to_out: Tensor,
    bias: Tensor,
    heads: int,
    scale: float,
    *,
    impl: str | None = None,
) -> Tensor:
    """Apply linear attention with its projections (`diffusion.unet.LinearAttention`; Shen et al., 2021):

        q, k, v = x to_qkv';  context = softmax(k)' v, softmax over the pixels, one matrix per head
        out = softmax(q) (context scale / pixels) to_out' + bias, softmax over the features of a head

    Once differentiable. For the backward pass it keeps its arguments and the context: queries, keys and values are 12
    times as wide as x in the first stage of a published network, and are computed again.

    Args:
        x: pixels (B, pixels, C).
        to_qkv: (3 heads features, C).
        to_out: (C, heads features).
        bias: (C,).
        heads: number of heads.
        scale: features^-0.5 in the published networks.
        impl: "reference", or "cpp" for float32 on a CPU, C that is a multiple of 4 and features of 8; None takes "cpp"
            where it serves.

    Returns:
        out: x's shape and dtype. The same bits on one thread and on many by "cpp", as have the gradients.

    Raises:
        ValueError: shapes or devices that do not fit together, or that "cpp" does not serve.
        TypeError: an unsupported dtype, or tensors of several.
        BackendUnavailable: `impl` cannot be used here; the message says why.
    """
    check_dtype("x", x, DTYPES)
    weights = {"to_qkv": to_qkv, "to_out": to_out, "bias": bias}
    for name, weight in weights.items():
        if weight.dtype != x.dtype:
            raise TypeError(f"{name} is {weight.dtype} and x is {x.dtype}: convert {name} to that")
    check_device(x.device, "x", **weights)
    channels, inner = x.shape[-1], to_out.shape[-1]
    if x.dim() != 3 or heads < 1 or to_out.shape != (channels, inner) or inner % heads:
        raise ValueError(
            f"x of shape {tuple(x.shape)} must be pixels (B, pixels, C), "
            f"and to_out of shape {tuple(to_out.shape)} must have C rows and divide into {heads} heads"
        )
    if to_qkv.shape != (3 * inner, channels) or bias.shape != (channels,):
        raise ValueError(
            f"to_qkv must have shape ({3 * inner}, {channels}) and bias ({channels},), "
            f"not {tuple(to_qkv.shape)} and {tuple(bias.shape)}"
        )
    served = x.dtype == torch.float32 and serves(channels, inner // heads)
    if impl == "cpp" and not served:
        raise ValueError(
            "pixel_attention by 'cpp' takes float32, channels that divide by 4 and features that divide by 8, "
            f"not {x.dtype}, {channels} and {inner // heads}"
        )
    best = PIXEL_ATTENTION.best(x.device) if served else None
    backend = (best or "reference") if impl is None else PIXEL_ATTENTION.backend(impl, x.device)
    if backend != "reference":
        x, to_qkv, to_out = x.contiguous(), to_qkv.contiguous(), to_out.contiguous()
    return _PixelAttention.apply(x, to_qkv, to_out, bias, heads, scale, backend)
