"""Light a shadow, so that it fits its surroundings."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .holes import filled

PENUMBRA = (16, 0.03)
"""How far a soft edge may reach to either side of the mask's: so many pixels, or this part of the longer side where
that is more. In a shadow that is thinner, half of it."""
ROUNDS = 3
"""Guesses of the factor and the edge, each from pixels as near to each other as the edge before allows."""
MARGIN = 1
"""Pixels by which an edge is taken for wider than it was measured."""
BEYOND = 12, 6
"""How many pixels further apart than the edge is wide are those that are compared across it: while its width is a
guess, and when it has been measured."""
DARK = 4 / 255
"""Pixels that are darker in a channel are not compared: their ratios are those of the rounding."""
BURNT = 0.98
"""Nor are lit pixels that are brighter."""
MOST_LIGHT = 12.0
"""The most that a shadow is brightened by: one that takes 92 % of the light."""
TINT = 0.5
"""How far the logarithms of a ratio's channels may be from each other: a shadow has nearly one for all, and the border
of two things seldom has."""
FEWEST = 20
"""The least number of pixels of a shadow's inside by which its edge is measured; of a depth, half as many."""
FILLING = 10
"""Steps of the diffusion that fills the edge. With 50 the guess takes 4 times as long and is 0.03 to 0.09 dB better."""
WIDTHS = (0.12, 0.2, 0.15, 0.15, 0.15)
"""Widths of the kernel that finds the most frequent ratio: for the first guess, and for its refinements."""


def relit(image: Tensor, shadow: Tensor, gains: Tensor | None = None) -> Tensor:
    """Brighten a shadow by a factor for each channel, which fades in over its edge, so that it fits its surroundings.

    The factor is the most frequent ratio of pixels at both sides of the edge (`light_taken`), and how it fades in is
    measured along the edge (`shares_by_depth`). What is left to the network is the error of both: without them, how
    dark a large shadow is cannot be told from a patch of its inside.

    Args:
        image: (B, C, H, W) in [0, 1].
        shadow: (B, 1, H, W), 1 in the shadow and 0 elsewhere.
        gains: (B, C), the factors; None to measure them.

    Returns:
        The image, brighter in the shadow, in [0, 1]; equal to the bit elsewhere, and if nothing surrounds it.
    """
    known = [None] * len(image) if gains is None else list(gains.to(image))
    return torch.cat([_relit(*one) for one in zip(image.split(1), shadow.split(1), known, strict=True)])


def _relit(image: Tensor, shadow: Tensor, known: Tensor | None) -> Tensor:
    edge = _reach(image)
    depth = _depth(shadow, edge + 1)
    if int((depth > edge).sum()) < FEWEST:
        edge //= 2
        depth = depth.clamp(-edge - 1, edge + 1)
    if int((depth > edge).sum()) >= FEWEST:
        gain, share = _measured(image, depth, edge, known)
    else:
        around = (depth < -edge).to(image)
        gain = light_taken(image, shadow, around, 2 * edge + BEYOND[0]) if known is None else known
        soft = _blurred(shadow, edge)
        share = soft / _spread(soft, edge).clamp(min=1e-6)
    return torch.where(shadow > 0, (image * gain[None, :, None, None] ** share).clamp(0, 1), image)


def beside_edge(shadow: Tensor) -> Tensor:
    """Return how near to a shadow's edge each pixel is, of the shape of `shadow` (B, 1, H, W).

    It is 1 as far as a soft edge may reach, and 0 at twice that depth and more. A network mends what `relit` leaves of
    the edge. Deeper inside it only knows the brightness of its patch: on 14 photographs it is 1 to 3 dB behind `relit`.
    """
    edge = _reach(shadow)
    return ((2 * edge - _layers(shadow, 2 * edge)) / edge).clamp(0, 1)


def _reach(image: Tensor) -> int:
    return max(PENUMBRA[0], round(PENUMBRA[1] * max(image.shape[-2:])))


def _measured(image: Tensor, depth: Tensor, edge: int, known: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the factor of each channel, (C,), and how much of it belongs to each pixel, (1, 1, H, W).

    The edge is looked for between the depths of -edge and edge, and then between those where it was found.
    """
    first, last, beyond = -edge, edge, BEYOND[0]
    for _ in range(ROUNDS):
        inside, outside = (depth > last).to(image), (depth < first).to(image)
        gain = light_taken(image, inside, outside, last - first + beyond) if known is None else known
        if not bool((gain > 1).any()):
            return gain, torch.zeros_like(depth)
        shares, start = shares_by_depth(image, depth, gain, first, last), first
        lit, unlit = int((shares < 0.05).sum()), int((shares > 0.95).sum())
        first, last = min(max(first, first + lit - 1 - MARGIN), 0), max(min(last, last - unlit + 1 + MARGIN), 1)
        beyond = BEYOND[1]
    shares = F.pad(shares, (1, 1))
    shares[-1] = 1
    return gain, shares[(depth - start + 1).clamp(0, len(shares) - 1).long()]


def shares_by_depth(image: Tensor, depth: Tensor, gain: Tensor, first: int, last: int) -> Tensor:
    """Return how much of the factor belongs to each depth, (last - first + 1,), in [0, 1] and rising.

    The band of the edge is filled from the lit outside and from the inside, lit by the whole factor. How much brighter
    the filling is than the picture says how much light a pixel lacks; the median over all pixels of a depth says it
    without the texture that a filling does not have.

    Args:
        image: (1, C, H, W) in [0, 1].
        depth: (1, 1, H, W), the distance in pixels from the edge, positive in the shadow.
        gain: (C,), the factor inside.
        first, last: the least and the greatest depth of the band.
    """
    gain = gain[None, :, None, None]
    hole = ((depth >= first) & (depth <= last)).to(image)
    lit = filled(torch.where(depth > last, image * gain, image), hole, FILLING)
    logarithm = gain.log().clamp(min=1e-6)
    lacks = (((lit + 1 / 255) / (image + 1 / 255)).log() * logarithm).sum(1) / logarithm.square().sum(1)
    known = (image.amin(1) > DARK) & (image.amax(1) < BURNT)
    places, shares = [first - 1], [0.0]
    for place in range(first, last + 1):
        there = lacks[known & (depth[:, 0] == place)]
        if len(there) >= FEWEST // 2:
            places, shares = [*places, place], [*shares, float(there.median().clamp(0, 1))]
    # Between the nearest functions that rise, from above and from below.
    above = np.maximum.accumulate(shares)
    below = np.minimum.accumulate([*shares, 1.0][::-1])[::-1][:-1]
    rising = np.interp(range(first, last + 1), [*places, last + 1], [*(above + below) / 2, 1.0])
    return torch.from_numpy(rising).to(image)


def light_taken(image: Tensor, inside: Tensor, outside: Tensor, apart: int) -> Tensor:
    """Return the factor of each channel, (C,), by which the inside of one image's shadow is darker; at least 1.

    Pixels inside are compared with pixels outside, in eight directions. Most pairs show the same thing lit and unlit,
    and their ratios agree. Those of different things are anything, in brightness and in colour. So a mean over the
    edge is 18 % off, and the ratio that most have 8 % (root mean square over 14 photographs).

    Args:
        image: (1, C, H, W) in [0, 1].
        inside, outside: (1, 1, H, W), 1 where the image is surely in the shadow, and where it is surely not.
        apart: the distance in pixels of the pixels that are compared.
    """
    ratios = _across(image, inside, outside, apart)
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


def _depth(mask: Tensor, most: int) -> Tensor:
    """Return the distance to the edge of a mask (B, 1, H, W) in pixels: 1 and more inside, 0 and less outside.

    It is between -`most` and `most`, and that of an octagon.
    """
    outside = 1 - mask
    return _layers(mask, most) - (_layers(outside, most + 1) - outside)


def _layers(mask: Tensor, most: int) -> Tensor:
    """Return the distance to the edge inside a mask (B, 1, H, W), as `_depth` does, and 0 outside."""
    depth, inner = torch.zeros_like(mask), mask
    for pixels in range(most):
        depth = depth + inner
        inner = 1 - _grown(1 - inner, pixels)
    return depth


def _grown(mask: Tensor, turn: int) -> Tensor:
    """Grow a mask by one pixel, by turns without and with the corners."""
    if turn % 2:
        return _spread(mask, 1)
    return torch.maximum(F.max_pool2d(mask, (1, 3), 1, (0, 1)), F.max_pool2d(mask, (3, 1), 1, (1, 0)))
