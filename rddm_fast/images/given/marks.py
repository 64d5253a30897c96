"""What a mask marks, and what a network is shown there."""

from __future__ import annotations

import torch
from torch import Tensor

from .holes import filled
from .shadow import relit
from .texture import textured

MARKS = ("change", "grey hole", "filled hole", "shadow")
"""What is white in a mask, as `ResidualDiffusion` names it."""
BLACK = 0.1
"""A mask is black up to this value: JPEG leaves less than that around white strokes."""


def marked_by(mask: Tensor) -> Tensor:
    """Return (B, 1, H, W): 1 where a mask (B, C, H, W) in [0, 1] is not black, else 0."""
    return (mask.mean(1, keepdim=True) > BLACK).to(mask)


def shown(image: Tensor, marked: Tensor, marks: str) -> Tensor:
    """Return `image` (B, C, H, W) in [0, 1] as a model sees it, changed where `marked` (B, 1, H, W) is 1 and not 0.

    Args:
        image, marked: as described; `marked_by` makes the second.
        marks: "change" changes nothing; "grey hole" is 0.5, "filled hole" is `filled`, then `textured`, and "shadow" is
            `relit`.
    """
    if marks == "change":
        return image
    if marks == "shadow":
        return relit(image, marked)
    if marks == "filled hole":
        return textured(filled(image, marked), marked)
    return torch.where(marked > 0, 0.5, image)
