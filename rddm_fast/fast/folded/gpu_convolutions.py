"""The convolutions of a folded U-Net on a GPU in bfloat16 and float16, on channels-last images."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...ops.checks import HALVES
from ...ops.networks.conv3x3 import conv3x3, pack_conv3x3_taps
from ...ops.networks.conv3x3 import serves as serves_3x3
from ...ops.networks.conv3x3_tiles import TiledConvolution
from ...ops.networks.conv_by_taps import CONV_BY_TAPS, conv_by_taps, pack_taps
from ...ops.networks.stem_conv import STEM_CONV, pack_stem_conv, stem_conv
from ...ops.networks.stem_conv import serves as serves_stem
from .convolutions import TORCH, PixelLinear, described, is_3x3, whole
from .ways import ManyWays, Site


class ResidualProduct(nn.Module):
    """A 1x1 convolution of which `ops.conv_norm_silu` makes a residual: the matrix product, and its bias in float32."""

    bias: Tensor | None

    def __init__(self, product: PixelLinear) -> None:
        super().__init__()
        self.product, self.weight = product, product.weight
        self.register_buffer("bias", None if product.bias is None else product.bias.detach().float())

    def given(self, dtype: torch.dtype) -> dict[str, Tensor | None]:
        """Return the op's arguments for images of a dtype."""
        return {"res_weight": self.weight.to(dtype), "res_bias": self.bias}

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        """Make the residual by itself."""
        return self.product(x, x_2)


class TapConv2d(ManyWays):
    """A convolution of another side than 3 on a GPU in bfloat16 or float16: `ops.conv_by_taps`.

    Args:
        weight: (K, C, side, side).
        bias: (K,), or None.
        stride, padding: as for torch's convolution.
    """

    OURS = "our kernel"
    WAYS = OURS, TORCH

    taps: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.weight, self.stride, self.padding = nn.Parameter(weight, requires_grad=False), stride, padding
        self.register_buffer("taps", pack_taps(weight, weight.dtype))
        self.register_buffer("bias", None if bias is None else bias.detach().float())

    @staticmethod
    def serves(conv: nn.Module) -> bool:
        """Return whether `conv` is such a convolution: square, with zeros around."""
        if not isinstance(conv, nn.Conv2d) or not TapConv2d.serves_weight(conv.weight) or is_3x3(conv):
            return False
        both = conv.kernel_size, conv.stride, conv.padding
        return all(len(set(pair)) == 1 for pair in both) and (conv.dilation, conv.groups) == ((1, 1), 1)

    @staticmethod
    def serves_weight(weight: Tensor) -> bool:
        """Return whether the op serves images of the weight's dtype where it is."""
        return weight.dtype in HALVES and CONV_BY_TAPS.best(weight.device) == "triton"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> TapConv2d:
        """Make one from a convolution that this class `serves`."""
        return cls(conv.weight, conv.bias, conv.stride[0], int(conv.padding[0]))

    def title(self) -> str:
        side = self.weight.shape[-1]
        return described(f"{side}x{side}", self.weight, f"stride {self.stride}")

    def rule(self, x: Tensor, addend: Tensor | None = None) -> str:
        return self.OURS

    def by(self, way: str, x: Tensor, addend: Tensor | None = None) -> Tensor:
        if way == self.OURS:
            return conv_by_taps(x, self.taps, bias=self.bias, addend=addend, stride=self.stride, padding=self.padding)
        bias = None if self.bias is None else self.bias.to(x.dtype)
        y = F.conv2d(x, self.weight, bias, self.stride, self.padding)
        return y if addend is None else y + addend

    def exact(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        y = F.conv2d(x.float(), self.weight.float(), self.bias, self.stride, self.padding)
        return y if addend is None else y + addend

    def products(self, x: Tensor, addend: Tensor | None = None) -> int:
        return self.weight.numel() * x[:, 0].numel() // self.stride**2


class ImplicitConv2d(ManyWays):
    """A 3x3 convolution on a GPU in bfloat16 or float16: `ops.conv3x3`, of one image or of two in a row.

    Args:
        conv: the convolution, one that this class `serves`.
        upsample: enlarge the images 2x before it, by nearest neighbour.
    """

    LIKELY = 3
    """A measurement times so many tiles, the first by the count: each is compiled, which takes seconds."""

    bias: Tensor | None
    packed: Tensor

    def __init__(self, conv: nn.Conv2d, upsample: bool = False) -> None:
        super().__init__()
        self.weight, self.upsample = conv.weight, upsample
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().float())
        self.register_buffer("packed", pack_conv3x3_taps(conv.weight, conv.weight.dtype, upsample))

    @staticmethod
    def serves(conv: nn.Module) -> bool:
        """Return whether `conv` is such a convolution, and its channels divide into tiles."""
        if not isinstance(conv, nn.Conv2d) or conv.weight.dtype not in HALVES or not is_3x3(conv):
            return False
        return serves_3x3(conv.weight.device, conv.weight.dtype, [conv.in_channels], conv.out_channels)

    def taken(self, x: Tensor, x_2: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the images as the kernel takes them: in one part, if a part's channels do not divide into tiles."""
        if x_2 is None or serves_3x3(x.device, x.dtype, [x.shape[1], x_2.shape[1]], len(self.weight)):
            return x, x_2
        return whole(x, x_2), None

    def tiled(self, shape: Sequence[int], group: int = 1) -> TiledConvolution:
        """Return the choice of a tile for images of a shape; `group` has the channels of a norm in the same op."""
        whole = (shape[0], self.weight.shape[1], *shape[2:])
        return TiledConvolution(self.weight.device, whole, len(self.weight), self.upsample, group)

    def title(self) -> str:
        return described("enlarging 3x3" if self.upsample else "3x3", self.weight)

    def rule(self, x: Tensor, x_2: Tensor | None = None) -> str:
        return self.tiled(x.shape).names()[0]

    def ways(self, x: Tensor, x_2: Tensor | None = None) -> list[str]:
        return [*self.tiled(x.shape).names()[: self.LIKELY], TORCH]

    def by(self, way: str, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        if way == TORCH:
            return self.torchs(x, x_2, None if self.bias is None else self.bias.to(x.dtype))
        with self.tiled(x.shape).taking(way):
            return self.ours(x, x_2)

    def ours(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        """Compute it by our kernel, with the tile that is registered."""
        x, x_2 = self.taken(x, x_2)
        return conv3x3(x, self.weight, self.bias, x_2=x_2, packed=self.packed, upsample=self.upsample)

    def torchs(self, x: Tensor, x_2: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Compute it by torch."""
        x = whole(x, x_2)
        x = F.interpolate(x, scale_factor=2, mode="nearest") if self.upsample else x
        return F.conv2d(x, self.weight, bias, padding=1)

    def exact(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        x_2 = None if x_2 is None else x_2.float()
        return conv3x3(x.float(), self.weight.float(), self.bias, x_2=x_2, upsample=self.upsample, impl="reference")

    def products(self, x: Tensor, x_2: Tensor | None = None) -> int:
        """The phases of an enlarged image take 4/9 of the direct computation's."""
        return self.packed.numel() * x.shape[0] * x.shape[2] * x.shape[3]

    def choose(self, site: Site, way: str) -> None:
        super().choose(site, way)
        if way != TORCH:
            self.tiled(site.shapes[0]).take(way)

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        # The registered tile is the chosen one: nothing is to be set on the way.
        if self.chosen and self.way(x, x_2) == TORCH:
            return self.by(TORCH, x, x_2)
        return self.ours(x, x_2)


class StemConv(nn.Module):
    """A first convolution on a GPU in bfloat16 or float16: `ops.stem_conv`, and what is added to it."""

    rows: Tensor
    bias: Tensor | None

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.register_buffer("rows", pack_stem_conv(conv.weight, conv.weight.dtype))
        self.register_buffer("bias", None if conv.bias is None else conv.bias.detach().float())

    @staticmethod
    def serves(conv: nn.Module) -> bool:
        """Return whether `conv` is such a convolution: of few channels, stride 1 and zeros around."""
        if not isinstance(conv, nn.Conv2d) or conv.weight.dtype not in HALVES or not serves_stem(conv.weight):
            return False
        others = conv.stride, conv.dilation, conv.groups, conv.padding
        plain = others == ((1, 1), (1, 1), 1, (conv.kernel_size[0] // 2,) * 2)
        return plain and STEM_CONV.best(conv.weight.device) == "triton"

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        return stem_conv(x, self.rows, bias=self.bias, addend=addend)
