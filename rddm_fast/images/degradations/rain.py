"""Rain: streaks that hide the photograph, and layers of light that are added to it."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .degraded import CLEAN, Degraded, FloatImage, Range, clip, rounded
from .kernels import convolved, line
from .night import night


def rain(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    coverage: Range = (0.08, 0.16),
    opacity: Range = (0.60, 0.95),
    length: Range = (6.0, 25.0),
    width: Range = (1.0, 2.0),
    slant: float = 35.0,
    veil: float = 0.2,
) -> Degraded:
    """Heavy rain: bright slanted streaks, and a thin veil that thickens with the rain.

    All sizes are in pixels and the number of streaks is proportional to the area, so that a patch of a large
    image and a small image have the same statistics.

    Args:
        coverage: range of the fraction of pixels under a streak; drawn once per image.
        opacity, length, width: ranges drawn once per streak; lengths and widths in pixels. A streak's brightness
            is its opacity. It is blended as light is: 1 - (1 - image)(1 - streak).
        slant: the greatest angle from the vertical, in degrees. An image has one angle, and each of its streaks
            is within 4 degrees of it.
        veil: the veil's opacity divided by the coverage. It grows with the coverage, so that a network can
            infer it from the streaks.
    """
    height, width_px = image.shape[:2]
    covered = rng.uniform(*coverage)
    angle = math.radians(rng.uniform(-slant, slant))

    # Streaks centred outside the image reach into it, so centres are drawn over a margin as well. A field of
    # randomly placed shapes leaves a fraction exp(-shapes' area / total area) uncovered.
    margin = length[1] / 2 + width[1] + 1
    area = (height + 2 * margin) * (width_px + 2 * margin)
    streak_area = (sum(length) / 2) * (sum(width) / 2)
    count = rng.poisson(-math.log1p(-covered) * area / streak_area)

    centre_y = rng.uniform(-margin, height + margin, (count, 1))
    centre_x = rng.uniform(-margin, width_px + margin, (count, 1))
    half_length = rng.uniform(*length, (count, 1)) / 2
    half_width = rng.uniform(*width, (count, 1)) / 2
    brightness = rng.uniform(*opacity, (count, 1))
    angles = angle + rng.uniform(-1, 1, (count, 1)) * math.radians(4)
    streaks = _draw_streaks((height, width_px), centre_y, centre_x, half_length, half_width, angles, brightness)

    haze = np.float32(veil * covered)
    hazy = image * (1 - haze) + haze * np.float32(0.8)
    return Degraded(1 - (1 - hazy) * (1 - streaks[..., None]))


def _draw_streaks(
    shape: tuple[int, int],
    centre_y: npt.NDArray[np.float64],
    centre_x: npt.NDArray[np.float64],
    half_length: npt.NDArray[np.float64],
    half_width: npt.NDArray[np.float64],
    angles: npt.NDArray[np.float64],
    brightness: npt.NDArray[np.float64],
) -> FloatImage:
    """Draw line segments with soft ends, the brightest on top. All arguments have shape (count, 1).

    A streak is closer to the vertical than to the horizontal. So each of its rows touches only a few pixels
    around its centre, and one vectorised maximum draws all streaks.
    """
    height, width = shape
    canvas = np.zeros(height * width, np.float32)
    if len(centre_y) == 0:
        return canvas.reshape(shape)

    cos, tan = np.cos(angles), np.tan(angles)
    rows_needed = math.ceil(2 * half_length.max()) + 1
    first_row = np.ceil(centre_y - half_length * cos)
    rows = first_row + np.arange(rows_needed)  # (count, rows)
    from_centre = (rows - centre_y) / cos
    ends = np.clip((half_length - np.abs(from_centre)) / (0.3 * half_length), 0, 1)

    line_x = centre_x + (rows - centre_y) * tan
    reach = math.ceil((half_width / cos).max() + 0.5)
    columns = np.round(line_x)[..., None] + np.arange(-reach, reach + 1)  # (count, rows, columns)
    across = np.abs(columns - line_x[..., None]) * cos[..., None]
    profile = np.clip(half_width[..., None] + 0.5 - across, 0, 1)
    values = profile * (ends * brightness)[..., None]

    inside = (values > 0) & (columns >= 0) & (columns < width) & ((rows >= 0) & (rows < height))[..., None]
    index = rows[..., None] * width + columns
    np.maximum.at(canvas, index[inside].astype(np.intp), values[inside].astype(np.float32))
    return canvas.reshape(shape)


def streaks(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    layers: tuple[int, int] = (1, 3),
    length: Range = (5.0, 60.0),
    width: Range = (1.0, 3.0),
    coverage: Range = (0.02, 0.5),
    brightness: Range = (0.1, 0.8),
) -> Degraded:
    """Rain as light: layers of points that are blurred along a line, each layer with its own length and angle.

    The layers are added, or in three of ten images screened or blended with a constant grey, so that a white sky stays.
    In half of the layers streaks that overlap are no brighter than one; in the others their light adds up.

    Args:
        layers: the least and the greatest number of layers.
        length, width: ranges of a layer's streaks in pixels.
        coverage: range of the streaks' area in all, divided by the image's. Streaks overlap.
        brightness: range of a layer's greatest brightness. Streaks have 30 to 100 % of it, or less where light adds up.
    """
    shape = image.shape[:2]
    main = rng.uniform(0, math.pi) if rng.random() < 0.3 else math.pi / 2 + math.radians(rng.uniform(-45, 45))
    light = np.zeros((*shape, 1), np.float32)
    count = rng.integers(layers[0], layers[1] + 1)
    for _ in range(count):
        # One wind bends all layers alike, the near ones less.
        angle = main + math.radians(rng.normal(0, 5))
        kernel = line(rng.uniform(*length), angle, rng.uniform(*width))
        margin = kernel.shape[0] // 2
        drops = np.zeros((shape[0] + 2 * margin, shape[1] + 2 * margin, 1), np.float32)
        drop_count = rng.poisson(rng.uniform(*coverage) / count / kernel.sum() * drops.size)
        places = rng.integers(drops.size, size=drop_count)
        np.add.at(drops.reshape(-1), places, rng.uniform(0.3, 1, drop_count).astype(np.float32))
        drawn = np.maximum(convolved(drops, kernel), 0)
        drawn = np.minimum(drawn, 1) if rng.random() < 0.5 else drawn / max(1, drawn.max())
        light += np.float32(rng.uniform(*brightness)) * drawn
    blend = rng.random()
    if blend < 0.7:
        return Degraded(clip(image + light))
    light = clip(light)
    if blend < 0.85:
        return Degraded(clip(1 - (1 - image) * (1 - light)))
    return Degraded(clip(image * (1 - light) + np.float32(rng.uniform(0.6, 1)) * light))


def wide_rain(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Any rain, to train on: none, `rain` from a few drops to half of the pixels, `streaks`, or both.

    12 % of the images stay clean. 12 % become a `night` first, whose lights are to stay; half of those stay clean.
    """
    photograph, clean = image, CLEAN
    if rng.random() < 0.12:
        photograph, clean = rounded(night(image, rng)), 0.5
    if rng.random() < clean:
        return Degraded(photograph.copy(), photograph=photograph)
    which = rng.random()
    result = photograph
    if which < 0.37 or which >= 0.86:
        # The density is zero at no coverage and low at half of the pixels, and its mean is 0.16.
        covered = 0.5 * rng.beta(1.2, 2.5)
        dimmest, widest = rng.uniform(0.2, 0.7), rng.uniform(1.2, 3.5)
        # A drop that is as wide as it is long cannot be told from a star.
        shortest = max(4.0, 2 * widest)
        longest = rng.uniform(shortest, 40)
        result = rain(
            result,
            rng,
            coverage=(covered, covered),
            opacity=(dimmest, rng.uniform(max(dimmest, 0.6), 1.0)),
            length=(rng.uniform(shortest, longest), longest),
            width=(1.0, widest),
            slant=45.0,
            veil=rng.uniform(0, 0.4),
        ).image
    if which >= 0.37:
        # Heavy rain falls so densely that its streaks overlap everywhere.
        dense, bright = 1.2 * rng.beta(1.2, 2.2), rng.uniform(0.05, 0.95)
        result = streaks(result, rng, coverage=(dense, dense), brightness=(bright / 2, bright)).image
    return Degraded(rounded(result), photograph=photograph)
