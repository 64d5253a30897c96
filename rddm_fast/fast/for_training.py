"""`for_training` makes a model train faster: the same networks, parameters and gradients in fewer and larger kernels.

* Weight standardisation is a layer norm of each filter, for which torch has one kernel forwards and one backwards. So
  is the channel norm of a channels-last image. As `diffusion.unet` writes them, after the published code, each is five
  kernels forwards and more backwards, and torch's variance alone takes longer than its whole layer norm.
* Linear attention keeps only its input for the backward pass. Queries, keys and values are 12 times as wide as the
  input in the first stage of a published network. They are computed again, a few thousand pixels at a time, so that
  they stay in the processor's cache and take no memory.
* Full attention is `scaled_dot_product_attention`.
* On a CPU with AMX the 3x3 convolutions, and their gradients of the images, are `ops.conv3x3` in float32.

Nothing is copied. The modules keep their place, parameters, names and hooks; only their class changes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.unet import Attention, ChannelNorm, LinearAttention, WeightStandardizedConv2d, standardisation_eps
from ..ops.networks.conv3x3 import AMX_CHANNELS, conv3x3, pack_conv3x3, tiles
from .folded.attention import attend
from .folded.convolutions import is_3x3

PIXELS_AT_ONCE = 4096
"""Pixels that linear attention takes at once on a CPU: 128 features of them are 2 MiB."""


class _StandardizedConv2d(WeightStandardizedConv2d):
    def forward(self, x: Tensor) -> Tensor:
        filters = self.weight.permute(0, 2, 3, 1)  # in memory order
        weight = F.layer_norm(filters, filters.shape[1:], eps=standardisation_eps(x)).permute(0, 3, 1, 2)
        if self.gains_from_amx(x):
            return Conv3x3.apply(x, weight, self.bias)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def gains_from_amx(self, x: Tensor) -> bool:
        """Return whether `Conv3x3` serves: for fewer than 32 channels torch is faster (`rddm-fast bench conv3x3`)."""
        if x.device.type != "cpu" or torch.is_autocast_enabled("cpu") or not is_3x3(self) or 1 not in tiles():
            return False
        channels = self.in_channels, self.out_channels
        return x.dtype == self.weight.dtype == torch.float32 and min(channels) >= 32 and max(channels) <= AMX_CHANNELS


class Conv3x3(torch.autograd.Function):
    """A 3x3 convolution of images (B, C, H, W) with weights (K, C, 3, 3) and a bias or None, in float32, by AMX.

    The gradient of the images is the convolution of the result's gradient with the weights, turned by half and with
    their channels exchanged. The gradients of the weights and the bias are torch's.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.bias_sizes = None if bias is None else [len(bias)]
        return conv3x3(x, weight, bias, packed=pack_conv3x3(weight, tile=1))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        needs_x, *others = ctx.needs_input_grad
        x_grad = weight_grad = bias_grad = None
        if needs_x:
            turned = weight.flip(2, 3).transpose(0, 1)
            x_grad = conv3x3(grad, turned, packed=pack_conv3x3(turned, tile=1))
        if any(others):
            one, none = [1, 1], [0, 0]
            _, weight_grad, bias_grad = torch.ops.aten.convolution_backward(
                grad, x, weight, ctx.bias_sizes, one, one, one, False, none, 1, [False, *others]
            )
        return x_grad, weight_grad, bias_grad


class _ChannelNorm(ChannelNorm):
    def forward(self, x: Tensor) -> Tensor:
        return _over_channels(x.permute(0, 2, 3, 1), self.g).permute(0, 3, 1, 2)


def _over_channels(pixels: Tensor, g: Tensor) -> Tensor:
    return F.layer_norm(pixels, pixels.shape[-1:], g.flatten(), None, standardisation_eps(pixels))


class _LinearAttention(LinearAttention):
    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        project, norm = self.to_out[0], self.to_out[1]
        assert isinstance(project, nn.Conv2d) and project.bias is not None and isinstance(norm, ChannelNorm)
        pixels, to_qkv = x.permute(0, 2, 3, 1).reshape(b, h * w, c), self.to_qkv.weight.flatten(1)
        to_out, bias = project.weight.flatten(1).t(), project.bias
        if torch.is_autocast_enabled(x.device.type):  # Autocast does not reach into an autograd.Function.
            reduced = torch.get_autocast_dtype(x.device.type)
            pixels, to_qkv, to_out, bias = (t.to(reduced) for t in (pixels, to_qkv, to_out, bias))
        out = PixelAttention.apply(pixels, to_qkv, to_out, bias, self.heads, self.scale)
        return _over_channels(out, norm.g).view(b, h, w, c).permute(0, 3, 1, 2)


class _Attention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return attend(self, x)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    WeightStandardizedConv2d: _StandardizedConv2d,
    ChannelNorm: _ChannelNorm,
    LinearAttention: _LinearAttention,
    Attention: _Attention,
}


def for_training(networks: nn.Module) -> nn.Module:
    """Make `networks` (RDDM's U-Nets, or a model that holds them) train faster, in place, and return it.

    Outputs and gradients stay the same up to rounding, the state dict to the bit. Parameters become channels-last;
    pass channels-last images (`memory_format=torch.channels_last`) to save a copy.
    """
    for module in networks.modules():
        faster = _FASTER.get(type(module))
        if faster is not None:
            module.__class__ = faster
    return networks.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class PixelAttention(torch.autograd.Function):
    """`unet.LinearAttention` with its projections, for `x` (B, pixels, channels). It saves only its arguments.

    to_qkv (3 heads features, channels), to_out (heads features, channels), bias (channels,). With the softmax of the
    keys over the pixels, context = softmax(k)' v scale / pixels, one (features x features) matrix per head, and

        out = softmax(q) (context to_out) + bias

    The backward pass computes the output of a few images at a time again and takes their gradient by autograd. On one
    thread a training step takes as long as with a backward pass written out by hand (at most 1 % longer, the same
    memory); with `torch.utils.checkpoint` it takes 5 % longer.
    """

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor, heads: int, scale: float
    ) -> Tensor:
        ctx.save_for_backward(x, to_qkv, to_out, bias)
        ctx.heads, ctx.scale = heads, scale
        out = torch.empty_like(x)
        for part in _parts(x):
            out[part] = _attention(heads, scale, x[part], to_qkv, to_out, bias)
        return out

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, *weights = (tensor.detach() for tensor in ctx.saved_tensors)
        x_grad, totals = torch.empty_like(x), [torch.zeros_like(weight) for weight in weights]
        for part in _parts(x):
            given = [tensor.requires_grad_() for tensor in (x[part], *weights)]
            with torch.enable_grad():
                out = _attention(ctx.heads, ctx.scale, *given)
            x_grad[part], *own = torch.autograd.grad(out, given, grad[part])
            torch._foreach_add_(totals, own)
        return x_grad, *totals, None, None


def _parts(x: Tensor) -> list[slice]:
    """Return the slices of the batch that are processed at once."""
    images, pixels = x.shape[:2]
    at_once = max(1, PIXELS_AT_ONCE // pixels) if x.device.type == "cpu" else images
    return [slice(i, i + at_once) for i in range(0, images, at_once)]


def _attention(heads: int, scale: float, x: Tensor, to_qkv: Tensor, to_out: Tensor, bias: Tensor) -> Tensor:
    def by_head(t: Tensor) -> Tensor:  # (B, pixels, heads features) as (B, heads, pixels, features)
        return t.unflatten(-1, (heads, -1)).transpose(1, 2)

    q, k, v = (F.linear(x, weight) for weight in to_qkv.chunk(3))
    # Softmax in float32 for every dtype, because its sums run over all pixels.
    accurate = torch.promote_types(x.dtype, torch.float32)
    q = q.unflatten(-1, (heads, -1)).softmax(-1, dtype=accurate).to(x.dtype).flatten(-2)
    k = k.softmax(1, dtype=accurate).to(x.dtype)
    context = (by_head(k).transpose(-1, -2) @ by_head(v)) * (scale / x.shape[1])
    projection = (context @ to_out.unflatten(0, (heads, -1))).flatten(1, 2)
    return q @ projection + bias
