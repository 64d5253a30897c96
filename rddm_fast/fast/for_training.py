"""`for_training` makes a model train faster: the same networks, parameters and gradients in fewer and larger kernels.

* Weight standardisation is a layer norm of each filter, for which torch has one kernel forwards and one backwards. So
  is the channel norm of a channels-last image. As `diffusion.unet` writes them, after the published code, each is five
  kernels forwards and more backwards, and torch's variance alone takes longer than its whole layer norm.
* Linear attention is `ops.pixel_attention`: on a CPU one op forwards and one backwards, whose queries, keys and values
  stay in the processor's cache and take no memory.
* All that follows a block's convolution is `ops.group_norm_silu_training`, in float32, on a CPU and where Triton is.
* Full attention is `scaled_dot_product_attention`.
* On a CPU the 3x3 convolutions and their gradients are `ops.conv3x3` and `ops.conv3x3_weight_gradient`, in float32: in
  AMX, or Winograd's.

Nothing is copied. The modules keep their place, parameters, names and hooks; only their class changes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..diffusion.unet import (
    Attention,
    Block,
    ChannelNorm,
    LinearAttention,
    WeightStandardizedConv2d,
    standardisation_eps,
)
from ..ops.networks.conv3x3 import AMX_CHANNELS, conv3x3, pack_conv3x3, tiles
from ..ops.training.conv3x3_weight_gradient import conv3x3_weight_gradient
from ..ops.training.group_norm_silu_training import GROUP_NORM_SILU_TRAINING, group_norm_silu_training
from ..ops.training.pixel_attention import pixel_attention
from .folded.attention import attend
from .folded.convolutions import is_3x3


class _StandardizedConv2d(WeightStandardizedConv2d):
    def forward(self, x: Tensor) -> Tensor:
        filters = self.weight.permute(0, 2, 3, 1)  # in memory order
        weight = F.layer_norm(filters, filters.shape[1:], eps=standardisation_eps(x)).permute(0, 3, 1, 2)
        return _convolved(self, x, weight)


class _Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return _convolved(self, x, self.weight)


def _convolved(conv: nn.Conv2d, x: Tensor, weight: Tensor) -> Tensor:
    """Return what `conv` makes of images with this weight, by the fastest way there is."""
    if x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu"):
        if tile := _tile(conv, x):
            return Conv3x3.apply(x, weight, conv.bias, tile)
        if conv.kernel_size == conv.stride == (1, 1) and conv.padding == (0, 0) and conv.groups == 1:
            return F.linear(x.permute(0, 2, 3, 1), weight.flatten(1), conv.bias).permute(0, 3, 1, 2)
    return F.conv2d(x, weight, conv.bias, conv.stride, conv.padding, conv.dilation, conv.groups)


def _tile(conv: nn.Conv2d, x: Tensor) -> int | None:
    """Return the tile of `pack_conv3x3` by which a convolution of `x` is faster than torch's, None if there is none.

    AMX gains from 32 channels on (`rddm-fast bench conv3x3`). Winograd's weights, which are transformed at every step,
    take as long as the convolution of 200 pixels, and with 512 channels of 800.
    """
    least, most = sorted((conv.in_channels, conv.out_channels))
    if not is_3x3(conv):
        return None
    if 1 in tiles() and least >= 32 and most <= AMX_CHANNELS:
        return 1
    return 4 if 4 in tiles() and least >= 16 and x[:, 0].numel() >= 2 * most else None


class Conv3x3(torch.autograd.Function):
    """A 3x3 convolution of images (B, C, H, W) with weights (K, C, 3, 3) and a bias or None, in float32.

    `tile` is that of `pack_conv3x3`. The gradient of the images is the convolution of the result's gradient with the
    weights, turned by half and with their channels exchanged.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tile: int) -> Tensor:  # type: ignore[override]
        ctx.save_for_backward(x, weight)
        ctx.has_bias, ctx.tile = bias is not None, tile
        return conv3x3(x, weight, bias, packed=pack_conv3x3(weight, tile=tile))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Any:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        x_grad = weight_grad = bias_grad = None
        if needs_x:
            turned = pack_conv3x3(weight, tile=ctx.tile, turned=True)
            x_grad = conv3x3(grad, weight.transpose(0, 1), packed=turned)  # The view has the shape alone.
        if needs_weight or needs_bias:
            weight_grad, bias_grad = conv3x3_weight_gradient(grad, x, tile=ctx.tile)
        return x_grad, weight_grad, bias_grad if ctx.has_bias else None, None


class _Block(Block):
    def activated(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None) -> Tensor:
        norm = self.norm
        served = x.device.type == "cpu" or GROUP_NORM_SILU_TRAINING.best(x.device) == "triton"
        if not served or not x.dtype == norm.weight.dtype == torch.float32:
            return super().activated(x, scale_shift)
        table = None if scale_shift is None else torch.cat([part.flatten(1) for part in scale_shift], dim=1)
        return group_norm_silu_training(x, norm.weight, norm.bias, norm.num_groups, eps=norm.eps, scale_shift=table)


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
        to_out, bias = project.weight.flatten(1), project.bias
        if torch.is_autocast_enabled(x.device.type):  # Autocast does not reach into an op of ours.
            reduced = torch.get_autocast_dtype(x.device.type)
            pixels, to_qkv, to_out, bias = (t.to(reduced) for t in (pixels, to_qkv, to_out, bias))
        out = pixel_attention(pixels, to_qkv, to_out, bias, self.heads, self.scale)
        return _over_channels(out, norm.g).view(b, h, w, c).permute(0, 3, 1, 2)


class _Attention(Attention):
    def forward(self, x: Tensor) -> Tensor:
        return attend(self, x)


_FASTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: _Conv2d,
    WeightStandardizedConv2d: _StandardizedConv2d,
    ChannelNorm: _ChannelNorm,
    Block: _Block,
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
