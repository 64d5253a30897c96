"""`rddm-fast demo` and the built-in models: the quality that the README promises."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from rddm_fast.cli import app
from rddm_fast.models.catalogue import cards
from rddm_fast.models.folder import MODELS, built_in_models
from rddm_fast.restoration.demo import run


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, dict]:
    folder = tmp_path_factory.mktemp("demo")
    picture, numbers = folder / "new" / "demo.png", folder / "new" / "demo.json"
    arguments = ["demo", "--output", str(picture), "--json", str(numbers), "--repeats", "1"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout, picture, json.loads(numbers.read_text())


def test_every_photograph_is_restored_in_few_steps(demo: tuple[str, Path, dict]) -> None:
    _, _, numbers = demo
    assert len(numbers["photographs"]) == 8 and numbers["steps"] == 3
    assert numbers["summary"]["psnr_before"] <= 22
    assert numbers["summary"]["psnr_gain"] >= 10
    for photograph in numbers["photographs"]:
        assert photograph["ssim_after"] > photograph["ssim_before"]
        assert photograph["psnr_after"] > photograph["psnr_before"] + 5


def test_the_catalogue_has_these_numbers(demo: tuple[str, Path, dict]) -> None:
    _, _, numbers = demo
    card = next(card for card in cards() if card.name == "derain")
    for score in ("psnr", "ssim"):
        measured = [numbers["summary"][f"{score}_{when}"] for when in ("before", "after")]
        assert measured == pytest.approx(getattr(card, score), abs=0.02, rel=0)


def test_the_fast_path_gives_the_eager_reference_s_images(demo: tuple[str, Path, dict]) -> None:
    _, _, numbers = demo
    assert all(photograph["difference"] <= 1e-4 for photograph in numbers["photographs"])
    assert all(photograph["eager_ms"] > 0 and photograph["fast_ms"] > 0 for photograph in numbers["photographs"])
    assert numbers["summary"]["speedup"] > 1


def test_the_picture_shows_input_restored_and_truth_of_each(demo: tuple[str, Path, dict]) -> None:
    _, picture, _ = demo
    with Image.open(picture) as image:
        assert image.width >= 2 * 3 * 256 and image.height >= 3 * 192 + 256
        assert len(image.convert("RGB").getcolors(1 << 24)) > 10_000


def test_what_is_printed(demo: tuple[str, Path, dict]) -> None:
    printed, picture, numbers = demo
    for photograph in numbers["photographs"]:
        assert f"{photograph['psnr_before']:.2f}→{photograph['psnr_after']:.2f}" in printed
    assert str(picture) in printed and "PSNR gain" in printed


def test_a_model_with_a_mask_is_given_it() -> None:
    result = next(run("deshadow", repeats=1))
    assert result.psnr_after > result.psnr_before + 5
    assert result.ssim_after > result.ssim_before and result.difference <= 1e-4


@pytest.mark.parametrize("name", built_in_models())
def test_a_built_in_model_is_small_and_says_what_made_it(name: str) -> None:
    folder = MODELS / name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 4 * 1024**2
    info = json.loads((folder / "config.json").read_text())["info"]
    assert info["training"]["trained_steps"] == info["training"]["steps"]
    notice = (MODELS.parent / "NOTICE.md").read_text()
    assert f"| `{name}` |" in notice and "GPL-2+" in notice


def test_a_model_of_ones_own_needs_to_say_what_it_undoes(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--model", str(tmp_path / "none")])
    assert result.exit_code == 1 and "there is no model folder" in result.stderr
    result = CliRunner().invoke(app, ["demo", "--model", str(MODELS / "derain")])
    assert result.exit_code == 1 and "degradation" in result.stderr
