"""A degraded picture as the measurement of an operator, and what a solver restored as a picture."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor
from torch.nn.functional import interpolate

from ..images.picture import ImageError, Picture, sides
from ..inverse.operators.named import parsed

SMALLER = ("sr", "bicubic", "old")
"""The operators whose measurement is a picture F times smaller."""
GREY = ("color", "old")
"""The operators whose measurement is a grey picture."""
NO_PICTURE = ("cs", "cs-block")
"""The operators whose measurement is not a picture."""
MASKED = ("inpaint", "old")
"""The operators that take a mask."""
NEED_MASK = ("inpaint",)
"""The operators that restore nothing without a mask."""
WINDOWED = ("denoising", "inpaint", "sr", "color", "old")
"""The operators by which large pictures can be restored in windows, the names of `inverse.windows.WINDOWED`."""
GREY_TOLERANCE = 3.5 / 255
"""How far the channels of a grey picture may be apart: JPEG rounds each by itself."""


def check_measurable(spec: str) -> None:
    """Raise ValueError unless the measurements of the operator `spec` are pictures."""
    if parsed(spec)[0] in NO_PICTURE:
        raise ValueError(
            f"a picture cannot be a measurement by {spec}: pass clean pictures and degrade them (--degrade)"
        )


def channels_of(picture: Picture, channels: int, reason: str) -> Tensor:
    """Return the pixels of a picture in 1 or 3 channels, in [0, 1].

    Raises:
        ImageError: one channel of a picture in colour; `reason` says why one is asked for.
    """
    if channels == 3:
        return picture.pixels
    spread = picture.pixels.amax(0) - picture.pixels.amin(0)
    if not picture.grey and float(spread.max()) > GREY_TOLERANCE:
        raise ImageError(f"{picture.path} is in colour, and {reason}: convert it to grey first")
    return picture.pixels.mean(0, keepdim=True)


def measurement_of(picture: Picture, spec: str, channels: int) -> tuple[Tensor, tuple[int, int, int]]:
    """Read a degraded picture as a measurement.

    Args:
        picture: what `spec` has made of a picture: a smaller one for sr, bicubic and old, a grey one for color and old.
        spec: an operator's name that `check_measurable` accepts.
        channels: the channels of the image to be restored, 1 or 3.

    Returns:
        The measurement, (1, c, h, w) in [-1, 1], and the shape (C, H, W) of the image.

    Raises:
        ImageError: a picture in colour where a grey one is expected.
    """
    name, argument = parsed(spec)
    if name in GREY:
        pixels = channels_of(picture, 1, f"{spec} restores grey pictures (--degrade makes one grey)")
    else:
        pixels = channels_of(picture, channels, "this prior makes grey pictures")
    factor = argument if name in SMALLER and isinstance(argument, int) else 1
    _, height, width = pixels.shape
    return 2.0 * pixels[None] - 1.0, (channels, height * factor, width * factor)


def kept_pixels(mask: Picture, picture: Picture, image: tuple[int, int, int]) -> Tensor:
    """Return where pixels are kept, bool (H, W): where the mask has less than half of full brightness.

    Raises:
        ImageError: a mask of another size than the image to be restored.
    """
    if mask.pixels.shape[1:] != image[1:]:
        raise ImageError(
            f"the mask {mask.path} is {sides(mask.pixels)} and the result for {picture.path} is {image[2]}x{image[1]}: "
            f"give a mask of the result's size"
        )
    return mask.pixels.mean(0) < 0.5


def pixels_of(image: Tensor) -> Tensor:
    """Return an image (C, H, W) in [-1, 1] as pixels (C, H, W) in [0, 1], clamped, on the CPU."""
    return ((image + 1.0) / 2.0).clamp(0.0, 1.0).float().cpu()


def picture_with(pixels: Tensor, source: Picture, *, coloured: bool) -> Picture:
    """Return a picture of these pixels with the alpha, bits, profile and resolution of the file that it came from.

    Args:
        pixels: (C, H, W) in [0, 1]. Where it is larger than the source, alpha is interpolated and the resolution in
            dots per inch grows with it.
        source: the picture that was read.
        coloured: whether the pixels have colours that a grey source has not; a profile for grey is then dropped.
    """
    larger = pixels.shape[1] / source.pixels.shape[1]
    alpha, dpi = source.alpha, source.dpi
    if larger != 1 and alpha is not None:
        alpha = interpolate(alpha[None], size=pixels.shape[1:], mode="bilinear", align_corners=False)[0]
    if larger != 1 and dpi is not None:
        dpi = (dpi[0] * larger, dpi[1] * larger)
    grey = source.grey and not coloured
    icc = None if source.grey and coloured else source.icc
    return replace(source, pixels=pixels.expand(3, -1, -1), alpha=alpha, grey=grey, icc=icc, dpi=dpi)
