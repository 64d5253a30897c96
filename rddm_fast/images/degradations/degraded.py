"""A degraded photograph, and what the kinds of degradation share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

if TYPE_CHECKING:
    from ..given.blur.blurs import Blur

FloatImage = npt.NDArray[np.float32]
Range = tuple[float, float]

CLEAN = 0.12
"""The share of photographs that the wide kinds leave as they are, so that a model learns not to harm a clean one."""


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded photograph.

    Attributes:
        image: float32 (H, W, 3) in [0, 1].
        mask: float32 (H, W), 1 where the photograph was changed and 0 elsewhere, for the kinds that change a
            region (`shadow`, `mask` and their wide forms); None for the others.
        photograph: what a model is to restore, where a kind draws into the photograph before it degrades it
            (`wide-rain`); None where that is the photograph as it was given.
        blur: what `wide-blur` blurred the photograph by; None for the other kinds.
        taken: the share of light that `wide-shadow` took from each channel, (3,); None for the other kinds.
    """

    image: FloatImage
    mask: FloatImage | None = None
    photograph: FloatImage | None = None
    blur: Blur | None = None
    taken: npt.NDArray[np.float64] | None = None


def to_tensor(image: FloatImage) -> Tensor:
    """Return (H, W, C) as a tensor (C, H, W)."""
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


def to_array(image: Tensor) -> FloatImage:
    """Return (C, H, W) as an array (H, W, C)."""
    return np.ascontiguousarray(image.permute(1, 2, 0).numpy())


def clip(image: FloatImage) -> FloatImage:
    """Return the image with its values cut to [0, 1]."""
    return np.clip(image, np.float32(0), np.float32(1))


def rounded(image: FloatImage) -> FloatImage:
    """Return the image as a file of 8 bits holds it."""
    return (np.round(clip(image) * np.float32(255)) / np.float32(255)).astype(np.float32)
