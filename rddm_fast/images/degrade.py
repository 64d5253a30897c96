"""Degraded versions of real photographs, drawn from a seed.

Each kind of degradation is one function `kind(image, rng, **strength) -> Degraded`, listed in `KINDS`;
`degrade` looks the kind up and checks the image. Images are numpy float32 arrays (H, W, 3), RGB, values in
[0, 1], any H and W of at least 1. The same image and the same state of the generator give the same result, to
the bit.

The degradations serve two purposes: training a small restoration model without a paired data set, and tests
and demos with a known ground truth. They are simple physical models, not a copy of any benchmark's data.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatImage = npt.NDArray[np.float32]
Range = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Degraded:
    """A degraded photograph.

    Attributes:
        image: float32 (H, W, 3) in [0, 1].
        mask: float32 (H, W), 1 where the photograph was changed and 0 elsewhere, for the kinds that change a
            region (`shadow`, `mask`); None for the others.
    """

    image: FloatImage
    mask: FloatImage | None = None


def degrade(image: FloatImage, kind: str, rng: np.random.Generator, **strength: object) -> Degraded:
    """Degrade a photograph.

    Args:
        image: float32 (H, W, 3) in [0, 1]; it is not changed.
        kind: a name in `KINDS`: rain, lowlight, noise, blur, shadow or mask.
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


def lowlight(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    exposure: Range = (0.10, 0.30),
    gamma: Range = (1.2, 1.8),
    cast: float = 0.1,
    photons: float = 1000.0,
    read_noise: float = 0.004,
) -> Degraded:
    """A photograph taken in too little light: dark, with a colour cast, shot noise and read noise.

    Args:
        exposure, gamma: ranges, drawn once per image, which becomes exposure * image**gamma.
        cast: each channel is scaled by a factor within 1 ± cast.
        photons: number of photons that a value of 1 stands for; shot noise has variance value / photons.
        read_noise: standard deviation of the noise that does not depend on the light.
    """
    scale = rng.uniform(*exposure) * rng.uniform(1 - cast, 1 + cast, 3)
    dark = scale.astype(np.float32) * image ** np.float32(rng.uniform(*gamma))
    deviation = np.sqrt(dark / np.float32(photons) + np.float32(read_noise**2))
    return Degraded(_clip(dark + deviation * rng.standard_normal(image.shape, np.float32)))


def noise(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    sigma: Range = (0.06, 0.12),
    photons: float = 500.0,
) -> Degraded:
    """Gaussian and shot noise.

    Args:
        sigma: range of the standard deviation of the Gaussian part, drawn once per image.
        photons: number of photons that a value of 1 stands for; the counts follow a Poisson distribution.
    """
    counts = rng.poisson(image * np.float32(photons)).astype(np.float32) / np.float32(photons)
    gaussian = np.float32(rng.uniform(*sigma)) * rng.standard_normal(image.shape, np.float32)
    return Degraded(_clip(counts + gaussian))


def blur(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    style: str | None = None,
    size: Range = (5.0, 13.0),
) -> Degraded:
    """Blur by a straight camera motion or by defocus.

    Args:
        style: "motion" or "defocus"; None draws one of the two.
        size: range of the motion's length or of the defocus disc's diameter in pixels, drawn once per image.
    """
    styles = ("motion", "defocus")
    if style is None:
        style = styles[rng.integers(2)]
    if style not in styles:
        raise ValueError(f"unknown blur style {style!r}; choose motion or defocus")
    extent = rng.uniform(*size)
    angle = rng.uniform(0, math.pi)

    radius = math.ceil(extent / 2)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1].astype(np.float64)
    if style == "defocus":
        kernel = np.clip(extent / 2 + 0.5 - np.hypot(x, y), 0, 1)
    else:
        along = np.abs(x * math.cos(angle) + y * math.sin(angle))
        across = np.abs(y * math.cos(angle) - x * math.sin(angle))
        kernel = np.clip(extent / 2 + 0.5 - along, 0, 1) * np.clip(1 - across, 0, 1)
    return Degraded(_clip(_convolve(image, kernel / kernel.sum())))


def _convolve(image: FloatImage, kernel: npt.NDArray[np.float64]) -> FloatImage:
    """Convolve each channel with a point-symmetric kernel of odd size; the border is mirrored."""
    radius = kernel.shape[0] // 2
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="symmetric")
    size = padded.shape[:2]
    spectrum = np.fft.rfft2(padded, axes=(0, 1)) * np.fft.rfft2(kernel, size)[..., None]
    full = np.fft.irfft2(spectrum, size, axes=(0, 1))
    return full[2 * radius :, 2 * radius :].astype(np.float32)


def shadow(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    darkness: Range = (0.45, 0.70),
    size: Range = (0.25, 0.50),
    softness: float = 0.015,
) -> Degraded:
    """A soft-edged polygon of shadow. The mask is 1 inside the polygon's edge and 0 outside.

    Args:
        darkness: range of the fraction of light that the shadow takes away, drawn once per image. Skylight still
            reaches a shadow, so red loses 10 % more than this fraction and blue 10 % less.
        size: range of the distance from the polygon's centre to its sides, divided by the image's longer side.
        softness: half the edge's width, divided by the longer side.
    """
    height, width = image.shape[:2]
    longer = max(height, width)
    taken = rng.uniform(*darkness) * np.array([1.1, 1.0, 0.9])

    sides = int(rng.integers(3, 7))
    centre_y, centre_x = rng.uniform(0.25, 0.75, 2) * (height, width)
    directions = 2 * math.pi * (np.arange(sides) + rng.uniform(-0.3, 0.3, sides)) / sides
    distances = rng.uniform(*size, sides) * longer

    y = np.arange(height)[:, None] - centre_y
    x = np.arange(width)[None, :] - centre_x
    inside = np.full((height, width), np.inf)
    for direction, distance in zip(directions, distances, strict=True):
        np.minimum(inside, distance - (x * math.cos(direction) + y * math.sin(direction)), out=inside)
    soft = np.clip(0.5 + inside / (2 * softness * longer), 0, 1)

    attenuation = 1 - soft[..., None] * np.minimum(taken, 0.98)
    return Degraded(image * attenuation.astype(np.float32), (inside >= 0).astype(np.float32))


def mask(
    image: FloatImage,
    rng: np.random.Generator,
    *,
    style: str | None = None,
    size: Range = (0.25, 0.50),
    strokes: int = 8,
) -> Degraded:
    """Inpainting: image * (1 - mask) + 0.5 * mask, a grey hole.

    Args:
        style: "box" (a rectangle anywhere), "centre" (the middle half in both axes) or "strokes" (thick random
            lines); None draws box or strokes.
        size: range of a box's side divided by the image's, drawn for each of the two sides.
        strokes: number of strokes; each is up to 6 % of the shorter side wide.
    """
    height, width = image.shape[:2]
    if style is None:
        style = ("box", "strokes")[rng.integers(2)]
    hole = np.zeros((height, width), np.float32)
    if style == "centre":
        hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    elif style == "box":
        box_height, box_width = (max(1, round(side * rng.uniform(*size))) for side in (height, width))
        top, left = rng.integers(height - box_height + 1), rng.integers(width - box_width + 1)
        hole[top : top + box_height, left : left + box_width] = 1
    elif style == "strokes":
        y, x = np.arange(height)[:, None], np.arange(width)[None, :]
        for _ in range(strokes):
            start, end = rng.uniform(0, 1, (2, 2)) * (height, width)
            radius = max(0.5, rng.uniform(0.01, 0.03) * min(height, width))
            step = end - start
            projected = (y - start[0]) * step[0] + (x - start[1]) * step[1]
            along = np.clip(projected / max(step @ step, 1e-12), 0, 1)
            distance = np.hypot(y - start[0] - along * step[0], x - start[1] - along * step[1])
            hole[distance <= radius] = 1
    else:
        raise ValueError(f"unknown mask style {style!r}; choose box, centre or strokes")
    return Degraded(image * (1 - hole[..., None]) + np.float32(0.5) * hole[..., None], hole)


def _clip(image: FloatImage) -> FloatImage:
    return np.clip(image, np.float32(0), np.float32(1))


KINDS: dict[str, Callable[..., Degraded]] = {
    "rain": rain,
    "lowlight": lowlight,
    "noise": noise,
    "blur": blur,
    "shadow": shadow,
    "mask": mask,
}
