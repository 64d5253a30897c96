"""The pixels that a mask declares as known come back as they are, and what a hole held is not shown to the network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...images.fill import marked_by, shown


@dataclass(frozen=True)
class Marked:
    """A picture with the pixels that its mask marks.

    Attributes:
        image: the picture, (B, C, H, W) in [0, 1].
        given: what the network is given in its place.
        mask: what the network is given as the mask, of the picture's shape, 1 or 0.
        share: (B, 1, H, W) in [0, 1], how much of a pixel is taken from the network's result; 0 where it is known.
    """

    image: Tensor
    given: Tensor
    mask: Tensor
    share: Tensor

    @staticmethod
    def by(mask: Tensor, image: Tensor, marks: str) -> Marked:
        """Mark `image` by `mask`, of its shape; `marks` is one of `ResidualDiffusion.mask_marks`."""
        grey = mask.mean(1, keepdim=True)
        marked = marked_by(mask).to(image)
        holes = marks in ("grey hole", "smooth hole")
        share = marked if holes else torch.where(marked > 0, grey, marked)
        return Marked(image, shown(image, mask, marks), marked.expand_as(image), share)

    @property
    def nothing(self) -> bool:
        """Whether no pixel is marked."""
        return not bool(self.mask.any())

    def with_known(self, restored: Tensor) -> Tensor:
        """Return `restored` with the known pixels of the picture, equal to the bit."""
        return torch.where(self.share > 0, torch.lerp(self.image, restored, self.share), self.image)
