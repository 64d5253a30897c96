"""Real handwritten digits to generate: the 1797 of the UCI set. scikit-learn ships them, so nothing is downloaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from ..system.extras import require

NATIVE = 8  # pixels per side, in 17 grey levels


class Digits(Dataset[dict[str, Any]]):
    """Items `{"target": (1, side, side) float32 in [0, 1], "label": 0 to 9}`, in a new random order in each pass.

    Args:
        side: height and width of the images in pixels, scaled up bicubically from 8.
        length: number of items; item i belongs to pass i // 1797. None: each digit once, in the set's own order.
        seed: seed of the order.

    Raises:
        ValueError: a side below 8.
        ImportError: scikit-learn is not installed.
    """

    def __init__(self, side: int = 16, *, length: int | None = None, seed: int = 0) -> None:
        if side < NATIVE:
            raise ValueError(f"digits have {NATIVE} pixels per side and are only scaled up, got side {side}")
        found = require("sklearn.datasets", "digits").load_digits()
        images = torch.from_numpy(found.images).float()[:, None] / 16
        if side > NATIVE:
            images = F.interpolate(images, size=(side, side), mode="bicubic", align_corners=False).clamp(0, 1)
        self.images: Tensor = images
        self.labels: list[int] = found.target.tolist()
        self.length, self.seed = length, seed

    def __len__(self) -> int:
        return len(self.images) if self.length is None else self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is out of range for {len(self)} digits")
        if self.length is not None:
            turn, place = divmod(index, len(self.images))
            index = int(np.random.default_rng((self.seed, turn)).permutation(len(self.images))[place])
        return {"target": self.images[index], "label": self.labels[index]}
