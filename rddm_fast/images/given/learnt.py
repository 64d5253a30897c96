"""What a network is given while it learns: the same as for whole pictures, of a degradation that is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from ..degradations.degraded import Degraded, to_array, to_tensor
from .blur.guess import doubted, sharpened_by
from .given import given
from .marks import marked_by
from .shadow import relit

MASK_MARKS_OF = {"shadow": "change", "wide-shadow": "shadow", "mask": "grey hole", "wide-mask": "filled hole"}
"""What the masks of a degradation mark, as `ResidualDiffusion` names it."""
FIRST_GUESS_OF = {"wide-lowlight": "exposure", "wide-blur": "blur", "wide-noise": "noise"}
"""What is guessed of a whole picture, likewise."""
CLEAN_WITHOUT = {"wide-noise": "noise", "wide-jpeg": "blocks"}
"""The traces without which a picture is clean of a degradation, likewise."""


def as_learnt(degraded: Degraded, kind: str, rng: np.random.Generator) -> Degraded:
    """Return a photograph that was degraded by `kind` with the image that a network is given.

    A blur is known. What is taken back is as wrong as a guess is in use, or more: a part of a photograph does not tell
    its blur well enough, and a guess takes longer than the rest. How dark a shadow is, is known too: the network mends
    its edge alone.
    """
    marks, guess = MASK_MARKS_OF.get(kind), FIRST_GUESS_OF.get(kind)
    if marks is None and guess is None:
        return degraded
    picture = to_tensor(degraded.image)[None]
    if guess == "blur":
        assert degraded.blur is not None
        image = sharpened_by(picture[0], doubted(degraded.blur, rng))[None]
    elif marks == "shadow":
        assert degraded.mask is not None and degraded.taken is not None
        gains = torch.from_numpy(1 / (1 - degraded.taken))
        image = relit(picture, marked_by(torch.from_numpy(degraded.mask)[None, None]), gains[None])
    else:
        mask = None if degraded.mask is None else torch.from_numpy(degraded.mask).expand_as(picture)
        image = given(picture, mask, marks, guess).image
    return replace(degraded, image=to_array(image[0]))
