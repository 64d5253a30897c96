"""Fill holes smoothly."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

RELAXATIONS = 8
"""Steps towards Laplace's equation at every size of the pyramid. The coarser sizes have done the most of it."""


def smooth_fill(image: Tensor, hole: Tensor) -> Tensor:
    """Replace the pixels of holes by a nearly harmonic function with the values of the hole's border.

    The known pixels are averaged down to one pixel, and the holes are filled from coarse to fine, each size relaxed
    towards the mean of its four neighbours.

    Args:
        image: (B, C, H, W), floating point; what it holds in the holes has no influence.
        hole: (B, 1, H, W), 1 in the holes and 0 where the image is known.

    Returns:
        The filled image, equal to the bit where it is known. Without any known pixel it is 0.5.
    """
    known = (hole < 0.5).to(image)
    if not known.any():
        return torch.full_like(image, 0.5)
    values = torch.where(known > 0, image, torch.zeros_like(image))
    pyramid = [(values, known)]
    while max(values.shape[-2:]) > 1:
        weight = F.avg_pool2d(known, 2, ceil_mode=True)
        values = F.avg_pool2d(values * known, 2, ceil_mode=True) / weight.clamp(min=1e-6)
        known = (weight > 0).to(image)
        pyramid.append((values, known))
    # Images of a batch may have no known pixel even though others have some.
    filled = torch.where(known > 0, values, torch.full_like(values, 0.5))
    for values, known in reversed(pyramid):
        filled = F.interpolate(filled, values.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(RELAXATIONS):
            filled = torch.where(known > 0, values, filled)
            around = F.pad(filled, (1, 1, 1, 1), mode="replicate")
            sideways = around[..., 1:-1, :-2] + around[..., 1:-1, 2:]
            filled = (sideways + around[..., :-2, 1:-1] + around[..., 2:, 1:-1]) / 4
        filled = torch.where(known > 0, values, filled)
    return filled
