"""Degraded versions of real photographs, drawn from a seed.

Each kind of degradation is one function `kind(image, rng, **strength) -> Degraded`, listed in `KINDS`;
`degrade` looks the kind up and checks the image. Images are numpy float32 arrays (H, W, 3), RGB, values in
[0, 1], any H and W of at least 1. The same image and the same state of the generator give the same result, to
the bit.

The degradations serve two purposes: training a small restoration model without a paired data set, and tests
and demos with a known ground truth. They are simple physical models, not a copy of any benchmark's data. The wide
kinds mix many of them, from none to strong: what is trained on them restores pictures that something else degraded.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .degradations.blur import blur, wide_blur
from .degradations.degraded import Degraded, FloatImage
from .degradations.jpeg import jpeg, wide_jpeg
from .degradations.lowlight import lowlight, wide_lowlight
from .degradations.mask import mask, wide_mask
from .degradations.noise import noise, wide_noise
from .degradations.rain import rain, wide_rain
from .degradations.shadow import shadow, wide_shadow

KINDS: dict[str, Callable[..., Degraded]] = {
    "rain": rain,
    "lowlight": lowlight,
    "noise": noise,
    "blur": blur,
    "jpeg": jpeg,
    "shadow": shadow,
    "mask": mask,
    "wide-rain": wide_rain,
    "wide-lowlight": wide_lowlight,
    "wide-noise": wide_noise,
    "wide-blur": wide_blur,
    "wide-jpeg": wide_jpeg,
    "wide-shadow": wide_shadow,
    "wide-mask": wide_mask,
}
WITH_MASK = ("shadow", "mask", "wide-shadow", "wide-mask")
"""The kinds that change a region, and give its mask."""


def degrade(image: FloatImage, kind: str, rng: np.random.Generator, **strength: object) -> Degraded:
    """Degrade a photograph.

    Args:
        image: float32 (H, W, 3) in [0, 1]; it is not changed.
        kind: a name in `KINDS`.
        rng: the source of every random choice.
        strength: keyword arguments of the function of that kind.

    Raises:
        ValueError: an unknown kind, or an image of another shape or range.
        TypeError: an image of another dtype.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown degradation {kind!r}; choose one of {', '.join(KINDS)}")
    if image.dtype != np.float32:
        raise TypeError(f"degrade needs a float32 image with values in [0, 1], got {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"degrade needs an RGB image of shape (H, W, 3), got {image.shape}")
    if not (image.min() >= 0.0 and image.max() <= 1.0):
        raise ValueError(f"degrade needs values in [0, 1], got {image.min():g} to {image.max():g}")
    return KINDS[kind](image, rng, **strength)
