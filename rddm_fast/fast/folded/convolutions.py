"""The convolutions of a folded U-Net on channels-last images, each as its device computes it fastest."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...diffusion.unet import concatenated
from ...ops.checks import HALVES
from ...ops.networks.conv1x1 import CONV1X1, conv1x1, pack_conv1x1
from ...ops.networks.conv1x1 import serves as divide_into_vectors
from ...ops.networks.conv3x3 import AMX_CHANNELS, CONV3X3, conv3x3, pack_conv3x3, pack_conv3x3_taps, tiles
from ...ops.networks.conv3x3 import serves as serves_3x3
from ...ops.networks.conv_by_taps import CONV_BY_TAPS, conv_by_taps, pack_taps
from ...ops.networks.stem_conv import STEM_CONV, pack_stem_conv, stem_conv
from ...ops.networks.stem_conv import serves as serves_stem


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


class ResidualProduct(nn.Module):
    """A 1x1 convolution of which `ops.conv_norm_silu` makes a residual: its weight, and its bias in float32."""

    bias: Tensor | None

    def __init__(self, product: PixelLinear) -> None:
        super().__init__()
        self.weight = product.weight
        self.register_buffer("bias", None if product.bias is None else product.bias.detach().float())

    def given(self, parts: tuple[Tensor, ...]) -> dict[str, Tensor | None]:
        """Return the op's arguments for images in one part or in two."""
        images = dict(zip(("residual", "residual_2"), parts, strict=False))
        return {**images, "res_weight": self.weight, "res_bias": self.bias}


class TapConv2d(nn.Module):
    """A convolution of another side than 3 on a GPU in bfloat16 or float16: `ops.conv_by_taps`.

    Args:
        weight: (K, C, side, side).
        bias: (K,), or None.
        stride, padding: as for torch's convolution.
    """

    taps: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
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

    def forward(self, x: Tensor, addend: Tensor | None = None) -> Tensor:
        return conv_by_taps(x, self.taps, bias=self.bias, addend=addend, stride=self.stride, padding=self.padding)


class TiledConv2d(nn.Module):
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

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        tile = self.tile(x, self.conv.in_channels)
        if tile not in self.packed:
            self.packed[tile] = pack_conv3x3(self.conv.weight, tile=tile) if tile else PackedConv2d(self.conv)
        packed = self.packed[tile]
        if isinstance(packed, PackedConv2d):
            return packed(x if x_2 is None else concatenated(x, x_2))
        return conv3x3(x, self.conv.weight, self.conv.bias, x_2=x_2, packed=packed)


class ImplicitConv2d(nn.Module):
    """A 3x3 convolution on a GPU in bfloat16 or float16: `ops.conv3x3`, of one image or of two in a row.

    Args:
        conv: the convolution, one that this class `serves`.
        upsample: enlarge the images 2x before it, by nearest neighbour.
    """

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
        return concatenated(x, x_2), None

    def forward(self, x: Tensor, x_2: Tensor | None = None) -> Tensor:
        x, x_2 = self.taken(x, x_2)
        return conv3x3(x, self.weight, self.bias, x_2=x_2, packed=self.packed, upsample=self.upsample)


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
        by_cpp = CONV1X1.best(conv.weight.device) == "cpp"
        return by_cpp and divide_into_vectors(conv.out_channels, conv.in_channels)

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
