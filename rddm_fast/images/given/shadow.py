"""Light a shadow, so that it fits its surroundings."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .holes import smooth_fill

PENUMBRA = (8, 0.015)
"""Half the width of a shadow's soft edge: so many pixels, or this part of the longer side where that is more."""
RING = 12
"""Width in pixels of the ring inside of a shadow that is compared with what surrounds it."""
MOST_LIGHT = 12.0
"""The most that a shadow is brightened by: one that takes 92 % of the light."""


def relit(image: Tensor, shadow: Tensor) -> Tensor:
    """Brighten a shadow by a factor for each channel, which fades in over its edge, so that it fits its surroundings.

    The logarithms of the surroundings are continued smoothly into the shadow and compared with its own, in a ring
    behind the soft edge. What is left to the network is the edge and the error of the factor: without it, how dark a
    large shadow is cannot be told from a patch of its inside.

    Args:
        image: (B, C, H, W) in [0, 1].
        shadow: (B, 1, H, W), 1 in the shadow and 0 elsewhere.

    Returns:
        The image, brighter in the shadow, in [0, 1]; equal to the bit elsewhere, and if nothing surrounds it.
    """
    edge = max(PENUMBRA[0], round(PENUMBRA[1] * max(image.shape[-2:])))
    inside = 1 - _spread(1 - shadow, edge)
    # A shadow that is thinner than its soft edges has no inside.
    inside = torch.where(inside.sum((2, 3), keepdim=True) > 0, inside, shadow)
    ring = inside * _spread(1 - inside, RING)
    ring = torch.where(ring.sum((2, 3), keepdim=True) > 0, ring, inside)
    hole = _spread(shadow, edge)
    logarithm = (image + 1 / 64).log()

    def mean(values: Tensor) -> Tensor:
        total = (values * ring).sum((2, 3), keepdim=True)
        return (total / ring.sum((2, 3), keepdim=True).clamp(min=1)).exp() - 1 / 64

    gain = (mean(smooth_fill(logarithm, hole)) / mean(logarithm).clamp(min=1e-3)).clamp(1, MOST_LIGHT)
    surrounded = (hole < 0.5).flatten(1).any(1).view(-1, 1, 1, 1)
    gain = torch.where(surrounded, gain, torch.ones_like(gain))
    # The light fades in over the edge, so that what the mask covers too much is not burnt out.
    soft = _blurred(shadow, edge)
    share = soft / _spread(soft, edge).clamp(min=1e-6)
    return torch.where(shadow > 0, (image * gain**share).clamp(0, 1), image)


def _blurred(mask: Tensor, pixels: int) -> Tensor:
    """Average a mask (B, 1, H, W) over so many pixels to every side."""
    side = 2 * pixels + 1
    wide = F.avg_pool2d(mask, (1, side), 1, (0, pixels), count_include_pad=False)
    return F.avg_pool2d(wide, (side, 1), 1, (pixels, 0), count_include_pad=False)


def _spread(mask: Tensor, pixels: int) -> Tensor:
    """Grow a mask (B, 1, H, W) by so many pixels to every side."""
    side = 2 * pixels + 1
    wide = F.max_pool2d(mask, (1, side), 1, (0, pixels))
    return F.max_pool2d(wide, (side, 1), 1, (pixels, 0))
