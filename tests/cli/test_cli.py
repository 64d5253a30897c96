"""The other commands: train, env, version, and what every command does with mistakes."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_models import small_model
from typer.testing import CliRunner

import rddm_fast
from rddm_fast.cli import app
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model, save_model

PHOTOS = Path(__file__).parents[2] / "rddm_fast" / "restoration" / "photos"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rddm_fast {rddm_fast.__version__}\n"
    shown = run("--help").stdout
    assert all(
        name in shown
        for name in ("demo", "restore", "evaluate", "compile", "export", "train", "paths", "convert", "env")
    )
    assert "--objective" in run("restore", "--help").stdout


def test_env_is_env_report() -> None:
    report = json.loads(run("env", "--json").stdout)
    assert report["versions"]["torch"] and report["backends"]["reverse_step"]["cpu"]["used"] == "cpp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small_model("pred_res", dim=8))
    return tmp_path / "model"


def test_compile_pays_for_the_first_image_ahead_of_time(folder: Path) -> None:
    result = run("compile", "--model", folder, "--size", "16x24", "--steps", 2, "--device", "cpu")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"16x24: \d+\.\d s\n", result.stdout)


def test_compile_names_a_size_that_is_none(folder: Path) -> None:
    for size in ("16", "0x16", "16x16x3"):
        result = run("compile", "--model", folder, "--size", size)
        assert result.exit_code == 1 and f"'{size}' is not a size: write height and width" in result.stderr


def test_restore_in_bfloat16_is_close_to_float32(folder: Path, tmp_path: Path) -> None:
    photo = sorted(PHOTOS.glob("*.png"))[0]
    for dtype in ("float32", "bfloat16"):
        result = run("restore", photo, "-o", tmp_path / dtype, "--dtype", dtype, "--device", "cpu")
        assert result.exit_code == 0, result.output
    exact, ours = (read_image(tmp_path / dtype / photo.name).pixels for dtype in ("float32", "bfloat16"))
    assert 0 < (ours - exact).square().mean() < 10 ** (-45 / 10)


TRAIN = ("train", "--steps", 3, "--batch", 2, "--patch", 16, "--dim", 8, "--mults", "1,2")


def test_train_on_photographs_makes_a_model(tmp_path: Path) -> None:
    result = run(*TRAIN, "--photos", PHOTOS, "--degradation", "lowlight", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "run" / "model")
    assert model.objective.name == "pred_res" and model.model.config["dim_mults"] == [1, 2]
    info = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["info"]
    assert info["task"] == "lowlight" and info["training"]["trained_steps"] == 3


def test_train_on_pairs_with_a_mask(tmp_path: Path) -> None:
    sources = ("--input", PHOTOS, "--target", PHOTOS, "--mask", PHOTOS)
    assert run(*TRAIN, *sources, "--output", tmp_path / "run").exit_code == 0
    assert load_model(tmp_path / "run" / "model").input_condition


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "pass either --photos"),
        (["--photos", PHOTOS, "--input", PHOTOS], "pass either --photos"),
        (["--photos", PHOTOS, "--degradation", "hail"], "unknown degradation 'hail'"),
        (["--photos", "nowhere"], "nowhere does not exist"),
        (["--input", PHOTOS], "training needs the ground truth"),
        (["--photos", PHOTOS, "--mults", "1,x"], "--mults is '1,x'"),
        (["--photos", PHOTOS, "--networks", "three"], "networks is 'two', 'one' or 'shared'"),
        (["--photos", PHOTOS, "--objective", "pred_res_noise"], "needs 2 outputs, but the model has 1"),
    ],
)
def test_train_names_a_mistake(options: list[object], sentence: str, tmp_path: Path) -> None:
    result = run(*TRAIN, *options, "--output", tmp_path / "run")
    assert result.exit_code == 1 and sentence in result.stderr and isinstance(result.exception, SystemExit)
    assert not (tmp_path / "run").exists()


def test_debug_shows_the_error_itself(tmp_path: Path) -> None:
    result = run("--debug", "train", "--output", tmp_path / "run")
    assert isinstance(result.exception, ValueError)


def test_without_typer_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; import rddm_fast.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: rddm-fast needs typer: pip install 'rddm_fast[cli]'\n"
