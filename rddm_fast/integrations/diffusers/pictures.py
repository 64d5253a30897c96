"""The images that a pipeline of diffusers is called with, as one batch."""

from __future__ import annotations

from typing import Any

import numpy as np
from diffusers.image_processor import VaeImageProcessor
from PIL.Image import Image
from torch import Tensor


def batch_of(processor: VaeImageProcessor, images: Any, name: str) -> Tensor:
    """Return images of PIL, numpy arrays or tensors as one tensor (B, C, H, W) in [0, 1].

    Args:
        processor: diffusers' own, which knows the number of channels.
        images: one or a list of them.
        name: the argument's name, for errors.

    Raises:
        TypeError: something else, or pixels that are not floating point.
        ValueError: an empty list, or images of different sizes.
    """
    several = list(images) if isinstance(images, (list, tuple)) else [images]
    if not several:
        raise ValueError(f"{name} is an empty list: pass at least one image")
    kinds = {_kind(image) for image in several}
    if None in kinds or len(kinds) > 1:
        found = ", ".join(sorted({type(image).__name__ for image in several}))
        raise TypeError(f"{name} is of type {found}: pass images of PIL, arrays (H, W, C) or tensors (C, H, W)")
    sizes = {image.size if isinstance(image, Image) else tuple(image.shape) for image in several}
    if len(sizes) > 1:
        raise ValueError(f"{name} has images of different sizes, {sorted(sizes)}: pass those of one size a call")
    pixels = processor.preprocess(several if len(several) > 1 else several[0])
    if not pixels.is_floating_point():
        raise TypeError(f"{name} has pixels of {pixels.dtype}: pass floating-point values in [0, 1]")
    return pixels.float()


def _kind(image: Any) -> type | None:
    """Return which of the three kinds an image is of, None for anything else."""
    return next((kind for kind in (Tensor, np.ndarray, Image) if isinstance(image, kind)), None)
