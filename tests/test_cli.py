"""The other commands: train, env, version, and what every command does with mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import rddm_fast
from rddm_fast.checkpoint import load_model
from rddm_fast.cli import app

PHOTOS = Path(__file__).parents[1] / "rddm_fast" / "photos"


def run(*arguments: object):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rddm_fast {rddm_fast.__version__}\n"
    shown = run("--help").stdout
    assert all(name in shown for name in ("demo", "restore", "train", "convert", "env"))
    assert "--objective" in run("restore", "--help").stdout


def test_env_is_env_report() -> None:
    report = json.loads(run("env", "--json").stdout)
    assert report["versions"]["torch"] and report["backends"]["reverse_step"]["cpu"]["used"] == "cpp"


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
