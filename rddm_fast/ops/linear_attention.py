"""`rddm_fast::linear_attention`: from the projection to queries, keys and values to what they attend to.

The keys' softmax runs over all pixels, so the keys and values are read once for the (features x features) context of
each head, and the queries once to apply it; nothing of the image's size is written but the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from . import backends

_SCHEMA = "(Tensor qkv, int heads) -> Tensor"
LACKING = ("cpp", "cuda")
"""The backends that this op was not written for."""
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


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
    """An image of a third of the channels, with qkv's layout (contiguous where that is neither of the two)."""
    b, channels, height, width = qkv.shape
    last = qkv.is_contiguous(memory_format=torch.channels_last) and not qkv.is_contiguous()
    memory_format = torch.channels_last if last else torch.contiguous_format
    return torch.empty(
        (b, channels // 3, height, width), dtype=qkv.dtype, device=qkv.device, memory_format=memory_format
    )


def _triton(qkv: Tensor, heads: int) -> Tensor:
    from rddm_fast.kernels.linear_attention import linear_attention as launch

    return launch(qkv, heads, _result(qkv))


def _fake(qkv: Tensor, heads: int) -> Tensor:
    return _result(qkv)


backends.define(
    *("linear_attention", _SCHEMA), reference=linear_attention_reference, triton=_triton, fake=_fake, lacking=LACKING
)
_CALL: dict[str, Callable[..., Tensor]] = {
    "reference": linear_attention_reference,
    "triton": torch.ops.rddm_fast.linear_attention_triton.default,
}


def linear_attention(qkv: Tensor, heads: int, *, impl: str | None = None) -> Tensor:
    """Attention whose cost is linear in the pixels (Shen et al., 2021), as RDDM's U-Net scales it. A head computes

        context = softmax(k, over the pixels) (v / (H W))^T;   out = context^T (softmax(q, over the features) d^-0.5)

    of its d features' q, k and v, each (d, H W).

    Args:
        qkv: (B, 3 heads d, H, W), in float32, bfloat16 or float16: all heads' queries, then keys, then values.
        heads: how many there are.
        impl: "reference" or "triton"; None takes "reference" on the CPU and "triton" on a GPU. On a CPU the folded
            networks walk over the pixels instead, with what comes before and after (`rddm_fast.fast.dispatch`).

    Returns:
        out: (B, heads d, H, W) of qkv's dtype: channels-last if qkv is, else contiguous. Accumulated in float32 and
        rounded once, in an order that depends on the shape alone. Large keys do not overflow: their exponentials are
        of differences from the largest.

    Raises:
        ValueError: a shape that does not divide into heads.
        TypeError: a dtype that is not served.
        BackendUnavailable: `impl` is not there; the message says why.
        RuntimeError: a gradient would be needed. There is none, except with `impl="reference"`.
    """
    if qkv.dtype not in _DTYPES:
        raise TypeError(f"qkv is {qkv.dtype}: convert it to float32, bfloat16 or float16")
    if qkv.dim() != 4 or heads < 1 or qkv.shape[1] == 0 or qkv.shape[1] % (3 * heads):
        raise ValueError(
            f"qkv must be (B, 3 heads features, H, W): shape {tuple(qkv.shape)} does not divide into {heads} heads"
        )
    backend = backends.choose(impl, qkv.device, LACKING)
    if backend != "reference":
        backends.check_no_gradient("linear_attention", qkv)
    return _CALL[backend](qkv, heads)
