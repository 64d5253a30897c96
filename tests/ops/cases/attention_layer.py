"""Calls of attention_layer, against the reference U-Net's modules in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from oracle import BF16, F16, LAYOUTS, Case
from torch import Tensor

from rddm_fast.diffusion.unet import LinearAttention, PreNorm, Residual
from rddm_fast.ops import attention_layer

EPS_OF_FLOAT64 = 1e-3  # the published epsilon of every dtype but float32


def weights(channels: int, heads: int = 4, features: int = 32, seed: int = 0) -> dict[str, Tensor]:
    """Weights that give queries, keys and values of order 1."""
    generator = torch.Generator().manual_seed(seed)
    inner = heads * features
    return {
        "norm_g": torch.rand(channels, generator=generator) + 0.5,
        "to_qkv": torch.randn(3 * inner, channels, generator=generator) / channels**0.5,
        "to_out": torch.randn(channels, inner, generator=generator) / inner**0.5,
        "bias": torch.randn(channels, generator=generator),
        "g": torch.rand(channels, generator=generator) + 0.5,
    }


def as_module(w: dict[str, Tensor], heads: int, features: int) -> Residual:
    """The reference U-Net's layer with these weights, in float64. Its norms' epsilon is the op's, as for float32."""
    layer = Residual(PreNorm(w["g"].numel(), LinearAttention(w["g"].numel(), heads, features))).double()
    state = {
        "fn.norm.g": w["norm_g"],
        "fn.fn.to_qkv.weight": w["to_qkv"],
        "fn.fn.to_out.0.weight": w["to_out"],
        "fn.fn.to_out.0.bias": w["bias"],
        "fn.fn.to_out.1.g": w["g"],
    }
    layer.load_state_dict({name: state[name].double().view_as(own) for name, own in layer.state_dict().items()})
    return layer


SHAPES = {
    "interpreted": (((1, 64, 8, 8), 4, 32), ((2, 48, 9, 5), 4, 32), ((1, 200, 6, 5), 2, 16), ((3, 16, 1, 1), 1, 32)),
    "gpu": (((1, 64, 128, 128), 4, 32), ((2, 48, 13, 7), 4, 32), ((1, 200, 6, 5), 2, 16), ((1, 512, 32, 32), 4, 32)),
}
"""The shape of the images, the number of heads and the features of each."""


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """The halves that a GPU computes in."""
    for dtype, layout, (shape, heads, features) in itertools.product(
        (BF16, F16), ("contiguous", "channels_last"), SHAPES[backend]
    ):
        generator = torch.Generator().manual_seed(0)
        x = LAYOUTS[layout](torch.randn(shape, generator=generator).to(device, dtype))
        w = {name: weight.to(device) for name, weight in weights(shape[1], heads, features).items()}
        layer = as_module(w, heads, features).to(device)
        yield Case(
            f"{dtype} {layout} {shape}",
            lambda impl, x=x, w=w, heads=heads: [attention_layer(x, **w, heads=heads, eps=EPS_OF_FLOAT64, impl=impl)],
            lambda x=x, layer=layer: [layer(x.double()).detach()],
            sums=True,
        )
