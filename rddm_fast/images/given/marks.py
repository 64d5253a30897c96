"""What a mask marks, and what a network is shown there."""

from __future__ import annotations

import torch
from torch import Tensor

from .holes import filled
from .shadow import relit

MARKS = ("change", "grey hole", "filled hole", "shadow")
"""What is white in a mask, as `ResidualDiffusion` names it."""
BLACK = 0.1
"""A mask is black up to this value: JPEG leaves less than that around white strokes."""


def marked_by(mask: Tensor) -> Tensor:
    """Return (B, 1, H, W): 1 where a mask (B, C, H, W) in [0, 1] is not black, else 0."""
    return (mask.mean(1, keepdim=True) > BLACK).to(mask)


def shown(image: Tensor, mask: Tensor, marks: str) -> Tensor:
    """Return `image` (B, C, H, W) in [0, 1] as a model sees it, changed where `mask`, of its shape, marks pixels.

    Args:
        image, mask: as described.
        marks: "change" changes nothing; "grey hole" is 0.5, "filled hole" is `filled`, "shadow" is `relit`.
    """
    if marks == "change":
        return image
    hole = marked_by(mask).to(image)
    if marks == "shadow":
        return relit(image, hole)
    return torch.where(hole > 0, torch.full_like(image, 0.5) if marks == "grey hole" else filled(image, hole), image)
