"""`rddm_fast::attention_layer`: the U-Net's linear attention with its norms, projections and residual."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..backends import HALVES_CAPABILITY
from ..checks import HALVES, NARROW, check_device, check_dtype, check_no_gradient

DTYPES_OF = {"cpp": (torch.float32, torch.bfloat16), "triton": HALVES}
"""The images' dtypes that a backend computes in."""


@without_autocast
def attention_layer_reference(
    x: Tensor,
    norm_g: Tensor,
    to_qkv: Tensor,
    to_out: Tensor,
    bias: Tensor,
    g: Tensor,
    heads: int,
    eps: float,
    packed: Tensor | None,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into a channels-last image.
    """
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    norm_g, to_qkv, to_out, bias, g = (t.to(compute) for t in (norm_g, to_qkv, to_out, bias, g))
    pixels = x.to(compute).permute(0, 2, 3, 1).flatten(1, 2)
    normed = F.layer_norm(pixels, norm_g.shape, norm_g, None, eps)
    q, k, v = F.linear(normed, to_qkv).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, pixels, ...)
    context = k.softmax(dim=-2).transpose(-1, -2) @ v / (max(pixels.shape[1], 1) * q.shape[-1] ** 0.5)
    out = (q.softmax(dim=-1) @ context).transpose(1, 2).flatten(-2)
    result = F.layer_norm(F.linear(out, to_out, bias), g.shape, g, None, eps) + pixels
    return result.view(x.permute(0, 2, 3, 1).shape).permute(0, 3, 1, 2).to(x.dtype)


ATTENTION_LAYER = backends.define(
    "attention_layer",
    "(Tensor x, Tensor norm_g, Tensor to_qkv, Tensor to_out, Tensor bias, Tensor g, int heads, float eps, "
    "Tensor? packed) -> Tensor",
    reference=attention_layer_reference,
    triton="networks.attention_layer:attention_layer",
    capability=HALVES_CAPABILITY,
    fake=lambda x, *_: torch.empty_like(x, memory_format=torch.channels_last),
    lacking=("cuda",),
)

backends.library.define(
    "pack_attention_layer(Tensor norm_g, Tensor to_qkv, Tensor to_out, int heads, int width) -> Tensor"
)


def pack_attention_layer(
    norm_g: Tensor,
    to_qkv: Tensor,
    to_out: Tensor,
    heads: int,
    *,
    width: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Arrange the weights for `attention_layer`: its arguments of these names.

    Args:
        width: number of float32 values in the vectors of this machine's CPU to arrange for; 0 takes the longest that
            divide the channels.
        dtype: bfloat16 or float16 arranges for such images on a GPU ("triton"); None for "cpp".

    Returns:
        packed: float32, of one axis. That for "cpp" serves machines with such vectors, the other one any GPU.

    Raises:
        ValueError: weights of other shapes or dtypes, or that the kernels do not serve: see `serves`.
        TypeError: another dtype.
        BackendUnavailable: "cpp" is not compiled.
    """
    _check_weights(norm_g, to_qkv, to_out, heads)
    if dtype is not None:
        if dtype not in HALVES:
            raise TypeError(f"dtype is {dtype}: on a GPU attention_layer computes in bfloat16 and float16")
        _check_served(to_out, heads, "triton")
        rows = (to_qkv.detach() * norm_g.detach()).to(dtype)
        return torch.cat((rows.float().sum(1), rows.flatten().view(torch.float32)))
    backends.check_compiled()
    _check_served(to_out, heads, "cpp")
    weights = (t.detach().contiguous() for t in (norm_g, to_qkv, to_out))
    return torch.ops.rddm_fast.pack_attention_layer(*weights, heads, width)


def serves(channels: int, features: int, heads: int, backend: str) -> bool:
    """Return whether a backend serves so many channels, features of a head, and heads.

    "cpp" takes channels that divide by 4 and features that divide by 8. "triton" takes channels that divide by 8, of
    which it fetches 16 bytes at a time, and heads and features that are powers of 2, at least 16 features.
    """
    if backend == "cpp":
        return channels % 4 == 0 and features % 8 == 0
    powers = all(n & (n - 1) == 0 for n in (features, heads))
    return channels % 8 == 0 and powers and features >= 16 and heads * features <= 128


def attention_layer(
    x: Tensor,
    norm_g: Tensor,
    to_qkv: Tensor,
    to_out: Tensor,
    bias: Tensor,
    g: Tensor,
    heads: int,
    *,
    eps: float = 1e-5,
    packed: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Apply one of the U-Net's linear attentions (`diffusion.unet`; Shen et al., 2021) with all that surrounds it:

        q, k, v = to_qkv(norm(x) norm_g);  context = softmax(k)' v / (sqrt(features) H W), softmax over the pixels
        y = norm(to_out(softmax(q) context) + bias) g + x,  norm over the channels of a pixel

    Args:
        x: images (B, C, H, W), channels-last ones are not copied; float32 or bfloat16 on a CPU, bfloat16 or float16 on
            a GPU. What C, features and heads can be, `serves` says.
        norm_g, bias, g: (C,), float32.
        to_qkv: (3 heads features, C), float32.
        to_out: (C, heads features), float32.
        heads: number of heads.
        eps: added to the variances.
        packed: `pack_attention_layer` of the weights; None packs at each call.
        impl: "reference", "cpp" or "triton"; None takes the best one available on the device.

    Returns:
        y: x's shape and dtype, channels-last, rounded once. "cpp" computes in float32, and gives the same bits on one
        thread and on many. "triton" rounds the factors of its matrix products to x's dtype and sums them in float32.

    Raises:
        ValueError: shapes or devices that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    check_dtype("x", x, NARROW)
    _check_weights(norm_g, to_qkv, to_out, heads)
    channels = to_out.shape[0]
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(f"x must be images (B, {channels}, H, W), not of shape {tuple(x.shape)}")
    for name, row in (("bias", bias), ("g", g)):
        if row.shape != (channels,) or row.dtype != torch.float32:
            raise ValueError(f"{name} must be float32 of shape ({channels},), not {row.dtype} of {tuple(row.shape)}")
    check_device(x.device, "x", norm_g=norm_g, to_qkv=to_qkv, to_out=to_out, bias=bias, g=g)
    backend = ATTENTION_LAYER.backend(impl, x.device)
    if backend != "reference":
        check_no_gradient("attention_layer", x, norm_g, to_qkv, to_out, bias, g)
        _check_served(to_out, heads, backend)
        if x.dtype not in DTYPES_OF[backend]:
            raise TypeError(f"x is {x.dtype}: convert it to {' or '.join(map(str, DTYPES_OF[backend]))}")
    if backend == "triton" and packed is None:
        packed = pack_attention_layer(norm_g, to_qkv, to_out, heads, dtype=x.dtype)
    run = ATTENTION_LAYER.functions[backend]
    return run(x, norm_g, to_qkv, to_out.contiguous(), bias, g, heads, eps, packed)


def _check_served(to_out: Tensor, heads: int, backend: str) -> None:
    channels, features = to_out.shape[0], to_out.shape[1] // heads
    if not serves(channels, features, heads, backend):
        wanted = {
            "cpp": "channels that divide by 4 and features that divide by 8",
            "triton": "channels that divide by 8, and heads and features that are powers of 2, of 16 to 128 in all",
        }[backend]
        raise ValueError(f"attention_layer by {backend!r} takes {wanted}, not {channels} and {heads} x {features}")


def _check_weights(norm_g: Tensor, to_qkv: Tensor, to_out: Tensor, heads: int) -> None:
    for name, weight in (("norm_g", norm_g), ("to_qkv", to_qkv), ("to_out", to_out)):
        if weight.dtype != torch.float32:
            raise TypeError(f"{name} is {weight.dtype}: the weights must be float32")
    if to_out.dim() != 2 or heads < 1 or to_out.shape[1] % heads:
        raise ValueError(f"to_out of shape {tuple(to_out.shape)} does not divide into {heads} heads")
    channels, inner = to_out.shape
    if to_qkv.shape != (3 * inner, channels) or norm_g.shape != (channels,):
        raise ValueError(
            f"to_qkv must have shape ({3 * inner}, {channels}) and norm_g ({channels},), "
            f"not {tuple(to_qkv.shape)} and {tuple(norm_g.shape)}"
        )
