"""The residual block of a folded U-Net."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from ...diffusion.unet import Block, ResnetBlock
from ...ops.networks.conv3x3 import AMX_CHANNELS
from ...ops.networks.conv3x3_tiles import TiledConvolution
from ...ops.networks.conv_norm_silu import conv_norm_silu, serves_groups
from ...ops.networks.group_norm_silu import group_norm_silu
from ...ops.networks.residual_block import pack_residual_block, residual_block
from ...ops.networks.residual_block import serves as serves_block
from .convolutions import TORCH, PixelLinear, PixelProducts, TiledConv2d, adds_bias_apart, described, is_3x3, whole
from .gpu_convolutions import ImplicitConv2d, ResidualProduct
from .ways import ManyWays, Site, images_of


class FoldedBlock(nn.Module):
    """A residual block for known steps: norm and activation are one op.

    Args:
        block: the block; its convolutions are taken over.
        own: the columns of a step's row in which the block's scale and shift are.
    """

    def __init__(self, block: ResnetBlock, own: slice) -> None:
        super().__init__()
        self.own = own
        self.half1, self.half2 = Half(block.block1), Half(block.block2)
        self.res_conv: nn.Module = block.res_conv
        if isinstance(block.res_conv, nn.Conv2d) and adds_bias_apart(block.res_conv):
            self.res_conv = PixelLinear(block.res_conv)

    def takes_parts(self) -> bool:
        """Return whether `forward` takes a pair of images in the place of their concatenation."""
        kinds = type(self.half1.conv), type(self.res_conv)
        return kinds in ((TiledConv2d, PixelProducts), (ImplicitConv2d, PixelLinear), (ImplicitConv2d, ResidualProduct))

    def fuse_residual(self) -> None:
        """Let the second half make the residual, if it can."""
        if self.half2.is_choosable() and isinstance(self.res_conv, PixelLinear):
            self.res_conv = ResidualProduct(self.res_conv)

    def forward(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        """Map `x` by the step whose `row` (1, columns) this is."""
        parts = x if isinstance(x, tuple) else (x,)
        h = self.half1(parts, row[:, self.own], (), None)
        if isinstance(self.res_conv, ResidualProduct):
            return self.half2((h,), None, parts, self.res_conv)
        return self.half2((h,), None, (self.res_conv(*parts),), None)


class Half(ManyWays):
    """Half of a residual block: a 3x3 convolution, and all that follows it. On a GPU that is one op, if one serves it.

    Called with the images in one part or in two, the scale and shift or None, what is added last in one part or in two
    (a tuple; it may be empty), and the 1x1 convolution of that or None.
    """

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.norm = NormSilu(block)
        self.conv: nn.Module = block.proj

    def is_choosable(self) -> bool:
        """Return whether `ops.conv_norm_silu` computes it; then its tiles and torch's convolution are ways."""
        conv = self.conv
        return isinstance(conv, ImplicitConv2d) and serves_groups(len(conv.weight), self.norm.groups)

    def title(self) -> str:
        weight: Tensor = self.conv.weight  # type: ignore[assignment]
        return described("3x3 with norm", weight, f"{self.norm.groups} groups")

    def rule(self, parts: tuple[Tensor, ...], *rest: Any) -> str:
        return self._tiled(parts[0].shape).names()[0]

    def ways(self, parts: tuple[Tensor, ...], *rest: Any) -> list[str]:
        return [*self._tiled(parts[0].shape).names()[: ImplicitConv2d.LIKELY], TORCH]

    def by(self, way: str, parts: tuple[Tensor, ...], *rest: Any) -> Tensor:
        if way == TORCH:
            return self._apart(parts, *rest)
        with self._tiled(parts[0].shape).taking(way):
            return self._as_one_op(parts, *rest)

    def exact(self, parts: tuple[Tensor, ...], *rest: Any) -> Tensor:
        scale_shift, added, product = rest
        return self._as_one_op(tuple(part.float() for part in parts), scale_shift, _floats(added), product, exact=True)

    def products(self, parts: tuple[Tensor, ...], *rest: Any) -> int:
        product = rest[2]
        weights = self.conv.weight.numel() + (0 if product is None else product.weight.numel())  # type: ignore[operator, union-attr]
        return weights * parts[0][:, 0].numel()

    def choose(self, site: Site, way: str) -> None:
        super().choose(site, way)
        if way != TORCH:
            self._tiled(site.shapes[0]).take(way)

    def forward(
        self,
        parts: tuple[Tensor, ...],
        scale_shift: Tensor | None,
        added: tuple[Tensor, ...],
        product: ResidualProduct | None,
    ) -> Tensor:
        given = parts, scale_shift, added, product
        # The registered tile is the chosen one: nothing is to be set on the way.
        if not self.is_choosable() or (self.chosen and self.way(*given) == TORCH):
            return self._apart(*given)
        return self._as_one_op(*given)

    def _tiled(self, shape: Sequence[int]) -> TiledConvolution:
        assert isinstance(self.conv, ImplicitConv2d)
        return self.conv.tiled(shape, len(self.conv.weight) // self.norm.groups)

    def _apart(
        self,
        parts: tuple[Tensor, ...],
        scale_shift: Tensor | None,
        added: tuple[Tensor, ...],
        product: ResidualProduct | None,
    ) -> Tensor:
        """Convolve, and then normalise."""
        conv = self.conv
        y = conv.torchs(*parts) if isinstance(conv, ImplicitConv2d) and self.is_choosable() else conv(*parts)
        residual = None if not added else added[0] if product is None else product(*added)
        # Under autocast their dtypes differ.
        return self.norm(y, scale_shift, None if residual is None else residual.to(y.dtype))

    def _as_one_op(
        self,
        parts: tuple[Tensor, ...],
        scale_shift: Tensor | None,
        added: tuple[Tensor, ...],
        product: ResidualProduct | None,
        exact: bool = False,
    ) -> Tensor:
        conv, norm = self.conv, self.norm
        assert isinstance(conv, ImplicitConv2d)
        x, x_2 = conv.taken(*parts) if len(parts) == 2 else (parts[0], None)
        return conv_norm_silu(
            x,
            conv.weight.float() if exact else conv.weight,
            norm.weight,
            norm.bias,
            norm.groups,
            eps=norm.eps,
            conv_bias=norm.x_bias,
            x_2=x_2,
            packed=None if exact else conv.packed,
            scale_shift=scale_shift,
            **dict(zip(("residual", "residual_2"), added, strict=False)),
            **({} if product is None else product.given(x.dtype)),
            impl="reference" if exact else None,
        )


def _floats(images: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(image.float() for image in images)


class FusedBlock(ManyWays):
    """A residual block on a CPU with AMX in float32: `ops.residual_block`, or its layers one by one.

    Args:
        block: the block, one that this class `serves`.
    """

    WAYS = WHOLE, LAYERS = "whole, in AMX", "its layers one by one"

    def __init__(self, block: FoldedBlock) -> None:
        super().__init__()
        self.block = block
        self.own, self.norm1, self.norm2 = block.own, block.half1.norm, block.half2.norm
        first, second = block.half1.conv, block.half2.conv
        res_conv = block.res_conv if isinstance(block.res_conv, nn.Conv2d) else None
        assert isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d)
        self.weight_1, self.weight_2 = first.weight.detach(), second.weight.detach()
        self.res_weight = None if res_conv is None else res_conv.weight.detach()
        self.biases = first.bias, second.bias, None if res_conv is None else res_conv.bias
        self.packed = pack_residual_block(self.weight_1, self.weight_2, self.res_weight)

    @staticmethod
    def serves(block: nn.Module) -> bool:
        """Return whether `block` is such a block, of so many channels that it gains from AMX."""
        if not isinstance(block, FoldedBlock) or not isinstance(block.res_conv, nn.Conv2d | nn.Identity):
            return False
        convolutions = block.half1.conv, block.half2.conv
        for conv in convolutions:
            if not isinstance(conv, nn.Conv2d) or not is_3x3(conv) or not 64 <= conv.in_channels <= AMX_CHANNELS:
                return False
        weight: Tensor = convolutions[0].weight  # type: ignore[assignment]
        return serves_block(weight.device, weight.dtype)

    def title(self) -> str:
        return described("block", self.weight_1)

    def rule(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> str:
        return self.WHOLE

    def by(self, way: str, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        """Map `x`, images in one part or in two, by the step whose `row` (1, columns) this is."""
        if way == self.WHOLE:
            return self._mapped(x, row)
        return self.block(whole(*x) if isinstance(x, tuple) and not self.block.takes_parts() else x, row)

    def exact(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> Tensor:
        return self._mapped(x, row, impl="reference")

    def products(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor) -> int:
        weights = self.weight_1, self.weight_2, *([] if self.res_weight is None else [self.res_weight])
        pixels = next(images_of((x,)))[:, 0].numel()
        return pixels * sum(weight.numel() for weight in weights)

    def _mapped(self, x: Tensor | tuple[Tensor, Tensor], row: Tensor, impl: str | None = None) -> Tensor:
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
            impl=impl,
        )


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
