"""Folded networks as nodes of an ONNX graph.

A U-Net's own code walks over `graph.Value`s: `nodes_of` replaces the modules that compute by ones that add nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...diffusion.unet import PreNorm, Residual
from ..fold import FoldedNetworks
from ..folded.attention import FLOAT32_EPS, PixelsFirstLinearAttention, SdpaAttention
from ..folded.blocks import FoldedBlock, NormSilu
from .graph import Graph, Value

Time = tuple[Value, Tensor]
"""The step's number (1,) and a network's `time_rows`: what its modules are given as the embedded time."""


class Nodes(nn.Module):
    """Stands for a module of a network: adds the nodes that compute the same."""

    def __init__(self, module: nn.Module, write: Callable[..., Value]) -> None:
        super().__init__()
        self.module, self.write = module, write

    def forward(self, *values: Any) -> Value:
        return self.write(self.module, *values)


def nodes_of(network: nn.Module) -> None:
    """Replace the modules of `network`, folded but not packed, by `Nodes`.

    Raises:
        TypeError: a module that has no nodes.
    """
    for name, child in network.named_children():
        write = next((write for kind, write in _NODES.items() if isinstance(child, kind)), None)
        if write is not None:
            setattr(network, name, Nodes(child, write))
        elif isinstance(child, nn.ModuleList | nn.Sequential):
            nodes_of(child)
        elif not isinstance(child, nn.Identity):
            raise TypeError(f"a {type(child).__name__} cannot be written as ONNX")


def joined(x: Value, skip: Value) -> Value:
    """Concatenate the channels of two images."""
    return x.graph.op("Concat", x, skip, axis=1)


def convolved(conv: nn.Conv2d, x: Value) -> Value:
    pads = [*map(int, conv.padding)] * 2
    sizes: dict[str, Any] = {"kernel_shape": list(conv.kernel_size), "strides": list(conv.stride), "pads": pads}
    return x.graph.op("Conv", x, conv.weight, *(() if conv.bias is None else (conv.bias,)), **sizes)


def _enlarged(_: nn.Upsample, x: Value) -> Value:
    scales = np.array([1, 1, 2, 2], np.float32)
    nearest = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return x.graph.op("Resize", x, None, scales, **nearest)


def _block(block: FoldedBlock, x: Value, t: Time) -> Value:
    number, rows = t
    graph = x.graph
    scale, shift = (part.double() for part in rows[:, block.own].chunk(2, dim=1))
    # The norm's gain and bias with the time's scale and shift: one factor and one addend per step and channel.
    gain = block.half1.norm.weight * (scale + 1)
    offset = block.half1.norm.bias * (scale + 1) + shift
    factor, addend = (graph.row(table.float()[:, :, None, None], number) for table in (gain, offset))
    h = _silu(_normalised(block.half1.norm, convolved(block.half1.conv, x)) * factor + addend)  # type: ignore[arg-type]
    weight, bias = (parameter[:, None, None] for parameter in (block.half2.norm.weight, block.half2.norm.bias))
    h = _silu(_normalised(block.half2.norm, convolved(block.half2.conv, h)) * weight + bias)  # type: ignore[arg-type]
    return h + (convolved(block.res_conv, x) if isinstance(block.res_conv, nn.Conv2d) else x)


def _normalised(norm: NormSilu, x: Value) -> Value:
    graph, groups = x.graph, norm.groups
    parts = graph.shaped(x, 0, groups, -1)
    parts = graph.op("InstanceNormalization", parts, torch.ones(groups), torch.zeros(groups), epsilon=norm.eps)
    return graph.op("Reshape", parts, graph.op("Shape", x, dtype=np.int64))


def _silu(x: Value) -> Value:
    return x * x.graph.op("Sigmoid", x)


def _attended(layer: Residual, x: Value) -> Value:
    """Norm over each pixel's channels, attention and the residual."""
    graph, within = x.graph, layer.fn
    assert isinstance(within, PreNorm)
    gain: Tensor = within.norm.g
    pixels = graph.op("Transpose", graph.shaped(x, 0, gain.numel(), -1), perm=[0, 2, 1])
    attend = _linearly if isinstance(within.fn, PixelsFirstLinearAttention) else _fully
    out = attend(within.fn, _layer_norm(pixels, gain))  # type: ignore[arg-type]
    out = graph.op("Transpose", out, perm=[0, 2, 1])
    return graph.op("Reshape", out, graph.op("Shape", x, dtype=np.int64)) + x


def _layer_norm(x: Value, gain: Tensor) -> Value:
    return x.graph.op("LayerNormalization", x, gain.flatten(), axis=-1, epsilon=FLOAT32_EPS)


def _linearly(attention: PixelsFirstLinearAttention, pixels: Value) -> Value:
    """Linear attention of `pixels` (B, H W, C), as `PixelsFirstLinearAttention` computes it with all pixels at once."""
    graph, heads = pixels.graph, attention.heads
    features = attention.inner // heads
    to_q, to_k, to_v = attention.to_qkv.chunk(3)
    columns = graph.op("Transpose", pixels, perm=[0, 2, 1])  # The softmax of keys runs along memory.
    k, v = (graph.shaped(graph.op("MatMul", to, columns), 0, heads, features, -1) for to in (to_k, to_v))
    k = graph.op("Softmax", k, axis=-1)
    context = graph.op("MatMul", k, graph.op("Transpose", v, perm=[0, 1, 3, 2]))
    count = graph.op("Cast", graph.op("Shape", pixels, start=1, end=2, dtype=np.int64), to=1, dtype=np.float32)
    to_out = attention.to_out.unflatten(0, (heads, features)) * attention.scale
    projection = graph.shaped(graph.op("MatMul", context / count, to_out), 0, attention.inner, -1)
    q = graph.shaped(graph.op("MatMul", pixels, to_q.t()), 0, 0, heads, features)
    q = graph.shaped(graph.op("Softmax", q, axis=-1), 0, 0, attention.inner)
    return _layer_norm(graph.op("MatMul", q, projection) + attention.bias, attention.g)


def _fully(attention: SdpaAttention, pixels: Value) -> Value:
    """Full attention among `pixels` (B, H W, C)."""
    graph, heads = pixels.graph, attention.heads
    to_qkv, to_out = (conv.weight.flatten(1) for conv in (attention.to_qkv, attention.to_out))
    features = to_out.shape[1] // heads
    q, k, v = (
        graph.op("Transpose", graph.shaped(graph.op("MatMul", pixels, to.t()), 0, 0, heads, features), perm=perm)
        for to, perm in zip(to_qkv.chunk(3), ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
    )
    weights = graph.op("Softmax", graph.op("MatMul", q * attention.scale, k), axis=-1)
    out = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 2, 1, 3])
    out = graph.op("MatMul", graph.shaped(out, 0, 0, heads * features), to_out.t())
    return out if attention.to_out.bias is None else out + attention.to_out.bias


_NODES: dict[type[nn.Module], Callable[..., Value]] = {
    nn.Conv2d: convolved,
    nn.Upsample: _enlarged,
    FoldedBlock: _block,
    Residual: _attended,
}
"""The modules of a folded U-Net, and what writes their nodes."""


class Writer:
    """Writes down folded networks; `sides` are the height and width (1,) of the images."""

    def __init__(self, graph: Graph, networks: FoldedNetworks, sides: list[Value]) -> None:
        self.graph, self.networks, self.sides = graph, networks, sides
        for member in networks.members:
            nodes_of(member)
            member.join = joined  # type: ignore[assignment]
        self.positions = [self._reflection(side) for side in sides]

    def constant(self, images: list[Value]) -> list[Value | None]:
        """Convolve the images that no step changes, once: `FoldedNetworks.constant`."""
        if not images:
            return [None] * len(self.networks.stems)
        x = self._input(images)
        return [convolved(stem.constant, x) for stem in self.networks.stems]  # type: ignore[arg-type]

    def outputs(
        self, number: Value, images: list[Value], constant: list[Value | None], only: tuple[int, ...]
    ) -> list[Value]:
        """Return the outputs in `only` for the images that a step changes: `FoldedNetworks.forward`."""
        x = self._input(images)
        found: dict[int, Value] = {}
        for i in [0] if self.networks.networks == "shared" else only:
            member, fixed = self.networks.members[i], constant[i]
            stem = convolved(self.networks.stems[i].changing, x)  # type: ignore[arg-type]
            stem = stem if fixed is None else stem + fixed
            out = member.after_stem(stem, (self.graph.shaped(number, 1), member.time_rows), self.sides)  # type: ignore[operator]
            found.update(enumerate(out) if isinstance(out, list) else {i: out})
        return [found[i] for i in only]

    def _input(self, images: list[Value]) -> Value:
        """Concatenate images and pad them."""
        x = images[0] if len(images) == 1 else joined(*images)
        for axis, positions in zip((2, 3), self.positions, strict=True):
            x = self.graph.op("Gather", x, positions, axis=axis)
        return x

    def _reflection(self, side: Value) -> Value:
        """Return the positions that pad a side by reflection, so that the factor divides it: `unet.reflected`."""
        graph, factor = self.graph, self.networks.factor
        whole = (side + (factor - 1)) / factor * factor
        zero, one = graph.constant(0), graph.constant(1)
        position = graph.op("Range", zero, graph.op("Squeeze", whole), one, dtype=np.int64)
        period = graph.op("Max", (side - 1) * 2, 1)
        position = graph.op("Mod", position, period)
        return graph.op("Min", position, period - position)
