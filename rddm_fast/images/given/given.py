"""What a network is given for pictures, and how its results become theirs.

Pixels that a mask declares as known come back as they are, and what a hole held is not shown to the network. A shadow
is lit, a dark picture exposed, a blurred one sharpened and a noisy one smoothed before it sees them. A picture without
the degradation comes back untouched.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .blur.guess import sharpened
from .exposure import exposed
from .marks import MARKS, marked_by, shown
from .noise import without_noise
from .shadow import beside_edge
from .traces import MEASURES, traces

GUESSES = ("exposure", "blur", "noise")
"""What may be guessed of a whole picture before a network sees it, as `ResidualDiffusion` names it."""
_ALONE = {None: lambda picture: picture, "exposure": exposed, "noise": without_noise}
"""Those that need no more than the picture, and say nothing of whether it is clean."""


@dataclass(frozen=True)
class Given:
    """Pictures, and what a network is given for them.

    Attributes:
        picture: (B, C, H, W) in [0, 1].
        image: what the network is given in its place.
        mask: what the network is given as the mask, of the picture's shape; None if it takes none.
        trust: how much of the network's result is taken over `image`, in [0, 1], (B, 1, H, W); None if all of it is.
        share: how much of the network's result is taken, in [0, 1]: for each pixel, (B, 1, H, W), or for each
            picture, (B, 1, 1, 1). None if all of it is.
    """

    picture: Tensor
    image: Tensor
    mask: Tensor | None = None
    share: Tensor | None = None
    trust: Tensor | None = None

    @property
    def nothing(self) -> bool:
        """Whether nothing of the network's result is taken, so that it need not be asked."""
        return self.share is not None and not bool(self.share.any())

    def finished(self, restored: Tensor) -> Tensor:
        """Return the results: `restored` as far as it is trusted, and the picture's pixels where the share is 0.

        Those are equal to the bit.
        """
        if self.trust is not None:
            restored = torch.lerp(self.image.to(restored), restored, self.trust.to(restored))
        if self.share is None:
            return restored
        picture, share = self.picture.to(restored), self.share.to(restored)
        return torch.where(share > 0, torch.lerp(picture, restored, share), picture)


def given(
    picture: Tensor,
    mask: Tensor | None = None,
    mask_marks: str | None = None,
    first_guess: str | None = None,
    clean_without: str | None = None,
) -> Given:
    """Prepare whole pictures for a network: what depends on a whole picture cannot be done tile by tile.

    Args:
        picture: (B, C, H, W) in [0, 1].
        mask: of the same shape, for a model that takes one. Where it marks pixels, it is black up to `marks.BLACK`.
        mask_marks, first_guess, clean_without: settings of the model, as in `ResidualDiffusion`.
    """
    if mask_marks is not None and mask is not None:
        grey = mask.mean(1, keepdim=True)
        marked = marked_by(mask).to(picture)
        share = marked if mask_marks in ("grey hole", "filled hole") else torch.where(marked > 0, grey, marked)
        trust = beside_edge(marked) if mask_marks == "shadow" else None
        return Given(picture, shown(picture, marked, mask_marks), marked.expand_as(picture), share, trust)
    if first_guess == "blur":
        sharp, blurred = sharpened(picture)
        return Given(picture, sharp, mask, blurred)
    degraded = None if clean_without is None else traces(picture, clean_without)
    return Given(picture, _ALONE[first_guess](picture), mask, degraded)


def check_settings(
    mask_marks: str | None,
    first_guess: str | None,
    clean_without: str | None,
    condition: bool,
    input_condition: bool,
) -> None:
    """Raise ValueError for unknown names, and for settings of a model that takes no picture or no mask."""
    if mask_marks is not None and (mask_marks not in MARKS or not input_condition):
        known = ", ".join(map(repr, MARKS))
        raise ValueError(f"mask_marks is {known}, of a model that takes a mask, or None, not {mask_marks!r}")
    if first_guess is not None and (first_guess not in GUESSES or not condition):
        known = ", ".join(map(repr, GUESSES))
        raise ValueError(f"first_guess is {known}, of a model that restores, or None, not {first_guess!r}")
    if first_guess == "blur" and clean_without is not None:
        raise ValueError("first_guess='blur' finds clean pictures by itself: leave clean_without None")
    if clean_without is not None and (clean_without not in MEASURES or not condition):
        known = ", ".join(map(repr, MEASURES))
        raise ValueError(f"clean_without is {known}, of a model that restores, or None, not {clean_without!r}")
