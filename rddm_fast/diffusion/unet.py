"""The RDDM U-Nets, state-dict compatible with the published `Unet` and `UnetRes`.

This is the readable reference. Like the published code, it recomputes standardised weights and time embeddings at every
call, and it is as slow. `fast.fold` removes all work that does not depend on the image. Attribute names are the
published state-dict keys and must not change.

    7x7 conv -> [ResBlock, ResBlock, linear attention, down] x stages -> ResBlock, attention, ResBlock
             -> [cat skip, ResBlock, cat skip, ResBlock, linear attention, up] x stages
             -> cat stem -> ResBlock -> 1x1 conv
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def standardisation_eps(x: Tensor) -> float:
    """Return the published epsilon of the standardised convolution and the channel norm."""
    return 1e-5 if x.dtype == torch.float32 else 1e-3


def standardised(weight: Tensor, eps: float) -> Tensor:
    """Give each output filter of a weight (out, in, kh, kw) zero mean and unit variance."""
    mean = weight.mean((1, 2, 3), keepdim=True)
    variance = weight.var((1, 2, 3), unbiased=False, keepdim=True)
    return (weight - mean) * (variance + eps).rsqrt()


class WeightStandardizedConv2d(nn.Conv2d):
    """A convolution whose weight is standardised at every call (Qiao et al., 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = standardised(self.weight, standardisation_eps(x))
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each pixel, with a gain and no bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, dim, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        variance = x.var(1, unbiased=False, keepdim=True)
        mean = x.mean(1, keepdim=True)
        return (x - mean) * (variance + standardisation_eps(x)).rsqrt() * self.g


class SinusoidalTime(nn.Module):
    """Maps times (B,) to their sines and cosines (B, dim)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, time: Tensor) -> Tensor:
        half = self.dim // 2
        frequency = torch.exp(torch.arange(half, device=time.device) * -(math.log(10000) / (half - 1)))
        angle = time[:, None] * frequency[None, :]
        return torch.cat((angle.sin(), angle.cos()), dim=-1)


class Block(nn.Module):
    """Standardised 3x3 convolution, group norm, the time's scale and shift, SiLU."""

    def __init__(self, dim_in: int, dim_out: int, groups: int) -> None:
        super().__init__()
        self.proj: nn.Conv2d = WeightStandardizedConv2d(dim_in, dim_out, 3, padding=1)
        self.norm = nn.GroupNorm(groups, dim_out)
        self.act = nn.SiLU()

    def forward(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
        return self.activated(self.proj(x), scale_shift)

    def activated(self, x: Tensor, scale_shift: tuple[Tensor, Tensor] | None) -> Tensor:
        x = self.norm(x)
        if scale_shift is not None:
            scale, shift = scale_shift
            x = x * (scale + 1) + shift
        return self.act(x)


class ResnetBlock(nn.Module):
    def __init__(self, dim_in: int, dim_out: int, time_dim: int, groups: int) -> None:
        super().__init__()
        self.mlp: nn.Module = nn.Sequential(nn.SiLU(), nn.Linear(time_dim, dim_out * 2))
        self.block1 = Block(dim_in, dim_out, groups)
        self.block2 = Block(dim_out, dim_out, groups)
        self.res_conv = nn.Conv2d(dim_in, dim_out, 1) if dim_in != dim_out else nn.Identity()

    def forward(self, x: Tensor, time_emb: Any) -> Tensor:
        scale, shift = self.mlp(time_emb)[:, :, None, None].chunk(2, dim=1)
        h = self.block2(self.block1(x, (scale, shift)))
        return h + self.res_conv(x)


class LinearAttention(nn.Module):
    """Attention whose cost is linear in the pixels: softmax over features of q, over positions of k."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_qkv = nn.Conv2d(dim, heads * dim_head * 3, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(heads * dim_head, dim, 1), ChannelNorm(dim))

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (part.reshape(b, self.heads, -1, h * w) for part in self.to_qkv(x).chunk(3, dim=1))
        q = q.softmax(dim=-2) * self.scale
        k = k.softmax(dim=-1)
        v = v / (h * w)
        context = torch.einsum("bhdn,bhen->bhde", k, v)
        out = torch.einsum("bhde,bhdn->bhen", context, q)
        return self.to_out(out.reshape(b, -1, h, w))


class Attention(nn.Module):
    """Full attention over the pixels of the lowest resolution."""

    def __init__(self, dim: int, heads: int = 4, dim_head: int = 32) -> None:
        super().__init__()
        self.heads, self.scale = heads, dim_head**-0.5
        self.to_qkv = nn.Conv2d(dim, heads * dim_head * 3, 1, bias=False)
        self.to_out = nn.Conv2d(heads * dim_head, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        b, _, h, w = x.shape
        q, k, v = (part.reshape(b, self.heads, -1, h * w) for part in self.to_qkv(x).chunk(3, dim=1))
        attention = torch.einsum("bhdi,bhdj->bhij", q * self.scale, k).softmax(dim=-1)
        out = torch.einsum("bhij,bhdj->bhid", attention, v)
        return self.to_out(out.permute(0, 1, 3, 2).reshape(b, -1, h, w))


class PreNorm(nn.Module):
    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = ChannelNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(self.norm(x))


class Residual(nn.Module):
    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        return self.fn(x) + x


def _attend(attention: type[nn.Module], dim: int) -> Residual:
    return Residual(PreNorm(dim, attention(dim)))


def _upsample(dim_in: int, dim_out: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), nn.Conv2d(dim_in, dim_out, 3, padding=1))


def reflected(x: Tensor, factor: int) -> Tensor:
    """Pad `x` (B, C, H, W) by reflection at the right and the bottom, so that `factor` divides H and W.

    Unlike `F.pad(mode="reflect")` it reflects as often as needed, so even a side of 1 pixel works.
    """
    for axis in (-2, -1):
        side = x.shape[axis]
        padding = -side % factor
        if padding:
            period = max(2 * side - 2, 1)
            position = torch.arange(side + padding, device=x.device) % period
            x = x.index_select(axis, torch.where(position < side, position, period - position))
    return x


def _modules(stage: nn.Module) -> list[nn.Module]:
    """Return the modules of a stage of the U-Net, in order."""
    assert isinstance(stage, nn.ModuleList)
    return list(stage)


def concatenated(x: Tensor, skip: Tensor) -> Tensor:
    """Concatenate the channels of two images, as the decoder's blocks take them."""
    return torch.cat((x, skip), dim=1)


class _UnetBase(nn.Module):
    """The stem, encoder and middle that the one-decoder `Unet` and the two-decoder `SharedUnet` share.

    Attributes:
        join: makes the input of a decoder's block from an image and a skip.
    """

    join: Callable[[Tensor, Tensor], Any]

    def __init__(
        self,
        dim: int,
        init_dim: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        self_condition: bool = False,
        resnet_block_groups: int = 8,
        condition: bool = False,
        input_condition: bool = False,
        img_to_img_translation: bool = False,
        padding_factor: int | None = None,
    ) -> None:
        super().__init__()
        self.join = concatenated
        seen = [self_condition, condition and not img_to_img_translation, input_condition]
        self.channels = channels
        self.self_condition = self_condition
        self.input_channels = channels * (1 + sum(seen))
        self.out_dim = out_dim or channels
        halvings = 2 ** (len(dim_mults) - 1)
        self.factor = padding_factor or halvings
        if not dim_mults or dim < 4 or dim % 2:
            raise ValueError(f"a U-Net has an even dim of at least 4 and some dim_mults, not {dim} and {dim_mults}")
        if self.factor % halvings:
            raise ValueError(
                f"padding_factor is {padding_factor}: {len(dim_mults)} stages need a multiple of {halvings}"
            )

        init_dim = init_dim or dim
        self.init_dim, self.time_dim, self.groups = init_dim, dim * 4, resnet_block_groups
        widths = [init_dim, *(dim * m for m in dim_mults)]
        self.stages = list(pairwise(widths))

        self.init_conv = nn.Conv2d(self.input_channels, init_dim, 7, padding=3)
        self.time_mlp: nn.Module = nn.Sequential(
            SinusoidalTime(dim), nn.Linear(dim, self.time_dim), nn.GELU(), nn.Linear(self.time_dim, self.time_dim)
        )
        self.downs = nn.ModuleList()
        for i, (n, o) in enumerate(self.stages):
            last = i == len(self.stages) - 1
            down = nn.Conv2d(n, o, 3, padding=1) if last else nn.Conv2d(n, o, 4, 2, 1)
            self.downs.append(nn.ModuleList([self._block(n, n), self._block(n, n), _attend(LinearAttention, n), down]))

    def _block(self, dim_in: int, dim_out: int) -> ResnetBlock:
        return ResnetBlock(dim_in, dim_out, self.time_dim, self.groups)

    def _decoder(self, skips: bool) -> nn.ModuleList:
        ups = nn.ModuleList()
        for i, (n, o) in enumerate(reversed(self.stages)):
            last = i == len(self.stages) - 1
            width = o + n if skips else o
            up = nn.Conv2d(o, n, 3, padding=1) if last else _upsample(o, n)
            ups.append(nn.ModuleList([self._block(width, o), self._block(width, o), _attend(LinearAttention, o), up]))
        return ups

    def _add_middle(self) -> None:
        # Registered after the decoders: optimiser states depend on the published order of the parameters.
        middle = self.stages[-1][1]
        self.mid_block1 = self._block(middle, middle)
        self.mid_attn = _attend(Attention, middle)
        self.mid_block2 = self._block(middle, middle)

    def _stem(self, x: Tensor, x_self_cond: Tensor | None) -> Tensor:
        if self.self_condition:
            if x_self_cond is None:
                x_self_cond = x.new_zeros(x.shape[0], self.channels, *x.shape[2:])
            x = torch.cat((x_self_cond, x), dim=1)
        if x.shape[1] != self.input_channels:
            raise ValueError(
                f"the network takes {self.input_channels} input channels, not {x.shape[1]}: "
                "check condition, input_condition and self_condition"
            )
        return self.init_conv(reflected(x, self.factor))

    def _encode(self, x: Tensor, t: Any) -> tuple[Tensor, list[Tensor]]:
        skips = []
        for down_stage in self.downs:
            block1, block2, attention, down = _modules(down_stage)
            x = block1(x, t)
            skips.append(x)
            x = attention(block2(x, t))
            skips.append(x)
            x = down(x)
        x = self.mid_attn(self.mid_block1(x, t))
        return self.mid_block2(x, t), skips

    def _decode(self, ups: nn.ModuleList, x: Tensor, t: Any, skips: list[Tensor] | None) -> Tensor:
        unused = list(skips) if skips is not None else None

        def joined(x: Tensor) -> Any:
            return x if unused is None else self.join(x, unused.pop())

        for up_stage in ups:
            block1, block2, attention, up = _modules(up_stage)
            x = block1(joined(x), t)
            x = attention(block2(joined(x), t))
            x = up(x)
        return x


class Unet(_UnetBase):
    """One U-Net. Keyword arguments and state-dict keys are the published ones.

    Args:
        dim: width of the first stage; the time embedding has 4 dim features.
        init_dim: width of the stem; `dim` if None.
        out_dim: output channels; `channels` if None.
        dim_mults: width of each stage as a multiple of `dim`; each stage but the last halves the image.
        channels: channels of an image.
        self_condition: the previous step's clean image is prepended to the input.
        condition: the degraded image is concatenated (not with `img_to_img_translation`).
        input_condition: a mask or other image is concatenated.
        padding_factor: the sides of the image are padded to a multiple of it; None pads as far as the stages need,
            2 to their number less 1. DiffUIR pads to 2 to their number.
    """

    def __init__(self, dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(dim, *args, **kwargs)
        self.ups = self._decoder(skips=True)
        self._add_middle()
        self.final_res_block = self._block(self.init_dim + self.stages[0][0], dim)
        self.final_conv = nn.Conv2d(dim, self.out_dim, 1)

    def forward(self, x: Tensor, time: Any, x_self_cond: Tensor | None = None) -> Tensor:
        """Map `x` (B, input channels, H, W) and `time` (B,), integers or floats, to (B, out_dim, H, W)."""
        return self.after_stem(self._stem(x, x_self_cond), self.time_mlp(time), x.shape[-2:])

    def after_stem(self, stem: Tensor, t: Any, size: Sequence[int]) -> Tensor:
        """Run the network after its first convolution: `stem` and the embedded time to an image of `size` (H, W)."""
        x, skips = self._encode(stem, t)
        x = self._decode(self.ups, x, t, skips)
        x = self.final_res_block(self.join(x, stem), t)
        return self.final_conv(x)[..., : size[0], : size[1]]


class SharedUnet(_UnetBase):
    """One encoder, two decoders: the first without skips (out0), the second with them (out1)."""

    def __init__(self, dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(dim, *args, **kwargs)
        self.ups = self._decoder(skips=True)
        self.ups_no_skip = self._decoder(skips=False)
        self._add_middle()
        n = self.stages[0][0]
        self.final_res_block_1 = self._block(n, dim)
        self.final_conv_1 = nn.Conv2d(dim, self.out_dim, 1)
        self.final_res_block_2 = self._block(self.init_dim + n, dim)
        self.final_conv_2 = nn.Conv2d(dim, self.out_dim, 1)

    def forward(self, x: Tensor, time: Any, x_self_cond: Tensor | None = None) -> list[Tensor]:
        """Do what `Unet.forward` does; return both decoders' outputs."""
        return self.after_stem(self._stem(x, x_self_cond), self.time_mlp(time), x.shape[-2:])

    def after_stem(self, stem: Tensor, t: Any, size: Sequence[int]) -> list[Tensor]:
        """Do what `Unet.after_stem` does; return both decoders' outputs."""
        height, width = size
        x, skips = self._encode(stem, t)
        first = self.final_res_block_1(self._decode(self.ups_no_skip, x, t, None), t)
        second = self._decode(self.ups, x, t, skips)
        second = self.final_res_block_2(self.join(second, stem), t)
        return [
            self.final_conv_1(first)[..., :height, :width],
            self.final_conv_2(second)[..., :height, :width],
        ]
