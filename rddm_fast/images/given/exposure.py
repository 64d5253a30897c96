"""Guess the exposure that a dark picture lacks from the whole of it: a gain for each channel and a gamma.

A patch does not tell how dark its picture is, and a network that is trained on patches cannot learn it. What is left to
the network is the noise, what is local, and the error of the guess.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

CELLS = 32
"""The picture is measured in CELLS x CELLS means, so that noise has little influence."""
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.995)
_DARK = 1 / 255
"""Added before a logarithm."""


def measures(image: Tensor) -> Tensor:
    """Measure how dark pictures are, and of which contrast and colour.

    Args:
        image: (B, 3, H, W) in [0, 1].

    Returns:
        (B, 13): quantiles of the logarithm of grey and its standard deviation, two measures of saturation, and each
        channel's median against grey's.
    """
    cells = F.adaptive_avg_pool2d(image.float(), CELLS).flatten(2)
    grey = cells.mean(1)
    order = (grey + _DARK).log().sort(1).values
    quantiles = order[:, [round(part * (CELLS**2 - 1)) for part in QUANTILES]]
    logarithms = (cells + _DARK).log()
    saturation = (cells.amax(1) - cells.amin(1)).mean(1) / (grey.mean(1) + 1e-3)
    spread = (logarithms.amax(1) - logarithms.amin(1)).mean(1)
    median = logarithms.sort(2).values[:, :, CELLS**2 // 2] - quantiles[:, 3:4]
    return torch.cat([quantiles, torch.stack([order.std(1), saturation, spread], 1), median], 1)


def guess(measured: Tensor, weights: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Guess, from `measures` and by 16 units, the logarithms of the gains (B, 3) and the exponent (B, 1)."""
    units = F.silu(F.linear((measured - weights["mean"]) / weights["deviation"], weights["w1"], weights["b1"]))
    out = F.linear(units, weights["w2"], weights["b2"])
    return out[:, :3], out[:, 3:].exp()


def developed(image: Tensor, gain: Tensor, exponent: Tensor) -> Tensor:
    """Return exp(gain) image^exponent in [0, 1]; `gain` (B, 3) is a logarithm, `exponent` (B, 1)."""
    return (gain[..., None, None] + exponent[..., None, None] * (image + _DARK).log()).exp().clamp(0, 1)


def exposed(image: Tensor) -> Tensor:
    """Return pictures at the exposure and white balance that a photograph of their contrast and colours has most often.

    The guess was fitted to photographs that were darkened by `degradations.lowlight.wide_lowlight`
    (`python -m benchmarks.models.exposure`).

    Args:
        image: whole pictures, (B, 3, H, W) in [0, 1].

    Returns:
        The same shape and dtype, in [0, 1].
    """
    weights = {name: values.to(image.device) for name, values in _weights().items()}
    return developed(image.float(), *guess(measures(image), weights)).to(image.dtype)


@cache
def _weights() -> dict[str, Tensor]:
    stored = json.loads((Path(__file__).parent / "exposure.json").read_text())
    return {name: torch.tensor(values) for name, values in stored.items()}
