"""What the page offers: the models by what is wrong with a picture, and the formulas of degradations."""

from __future__ import annotations

from typing import Any

from ..images.formats import read_suffixes
from ..inverse.operators.named import example_of, listing
from ..inverse.restore import METHODS
from ..models.catalogue import DEFAULT, cards
from ..restoration.measurement import MASKED, NEED_MASK, NO_PICTURE
from .limits import MOST_BYTES, MOST_PIXELS, SMALL


def offer() -> dict[str, Any]:
    """Return the content of /models, for JSON; the page itself names no model, no method and no operator."""
    models = [
        {"name": card.name, "wrong": card.wrong, "purpose": card.purpose, "mask": card.mask, "steps": card.steps}
        for card in cards()
        if card.wrong is not None
    ]
    models.sort(key=lambda model: model["name"] != DEFAULT)  # the first one is chosen when the page opens
    operators = [_operator(form, line) for form, line in listing()]
    return {
        "models": models,
        "operators": [operator for operator in operators if operator["name"] not in NO_PICTURE],
        "methods": [{"name": name, "steps": steps, "ddrm": name == "ddrm"} for name, (_, steps) in METHODS.items()],
        "reads": sorted(read_suffixes()),
        "most_bytes": MOST_BYTES,
        "most_pixels": MOST_PIXELS,
        "small": SMALL,
    }


def _operator(form: str, line: str) -> dict[str, Any]:
    name, _, argument = example_of(form).partition(":")
    mask = "white where pixels are missing" if name in MASKED else None
    # The listing speaks of the command's option.
    line = line.replace("--mask", "the mask")
    return {"form": form, "name": name, "argument": argument, "line": line, "mask": mask, "needs": name in NEED_MASK}
