"""Calls of stem_conv, against torch's convolution in float64."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from oracle import BF16, F16, LAYOUTS, Case
from torch import Tensor

from rddm_fast.ops import pack_stem_conv, stem_conv

SHAPES = {
    "interpreted": (((1, 3, 5, 70), 24, 7), ((2, 6, 4, 9), 16, 7), ((1, 1, 1, 1), 8, 3), ((1, 3, 6, 130), 72, 5)),
    "gpu": (((1, 3, 256, 256), 64, 7), ((2, 6, 33, 47), 24, 7), ((1, 1, 1, 1), 8, 3), ((1, 12, 64, 64), 128, 7)),
}
"""The shape of the images, the channels of the result, and the side of the weight."""


def inputs(
    shape: tuple[int, ...], outputs: int, side: int, dtype: torch.dtype, layout: str = "contiguous"
) -> dict[str, Tensor]:
    """Images, a weight, a bias and an addend."""
    generator = torch.Generator().manual_seed(0)

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    return {
        "x": LAYOUTS[layout](draw(*shape).to(dtype)),
        "weight": (draw(outputs, shape[1], side, side) / (side * shape[1] ** 0.5)).to(dtype),
        "bias": draw(outputs),
        "addend": LAYOUTS[layout](draw(shape[0], outputs, *shape[2:]).to(dtype)),
    }


def exact(x: Tensor, weight: Tensor, bias: Tensor | None, addend: Tensor | None) -> Tensor:
    """Torch's own convolution in float64."""
    y = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), padding=weight.shape[2] // 2)
    return y if addend is None else y + addend.double()


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Both halves, with bias and addend and with neither."""
    for dtype, (layout, adds), (shape, outputs, side) in itertools.product(
        (BF16, F16), (("contiguous", False), ("channels_last", True)), SHAPES[backend]
    ):
        given = {name: tensor.to(device) for name, tensor in inputs(shape, outputs, side, dtype, layout).items()}
        if not adds:
            given["bias"] = given["addend"] = None  # type: ignore[assignment]
        rest = {name: given[name] for name in ("bias", "addend")}
        yield Case(
            f"{dtype} {layout} {shape} {outputs} {side}",
            lambda impl, given=given, rest=rest: [
                stem_conv(given["x"], pack_stem_conv(given["weight"], given["x"].dtype), **rest, impl=impl)
            ],
            lambda given=given: [exact(**given)],
            sums=True,
        )
