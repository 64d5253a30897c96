"""Data sets whose items are resized or equalised as a training wants them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..system.extras import require
from .datasets import Item


def equalized(image: Tensor) -> Tensor:
    """Equalise the histogram of each channel of (C, H, W) in [0, 1], in 8 bits, as published for low light."""
    cv2 = require("cv2", "images")
    channels = (image * 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(np.stack([cv2.equalizeHist(np.ascontiguousarray(c)) for c in channels])).float() / 255


def resized(image: Tensor, size: int | tuple[int, int]) -> Tensor:
    """Resize (C, H, W) in [0, 1], bicubic with antialiasing, clamped to [0, 1].

    This is the kernel of MATLAB's imresize (a = -0.5); the two differ only at the very border.

    Args:
        image: any height and width.
        size: (height, width), or one number for a square; the aspect ratio is not kept.
    """
    size = (size, size) if isinstance(size, int) else size
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image[None], size, mode="bicubic", antialias=True)[0].clamp(0, 1)


FACE = (57, 25, 128)
"""Top, left and side of the face in an aligned CelebA image of 178x218, as the published code crops it."""


def face(image: Tensor) -> Tensor:
    """Crop (C, 218, 178), an aligned CelebA image, to its face; an image of another size is returned as it is."""
    top, left, side = FACE
    return image[:, top : top + side, left : left + side] if image.shape[1:] == (218, 178) else image


def without_centre(image: Tensor) -> Tensor:
    """Return (C, H, W) with the middle half of each side grey, 0.5, as the published inpainting trains."""
    height, width = image.shape[1:]
    holed = image.clone()
    holed[:, height // 4 : height // 4 + height // 2, width // 4 : width // 4 + width // 2] = 0.5
    return holed


class Prepared(Dataset[Item]):
    """The items of another data set, prepared for training.

    Args:
        items: the data set.
        size: side in pixels to which all images are resized, whatever their aspect ratio, as published; None leaves
            them as they are.
        equalize_input: equalise the input's histogram (`equalized`).
        input_is_target: rename `input` to `target`, for images without a partner, which are read as inputs.
        crop_faces: crop aligned CelebA images to their faces (`face`).
        centre_hole: let the input be the target without its centre (`without_centre`).
    """

    def __init__(
        self,
        items: Dataset[Item],
        *,
        size: int | None = None,
        equalize_input: bool = False,
        input_is_target: bool = False,
        crop_faces: bool = False,
        centre_hole: bool = False,
    ) -> None:
        self.items, self.size, self.crop_faces, self.centre_hole = items, size, crop_faces, centre_hole
        self.equalize_input, self.input_is_target = equalize_input, input_is_target

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        item = dict(self.items[index])
        if self.input_is_target:
            item["target"] = item.pop("input")
        if self.crop_faces:
            item.update({key: face(image) for key, image in item.items() if isinstance(image, Tensor)})
        if self.equalize_input:
            item["input"] = equalized(item["input"])
        if self.size is not None:
            images = {key: value for key, value in item.items() if isinstance(value, Tensor)}
            item.update({key: resized(image, self.size) for key, image in images.items()})
        if self.centre_hole:
            item["input"] = without_centre(item["target"])
        return item
