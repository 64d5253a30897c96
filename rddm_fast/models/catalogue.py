"""What the built-in models are for, as their config.json says under `info`. It is read without torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from .hub import fetched, is_on_hub

BUILT_IN = Path(__file__).parent / "built_in"
DEFAULT = "derain"
"""The model that restores where nobody chooses one."""
_WRONG = {"lowlight": "too dark", "mask": "holes", "jpeg": "JPEG blocks"}
"""What people call a kind of degradation, where the kind's name is no word for it."""


@dataclass(frozen=True)
class Card:
    """A built-in model.

    Attributes:
        name: what `--model`, `--prior` and `load_model` take.
        purpose: what it does, in a few words.
        wrong: what is wrong with the pictures that it restores, in a word or two, such as "too dark"; None for a prior.
        steps: its own number of sampling steps.
        mask: what is white in the mask that it takes, such as "white in the shadow"; None if it takes none.
        trained_on: what it has seen, in a few words.
        fails: where it does not help, or harms, with a number; None for a prior.
        psnr, ssim: before and after, of what `measured_on` says; PSNR in dB. None if it was not measured by itself.
        licence: the SPDX identifier of the weights' licence.
    """

    name: str
    purpose: str
    wrong: str | None
    steps: int
    mask: str | None
    trained_on: str
    fails: str | None
    psnr: tuple[float, float] | None
    ssim: tuple[float, float] | None
    measured_on: str | None
    licence: str


def cards() -> list[Card]:
    """Return the built-in models, those that restore by themselves first."""
    found = [_card(path) for path in sorted(BUILT_IN.glob("*/config.json"))]
    return sorted(found, key=lambda card: card.psnr is None)


def licence_of(model: str) -> str:
    """Return the licence that the config.json of `model`, as `load_model` takes it, names; "" if none does."""
    folder = fetched(model) if is_on_hub(model) else Path(model)
    config = (folder if folder.exists() else BUILT_IN / model) / "config.json"
    if not config.is_file():
        return ""  # a published checkpoint
    info = json.loads(config.read_text(encoding="utf-8")).get("info")
    return str(info.get("licence", "")) if isinstance(info, dict) else ""


def _card(path: Path) -> Card:
    config = json.loads(path.read_text(encoding="utf-8"))
    info, settings = config["info"], config["diffusion"]
    kind = info["task"].removeprefix("wide-")
    wrong = _WRONG.get(kind, kind) if settings["condition"] else None
    measured = info.get("measured", {})
    psnr, ssim = (tuple(measured[name]) if measured else None for name in ("psnr", "ssim"))
    return Card(
        name=path.parent.name,
        purpose=info["purpose"],
        wrong=wrong,
        steps=settings["sampling_timesteps"],
        mask=info.get("mask"),
        trained_on=info["trained_on"],
        fails=info.get("fails"),
        psnr=psnr,
        ssim=ssim,
        measured_on=measured.get("on"),
        licence=info["licence"],
    )
