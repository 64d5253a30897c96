"""Fill holes by continuing into them what surrounds them, along its edges."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

STEPS = 50
"""Steps of diffusion at every size of the pyramid. The coarser sizes have done the most of it: 10 steps are enough for
the light of a shadow's edge."""
TAU = 0.2
"""The length of a step; above 0.25 they do not converge."""
TURNED = 10
"""The direction of the edges is measured again after so many steps."""
SMOOTHED, GATHERED = 0.5, 4.0
"""Standard deviations in pixels: of the blur before the slope is measured, and of the mean of the slopes' tensors."""
CONTRAST = 0.001
"""A slope of this height per pixel halves the diffusion across it, roughly; along an edge it is 1."""
SMALLEST = 8
"""The shortest side at which edges are looked for."""


def filled(image: Tensor, hole: Tensor, steps: int = STEPS) -> Tensor:
    """Fill holes with a function that changes along edges as little as it can.

    The known pixels are averaged down to one pixel. From coarse to fine, what is in the holes then diffuses along the
    edges and hardly across them: edge-enhancing diffusion (Weickert 1998), whose direction is that of the structure
    tensor. `texture.textured` continues from here; the network of `inpaint` changes little of either.

    Args:
        image: (B, C, H, W), floating point; what it holds in the holes has no influence.
        hole: (B, 1, H, W), 1 in the holes and 0 where the image is known.
        steps: of diffusion at every size.

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
    result = torch.where(known > 0, values, torch.full_like(values, 0.5))
    for values, known in reversed(pyramid):
        result = F.interpolate(result, values.shape[-2:], mode="bilinear", align_corners=False)
        result = _diffused(torch.where(known > 0, values, result), known, steps)
    low, high = values.amin((2, 3), keepdim=True), values.amax((2, 3), keepdim=True)
    return torch.where(known > 0, values, torch.minimum(torch.maximum(result, low), high))


def _diffused(image: Tensor, known: Tensor, steps: int) -> Tensor:
    """Diffuse what is not known."""
    batch, channels, height, width = image.shape
    place = (known.flatten() == 0).nonzero()[:, 0]
    if len(place) == 0:
        return image
    row, column = place % (height * width) // width, place % width
    picture = place - row * width - column

    def beside(down: int, right: int) -> Tensor:
        return picture + (row + down).clamp(0, height - 1) * width + (column + right).clamp(0, width - 1)

    around = {(y, x): beside(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    pixels = image.movedim(1, 0).reshape(channels, -1)
    for number in range(steps):
        if number % TURNED == 0:
            weights = _weights(pixels.view(channels, batch, height, width).movedim(0, 1), around)
        change = sum(weight * pixels.index_select(1, around[by]) for by, weight in weights.items())
        pixels = pixels.index_add(1, place, change, alpha=TAU)  # type: ignore[arg-type]
    return pixels.view(channels, batch, height, width).movedim(0, 1).contiguous()


def _weights(image: Tensor, around: dict[tuple[int, int], Tensor]) -> dict[tuple[int, int], Tensor]:
    """Return the weight of each neighbour in div(D grad u), for the places that `around` is beside."""
    if min(image.shape[-2:]) < SMALLEST:
        one = torch.ones(len(around[0, 0])).to(image)
        return {(-1, 0): one, (1, 0): one, (0, -1): one, (0, 1): one, (0, 0): -4 * one}
    smooth = F.pad(_blurred(image, SMOOTHED), (1, 1, 1, 1), mode="replicate")
    right = (smooth[..., 1:-1, 2:] - smooth[..., 1:-1, :-2]) / 2
    down = (smooth[..., 2:, 1:-1] - smooth[..., :-2, 1:-1]) / 2
    products = torch.stack([(right * right).mean(1), (right * down).mean(1), (down * down).mean(1)], 1)
    xx, xy, yy = _blurred(products, GATHERED).unbind(1)
    difference = ((xx - yy).square() + 4 * xy.square()).sqrt().clamp(min=1e-12)
    across = (1 + (xx + yy + difference) / (2 * CONTRAST**2)).rsqrt()  # along the edge it is 1
    less = (across - 1) / 2
    a = ((1 + across) / 2 + less * (xx - yy) / difference).flatten()
    b = (less * 2 * xy / difference).flatten()
    c = ((1 + across) / 2 - less * (xx - yy) / difference).flatten()

    def between(tensor: Tensor, y: int, x: int) -> Tensor:
        return (tensor[around[y, x]] + tensor[around[0, 0]]) / 2

    weights = {(y, x): between(a if x else c, y, x) for y, x in ((-1, 0), (1, 0), (0, -1), (0, 1))}
    weights[0, 0] = -sum(weights.values())  # type: ignore[assignment]
    for y in (-1, 1):
        for x in (-1, 1):
            weights[y, x] = x * y * (b[around[0, x]] + b[around[y, 0]]) / 4
    return weights


def _blurred(image: Tensor, sigma: float) -> Tensor:
    """Blur (B, C, H, W) by a Gaussian; beyond the border is the border."""
    reach = max(1, round(3 * sigma))
    distance = torch.arange(-reach, reach + 1).to(image)
    kernel = torch.exp(-distance.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(image.shape[1], 1, 1, -1)
    wide = F.conv2d(F.pad(image, (reach, reach, 0, 0), mode="replicate"), kernel, groups=image.shape[1])
    return F.conv2d(F.pad(wide, (0, 0, reach, reach), mode="replicate"), kernel.mT, groups=image.shape[1])
