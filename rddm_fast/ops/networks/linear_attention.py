"""`rddm_fast::linear_attention`: the attention between its two projections.

The keys' softmax runs over all pixels. The op reads the keys and values once to make each head's (features x features)
context, and the queries once to apply it. The result is the only thing of the image's size that it writes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import NARROW, check_dtype, check_no_gradient


@without_autocast
def linear_attention_reference(qkv: Tensor, heads: int) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once.
    """
    b, channels, height, width = qkv.shape
    inner, pixels = channels // 3, height * width
    wide = qkv.to(torch.float64 if qkv.dtype == torch.float64 else torch.float32)
    q, k, v = (part.reshape(b, heads, inner // heads, pixels) for part in wide.split(inner, dim=1))
    q = q.softmax(dim=-2) * (inner // heads) ** -0.5
    context = k.softmax(dim=-1) @ v.transpose(-1, -2) / max(pixels, 1)
    out = context.transpose(-1, -2) @ q
    return _result(qkv).copy_(out.reshape(b, inner, height, width))


def _result(qkv: Tensor) -> Tensor:
    """Return an empty image of a third of the channels: channels-last if qkv is, else contiguous."""
    b, channels, height, width = qkv.shape
    last = qkv.is_contiguous(memory_format=torch.channels_last) and not qkv.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(
        (b, channels // 3, height, width), dtype=qkv.dtype, device=qkv.device, memory_format=memory_format
    )


LINEAR_ATTENTION = backends.define(
    "linear_attention",
    "(Tensor qkv, int heads) -> Tensor",
    reference=linear_attention_reference,
    triton="networks.linear_attention:linear_attention",
    fake=lambda qkv, _: _result(qkv),
    lacking=("cpp", "cuda"),
)


def linear_attention(qkv: Tensor, heads: int, *, impl: str | None = None) -> Tensor:
    """Attention whose cost is linear in the pixels (Shen et al., 2021), as RDDM's U-Net scales it. A head computes

        context = softmax(k, over the pixels) (v / (H W))^T;   out = context^T (softmax(q, over the features) d^-0.5)

    of its d features' q, k and v, each (d, H W).

    Args:
        qkv: (B, 3 heads d, H, W), in float32, bfloat16 or float16: all heads' queries, then keys, then values.
        heads: number of heads.
        impl: "reference" or "triton"; None takes "reference" on the CPU and "triton" on a GPU. On a CPU the folded
            networks walk over the pixels instead, projections included (`fast.folded.attention.implementation`).

    Returns:
        out: (B, heads d, H, W) of qkv's dtype: channels-last if qkv is, else contiguous. Accumulated in float32, in an
        order that depends only on the shape, and rounded once. Large keys do not overflow, because the largest key is
        subtracted before the exponential.

    Raises:
        ValueError: a shape that does not divide into heads.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    check_dtype("qkv", qkv, NARROW)
    if qkv.dim() != 4 or heads < 1 or qkv.shape[1] == 0 or qkv.shape[1] % (3 * heads):
        raise ValueError(
            f"qkv must be (B, 3 heads features, H, W): shape {tuple(qkv.shape)} does not divide into {heads} heads"
        )
    run = LINEAR_ATTENTION(impl, qkv.device)
    if run is not linear_attention_reference:
        check_no_gradient("linear_attention", qkv)
    return run(qkv, heads)
