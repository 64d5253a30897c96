"""`rddm-fast models`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from ..common.app import command, out
from ..common.console import shown


@command
def models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the built-in models: what each is for, its numbers, its licence, and whether it needs a mask."""
    from ...models.catalogue import cards

    found = cards()
    if as_json:
        out.print(json.dumps([asdict(card) for card in found], indent=2), markup=False)
        return
    width = max(len(card.name) for card in found)
    for card in found:
        needs = f"; needs --mask, {card.mask}" if card.mask else ""
        out.print(shown(f"{card.name:<{width}}  {card.purpose}{needs}"))
        facts = [card.licence]
        if card.psnr and card.ssim:
            scores = f"PSNR {card.psnr[0]:.1f} → {card.psnr[1]:.1f} dB, SSIM {card.ssim[0]:.3f} → {card.ssim[1]:.3f}"
            facts.insert(0, scores)
        lines = ["; ".join(facts), f"trained on {card.trained_on}", *([f"fails: {card.fails}"] if card.fails else [])]
        for line in lines:
            out.print(shown(f"{'':<{width}}  {line}"))
    out.print()
    for line in sorted({f"Measured on {card.measured_on}." for card in found if card.measured_on}):
        out.print(shown(line))
    out.print("All are small. The photographs they were trained on, and their licences: models/NOTICE.md.")
