"""Find the traces of a degradation in a picture, by statistics: a picture without them is clean.

A network that removes noise takes some texture for noise. A picture that has none is better left alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 8
"""Side in pixels of the blocks in which noise is measured, and of JPEG's."""
FLATTEST = 0.1
"""The share of blocks, those with the least detail, that noise is measured in."""
FEWEST = 20
"""With fewer blocks than this of middle brightness, a picture is judged by all of its blocks."""
NOISE = (0.9, 1.4)
"""Levels of 255. Photographs that were scaled down measure 0.2 to 0.9, but for those that have grain or are texture
everywhere; with Gaussian noise of 2 levels all measure 1.4 or more."""
EDGES = (0.06, 0.14)
"""Of 63 photographs that were scaled down, 60 measure less than 0.06. Of those held aside all measure 0.19 or more when
they are stored as JPEG of quality 50, and half of them 0.25 at quality 85."""


def traces(image: Tensor, of: str) -> Tensor:
    """Return how sure it is that pictures are degraded, from 0, clean, to 1.

    Args:
        image: (B, C, H, W) in [0, 1].
        of: a name in `MEASURES`.

    Returns:
        (B, 1, 1, 1).
    """
    measure, (clean, degraded) = MEASURES[of]
    found = torch.stack([measure(one[None]) for one in image.float()])
    rising = ((found - clean) / (degraded - clean)).clamp(0, 1)
    return (rising * rising * (3 - 2 * rising)).to(image.dtype).view(-1, 1, 1, 1)


def noise_of(image: Tensor) -> Tensor:
    """Measure the noise of one picture (1, C, H, W), in levels of 255: in brightness, and in colour at two scales.

    The second differences along both axes leave noise and little of a picture (Immerkær 1996). Their root mean square
    is taken in each block, and the blocks with the least are looked at. Blocks that are nearly black or white do not
    count: there noise is cut off.
    """
    middle = ((image > 2 / 255) & (image < 253 / 255)).all(1, keepdim=True).to(image)
    grey = image.mean(1, keepdim=True)
    colour = image - grey
    measured = [_detail(grey, middle), _detail(colour, middle)]
    # A camera's colour noise reaches over pixels. Clean photographs have 1.5 times as much colour at this scale.
    if min(image.shape[-2:]) >= 4 * BLOCK:
        measured.append(_detail(F.avg_pool2d(colour, 2), -F.max_pool2d(-middle, 2)) / 1.5)
    return torch.stack(measured).max()


def second_differences(image: Tensor) -> Tensor:
    """Return the second differences along both axes of (B, C, H, W), scaled so that white noise keeps its deviation."""
    kernel = image.new_tensor([[1.0, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6
    return F.conv2d(image, kernel.expand(image.shape[1], 1, 3, 3), groups=image.shape[1])


def _detail(image: Tensor, middle: Tensor) -> Tensor:
    if min(image.shape[-2:]) < BLOCK + 2:  # too small to tell
        return image.new_tensor(2 * NOISE[1])
    squares = F.avg_pool2d(second_differences(image).square().mean(1, keepdim=True), BLOCK).flatten()
    counts = F.avg_pool2d(-F.max_pool2d(-middle, 3, 1), BLOCK).flatten() == 1
    kept = squares[counts] if int(counts.sum()) >= FEWEST else squares
    return 255 * kept.sort().values[int(FLATTEST * (len(kept) - 1))].sqrt()


def edges_of(image: Tensor) -> Tensor:
    """Measure how much steeper one picture (1, C, H, W) is across the edges of JPEG's blocks than beside them.

    The blocks may begin anywhere. The measures of rows and columns are multiplied: a fence has one of them.
    """
    grey = 255 * image.mean(1)[0]
    if min(grey.shape) < 4 * BLOCK:  # too small to tell
        return grey.new_tensor(2 * EDGES[1])
    return (_steps(grey) * _steps(grey.T)).sqrt()


def _steps(grey: Tensor) -> Tensor:
    slope = grey[:, 1:] - grey[:, :-1]
    # The step beyond the slope of both sides. One edge of a thing is steeper than any block's.
    step = (slope[:, 1:-1] - (slope[:, :-2] + slope[:, 2:]) / 2).abs().clamp(max=12).mean(0)
    phases = torch.stack([step[phase::BLOCK].mean() for phase in range(BLOCK)])
    others = (phases.sum() - phases.max()) / (BLOCK - 1)
    return (phases.max() - others) / (others + 0.05)


MEASURES: dict[str, tuple[Callable[[Tensor], Tensor], tuple[float, float]]] = {
    "noise": (noise_of, NOISE),
    "blocks": (edges_of, EDGES),
}
"""Measures by name: a function of one picture (1, C, H, W), and up to where it is clean and from where degraded."""
