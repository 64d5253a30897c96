"""Continue the texture of what surrounds a filled hole into it, by the cosine transform of windows."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from .windows import cosine_basis, turned

WINDOW = 24
"""Side in pixels of a window. Of 16, 24 and 32 it was the best or 0.02 dB behind on thin strokes."""
STRIDE = WINDOW // 2
"""Pixels between windows: every pixel lies in four, of which no two have the same parities of row and column."""
ROUNDS = 48
"""Rounds. 24 are 0.1 dB worse on thin strokes, 96 are 0.07 dB better and take twice the time."""
SHIFT = 5
"""The windows' grid moves by so many pixels to the right from round to round, and by twice as many down."""
FIRST, LAST = 0.3, 0.005
"""Coefficients below a threshold are left out, which falls from the first round to the last in equal ratios."""
SHARE = 0.7
"""The part of the result that is taken; the rest is what the hole was filled with."""
AT_ONCE = 8192
"""Windows that are transformed at once."""


def textured(image: Tensor, hole: Tensor) -> Tensor:
    """Make what fills the holes of pictures sparse in cosines, window by window, together with what surrounds it.

    Each round transforms the windows that touch a hole, leaves small coefficients out, and takes the result where the
    image is not known; the threshold falls, so that the large structures come first (Guleryuz 2006). Lines and grain
    that diffusion smooths away are continued: on thin strokes this adds 0.6 dB to `holes.filled`
    (`rddm-fast bench models`).

    Args:
        image: (B, C, H, W), floating point, the holes filled.
        hole: (B, 1, H, W), 1 in the holes and 0 where the image is known.

    Returns:
        The same shape and dtype, equal to the bit where the image is known, and everywhere if a side is not longer than
        a window.
    """
    if min(image.shape[-2:]) <= WINDOW or not bool((hole > 0.5).any()):
        return image
    planes = turned(image.float(), back=False)
    result = torch.stack([_continued(one, missing[0] > 0.5) for one, missing in zip(planes, hole, strict=True)])
    mixed = torch.lerp(image.float(), turned(result, back=True), SHARE)
    # What follows from no picture is left where the known pixels are.
    low, high = image.float().amin((2, 3), keepdim=True), image.float().amax((2, 3), keepdim=True)
    return torch.where(hole > 0.5, torch.minimum(torch.maximum(mixed, low), high).to(image), image)


def _continued(planes: Tensor, missing: Tensor) -> Tensor:
    """Return planes (C, H, W) with other values where they are missing (H, W)."""
    if not bool(missing.any()):
        return planes
    height, width = missing.shape
    around = [WINDOW, WINDOW + (WINDOW - width) % STRIDE, WINDOW, WINDOW + (WINDOW - height) % STRIDE]
    framed = F.pad(planes[None], around, mode="reflect")[0]
    open_ = F.pad(missing, around)

    # Only what a window with a missing pixel may hold is kept at hand, as one row of pixels for each plane.
    reach, beside = 2 * WINDOW - 1, WINDOW - 1
    wide = F.max_pool2d(open_[None, None].float(), (1, reach), stride=1, padding=(0, beside))
    near = F.max_pool2d(wide, (reach, 1), stride=1, padding=(beside, 0))[0, 0] > 0
    number = near.flatten().cumsum(0).view_as(near) - 1
    pixels, changing = framed[:, near], open_[near]
    for turn in range(ROUNDS):
        threshold = FIRST * (LAST / FIRST) ** (turn / (ROUNDS - 1))
        down, right = 2 * turn * SHIFT % STRIDE, turn * SHIFT % STRIDE
        pixels = _round(pixels, changing, open_[down:, right:], number[down:, right:], threshold)
    framed[:, near] = pixels
    return framed[:, WINDOW : WINDOW + height, WINDOW : WINDOW + width]


def _round(pixels: Tensor, changing: Tensor, open_: Tensor, number: Tensor, threshold: float) -> Tensor:
    """Return the pixels (C, N) with those that change computed anew, from the windows of a grid.

    Args:
        pixels, changing: the pixels at hand, and which of them are missing.
        open_, number: the missing pixels of the framed picture, and the number among `pixels` of each, from the grid's
            corner on.
        threshold: below it a coefficient is left out.
    """
    touched, numbers = (plane.unfold(0, WINDOW, STRIDE).unfold(1, WINDOW, STRIDE) for plane in (open_, number))
    wanted = touched.flatten(2).any(-1)
    total, weight = torch.zeros_like(pixels), torch.zeros_like(pixels)
    # Windows of the same parities do not overlap, so that the sums have the same bits on every device.
    for above, left in ((0, 0), (0, 1), (1, 0), (1, 1)):
        places = numbers[above::2, left::2][wanted[above::2, left::2]]
        for some in places.split(AT_ONCE):
            place = some.flatten()
            shown = pixels.index_select(1, place).view(len(pixels), *some.shape)
            windows, weights = _sparse(shown, threshold)
            total.index_add_(1, place, windows.flatten(1))
            weight.index_add_(1, place, weights.expand_as(windows).flatten(1))
    return torch.where(changing, total / weight.clamp(min=1e-12), pixels)


def _sparse(windows: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return windows (…, WINDOW, WINDOW) of few cosines, times their weights, and the weights: 1 / the cosines."""
    basis = cosine_basis(WINDOW).to(windows)
    coefficients = basis @ windows @ basis.T
    kept = coefficients.abs() > threshold
    kept[..., 0, 0] = True  # a window's mean
    weights = 1 / kept.sum((-1, -2), keepdim=True)
    return (basis.T @ (coefficients * kept) @ basis) * weights, weights
