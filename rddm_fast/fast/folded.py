"""The modules of a folded U-Net: the same functions as `diffusion.unet`'s, on channels-last images.

There a pixel's channels are adjacent in memory. So the channel norm is torch's layer norm, linear attention is matrix
products without copies, and full attention is `scaled_dot_product_attention`. `implementation` says where our kernels
run instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.unet import (
    Attention,
    Block,
    ChannelNorm,
    LinearAttention,
    PreNorm,
    Residual,
    ResnetBlock,
    concatenated,
)
from ..ops import backends
from ..ops.networks.attention_layer import ATTENTION_LAYER, attention_layer, pack_attention_layer, serves
from ..ops.networks.channel_norm import channel_norm
from ..ops.networks.conv1x1 import CONV1X1, conv1x1, pack_conv1x1
from ..ops.networks.conv1x1 import serves as divide_into_vectors
from ..ops.networks.conv3x3 import CONV3X3, conv3x3, pack_conv3x3
from ..ops.networks.group_norm_silu import group_norm_silu
from ..ops.networks.linear_attention import linear_attention

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
    if device.type == "cuda" and backends.why_not("triton", device) is None:
        return "triton"
    return {"channel_norm": "torch", "linear_attention": "chunked" if device.type == "cpu" else "whole"}[op]


def adds_bias_apart(conv: nn.Conv2d) -> bool:
    """Return whether torch adds the bias in a pass of its own after the convolution, as it does on a GPU."""
    return conv.weight.is_cuda


class FoldedBlock(nn.Module):
    """A residual block for known steps: norm and activation are one op.

    Args:
        block: the block; its convolutions are taken over.
        own: the columns of a step's row in which the block's scale and shift are.
    """

    def __init__(self, block: ResnetBlock, own: slice) -> None:
        super().__init__()
        self.own = own
        self.norm1, self.norm2 = NormSilu(block.block1), NormSilu(block.block2)
        self.conv1, self.conv2 = block.block1.proj, block.block2.proj
        self.res_conv: nn.Module = block.res_conv
        if isinstance(block.res_conv, nn.Conv2d) and adds_bias_apart(block.res_conv):
            self.res_conv = PixelLinear(block.res_conv)

    def takes_parts(self) -> bool:
        """Return whether `forward` takes a pair of images in the place of their concatenation."""
        return isinstance(self.conv1, WinogradConv2d) and isinstance(self.res_conv, PixelProducts)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        """Map `x` by the step whose `row` (1, columns) this is."""
        parts = x if isinstance(x, tuple) else (x,)
        h = self.norm1(self.conv1(*parts), row[:, self.own])
        h = self.conv2(h)
        return self.norm2(h, residual=self.res_conv(*parts).to(h.dtype))  # Under autocast they differ.


class NormSilu(nn.Module):
    """Group norm, scale and shift, SiLU and the residual: `ops.group_norm_silu` with parameters in float32.

    It takes over the bias of the convolution before it where torch would add that in a pass of its own.

    Attributes:
        impl: the op's backend; "reference" for export: the graph may then hold torch ops only.
    """

    weight: Tensor
    bias: Tensor
    x_bias: Tensor | None
    impl: str | None = None

    def __init__(self, block: Block) -> None:
        super().__init__()
        norm = block.norm
        self.groups, self.eps = norm.num_groups, norm.eps
        self.register_buffer("weight", norm.weight.detach().float().clone())
        self.register_buffer("bias", norm.bias.detach().float().clone())
        conv, x_bias = block.proj, None
        if conv.bias is not None and adds_bias_apart(conv):
            x_bias, conv.bias = conv.bias.detach().float().clone(), None
        self.register_buffer("x_bias", x_bias)

    def forward(self, x: Tensor, scale_shift: Tensor | None = None, residual: Tensor | None = None) -> Tensor:
        given: dict[str, Any] = {"eps": self.eps, "x_bias": self.x_bias, "scale_shift": scale_shift}
        return group_norm_silu(x, self.weight, self.bias, self.groups, **given, residual=residual, impl=self.impl)


class PixelLinear(nn.Module):
    """A 1x1 convolution of channels-last images as a matrix product, which adds the bias on the way on a GPU."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        assert conv.bias is not None
        self.weight = nn.Parameter(conv.weight.detach().flatten(1).clone(), requires_grad=False)
        self.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight, self.bias).permute(0, 3, 1, 2)


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


class AttentionLayer(nn.Module):
    """A linear attention with its norms and residual on the CPU: `ops.attention_layer`, with weights in float32.

    Args:
        attention: the attention.
        norm: the norm before it.
    """

    norm_g: Tensor
    to_qkv: Tensor
    to_out: Tensor
    bias: Tensor
    g: Tensor

    def __init__(self, attention: PixelsFirstLinearAttention, norm: LastAxisNorm) -> None:
        super().__init__()
        self.heads = attention.heads
        to_out = attention.to_out.t()
        weights = (norm.g, attention.to_qkv, to_out, attention.bias, attention.g)
        for name, weight in zip(("norm_g", "to_qkv", "to_out", "bias", "g"), weights, strict=True):
            self.register_buffer(name, weight.detach().float().contiguous())
        self.packed = pack_attention_layer(self.norm_g, self.to_qkv, self.to_out, self.heads)

    @staticmethod
    def serves(layer: nn.Module) -> bool:
        """Return whether `layer` is such an attention, and its channels and features divide into vectors."""
        if not (isinstance(layer, Residual) and isinstance(layer.fn, PreNorm)):
            return False
        attention = layer.fn.fn
        if not isinstance(attention, PixelsFirstLinearAttention) or attention.bias.dtype == torch.float16:
            return False
        channels, features = attention.to_out.shape[1], attention.inner // attention.heads
        return ATTENTION_LAYER.why_not("cpp", attention.bias.device) is None and serves(channels, features)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.norm_g, self.to_qkv, self.to_out, self.bias, self.g
        return attention_layer(x, *weights, self.heads, eps=FLOAT32_EPS, packed=self.packed)


class SdpaAttention(nn.Module):
    """`unet.Attention` by torch's fused attention, which never stores the (pixels x pixels) matrix."""

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.heads, self.scale = attention.heads, attention.scale
        self.to_qkv, self.to_out = attention.to_qkv, attention.to_out

    def forward(self, x: Tensor) -> Tensor:
        return attend(self, x)


def attend(attention: Any, x: Tensor) -> Tensor:
    """Apply `attention`, a `unet.Attention` or a module with its parts, to a channels-last image."""
    q, k, v = _heads(attention.to_qkv(x), attention.heads)
    return attention.to_out(_image(F.scaled_dot_product_attention(q, k, v, scale=attention.scale), *x.shape[2:]))


def _heads(qkv: Tensor, heads: int) -> tuple[Tensor, ...]:
    """View a channels-last image (B, 3 heads features, H, W) as q, k, v of shape (B, heads, H W, features)."""
    b, channels, h, w = qkv.shape
    parts = qkv.permute(0, 2, 3, 1).reshape(b, h * w, 3, heads, channels // (3 * heads))
    return parts.permute(2, 0, 3, 1, 4).unbind(0)


def _image(x: Tensor, height: int, width: int) -> Tensor:
    """View (B, heads, H W, features) as a channels-last image (B, heads features, H, W)."""
    b, heads, _, features = x.shape
    return x.transpose(1, 2).reshape(b, height, width, heads * features).permute(0, 3, 1, 2)


class WinogradConv2d(nn.Module):
    """A 3x3 convolution on the CPU in float32: `ops.conv3x3`, its weight packed at the first images of each kind.

    Args:
        conv: the convolution, one that this class `serves`.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: dict[int, Tensor | PackedConv2d] = {}

    @staticmethod
    def serves(conv: nn.Conv2d) -> bool:
        """Return whether `conv` is such a convolution, of so many channels that it gains from tiles."""
        shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
        if shape != ((3, 3), (1, 1), (1, 1), (1, 1), 1) or conv.weight.dtype != torch.float32:
            return False
        return conv.in_channels >= 8 and CONV3X3.why_not("cpp", conv.weight.device) is None

    @staticmethod
    def tile(x: Tensor) -> int:
        """Return the tile that is fastest for `x`, 4 or 2, or 0 for a direct convolution.

        Measured by `rddm-fast bench conv3x3` on an x86-64 CPU with AVX-512, one thread and two, 24 to 768 channels. For
        few pixels the time is that of reading the weights. Images of up to 2x2 pixels are as fast or faster directly,
        and those of up to 8x8 by tiles of 2, whose weights are fewer.
        """
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        return 0 if pixels <= 4 else 2 if pixels <= 64 else 4

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        tile = self.tile(x)
        if tile not in self.packed:
            self.packed[tile] = pack_conv3x3(self.conv.weight, tile=tile) if tile else PackedConv2d(self.conv)
        packed = self.packed[tile]
        if isinstance(packed, PackedConv2d):
            return packed(x if x_2 is None else concatenated(x, x_2))
        return conv3x3(x, self.conv.weight, self.conv.bias, x_2=x_2, packed=packed)


class PixelProducts(nn.Module):
    """A 1x1 convolution on the CPU in float32: `ops.conv1x1`, of one image or of two in a row."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight.detach().flatten(1), conv.bias
        self.packed = pack_conv1x1(self.weight)

    @staticmethod
    def serves(conv: nn.Module) -> bool:
        """Return whether `conv` is such a convolution, and its channels divide into vectors."""
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.weight.dtype != torch.float32:
            return False
        available = CONV1X1.why_not("cpp", conv.weight.device) is None
        return available and divide_into_vectors(conv.out_channels, conv.in_channels)

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        return conv1x1(x, self.weight, self.bias, x_2=x_2, packed=self.packed)


class PackedConv2d(nn.Module):
    """A convolution on the CPU whose weight is reordered to oneDNN's layout once, not at each call.

    Torch's compiler does the same when it freezes a model's weights. 1x1 convolutions stay plain: they gain nothing,
    and on 8x8 images oneDNN takes 20 to 30 times as long with a packed weight.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding, self.stride, self.dilation = (
            list(map(int, a)) for a in (conv.padding, conv.stride, conv.dilation)
        )
        self.bias = conv.bias
        self.packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
            conv.weight.detach().to_mkldnn(), self.padding, self.stride, self.dilation, 1
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
        )
