"""What `restore` tells: sentences, one JSON object per line, or nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from commands import run, succeeded
from PIL import Image

from rddm_fast.restoration.demo import PHOTOS


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of two pictures, a damaged one and a text."""
    folder = tmp_path / "in"
    folder.mkdir()
    with Image.open(PHOTOS / "coffee.png") as image:
        for name in "ab":
            image.resize((24, 20)).save(folder / f"{name}.png")
    (folder / "bad.png").write_text("no picture")
    (folder / "notes.txt").write_text("notes")
    return folder


def lines(stdout: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stdout.splitlines()]


def test_json_has_a_line_for_each_file_and_one_for_all(model: Path, photos: Path, tmp_path: Path) -> None:
    command = ("restore", photos, "-o", tmp_path / "out", "-m", model, "--json")
    told = run(*command)
    assert told.exit_code == 1 and "error: " in told.stderr
    notes, a, b, bad, finished = lines(told.stdout)
    assert notes["status"] == "left_out" and notes["note"] == "no image by its suffix" and notes["target"] is None
    assert notes["source"] == str(photos / "notes.txt")
    assert a["status"] == b["status"] == "restored" and a["target"] == str(tmp_path / "out" / "a.png")
    assert a["seconds"] > 0 and a["error"] is None and a["scores"] is None
    assert bad["status"] == "failed" and "bad.png is not a readable JPEG" in bad["error"]
    assert finished.items() >= {"status": "finished", "restored": 2, "skipped": 0, "left_out": 1, "failed": 1}.items()
    (photos / "bad.png").unlink()
    again = lines(succeeded(run(*command)).stdout)
    assert [line["status"] for line in again] == ["left_out", "skipped", "skipped", "finished"]


def test_json_of_measured_files(tmp_path: Path) -> None:
    arguments = ("--method", "ddnm", "--operator", "denoising", "--degrade", "--steps", 1)
    Image.new("RGB", (24, 20)).save(tmp_path / "black.png")
    told = lines(succeeded(run("restore", tmp_path / "black.png", "-o", tmp_path / "out", "--json", *arguments)).stdout)
    scores = told[0]["scores"]
    assert set(scores) == {"input", "A⁺y", "result"}
    assert scores["input"] == {"psnr": None, "ssim": pytest.approx(1.0)}  # the input is the truth


def test_quiet_prints_errors_alone(model: Path, photos: Path, tmp_path: Path) -> None:
    told = run("restore", photos, "-o", tmp_path / "out", "-m", model, "--quiet")
    assert told.exit_code == 1 and told.stdout == ""
    assert len(told.stderr.splitlines()) == 1 and "bad.png is not a readable JPEG" in told.stderr
    told = succeeded(run("restore", photos / "a.png", "-o", tmp_path / "out", "-m", model, "-q", "--json"))
    assert [line["status"] for line in lines(told.stdout)] == ["skipped", "finished"] and told.stderr == ""
