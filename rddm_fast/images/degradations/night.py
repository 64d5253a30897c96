"""Night: a darker photograph with stars and lamps. It degrades nothing; it is what a model must not take for rain."""

from __future__ import annotations

import math

import numpy as np

from .degraded import FloatImage, clip
from .kernels import blurred, gaussian


def night(image: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Darken a photograph, and draw small round lights into it, from a few lamps to a field of stars.

    Up to 1.2 % of the pixels are lights, of one to three sizes. Most are faint, as stars are, and some are coloured.
    """
    height, width = image.shape[:2]
    result = image * np.float32(rng.uniform(0.02, 0.8))
    for _ in range(rng.integers(1, 4)):
        kernel = gaussian(rng.uniform(0.4, 2.5))
        count = rng.poisson(height * width * math.exp(rng.uniform(math.log(0.0002), math.log(0.004))))
        brightness = rng.uniform(0.2, 1) * rng.random(count) ** rng.uniform(0.3, 3)
        colour = 1 - rng.uniform(0, 0.5) * rng.random((count, 3))
        points = np.zeros((height * width, 3), np.float32)
        np.add.at(points, rng.integers(height * width, size=count), (brightness[:, None] * colour).astype(np.float32))
        lights = blurred(points.reshape(height, width, 3), kernel) * np.float32(kernel.sum())
        result = 1 - (1 - result) * (1 - clip(lights))
    return clip(result)
