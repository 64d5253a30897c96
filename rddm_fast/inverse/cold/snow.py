"""Snow: layers of falling snow over the image. Each level is computed from the clean image, so nothing is chained.

    D(x, s) = clip(B_s(x) + snow_s + rot180(snow_s)),       in [0, 1]

B_s(x) is x, or a picture of a bright winter day: br_s x + (1 - br_s) max(x, 1.5 grey(x) + 0.5). A clip is not linear,
so D is no blend. The layers follow ImageNet-C (Hendrycks and Dietterich, 2019): noise, enlarged, cut below a threshold,
blurred along the rows. The numbers of the levels are Cold Diffusion's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...ops.inverse.tacos_step import tacos_step
from .degradation import Degradation, Level, Numbers, Table, check_levels, gaussian, sides


@dataclass(frozen=True)
class SnowLevel:
    """The numbers of a snowfall. A pair goes linearly from the first layer to the last.

    Attributes:
        mean: the mean of the noise; its standard deviation is 0.3.
        zoom: the size of a flake in pixels.
        threshold: weaker noise is no snow.
        taps, sigma: the blur along the rows.
        brightness: br, the weight of the image itself.
    """

    mean: float
    zoom: float
    threshold: tuple[float, float]
    taps: int
    sigma: tuple[float, float]
    brightness: tuple[float, float]


SNOW_LEVELS = {
    1: SnowLevel(0.1, 3.0, (0.7, 0.3), 5, (0.5, 5.0), (0.95, 0.7)),
    2: SnowLevel(0.55, 2.5, (1.15, 0.7), 11, (0.05, 12.0), (0.95, 0.55)),
    3: SnowLevel(0.55, 2.5, (1.15, 0.7), 11, (0.05, 16.0), (0.95, 0.4)),
    4: SnowLevel(0.55, 2.5, (1.15, 0.55), 11, (0.05, 20.0), (0.95, 0.3)),
}
NOISE_STD = 0.3


def _snow_level(level: int) -> SnowLevel:
    if level not in SNOW_LEVELS:
        raise ValueError(f"unknown snow level {level!r}: choose one of {', '.join(map(str, SNOW_LEVELS))}")
    return SNOW_LEVELS[level]


def _ramp(ends: tuple[float, float], T: int) -> list[float]:
    return [ends[0] + (ends[1] - ends[0]) * i / max(T - 1, 1) for i in range(T)]


def enlarged(noise: Tensor, size: tuple[int, int], zoom: float) -> Tensor:
    """Enlarge noise (P, h, w) `zoom` times, linearly and corner on corner, and cut the middle (P, H, W) out."""
    large = [round(side * zoom) for side in noise.shape[-2:]]
    whole = F.interpolate(noise[:, None], size=large, mode="bilinear", align_corners=True)[:, 0]
    top, left = ((have - want) // 2 for have, want in zip(large, size, strict=True))
    return whole[:, top : top + size[0], left : left + size[1]]


def snow_noise(
    size: int | tuple[int, int], level: int, pictures: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Draw the noise that flakes are cut from, float64 (P, H, W). Raises ValueError for an unknown level."""
    numbers, (height, width) = _snow_level(level), sides(size)
    shape = (pictures, math.ceil(height / numbers.zoom), math.ceil(width / numbers.zoom))
    noise = torch.randn(shape, generator=generator, dtype=torch.float64) * NOISE_STD + numbers.mean
    return enlarged(noise, (height, width), numbers.zoom)


def snow_layers(noise: Tensor, T: int, level: int) -> Tensor:
    """Make the layers of snow, (P, T, H, W) in [0, 1], from noise (P, H, W). Raises ValueError for an unknown level."""
    numbers = _snow_level(level)
    check_levels(T)
    layers = []
    for threshold, sigma in zip(_ramp(numbers.threshold, T), _ramp(numbers.sigma, T), strict=True):
        # Keep the flakes.
        flakes = torch.where(noise >= threshold, noise, 0.0).clamp(0, 1)
        # Blur them along the rows, with nothing outside the image.
        g = gaussian(torch.arange(numbers.taps) - numbers.taps // 2, sigma)
        g = (g / g.sum()).to(noise).view(1, 1, 1, -1)
        layers.append(F.conv2d(flakes[:, None], g, padding=(0, numbers.taps // 2)))
    return torch.cat(layers, 1)


class Snow(Degradation):
    """Snow falls on the image, thicker with s.

    Args:
        layers: the snow, (T, H, W), or (B, T, H, W) for one snowfall a picture; `Snow.drawn` draws them.
        level: 1 to 4, the strength; here it sets the brightness alone.
        fix_brightness: leave the image as bright as it is.

    Raises:
        ValueError: an unknown level, or layers of another shape.
    """

    def __init__(self, layers: Tensor, level: int = 3, *, fix_brightness: bool = True) -> None:
        if layers.dim() == 3:
            layers = layers[None]
        if layers.dim() != 4:
            raise ValueError(f"layers have the shape (T, H, W) or (pictures, T, H, W), not {tuple(layers.shape)}")
        pictures, T, height, width = layers.shape
        super().__init__(T, sides((height, width)), pictures)
        brightness = _ramp(_snow_level(level).brightness, T)
        self.fix_brightness = fix_brightness
        self._brightness = Numbers([1.0, *brightness])
        snow = layers.double() + torch.rot90(layers.double(), 2, (-2, -1))
        self._snow = Table(torch.cat([torch.zeros_like(snow[:, :1]), snow], 1).transpose(0, 1).unsqueeze(2))

    @classmethod
    def drawn(
        cls,
        size: int | tuple[int, int],
        T: int,
        level: int = 3,
        *,
        fix_brightness: bool = True,
        pictures: int = 1,
        generator: torch.Generator | None = None,
    ) -> Snow:
        """Draw a snowfall for all pictures, or with `pictures` one for each of a batch (published as random snow).

        Raises:
            ValueError: T below 1, or an unknown level.
        """
        layers = snow_layers(snow_noise(size, level, pictures, generator), T, level)
        return cls(layers, level, fix_brightness=fix_brightness)

    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        x = (x + 1) / 2
        if not self.fix_brightness:
            br = self._brightness.at(s, x)
            x = br * x + (1 - br) * torch.maximum(x, 1.5 * _grey(x) + 0.5)
        return (x + self._snow.at(s, x)).clamp(0, 1) * 2 - 1

    def tacos(self, x_s: Tensor, x_0: Tensor, s: int, to: int) -> Tensor:
        self._check_change(x_0, s, to)
        before, after = (self._snow.at(level, x_0) if level else None for level in (s, to))  # level 0 has no limits
        first, second = (1.0 if self.fix_brightness else self._brightness.number(level) for level in (s, to))
        return tacos_step(x_s, x_0, kind="snow", numbers=(first, second), layer_s=before, layer_to=after)

    def published_level(self, s: int) -> int:
        """Return s - 1: the published sampler degrades as often as the time says that the network is told."""
        return max(s - 1, 0)


def _grey(x: Tensor) -> Tensor:
    """Return the luminance (B, 1, H, W) of RGB; of any other number of channels, their mean."""
    if x.shape[1] != 3:
        return x.mean(1, keepdim=True)
    red, green, blue = x.split(1, 1)
    return 0.299 * red + 0.587 * green + 0.114 * blue
