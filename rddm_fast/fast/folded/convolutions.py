"""The convolutions of a folded U-Net on a CPU, on channels-last images, and what those on a GPU share with them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.unet import concatenated
from ...ops.networks.conv1x1 import CONV1X1, conv1x1, pack_conv1x1
from ...ops.networks.conv1x1 import serves as divide_into_vectors
from ...ops.networks.conv3x3 import AMX_CHANNELS, CONV3X3, conv3x3, pack_conv3x3, tiles
from .ways import ManyWays

TORCH = "torch's"
"""The name of the way that a convolution is torch's own: oneDNN's on a CPU, cuDNN's on a GPU."""

TILES = {TORCH: 0, "in AMX": 1, "Winograd's 2x2": 2, "Winograd's 4x4": 4}
"""The ways of a 3x3 convolution on a CPU: tiles of `pack_conv3x3`, and 0."""

_NAMES = {tile: name for name, tile in TILES.items()}


def described(kind: str, weight: Tensor, *more: str) -> str:
    """Name a convolution: its kind, its channels, and its dtype last."""
    channels = f"{kind} of {weight.shape[1]} to {weight.shape[0]} channels"
    return ", ".join((channels, *more, str(weight.dtype).removeprefix("torch.")))


def adds_bias_apart(conv: nn.Conv2d) -> bool:
    """Return whether torch adds the bias in a pass of its own after the convolution, as it does on a GPU."""
    return conv.weight.is_cuda


def is_3x3(conv: nn.Conv2d) -> bool:
    """Return whether `conv` is a plain 3x3 convolution with a border of one zero."""
    shape = conv.kernel_size, conv.stride, conv.padding, conv.dilation, conv.groups
    return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1)


class PixelLinear(nn.Module):
    """A 1x1 convolution of channels-last images, one or two in a row, as matrix products that add on the way."""

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().flatten(1).clone(), requires_grad=False)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone(), requires_grad=False)

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        pixels, channels = x.permute(0, 2, 3, 1), x.shape[1]
        y = F.linear(pixels, self.weight[:, :channels], self.bias)
        if x_2 is not None:
            others = x_2.permute(0, 2, 3, 1).reshape(-1, x_2.shape[1])
            y.flatten(0, 2).addmm_(others, self.weight[:, channels:].t())
        return y.permute(0, 3, 1, 2)


class TiledConv2d(ManyWays):
    """A 3x3 convolution on the CPU in float32: `ops.conv3x3`, its weight packed at the first images of each kind.

    Args:
        conv: the convolution, one that this class `serves`.
    """

    WAYS = tuple(TILES)

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.packed: dict[str, Tensor | PackedConv2d] = {}

    @staticmethod
    def serves(conv: nn.Conv2d) -> bool:
        """Return whether `conv` is such a convolution, of so many channels that it gains from tiles."""
        if not is_3x3(conv) or conv.weight.dtype != torch.float32:
            return False
        return conv.in_channels >= 8 and CONV3X3.best(conv.weight.device) == "cpp"

    @staticmethod
    def tile(x: Tensor, channels: int) -> int:
        """Return the tile that is fastest for images `x` and so many channels, or 0 for torch's convolution.

        Measured by `rddm-fast bench conv3x3` on x86-64 CPUs with AVX-512, one thread and two, 24 to 768 channels. AMX
        takes 64 channels at once, and is fastest from there on. Of Winograd's tiles, where the time is that of reading
        the weights, torch's convolution is as fast or faster for images of up to 2x2 pixels, and up to 8x8 the tile of
        2 is, whose weights are fewer than those of 4.
        """
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        if 1 in tiles() and 64 <= channels <= AMX_CHANNELS:
            return 1
        return 0 if pixels <= 4 else 2 if pixels <= 64 else 4

    def title(self) -> str:
        return described("3x3", self.conv.weight)

    def rule(self, x: Tensor, x_2: Tensor | None = None) -> str:
        return _NAMES[self.tile(x, self.conv.in_channels)]

    def ways(self, x: Tensor, x_2: Tensor | None = None) -> list[str]:
        return [_NAMES[tile] for tile in (0, *tiles()) if tile != 1 or self.conv.in_channels <= AMX_CHANNELS]

    def by(self, way: str, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        if way not in self.packed:
            tile = TILES[way]
            self.packed[way] = pack_conv3x3(self.conv.weight, tile=tile) if tile else PackedConv2d(self.conv)
        packed = self.packed[way]
        if isinstance(packed, PackedConv2d):
            return packed.by(PackedConv2d.PACKED, whole(x, x_2))
        return conv3x3(x, self.conv.weight, self.conv.bias, x_2=x_2, packed=packed)

    def exact(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        return F.conv2d(whole(x, x_2), self.conv.weight, self.conv.bias, padding=1)

    def products(self, x: Tensor, x_2: Tensor | None = None) -> int:
        return self.conv.weight.numel() * x[:, 0].numel()

    def settle(self) -> None:
        kept = set(self.chosen.values())
        self.packed = {way: packed for way, packed in self.packed.items() if way in kept}


def whole(x: Tensor, x_2: Tensor | None) -> Tensor:
    """Return images in one part or in two as one."""
    return x if x_2 is None else concatenated(x, x_2)


class PixelProducts(ManyWays):
    """A 1x1 convolution on the CPU in float32: `ops.conv1x1`, of one image or of two in a row."""

    OURS = "our op"
    WAYS = OURS, TORCH

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.torchs = PixelLinear(conv)
        self.weight, self.bias = self.torchs.weight, self.torchs.bias
        self.packed = pack_conv1x1(self.weight)

    @staticmethod
    def serves(conv: nn.Module) -> bool:
        """Return whether `conv` is such a convolution, and its channels divide into vectors."""
        if not isinstance(conv, nn.Conv2d) or conv.kernel_size != (1, 1) or conv.weight.dtype != torch.float32:
            return False
        by_cpp = CONV1X1.best(conv.weight.device) == "cpp"
        return by_cpp and divide_into_vectors(conv.out_channels, conv.in_channels)

    def title(self) -> str:
        return described("1x1", self.weight)

    def rule(self, x: Tensor, x_2: Tensor | None = None) -> str:
        return self.OURS

    def by(self, way: str, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        if way == TORCH:
            return self.torchs(x, x_2)
        return conv1x1(x, self.weight, self.bias, x_2=x_2, packed=self.packed)

    def exact(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        return conv1x1(x, self.weight, self.bias, x_2=x_2, impl="reference")

    def products(self, x: Tensor, x_2: Tensor | None = None) -> int:
        return self.weight.numel() * x[:, 0].numel()


class PackedConv2d(ManyWays):
    """A convolution on the CPU whose weight is reordered to oneDNN's layout once, not at each call.

    Torch's compiler does the same when it freezes a model's weights. 1x1 convolutions stay plain: they gain nothing,
    and on 8x8 images oneDNN takes 20 to 30 times as long with a packed weight.
    """

    WAYS = PACKED, PLAIN = "packed weights", "plain weights"

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.padding, self.stride, self.dilation = (
            list(map(int, a)) for a in (conv.padding, conv.stride, conv.dilation)
        )
        self.bias = conv.bias
        self.packed = torch._C._nn.mkldnn_reorder_conv2d_weight(
            conv.weight.detach().to_mkldnn(), self.padding, self.stride, self.dilation, 1
        )
        self.weight: Tensor | None = None

    def plain(self) -> Tensor:
        """Return the weight in torch's layout, which is made when it is asked for first."""
        if self.weight is None:
            self.weight = self.packed.to_dense().contiguous(memory_format=torch.channels_last)
        return self.weight

    def title(self) -> str:
        side = self.packed.shape[-1]
        return described(f"{side}x{side}", self.packed, f"stride {self.stride[0]}")

    def rule(self, x: Tensor) -> str:
        return self.PACKED

    def by(self, way: str, x: Tensor) -> Tensor:
        if way == self.PLAIN:
            return F.conv2d(x, self.plain(), self.bias, self.stride, self.padding, self.dilation)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self.packed, self.bias, self.padding, self.stride, self.dilation, 1, "none", [], ""
        )

    def exact(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.float()
        return F.conv2d(x.float(), self.plain().float(), bias, self.stride, self.padding, self.dilation)

    def products(self, x: Tensor) -> int:
        return self.packed.numel() * x[:, 0].numel() // self.stride[0] ** 2

    def settle(self) -> None:
        if self.PLAIN not in self.chosen.values():
            self.weight = None
