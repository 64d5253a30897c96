"""`rddm-fast cold`, from a training to restored files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from commands import error_of, run, succeeded

from rddm_fast.images.picture import Picture, read_image, write_image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two small pictures."""
    for i in range(2):
        pixels = torch.rand(3, 24, 32, generator=torch.Generator().manual_seed(i))
        write_image(tmp_path / "photos" / f"{i}.png", Picture(pixels))
    return tmp_path / "photos"


def trained(photos: Path, degradation: str) -> Path:
    folder = photos.parent / degradation.replace(":", "-")
    small = ("--steps", 1, "--batch", 2, "--patch", 16, "--dim", 8, "--mults", "1,2", "--set", "train.plot=false")
    succeeded(run("train", "--photos", photos, "--degradation", degradation, *small, "--output", folder))
    return folder / "model"


def test_degrade_restore_and_measure(photos: Path, tmp_path: Path) -> None:
    model = trained(photos, "cold:fade:3")
    for algorithm in ("tacos", "naive"):
        options = ("--degrade", "--algorithm", algorithm, "--device", "cpu", "--output", tmp_path / algorithm)
        lines = succeeded(run("cold", photos, "--model", model, *options)).stdout.splitlines()
        number = r"\d+\.\d\d dB, -?\d\.\d{3}"
        assert all(
            re.search(rf"{i}\.png  \d+\.\d\d s  degraded {number}; restored {number}$", lines[i]) for i in (0, 1)
        )
        assert re.fullmatch(rf"mean of 2: degraded {number}; restored {number}", lines[2])
        assert lines[3] == "2 restored"
    ours, naive = (read_image(tmp_path / name / "0.png").pixels for name in ("tacos", "naive"))
    assert ours.shape == (3, 24, 32) and not torch.equal(ours, naive)
    again = succeeded(run("cold", photos, "--model", model, "--output", tmp_path / "tacos"))
    assert "0 restored, 2 already in" in again.stdout


def test_pictures_that_are_degraded_already(photos: Path, tmp_path: Path) -> None:
    model = trained(photos, "cold:resolution:4")
    write_image(photos / "small.png", Picture(torch.rand(3, 8, 8)))
    result = run("cold", photos, "--model", model, "--output", tmp_path / "out")
    assert result.exit_code == 1 and "2 restored, 1 failed" in result.stdout and "dB" not in result.stdout
    assert "small.png: T is 4: step 4 of Incremental_factor_2 leaves no pixel of 8" in result.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0.png", "1.png"]


def test_wrong_kinds_of_models_are_named(photos: Path, tmp_path: Path) -> None:
    options = ("--output", tmp_path / "out")
    snow = trained(photos, "cold:snow:2")
    assert "pass clean pictures and --degrade" in error_of(run("cold", photos, "--model", snow, *options))
    error = error_of(run("restore", photos, "--model", snow, *options))
    assert "is a restorer of Cold Diffusion, not an RDDM model: use `rddm-fast cold`" in error
    assert "is an RDDM model, not a restorer" in error_of(run("cold", photos, "--model", "derain", *options))
    error = error_of(run("train", "--photos", photos, "--degradation", "cold:rain", *options))
    assert "unknown cold degradation 'rain': choose one of blur, resolution, fade, snow, decolour" in error


def test_the_gallery_of_trained_restorers(photos: Path, tmp_path: Path) -> None:
    models = [trained(photos, degradation) for degradation in ("cold:blur:2", "cold:decolour:2")]
    stem = tmp_path / "gallery"
    lines = succeeded(run("bench", "cold", *models, "--side", 16, "--seeds", 2, "--output", stem)).stdout.splitlines()
    rows = json.loads(stem.with_suffix(".json").read_text())["rows"]
    assert [row["method"] for row in rows] == 2 * ["degraded", "direct", "naive", "TACoS"] and len(lines) == 9
    # The photograph of the cameraman is grey, which decolour leaves as it is.
    assert {row["degradation"]: row["crops"] for row in rows} == {"blur": 16, "decolour": 14}
    assert all(10 < row["psnr"] < 60 and row["psnr_spread"] > 0 for row in rows if row["method"] == "degraded")
    assert read_image(stem.with_suffix(".png")).pixels.shape[2] > 8 * 16
    assert "larger than" in str(run("bench", "cold", models[0], "--side", 400, "--output", stem).exception)
