"""Every way of every layer computes what torch's own modules do, and takes the place of the rule where it is chosen."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rddm_fast.diffusion.unet import LinearAttention, PreNorm, Residual, ResnetBlock
from rddm_fast.fast.folded.attention import AttentionLayer, LastAxisNorm, PixelsFirstLinearAttention
from rddm_fast.fast.folded.blocks import FoldedBlock, FusedBlock
from rddm_fast.fast.folded.convolutions import PackedConv2d, PixelProducts, TiledConv2d
from rddm_fast.fast.folded.ways import ManyWays, Site
from rddm_fast.ops.networks.conv3x3 import tiles

torch.manual_seed(0)
X, X_2 = (torch.randn(2, 32, 12, 20).to(memory_format=torch.channels_last) for _ in range(2))


def conv(channels: int, out: int, side: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, out, side, stride, side // 2).requires_grad_(False)


CONV3, CONV1, CONV4 = conv(64, 24, 3), conv(64, 32, 1), nn.Conv2d(32, 48, 4, 2, 1).requires_grad_(False)
ATTENTION = Residual(PreNorm(32, LinearAttention(32))).eval().requires_grad_(False)


def attention() -> AttentionLayer:
    layer = copy.deepcopy(ATTENTION)
    layer.fn.fn, layer.fn.norm = PixelsFirstLinearAttention(layer.fn.fn), LastAxisNorm(layer.fn.norm)
    return AttentionLayer(layer)


LAYERS: dict[str, tuple[Callable[[], ManyWays], tuple[Tensor, ...], Callable[[], Tensor], int]] = {
    # the layer, its images, the same by torch, and the multiplications of one result
    "3x3 in tiles": (lambda: TiledConv2d(CONV3), (X, X_2), lambda: CONV3(torch.cat((X, X_2), 1)), 9 * 64),
    "1x1": (lambda: PixelProducts(CONV1), (X, X_2), lambda: CONV1(torch.cat((X, X_2), 1)), 64),
    "4x4": (lambda: PackedConv2d(CONV4), (X,), lambda: CONV4(X), 16 * 32),
    "attention": (attention, (X,), lambda: ATTENTION(X), 4 * 128 + 2 * 128),
}


@pytest.mark.parametrize("name", LAYERS)
def test_all_ways_are_torch_s(name: str) -> None:
    make, images, by_torch, products = LAYERS[name]
    layer, expected = make(), by_torch()
    ways = layer.ways(*images)
    assert layer.rule(*images) in ways and len(ways) >= 2
    for way in (*ways, None):
        found = layer.exact(*images) if way is None else layer.by(way, *images)
        assert (found - expected).abs().max() <= 2e-5 * expected.abs().max(), way
    assert layer.products(*images) == products * expected.numel()


@pytest.mark.parametrize("name", LAYERS)
def test_a_chosen_way_is_taken_for_its_images_and_no_others(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, images, _, _ = LAYERS[name]
    layer, taken = make(), []
    rule, other = layer.rule(*images), next(way for way in layer.ways(*images) if way != layer.rule(*images))
    layer.choose(Site.of(images), other)
    monkeypatch.setattr(layer, "by", lambda way, *given: taken.append(way))
    smaller = tuple(image[:1] for image in images)
    layer(*images)
    layer(*smaller)
    torch.set_num_threads(torch.get_num_threads() + 1)
    try:
        layer(*images)
    finally:
        torch.set_num_threads(torch.get_num_threads() - 1)
    assert taken == [other, layer.rule(*smaller), rule]
    with pytest.raises(ValueError, match=r"is computed by .*, not by 'magic'"):
        layer.choose(Site.of(images), "magic")


def test_what_no_chosen_way_needs_is_freed() -> None:
    tiled, packed = TiledConv2d(CONV3), PackedConv2d(CONV4)
    for layer, images in ((tiled, (X, X_2)), (packed, (X,))):
        for way in layer.ways(*images):
            layer.by(way, *images)
        layer.choose(Site.of(images), layer.rule(*images))
        layer.settle()
    assert list(tiled.packed) == [tiled.rule(X, X_2)] and packed.weight is None
    packed.choose(Site.of((X,)), PackedConv2d.PLAIN)
    assert (packed(X) - CONV4(X)).abs().max() <= 1e-5


@pytest.mark.skipif(1 not in tiles(), reason="this processor has no AMX")
@pytest.mark.parametrize("out", [64, 96])
def test_a_block_is_computed_whole_or_by_its_layers(out: int) -> None:
    block = ResnetBlock(64, out, time_dim=16, groups=8).eval().requires_grad_(False)
    block.block1.proj, block.block2.proj = conv(64, out, 3), conv(out, out, 3)  # as folded: nothing is standardised
    row = torch.randn(1, 2 * out)
    x = torch.randn(1, 64, 8, 12).to(memory_format=torch.channels_last)
    folded = FusedBlock(FoldedBlock(block, slice(0, 2 * out)))
    h = F.silu(F.group_norm(folded.block.half1.conv(x), 8) * (row[:, :out, None, None] + 1) + row[:, out:, None, None])
    h = F.silu(F.group_norm(folded.block.half2.conv(h), 8))
    expected = h + (block.res_conv(x) if out != 64 else x)
    for way in folded.ways(x, row):
        assert (folded.by(way, x, row) - expected).abs().max() <= 2e-5 * expected.abs().max(), way
    parts = tuple(part.contiguous(memory_format=torch.channels_last) for part in x.split(32, dim=1))
    if out != 64:
        for way in folded.ways(parts, row):
            assert (folded.by(way, parts, row) - expected).abs().max() <= 2e-5 * expected.abs().max(), way
    weights = 9 * (64 * out + out * out) + (64 * out if out != 64 else 0)
    assert folded.products(x, row) == weights * 96


def test_a_compiled_network_takes_the_chosen_way() -> None:
    layer = PackedConv2d(CONV4)
    layer.choose(Site.of((X,)), PackedConv2d.PLAIN)
    seen: list[str] = []

    def backend(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph.forward

    compiled = torch.compile(layer.forward, backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(X), CONV4(X), rtol=1e-5, atol=1e-5)
    assert any("conv2d" in name for name in seen) and not any("pointwise" in name for name in seen)
