"""Attention in a folded U-Net, and the norm of a pixel's channels.

On channels-last images a pixel's channels are adjacent in memory. So the channel norm is torch's layer norm, linear
attention is matrix products without copies, and full attention is `scaled_dot_product_attention`. `implementation`
says where our kernels run instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.unet import Attention, ChannelNorm, LinearAttention, PreNorm, Residual
from ...ops import backends
from ...ops.networks.attention_layer import (
    ATTENTION_LAYER,
    DTYPES_OF,
    attention_layer,
    pack_attention_layer,
    serves,
)
from ...ops.networks.channel_norm import channel_norm
from ...ops.networks.linear_attention import linear_attention
from .convolutions import PixelLinear, adds_bias_apart
from .gpu_convolutions import TapConv2d
from .ways import ManyWays

FLOAT32_EPS = 1e-5


def implementation(op: str, device: torch.device) -> str:
    """Return which implementation of `op`, "channel_norm" or "linear_attention", runs on `device`.

    Measured on one thread of an x86-64 CPU with AVX-512 (torch 2.13), for 64 to 512 channels of 8 x 8 to 256 x 256
    pixels in float32 and bfloat16; neither dtype nor size changed a choice:

    * channel_norm on a CPU: "torch", its layer norm. It is 5 to 20 times as fast as the reference on channels-last
      images, and 1.4 to 3.8 times on contiguous ones, although it copies those there and back.
    * linear_attention on a CPU: "chunked". From 64 x 64 pixels on, the module is 1.3 to 4.8 times as fast as with
      `ops.linear_attention`; below that size, the op takes 0.9 to 1.2 of the module's time. At 256 x 256 it is 1.2 to
      1.5 times as fast as "whole", which is the same up to CHUNK pixels.
    * both on a GPU that Triton serves: "triton", because it reads and writes the fewest images. Not measured yet.
    * elsewhere: "torch" and "whole", which need only torch. Not measured yet.
    """
    if backends.OPS[op].best(device) == "triton":
        return "triton"
    return {"channel_norm": "torch", "linear_attention": "chunked" if device.type == "cpu" else "whole"}[op]


class LastAxisNorm(nn.Module):
    """`unet.ChannelNorm` of a channels-last image: `ops.channel_norm` with the epsilon of float32.

    Attributes:
        impl: the op's backend; "torch" for export: the graph may then hold torch ops only. None asks `implementation`.
    """

    impl: str | None = None

    def __init__(self, norm: ChannelNorm) -> None:
        super().__init__()
        self.g = nn.Parameter(norm.g.detach().flatten().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return channel_norm(x, self.g, FLOAT32_EPS, impl=self.impl or implementation("channel_norm", x.device))


class PixelsFirstLinearAttention(nn.Module):
    """`unet.LinearAttention` on (pixels, features) matrices, which is how a channels-last image lies in memory.

    The first walk over the pixels accumulates the keys' softmax and rescales it whenever it meets a larger key. The
    result, one small (features x features) matrix per head, is multiplied with the output projection. The second walk
    is then one matrix product with the pixels' queries. Both walks take CHUNK pixels at a time, so that queries, keys
    and values (16 times the image in the first stage of a published network) stay in a CPU's cache.

    Attributes:
        impl: "chunked" is the method above, "whole" the same with all pixels at once. "triton" and "reference" are
            `linear_attention` and `channel_norm` between the two projections. None asks `implementation`.
    """

    CHUNK = 4096
    impl: str | None = None

    def __init__(self, attention: LinearAttention) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        project, norm = attention.to_out[0], attention.to_out[1]
        assert (
            isinstance(project, nn.Conv2d) and project.bias is not None and isinstance(norm, ChannelNorm | LastAxisNorm)
        )
        self.inner = project.weight.shape[1]
        self.to_qkv = nn.Parameter(attention.to_qkv.weight.detach().flatten(1).clone(), requires_grad=False)
        self.to_out = nn.Parameter(project.weight.detach().flatten(1).t().contiguous(), requires_grad=False)
        self.bias = nn.Parameter(project.bias.detach().clone(), requires_grad=False)
        self.g = nn.Parameter(norm.g.detach().flatten().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        impl = self.impl or implementation("linear_attention", x.device)
        pixels = x.permute(0, 2, 3, 1)
        if impl in ("chunked", "whole"):
            out = self._walk(pixels.flatten(1, 2), self.CHUNK if impl == "chunked" else x.shape[2] * x.shape[3])
            return out.view(pixels.shape).permute(0, 3, 1, 2)
        qkv = F.linear(pixels, self.to_qkv).permute(0, 3, 1, 2)
        out = linear_attention(qkv, self.heads, impl=impl).permute(0, 2, 3, 1)
        out = F.linear(out, self.to_out.t(), self.bias).permute(0, 3, 1, 2)
        return channel_norm(out, self.g, FLOAT32_EPS, impl=impl)

    def _walk(self, pixels: Tensor, chunk: int) -> Tensor:
        """Return the output (B, H W, C) for `pixels` (B, H W, C), taken `chunk` at a time."""
        chunks = pixels.split(chunk, dim=1)
        to_out = self.to_out.unflatten(0, (self.heads, -1))
        projection = (self._context(chunks) * (self.scale / pixels.shape[1]) @ to_out).flatten(1, 2)
        parts = []
        for part in chunks:
            q = F.linear(part, self.to_qkv[: self.inner]).unflatten(-1, (self.heads, -1)).softmax(dim=-1).flatten(-2)
            parts.append(F.layer_norm(q @ projection + self.bias, self.g.shape, self.g, None, FLOAT32_EPS))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _context(self, chunks: Sequence[Tensor]) -> Tensor:
        """Return softmax(k)' v, with the softmax over all pixels: (B, heads, features, features)."""
        largest = context = total = None
        for chunk in chunks:
            k, v = F.linear(chunk, self.to_qkv[self.inner :]).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
            top = k.amax(dim=-2, keepdim=True)
            if largest is not None:
                top = torch.maximum(top, largest)
            k = (k - top).exp_()
            k_v, k_sum = k.transpose(-1, -2) @ v, k.sum(dim=-2).unsqueeze(-1)
            if largest is None:
                context, total = k_v, k_sum
            else:
                shrink = (largest - top).exp_().transpose(-1, -2)
                context, total = context * shrink + k_v, total * shrink + k_sum
            largest = top
        assert context is not None and total is not None
        return context / total


class AttentionLayer(ManyWays):
    """A linear attention with its norms and residual: `ops.attention_layer`, with weights in float32; or one by one.

    Args:
        layer: the attention in its norm and residual, one that this class `serves`.
    """

    WAYS = WHOLE, LAYERS = "whole", "norms and products one by one"

    norm_g: Tensor
    to_qkv: Tensor
    to_out: Tensor
    bias: Tensor
    g: Tensor
    packed: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.layer, attention, norm = layer, layer.fn.fn, layer.fn.norm
        self.heads = attention.heads
        to_out = attention.to_out.t()
        weights = (norm.g, attention.to_qkv, to_out, attention.bias, attention.g)
        for name, weight in zip(("norm_g", "to_qkv", "to_out", "bias", "g"), weights, strict=True):
            self.register_buffer(name, weight.detach().float().contiguous())
        dtype = None if self.backend(attention) == "cpp" else attention.bias.dtype
        packed = pack_attention_layer(self.norm_g, self.to_qkv, self.to_out, self.heads, dtype=dtype)
        self.register_buffer("packed", packed)

    @staticmethod
    def backend(attention: PixelsFirstLinearAttention) -> str:
        """Return the op's best backend where the attention is; "reference" if there is none."""
        return ATTENTION_LAYER.best(attention.bias.device) or "reference"

    @staticmethod
    def serves(layer: nn.Module) -> bool:
        """Return whether `layer` is such an attention that the op's backend computes."""
        if not (isinstance(layer, Residual) and isinstance(layer.fn, PreNorm)):
            return False
        attention = layer.fn.fn
        if not isinstance(attention, PixelsFirstLinearAttention):
            return False
        backend, (channels, inner) = AttentionLayer.backend(attention), attention.to_out.t().shape
        if attention.bias.dtype not in DTYPES_OF.get(backend, ()):
            return False
        return serves(channels, inner // attention.heads, attention.heads, backend)

    def title(self) -> str:
        dtype = str(self.layer.fn.fn.bias.dtype).removeprefix("torch.")
        return f"linear attention of {len(self.bias)} channels, {self.heads} heads, {dtype}"

    def rule(self, x: Tensor) -> str:
        return self.WHOLE

    def by(self, way: str, x: Tensor) -> Tensor:
        return self._attended(x, packed=self.packed) if way == self.WHOLE else self.layer(x)

    def exact(self, x: Tensor) -> Tensor:
        return self._attended(x.float(), impl="reference")

    def products(self, x: Tensor) -> int:
        features = self.to_out.shape[1] // self.heads
        return (self.to_qkv.numel() + self.to_out.numel() + 2 * self.heads * features**2) * x[:, 0].numel()

    def _attended(self, x: Tensor, **options: Any) -> Tensor:
        weights = self.norm_g, self.to_qkv, self.to_out, self.bias, self.g
        return attention_layer(x, *weights, self.heads, eps=FLOAT32_EPS, **options)


class SdpaAttention(nn.Module):
    """`unet.Attention` by torch's fused attention, which never stores the (pixels x pixels) matrix."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        self.to_qkv, self.to_out = (
            PixelLinear(conv) if adds_bias_apart(conv) else conv for conv in (attention.to_qkv, attention.to_out)
        )

    def forward(self, x: Tensor) -> Tensor:
        return attend(self, x)


class ResidualAttention(nn.Module):
    """A full attention with its norm, whose output projection adds the image: `ops.conv_by_taps`.

    Args:
        layer: the attention in its norm and residual, one that this class `serves`.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.norm, self.attention = layer.fn.norm, layer.fn.fn
        project = self.attention.to_out
        self.attention.to_out = TapConv2d(project.weight[:, :, None, None], project.bias)

    @staticmethod
    def serves(layer: nn.Module) -> bool:
        """Return whether `layer` is such an attention on a GPU that the op serves."""
        if not (
            isinstance(layer, Residual) and isinstance(layer.fn, PreNorm) and isinstance(layer.fn.fn, SdpaAttention)
        ):
            return False
        project = layer.fn.fn.to_out
        return isinstance(project, PixelLinear) and TapConv2d.serves_weight(project.weight)

    def forward(self, x: Tensor) -> Tensor:
        return attend(self.attention, self.norm(x), x)


def attend(attention: Any, x: Tensor, *added: Tensor) -> Tensor:
    """Apply `attention`, a `unet.Attention` or a module with its parts, to a channels-last image.

    `added` goes to the output projection, if that takes it.
    """
    q, k, v = _heads(attention.to_qkv(x), attention.heads)
    attended = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    return attention.to_out(_image(attended, *x.shape[2:]), *added)


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """View a channels-last image (B, 3 heads features, H, W) as q, k, v of shape (B, heads, H W, features)."""
    b, channels, h, w = qkv.shape
    parts = qkv.permute(0, 2, 3, 1).reshape(b, h * w, 3, heads, channels // (3 * heads))
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _image(x: Tensor, height: int, width: int) -> Tensor:
    """View (B, heads, H W, features) as a channels-last image (B, heads features, H, W)."""
    b, heads, _, features = x.shape
    return x.transpose(1, 2).reshape(b, height, width, heads * features).permute(0, 3, 1, 2)
