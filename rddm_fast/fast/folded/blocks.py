"""The residual block of a folded U-Net."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ...diffusion.unet import Block, ResnetBlock
from ...ops.networks.conv3x3 import AMX_CHANNELS
from ...ops.networks.conv_norm_silu import conv_norm_silu, serves_groups
from ...ops.networks.group_norm_silu import group_norm_silu
from ...ops.networks.residual_block import pack_residual_block, residual_block
from ...ops.networks.residual_block import serves as serves_block
from .convolutions import (
    ImplicitConv2d,
    PixelLinear,
    PixelProducts,
    ResidualProduct,
    TiledConv2d,
    adds_bias_apart,
    is_3x3,
)


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
        kinds = type(self.conv1), type(self.res_conv)
        return kinds in ((TiledConv2d, PixelProducts), (ImplicitConv2d, PixelLinear), (ImplicitConv2d, ResidualProduct))

    def fuse_residual(self) -> None:
        """Let the norm after the second convolution make the residual, if it can."""
        whole = isinstance(self.conv2, ImplicitConv2d) and serves_groups(len(self.conv2.weight), self.norm2.groups)
        if whole and isinstance(self.res_conv, PixelLinear):
            self.res_conv = ResidualProduct(self.res_conv)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        """Map `x` by the step whose `row` (1, columns) this is."""
        parts = x if isinstance(x, tuple) else (x,)
        h = half(self.conv1, self.norm1, parts, row[:, self.own])
        if isinstance(self.res_conv, ResidualProduct):
            return half(self.conv2, self.norm2, (h,), **self.res_conv.given(parts))
        return half(self.conv2, self.norm2, (h,), residual=self.res_conv(*parts))


class FusedBlock(nn.Module):
    """A residual block on a CPU with AMX in float32: `ops.residual_block`.

    Args:
        block: the block, one that this class `serves`.
    """

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        self.own, self.norm1, self.norm2 = block.own, block.norm1, block.norm2
        res_conv = block.res_conv if isinstance(block.res_conv, nn.Conv2d) else None
        self.weight_1, self.weight_2 = block.conv1.weight.detach(), block.conv2.weight.detach()
        self.res_weight = None if res_conv is None else res_conv.weight.detach()
        self.biases = block.conv1.bias, block.conv2.bias, None if res_conv is None else res_conv.bias
        self.packed = pack_residual_block(self.weight_1, self.weight_2, self.res_weight)

    @staticmethod
    def serves(block: nn.Module) -> bool:
        """Return whether `block` is such a block, of so many channels that it gains from AMX."""
        if not isinstance(block, FoldedBlock) or not isinstance(block.res_conv, nn.Conv2d | nn.Identity):
            return False
        for conv in (block.conv1, block.conv2):
            if not isinstance(conv, nn.Conv2d) or not is_3x3(conv) or not 64 <= conv.in_channels <= AMX_CHANNELS:
                return False
        return serves_block(block.conv1.weight.device, block.conv1.weight.dtype)  # type: ignore[arg-type]

    def forward(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        """Map `x`, images in one part or in two, by the step whose `row` (1, columns) this is."""
        first, second = x if isinstance(x, tuple) else (x, None)
        return residual_block(
            first,
            self.weight_1,
            self.weight_2,
            (self.norm1.weight, self.norm1.bias),
            (self.norm2.weight, self.norm2.bias),
            self.norm1.groups,
            res_weight=self.res_weight,
            x_2=second,
            biases=self.biases,
            packed=self.packed,
            eps=self.norm1.eps,
            scale_shift=row[:, self.own],
        )


def half(
    conv: nn.Module,
    norm: NormSilu,
    parts: tuple[Tensor, ...],
    scale_shift: Tensor | None = None,
    residual: Tensor | None = None,
    **made: Any,
) -> Tensor:
    """Return a convolution of the images, and all that follows it in the block: as one op where there is one.

    `made` are the other arguments of a residual that the op makes (`ResidualProduct.given`).
    """
    if isinstance(conv, ImplicitConv2d) and serves_groups(len(conv.weight), norm.groups):
        x, x_2 = conv.taken(*parts) if len(parts) == 2 else (parts[0], None)
        return conv_norm_silu(
            x,
            conv.weight,
            norm.weight,
            norm.bias,
            norm.groups,
            eps=norm.eps,
            conv_bias=norm.x_bias,
            x_2=x_2,
            packed=conv.packed,
            scale_shift=scale_shift,
            residual=residual,
            **made,
        )
    y = conv(*parts)
    return norm(y, scale_shift, None if residual is None else residual.to(y.dtype))  # Under autocast they differ.


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
