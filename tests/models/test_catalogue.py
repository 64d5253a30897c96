"""What the built-in models say of themselves, and that it is true."""

import json
import re

import pytest
from commands import python, run, succeeded

from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.models.catalogue import Card, cards
from rddm_fast.models.folder import MODELS, built_in_models, load_model
from rddm_fast.restoration.demo import DEGRADATIONS


@pytest.mark.parametrize("card", cards(), ids=lambda card: card.name)
def test_a_card_fits_its_model_and_the_notice(card: Card) -> None:
    diffusion = load_model(card.name)
    assert isinstance(diffusion, ResidualDiffusion) and card.licence == "Apache-2.0"
    assert (card.mask is not None) == diffusion.input_condition
    assert (card.wrong is not None) == diffusion.condition and card.steps == diffusion.sampling_timesteps
    assert (card.psnr is not None) == diffusion.condition == (card.name in DEGRADATIONS)
    notice = (MODELS.parent / "NOTICE.md").read_text(encoding="utf-8")
    row = re.search(rf"^\| `{card.name}` \|.*$", notice, re.MULTILINE)
    assert row is not None
    if card.psnr and card.ssim:
        numbers = f"{card.psnr[0]:.2f} → {card.psnr[1]:.2f}, {card.ssim[0]:.3f} → {card.ssim[1]:.3f}"
        assert f"| {numbers} |" in row[0]


def test_the_command_lists_every_model_without_torch() -> None:
    code = "import sys; from rddm_fast.cli import main\ntry: main()\n"
    code += "finally: print('torch' in sys.modules, file=sys.stderr)"
    told = python("-c", code, "models")
    assert told.returncode == 0 and told.stderr.strip() == "False"
    lines = told.stdout.splitlines()
    names = [line.split()[0] for line in lines if line and not line.startswith((" ", "Measured", "All"))]
    assert sorted(names) == sorted(built_in_models()) and names[-2:] == ["prior-digits", "prior-photos"]
    assert "deshadow      removes shadows from photographs; needs --mask, white in the shadow" in lines
    assert "              PSNR 16.7 → 30.2 dB, SSIM 0.597 → 0.922; Apache-2.0" in lines


def test_the_command_in_json() -> None:
    listed = json.loads(succeeded(run("models", "--json")).stdout)
    inpaint = next(card for card in listed if card["name"] == "inpaint")
    assert inpaint["mask"] == "white where the picture is missing" and inpaint["psnr"] == [18.84, 29.73]
    assert "Telea" in inpaint["fails"] and inpaint["trained_on"] == "41 photographs, degraded by wide-mask"
    assert inpaint["wrong"] == "holes" and inpaint["steps"] == 1
