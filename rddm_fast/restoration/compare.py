"""A picture and its result side by side in one PNG, to see what a restoration did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..images.picture import Picture, read_image, sides, write_image
from ..images.prepared import resized
from ..images.sheet import captioned, sheet

GAP = 8  # pixels
View = tuple[str, Path]
"""A caption, and the file of the picture below it."""


def before_and_after(source: Path, target: Path) -> list[View]:
    """Return what is compared of a file and its result."""
    return [("before", source), ("after", target)]


def compared_path(target: Path) -> Path:
    """Where the comparison of a result goes: out/photo.jpg has out/photo.jpg.compare.png beside it."""
    return target.with_name(f"{target.name}.compare.png")


def write_comparison(path: Path, views: Sequence[View]) -> None:
    """Write pictures side by side as a PNG, each with its caption and its size, whole or not at all.

    All are shown in the size of the largest; the others are enlarged, bicubic. What is transparent is white.
    The colour profile is kept if all have the same.

    Raises:
        ImageError: a picture cannot be read, or the PNG cannot be written.
    """
    pictures = [read_image(source) for _, source in views]
    captions = [f"{caption}, {sides(picture.pixels)}" for (caption, _), picture in zip(views, pictures, strict=True)]
    images = [opaque(picture) for picture in pictures]
    profiles = {None if picture.grey else picture.icc for picture in pictures}  # a grey one does not fit colour
    _, height, width = max((image.shape for image in images), key=lambda shape: shape[1] * shape[2])
    row = [
        captioned(resized(image, (height, width)), [caption]) for image, caption in zip(images, captions, strict=True)
    ]
    drawn = sheet([row], gap=GAP, margin=GAP)
    write_image(path, Picture(pixels=drawn, icc=profiles.pop() if len(profiles) == 1 else None))


def opaque(picture: Picture) -> Tensor:
    """Return a picture's pixels, (3, H, W) in [0, 1], laid over white where it is transparent."""
    if picture.alpha is None:
        return picture.pixels
    return picture.pixels * picture.alpha + (1 - picture.alpha)
