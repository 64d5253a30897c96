"""The model card: its metadata are the Hub's, and its lines of Python run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small_models import images, small_model

from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.inverse.cold import Recipe
from rddm_fast.models.card import MARK, UNNAMED, card
from rddm_fast.models.folder import MODELS, save_model


def card_of(folder: Path) -> tuple[dict[str, Any], str]:
    """The metadata and the text of the card in `folder`."""
    yaml = pytest.importorskip("yaml")
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_says_what_is_known(tmp_path: Path) -> None:
    measured = {"on": "photographs", "psnr": [16.7, 29.7], "ssim": [0.597, 0.918]}
    info = {"purpose": "removes rain", "licence": "Apache-2.0", "measured": measured}
    save_model(
        tmp_path, small_model(dim=8), info={**info, "training": {"trained_steps": 4500}, "converted_from": "a.pt"}
    )
    metadata, text = card_of(tmp_path)
    assert metadata == {
        "library_name": "rddm_fast",
        "pipeline_tag": "image-to-image",
        "license": "apache-2.0",
        "tags": ["rddm", "diffusion", "image-restoration"],
        "metrics": ["psnr", "ssim"],
    }
    assert "model: removes rain. It is for `rddm_fast`" in text and "Measured on photographs:" in text
    assert "| PSNR | 16.7 | 29.7 |\n| SSIM | 0.597 | 0.918 |" in text
    assert "It takes 3 steps by default." in text and "trained for 4500 steps" in text and "from a.pt." in text


@pytest.mark.parametrize("name", ["derain", "lowlight", "denoise", "deshadow", "inpaint"])
def test_the_built_in_models_cards_have_licence_and_numbers(name: str) -> None:
    text = card(json.loads((MODELS / name / "config.json").read_text()), f"me/{name}")
    assert 'license: "apache-2.0"' in text
    ((before, after),) = re.findall(r"\| PSNR \| (.*) \| (.*) \|", text)
    assert float(after) > float(before) + 5 and "Measured on the demo's eight photographs" in text


def test_the_card_of_a_model_of_which_nothing_is_known(tmp_path: Path) -> None:
    save_model(tmp_path, small_model(condition=False, dim=8), info={"measured": "good", "training": None, "task": 3})
    metadata, text = card_of(tmp_path)
    assert metadata["pipeline_tag"] == "unconditional-image-generation" and metadata["license"] == "unknown"
    assert "generates images" in text and "trained" not in text and "|" not in text and "metrics" not in metadata


def test_the_hub_reads_the_card(tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    save_model(tmp_path, small_model(dim=8))
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.library_name, data.pipeline_tag) == ("rddm_fast", "image-to-image")


def cold() -> ColdRestorer:
    network = ResidualUnets(8, networks="one", dim_mults=[1, 2])
    return ColdRestorer(network, Recipe.parsed("cold:fade").values()).eval()


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (lambda: small_model(dim=8), "restored.png"),
        (lambda: small_model(dim=8, input_condition=True), "restored.png"),
        (lambda: small_model(dim=8, condition=False), "3.png"),
        (cold, "restored.png"),
    ],
    ids=["restores", "takes a mask", "generates", "cold"],
)
def test_the_cards_lines_run(make: Any, written: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", make())
    monkeypatch.chdir(tmp_path)
    for name in ("degraded", "mask"):
        write_image(tmp_path / f"{name}.png", Picture(pixels=images(3, 16, 16)))
    (lines,) = re.findall(r"```python\n(.*?)```", card_of(tmp_path / "model")[1], re.DOTALL)
    exec(lines.replace(f"hub:{UNNAMED}", "model"), {})
    assert read_image(tmp_path / written).pixels.shape == (3, 16, 16)


def test_a_card_that_somebody_wrote_stays(tmp_path: Path) -> None:
    save_model(tmp_path, small_model(dim=8))
    assert MARK in (tmp_path / "README.md").read_text()
    save_model(tmp_path, small_model(dim=8), info={"purpose": "removes rain"})
    assert "removes rain" in (tmp_path / "README.md").read_text()
    (tmp_path / "README.md").write_text("Mine.\n")
    save_model(tmp_path, small_model(dim=8))
    assert (tmp_path / "README.md").read_text() == "Mine.\n"
