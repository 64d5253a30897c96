"""Restore large pictures window by window (DDNM's mask-shift trick), for operators that measure small blocks.

Windows overlap and follow each other row by row. What finished windows hold is known: the next window measures those
pixels exactly, together with A of the others, and restores its own crop. So each step's correction puts the known
pixels into x_hat, which is the published trick, and any solver takes it.

Replacing pixels alone leaves a visible seam where the known pixels end: with a Gaussian prior, twice the squared step
that neighbours differ by elsewhere. So a window knows the outer half of what it shares and restores the inner half once
more, which is blended in by a ramp; then a seam is as smooth as the rest. The ramp is constant in each block of A, so a
blend of two images that fit y fits y, and the whole picture fits it as well as each window does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from .operator import Operator, SpectralOperator
from .operators.arguments import Constant
from .operators.blocks import BlockRows, OldPhotograph, SuperResolution
from .operators.pixelwise import Colourisation, Denoising, Inpainting
from .restore import restore
from .solver_steps import Predict


@dataclass(frozen=True)
class Window:
    """A part of an image, and how much of it earlier windows have finished.

    Attributes:
        rows, columns: where it lies.
        above, left: the number of rows at its top and of columns at its left that are finished.
    """

    rows: slice
    columns: slice
    above: int
    left: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.rows.stop - self.rows.start, self.columns.stop - self.columns.start

    def of(self, image: Tensor) -> Tensor:
        """Return this part of images (..., H, W), a view."""
        return image[..., self.rows, self.columns]


WINDOWED = (Denoising, Inpainting, SuperResolution, Colourisation, OldPhotograph)
"""The operators that measure each block of pixels alone. The others reach across a window's border."""

_KNOWN = 2.0**20
"""The singular value of a known pixel: sigma_y / s is then below rounding. A power of 2 scales without rounding."""


def restore_windows(
    y: Tensor, operator: Operator, predict: Predict, *, tile: int, overlap: int | None = None, **options: Any
) -> Tensor:
    """Restore images from the measurement `y`, in windows where they are larger than `tile`.

    With sigma_y > 0 the known pixels steer a window as far as the method follows a measurement: in full, except that
    "ddnm+eq19" and the published simplified code shrink every correction alike in the last steps.

    Args:
        y: the measurement, (B, *operator.measured), floating point.
        operator: one of `WINDOWED` if the image is larger than `tile`.
        predict: the prior; it sees windows.
        tile: the largest side of a window in pixels, at least an operator's block; rounded down to whole blocks.
        overlap: the least number of pixels that neighbours share, rounded up to whole blocks; a quarter of the window
            if None. The published code takes a half.
        options: those of `restore` except `noise` and `seed`. One generator draws for all windows, in order.

    Returns:
        The images, (B, C, H, W) in [-1, 1], not clamped. Where a window fits y exactly, so does the whole.

    Raises:
        ValueError: an operator that cannot be windowed, a wrong tile or overlap, or what `restore` refuses.
    """
    if given := [name for name in ("noise", "seed") if options.get(name) is not None]:
        raise ValueError(f"each window takes the next draws: pass a generator instead of {given[0]}")
    boxes = windows(operator, tile, overlap)
    if len(boxes) == 1:
        return restore(y, operator, predict, **options)
    result = y.new_zeros(len(y), *operator.image)
    for window in boxes:
        # The window's own measurement.
        part, y_part = crop(operator, y, window)

        # Finished pixels are measured, too.
        pixels, weight = window.of(result), weight_of_finished(window, _block(operator)).to(y)
        if bool((weight == 1).any()):
            part = KnownPixels(part, weight == 1)
            y_part = part.measure(y_part, pixels)

        # Restore the window and blend it in. `lerp` is exact at weights of 0 and 1.
        pixels.copy_(torch.lerp(restore(y_part, part, predict, **options), pixels, weight))
    return result


def windows(operator: Operator, tile: int, overlap: int | None = None) -> list[Window]:
    """Return the windows of an image row by row; the last of a row or column is moved inwards, as published.

    Raises:
        ValueError: an operator that cannot be windowed and an image larger than `tile`, or a wrong tile or overlap.
    """
    _, height, width = operator.image
    block = _block(operator)
    if tile < block:
        raise ValueError(
            f"a window of {tile} pixels is smaller than the operator's block of {block}: take a larger one"
        )
    side = tile - tile % block
    shared = -(-(side // 4 if overlap is None else overlap) // block) * block
    if shared < 0 or shared >= side:
        raise ValueError(f"windows of {side} pixels cannot overlap by {shared}: take 0 or more, and less than a window")
    if max(height, width) > tile and not isinstance(operator, WINDOWED):
        raise ValueError(
            f"{type(operator).__name__} reaches across the border of a window: restore the image of {height} × {width} "
            f"whole, by a larger tile"
        )
    rows, columns = _spans(height, side, side - shared), _spans(width, side, side - shared)
    return [Window(down, across, above, left) for down, above in rows for across, left in columns]


def _spans(length: int, side: int, stride: int) -> list[tuple[slice, int]]:
    """Return the spans along `length` pixels, each with what it shares with the one before."""
    if length <= side:
        return [(slice(0, length), 0)]
    starts = [*range(0, length - side, stride), length - side]
    shared = [0, *(before + side - start for before, start in pairwise(starts))]
    return [(slice(start, start + side), pixels) for start, pixels in zip(starts, shared, strict=True)]


def _block(operator: Operator) -> int:
    return operator.factor if isinstance(operator, BlockRows) else 1


def weight_of_finished(window: Window, block: int) -> Tensor:
    """Return the weight of the finished pixels of a window, (h, w): 1 in the outer half of what it shares, 0 beyond.

    Between, it falls block by block.
    """

    def depth(length: int, shared: int) -> Tensor:
        """The blocks from here to the end of what is shared, over half of its blocks and one."""
        blocks = shared // block
        return ((blocks - torch.arange(length) // block) / (blocks // 2 + 1)).clamp(0, 1)

    height, width = window.shape
    return torch.maximum(depth(height, window.above)[:, None], depth(width, window.left))


def crop(operator: Operator, y: Tensor, window: Window) -> tuple[SpectralOperator, Tensor]:
    """Return the operator of a window and the window's measurement; its edges lie between blocks.

    Raises:
        TypeError: an operator that is not one of `WINDOWED`.
    """
    image, block = (operator.image[0], *window.shape), _block(operator)
    rows, columns = window.rows, window.columns
    y = y[..., rows.start // block : rows.stop // block, columns.start // block : columns.stop // block].contiguous()
    if isinstance(operator, Denoising):
        return Denoising(image), y
    if isinstance(operator, Inpainting):
        return Inpainting(image, window.of(operator.mask.value)), y
    if isinstance(operator, SuperResolution):
        return SuperResolution(image, block), y
    if isinstance(operator, Colourisation):
        return Colourisation(image, operator.weights.value.tolist()), y
    if isinstance(operator, OldPhotograph):
        return OldPhotograph(image, block, window.of(operator.mask.value), operator.weights.value.tolist()), y
    raise TypeError(
        f"{type(operator).__name__} has no windows: choose one of {', '.join(c.__name__ for c in WINDOWED)}"
    )


class KnownPixels(SpectralOperator):
    """A, and some pixels measured exactly in its place. The known pixels are whole blocks of A.

    A measurement is laid out as the spectral coordinates are, so U is the identity. It stores the mask, a byte a pixel.

    Args:
        operator: A, one of `WINDOWED`, whose spectral coordinates have the layout of the image.
        known: where pixels are known, bool (H, W).
    """

    def __init__(self, operator: SpectralOperator, known: Tensor) -> None:
        self.operator, self.known = operator, Constant(known)
        self.image = self.measured = operator.image

    def measure(self, y: Tensor, pixels: Tensor) -> Tensor:
        """Return the measurement of both: `y` of A, and the known ones of `pixels` (B, C, H, W)."""
        return torch.where(self.known.like(y), _KNOWN * pixels, self._image(self.operator.Ut(y)))

    def Vt(self, x: Tensor) -> Tensor:
        return torch.where(self.known.like(x), x, self._image(self.operator.Vt(x))).flatten(1)

    def V(self, z: Tensor) -> Tensor:
        return torch.where(self.known.like(z), self._image(z), self.operator.V(z))

    def Ut(self, y: Tensor) -> Tensor:
        return y.flatten(1).masked_fill(self.singulars(y) == 0, 0.0)

    def U(self, z: Tensor) -> Tensor:
        return self._image(z.masked_fill(self.singulars(z) == 0, 0.0))

    def singulars(self, like: Tensor) -> Tensor:
        s = self.operator.singulars(like)
        s = s.expand(len(s), math.prod(self.image)).reshape(len(s), *self.image)
        return s.masked_fill(self.known.like(like), _KNOWN).flatten(1)

    def _image(self, z: Tensor) -> Tensor:
        return z.reshape(-1, *self.image)
