"""Fold networks: move all work that depends only on the weights, the step or I_in out of the sampling loop.

* Weight standardisation depends on the weights. Each standardised convolution becomes a plain one, whose weight is
  standardised once, in float64. For every dtype the epsilon is 1e-5, that of float32, in which checkpoints were
  trained.
* The time embedding depends on the step. All blocks' scales and shifts become a table with one row per step.
* The first convolution is linear. Its part that sees the degraded image and the mask is computed once per image.
* Everything runs channels-last, with the modules of `fast.folded`.
* On the CPU the convolutions' weights are packed once: in float32 those of 3x3 convolutions for `ops.conv3x3`, the
  others into oneDNN's layout. Linear attention with its norms and residual is `ops.attention_layer`.
  In float32 the decoder's blocks read the image and the skip where they lie; in AMX a block is `ops.residual_block`.
* On a GPU in bfloat16 and float16 a block is two `ops.conv_norm_silu`, the second of which makes the residual; the stem
  is `ops.stem_conv`, linear attention `ops.attention_layer`, every other convolution `ops.conv_by_taps`, and nothing is
  enlarged or concatenated.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..diffusion.unet import (
    Attention,
    ChannelNorm,
    LinearAttention,
    ResnetBlock,
    SharedUnet,
    Unet,
    WeightStandardizedConv2d,
    reflected,
    standardised,
)
from ..theory.steps import Step
from .folded.attention import (
    FLOAT32_EPS,
    AttentionLayer,
    LastAxisNorm,
    PixelsFirstLinearAttention,
    ResidualAttention,
    SdpaAttention,
)
from .folded.blocks import FoldedBlock, FusedBlock
from .folded.convolutions import PackedConv2d, PixelLinear, PixelProducts, TiledConv2d, adds_bias_apart
from .folded.gpu_convolutions import ImplicitConv2d, StemConv, TapConv2d

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def network_dtype(dtype: torch.dtype | None, device: torch.device) -> torch.dtype | None:
    """Return the dtype to fold for: the one asked for, else bfloat16 on a GPU, and None for the weights' own on a CPU.

    Raises ValueError for a dtype that networks do not compute in.
    """
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype}: choose torch.float32, torch.bfloat16 or torch.float16")
    return torch.bfloat16 if dtype is None and device.type == "cuda" else dtype


class SplitStem(nn.Module):
    """A U-Net's first convolution split in two: one for the images that change at each step, one for the others."""

    def __init__(self, conv: nn.Conv2d, changing: int) -> None:
        super().__init__()
        self.changing: nn.Module = _part(conv, 0, changing)
        self.constant: nn.Module | None = None
        if changing < conv.in_channels:
            self.constant = _part(conv, changing, conv.in_channels)
            self.changing.bias = None  # The constant part adds the bias.

    def forward(self, x: Tensor, constant: Tensor | None) -> Tensor:
        if isinstance(self.changing, StemConv):
            return self.changing(x, constant)
        stem = self.changing(x)
        return stem if constant is None else stem + constant


class FoldedNetworks(nn.Module):
    """`ResidualUnets` for known steps, called with a step's number instead of its time.

    It has no trainable parameters and shares none with the networks that it was made from. Its outputs equal theirs
    up to rounding.
    """

    def __init__(
        self, networks: ResidualUnets, times: Sequence[Tensor], dtype: torch.dtype, pack: bool | None, exact: bool
    ) -> None:
        super().__init__()
        self.networks, self.outputs, self.dtype = networks.networks, networks.outputs, dtype
        first = networks.members[0]
        self.channels, self.factor, self.self_condition = first.channels, first.factor, first.self_condition
        changing = self.channels * (2 if self.self_condition else 1)
        folded = [fold_unet(member, times[i], dtype) for i, member in enumerate(networks.members)]
        self.members = nn.ModuleList(folded)
        self.stems = nn.ModuleList(SplitStem(member.init_conv, changing) for member in folded)
        for member in folded:
            del member.init_conv
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if packs(self.device, dtype) if pack is None else pack:
            _pack(self, exact)

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def own_arithmetic(self) -> contextlib.AbstractContextManager[object]:
        """Return a context without a GPU's autocast, because these networks' dtype was chosen when they were folded."""
        on_gpu = self.device.type == "cuda"
        return torch.autocast("cuda", enabled=False) if on_gpu else contextlib.nullcontext()

    def constant(self, images: Tensor) -> list[Tensor | None]:
        """Convolve the images (B, C, H, W) that no step changes, [I_in, mask]; None if the stem sees none."""
        images = self._ready(images)
        return [None if stem.constant is None else stem.constant(images) for stem in self.stems]  # type: ignore[operator]

    def input(self, x: Tensor, x_self_cond: Tensor | None = None) -> Tensor:
        """Make the part of a network's input that changes: [x_self_cond, I_t], in the folded dtype and padded."""
        if self.self_condition:
            x = torch.cat((torch.zeros_like(x) if x_self_cond is None else x_self_cond, x), dim=1)
        return self._ready(x)

    def row(self, i: int, step: int | Tensor) -> Tensor:
        """Return what network i knows of a step, (1, columns): a view for a number, a copy for an int64 tensor (1,)."""
        rows: Tensor = self.members[i].time_rows  # type: ignore[assignment]
        return rows.index_select(0, step) if isinstance(step, Tensor) else rows[step : step + 1]

    def bound(self, i: int) -> Callable[[Tensor, Tensor, Tensor | None], list[Tensor]]:
        """Return network i as a function of its `input`, the step's `row`, and its part of `constant`.

        The function returns a list of one image, or of two for a shared encoder, of the input's size.
        """
        stem, member = self.stems[i], self.members[i]

        def network(x: Tensor, row: Tensor, constant: Tensor | None) -> list[Tensor]:
            out = member.after_stem(stem(x, constant), row, x.shape[-2:])  # type: ignore[operator]
            return out if isinstance(out, list) else [out]

        return network

    def forward(
        self,
        x: Tensor,
        step: int | Tensor,
        x_self_cond: Tensor | None = None,
        only: tuple[int, ...] | None = None,
        constant: Sequence[Tensor | None] | None = None,
    ) -> list[Tensor]:
        """Return the outputs in `only` (all by default) for `x` (B, C, H, W), in the folded dtype.

        With `constant`, the result of that method, `x` is I_t. Without it, `x` is [I_t, I_in, mask]. `step` is the
        step's number, an int or an int64 tensor (1,).
        """
        if constant is None:
            constant = self.constant(x[:, self.channels :])
            x = x[:, : self.channels]
        height, width = x.shape[-2:]
        x = self.input(x, x_self_cond)
        wanted = range(self.outputs) if only is None else only
        if self.networks == "shared":
            both = self.bound(0)(x, self.row(0, step), constant[0])
            out = [both[i] for i in wanted]
        else:
            out = [self.bound(i)(x, self.row(i, step), constant[i])[0] for i in wanted]
        return [image[..., :height, :width] for image in out]

    def _ready(self, x: Tensor) -> Tensor:
        x = reflected(x, self.factor)
        return x.to(dtype=self.dtype, memory_format=torch.channels_last)


def fold(
    networks: ResidualUnets,
    times: Sequence[Tensor],
    *,
    dtype: torch.dtype | None = None,
    pack: bool | None = None,
    exact: bool = False,
) -> FoldedNetworks:
    """Fold a copy of `networks`.

    Args:
        networks: RDDM's U-Nets.
        times: the steps' times, `times[i]` (S,) for network i.
        dtype: the dtype of the folded networks; None keeps theirs.
        pack: pack the weights for our ops and oneDNN; None asks `packs`. An exported graph cannot hold packed weights.
        exact: compute 3x3 convolutions as sums of float32 products, not in AMX or by Winograd's filtering.

    Raises:
        TypeError: networks that are not ours.
        ValueError: networks that are already folded.
    """
    if isinstance(networks, FoldedNetworks):
        raise ValueError("these networks are folded already: fold the ones they were made from")
    if not isinstance(networks, ResidualUnets):
        raise TypeError(f"only ResidualUnets (or compat.UnetRes) can be folded, not {type(networks).__name__}")
    with torch.no_grad():
        return FoldedNetworks(networks, times, dtype or networks.members[0].init_conv.weight.dtype, pack, exact).eval()


def fold_for(
    diffusion: ResidualDiffusion,
    steps: Sequence[Step],
    *,
    dtype: torch.dtype | None = None,
    pack: bool | None = None,
    exact: bool = False,
) -> FoldedNetworks:
    """Fold a copy of `diffusion`'s networks for the times of `steps`; the options and errors are those of `fold`."""
    times = diffusion.network_times(torch.tensor([step.t for step in steps], device=diffusion.device))
    times = times if isinstance(times, list) else [times, times]
    return fold(diffusion.model, times, dtype=dtype, pack=pack, exact=exact)  # type: ignore[arg-type]


def fold_unet(unet: Unet | SharedUnet, times: Tensor, dtype: torch.dtype) -> Unet | SharedUnet:
    """Fold a copy of `unet` for `times` (S,). Its `after_stem` takes a row of `time_rows` as the embedding."""
    folded = copy.deepcopy(unet).requires_grad_(False).eval()
    embedding = folded.time_mlp.float()(times)  # in float32 like the times, for every dtype of the networks
    folded.time_mlp = nn.Identity()
    for module in list(folded.modules()):
        for name, child in module.named_children():
            for kind, replacement in _REPLACEMENTS.items():
                if isinstance(child, kind):  # or the subclass that `for_training` set
                    setattr(module, name, replacement(child))
    tables: list[Tensor] = []
    for module in list(folded.modules()):
        for name, child in module.named_children():
            if isinstance(child, ResnetBlock):
                first = sum(table.shape[1] for table in tables)
                tables.append(child.mlp.float()(embedding))
                setattr(module, name, FoldedBlock(child, slice(first, first + tables[-1].shape[1])))
    folded.register_buffer("time_rows", torch.cat(tables, dim=1))
    for module in folded.modules():
        if isinstance(module, nn.Conv2d | PixelLinear | LastAxisNorm | PixelsFirstLinearAttention):
            module.to(dtype)  # The blocks' norms and tables stay in float32.
    return folded


def packs(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether weights are packed by default.

    They are on a GPU, and with oneDNN on a CPU in float32 or supported bfloat16.
    """
    if device.type == "cuda":
        return True
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _pack(networks: nn.Module, exact: bool) -> None:
    if not exact:
        for module in list(networks.modules()):
            for name, child in module.named_children():
                if FusedBlock.serves(child):
                    setattr(module, name, FusedBlock(child))  # type: ignore[arg-type]
    for module in list(networks.modules()):
        for name, child in module.named_children():
            if AttentionLayer.serves(child):
                setattr(module, name, AttentionLayer(child))
            elif ImplicitConv2d.serves(child):
                setattr(module, name, ImplicitConv2d(child))  # type: ignore[arg-type]
            elif (
                isinstance(child, nn.Sequential)
                and isinstance(child[0], nn.Upsample)
                and ImplicitConv2d.serves(child[1])
            ):
                setattr(module, name, ImplicitConv2d(child[1], upsample=True))  # type: ignore[arg-type]
            elif isinstance(module, SplitStem) and StemConv.serves(child):
                setattr(module, name, StemConv(child))  # type: ignore[arg-type]
            elif TapConv2d.serves(child):
                setattr(module, name, TapConv2d.of(child))  # type: ignore[arg-type]
            elif ResidualAttention.serves(child):
                setattr(module, name, ResidualAttention(child))
            elif isinstance(child, nn.Conv2d) and child.kernel_size != (1, 1) and not adds_bias_apart(child):
                in_tiles = TiledConv2d.serves(child) and not exact
                setattr(module, name, TiledConv2d(child) if in_tiles else PackedConv2d(child))
            elif isinstance(module, FoldedBlock) and PixelProducts.serves(child):
                setattr(module, name, PixelProducts(child))  # type: ignore[arg-type]
    for module in networks.modules():
        if isinstance(module, FoldedBlock):
            module.fuse_residual()
    for unet in networks.modules():
        if isinstance(unet, Unet | SharedUnet):
            blocks = [block for block in outermost(unet) if isinstance(block, FoldedBlock)]  # A FusedBlock takes parts.
            if all(block.takes_parts() for block in blocks if not isinstance(block.res_conv, nn.Identity)):
                unet.join = _in_parts


def outermost(module: nn.Module) -> Iterator[nn.Module]:
    """Yield a module and all in it, without those by which a module of ours may compute in another way than its own."""
    yield module
    if not isinstance(module, FusedBlock | AttentionLayer):
        for child in module.children():
            yield from outermost(child)


def _in_parts(x: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
    """Leave the images as they are: the decoder's blocks read both, and nothing is concatenated."""
    return x, skip


def _conv(conv: nn.Conv2d, weight: Tensor) -> nn.Conv2d:
    """Make a plain convolution like `conv` with another weight."""
    kernel_size, stride, padding = conv.kernel_size, conv.stride, conv.padding
    # Skip the random initialisation: building a sampler must not advance the generator that images are drawn from.
    plain = torch.nn.utils.skip_init(
        nn.Conv2d, weight.shape[1], weight.shape[0], kernel_size, stride, padding, device=weight.device
    )
    plain.weight = nn.Parameter(weight, requires_grad=False)
    assert conv.bias is not None and plain.bias is not None
    plain.bias = nn.Parameter(conv.bias.detach().clone(), requires_grad=False)
    return plain


def _part(conv: nn.Conv2d, first: int, last: int) -> nn.Conv2d:
    """Make the part of `conv` that sees the input channels from `first` to `last`."""
    return _conv(conv, conv.weight.detach()[:, first:last].clone())


def _plain(conv: WeightStandardizedConv2d) -> nn.Conv2d:
    return _conv(conv, standardised(conv.weight.double(), FLOAT32_EPS).to(conv.weight.dtype))


_REPLACEMENTS: dict[type[nn.Module], Callable[..., nn.Module]] = {
    WeightStandardizedConv2d: _plain,
    ChannelNorm: LastAxisNorm,
    LinearAttention: PixelsFirstLinearAttention,
    Attention: SdpaAttention,
}
