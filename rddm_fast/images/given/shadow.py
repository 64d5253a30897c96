"""Light a shadow, so that it fits its surroundings."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PENUMBRA = (8, 0.015)
"""Half the width of a shadow's soft edge: so many pixels, or this part of the longer side where that is more."""
BEYOND = 12
"""How many pixels further apart than an edge is wide are those that are compared across it."""
DARK = 4 / 255
"""Pixels that are darker in a channel are not compared: their ratios are those of the rounding."""
BURNT = 0.98
"""Nor are lit pixels that are brighter."""
MOST_LIGHT = 12.0
"""The most that a shadow is brightened by: one that takes 92 % of the light."""
TINT = 0.5
"""How far the logarithms of a ratio's channels may be from each other: a shadow has nearly one for all, and the border
of two things seldom has."""
WIDTHS = (0.12, 0.2, 0.15, 0.15, 0.15)
"""Widths of the kernel that finds the most frequent ratio: for the first guess, and for its refinements."""


def relit(image: Tensor, shadow: Tensor) -> Tensor:
    """Brighten a shadow by a factor for each channel, which fades in over its edge, so that it fits its surroundings.

    The factor is the most frequent ratio of pixels at both sides of the edge (`light_taken`). What is left to the
    network is the edge and the error of the factor: without it, how dark a large shadow is cannot be told from a patch
    of its inside.

    Args:
        image: (B, C, H, W) in [0, 1].
        shadow: (B, 1, H, W), 1 in the shadow and 0 elsewhere.

    Returns:
        The image, brighter in the shadow, in [0, 1]; equal to the bit elsewhere, and if nothing surrounds it.
    """
    edge = max(PENUMBRA[0], round(PENUMBRA[1] * max(image.shape[-2:])))
    pairs = zip(image.split(1), shadow.split(1), strict=True)
    gain = torch.stack([light_taken(one, marked, edge) for one, marked in pairs])[..., None, None]
    # The light fades in over the edge, so that what the mask covers too much is not burnt out.
    soft = _blurred(shadow, edge)
    share = soft / _spread(soft, edge).clamp(min=1e-6)
    return torch.where(shadow > 0, (image * gain**share).clamp(0, 1), image)


def light_taken(image: Tensor, shadow: Tensor, edge: int) -> Tensor:
    """Return the factor of each channel, (C,), by which the shadow of one image (1, C, H, W) is darker; at least 1.

    Pixels inside are compared with pixels outside, in eight directions. Most pairs show the same thing lit and unlit,
    and their ratios agree. Those of different things are anything, in brightness and in colour. So a mean over the
    edge is 18 % off, and the ratio that most have 8 % (root mean square over 14 photographs).

    Args:
        image: in [0, 1].
        shadow: (1, 1, H, W), 1 in the shadow and 0 elsewhere.
        edge: half the width in pixels of the soft edge, which is not looked at.
    """
    inside = 1 - _spread(1 - shadow, edge)
    # A shadow that is thinner than its soft edges has no inside.
    inside = inside if inside.any() else shadow
    ratios = _across(image, inside, 1 - _spread(shadow, edge), 2 * edge + BEYOND)
    grey = ratios.mean(1)
    tint = ratios - grey[:, None]
    sure = torch.exp(-tint.square().sum(1) / (2 * TINT**2)) * ((grey > -0.1) & (grey < math.log(MOST_LIGHT) + 0.1))
    if sure.sum() < 1e-3:
        return image.new_ones(image.shape[1])
    candidates = torch.linspace(0, math.log(MOST_LIGHT), 126).to(image)
    near = torch.exp(-((candidates[:, None] - grey) ** 2) / (2 * WIDTHS[0] ** 2))
    found = candidates[(near * sure).sum(1).argmax()]
    for width in WIDTHS[1:]:
        weights = sure * torch.exp(-((grey - found) ** 2) / (2 * width**2))
        found = (weights * grey).sum() / weights.sum()
    return (found + (weights[:, None] * tint).sum(0) / weights.sum()).exp().clamp(1, MOST_LIGHT)


def _across(image: Tensor, inside: Tensor, outside: Tensor, distance: int) -> Tensor:
    """Return the logarithms of the ratios of pairs of pixels at this distance, outside to inside, (pairs, C)."""
    bright = image.amin(1, keepdim=True) > DARK
    inside = inside * bright
    outside = outside * bright * (image.amax(1, keepdim=True) < BURNT)
    logarithm = (image + 1 / 255).log()
    unlit, lit = (_averaged(logarithm, where) for where in (inside, outside))
    height, width = image.shape[-2:]
    diagonal = round(distance / math.sqrt(2))
    steps = [(0, distance), (distance, 0), (diagonal, diagonal), (diagonal, -diagonal)]
    found = [image.new_zeros(0, image.shape[1])]
    for down, right in (*steps, *((-y, -x) for y, x in steps)):
        if abs(down) >= height or abs(right) >= width:
            continue
        size = height - abs(down), width - abs(right)
        here, there = (max(0, -down), max(0, -right)), (max(0, down), max(0, right))
        both = (_part(inside, here, size) * _part(outside, there, size))[0] > 0
        found.append((_part(lit, there, size) - _part(unlit, here, size))[:, both].T)
    return torch.cat(found)


def _part(image: Tensor, start: tuple[int, int], size: tuple[int, int]) -> Tensor:
    return image[0].narrow(1, start[0], size[0]).narrow(2, start[1], size[1])


def _averaged(values: Tensor, where: Tensor) -> Tensor:
    """Average over 3 x 3 pixels, of those `where` is 1."""
    total, count = (F.avg_pool2d(part, 3, 1, 1) for part in (values * where, where))
    return total / count.clamp(min=1e-6)


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
