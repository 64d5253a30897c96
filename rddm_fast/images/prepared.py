"""Data sets with what training wants done to each item."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..system.extras import require
from .datasets import Item


def equalized(image: Tensor) -> Tensor:
    """(C, H, W) in [0, 1] with the histogram of each channel equalised in 8 bits, as published for low light."""
    cv2 = require("cv2", "images")
    channels = (image * 255).round().to(torch.uint8).numpy()
    return torch.from_numpy(np.stack([cv2.equalizeHist(np.ascontiguousarray(c)) for c in channels])).float() / 255


def resized(image: Tensor, side: int) -> Tensor:
    """(C, H, W) in [0, 1] to (C, side, side), bicubic with antialiasing; the shape is lost, as published."""
    if image.shape[-2:] == (side, side):
        return image
    return F.interpolate(image[None], (side, side), mode="bicubic", antialias=True)[0].clamp(0, 1)


class Prepared(Dataset[Item]):
    """`items` with what training on them wants done to each.

    size: side that the images are resized to; None leaves them.
    equalize_input: `equalized` of the input.
    input_is_target: for data of images alone, which are read as inputs: the item holds `target` in its place.
    """

    def __init__(
        self,
        items: Dataset[Item],
        *,
        size: int | None = None,
        equalize_input: bool = False,
        input_is_target: bool = False,
    ) -> None:
        self.items, self.size = items, size
        self.equalize_input, self.input_is_target = equalize_input, input_is_target

    def __len__(self) -> int:
        return len(self.items)  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Item:
        item = dict(self.items[index])
        if self.input_is_target:
            item["target"] = item.pop("input")
        if self.equalize_input:
            item["input"] = equalized(item["input"])
        if self.size is not None:
            side = self.size
            item = {key: resized(value, side) if isinstance(value, Tensor) else value for key, value in item.items()}
        return item
