"""The small commands: version, env, compile, and what every command does with mistakes."""

import json
import re
from pathlib import Path

import pytest
from commands import error_of, python, run, succeeded
from small_models import small_model

import rddm_fast
from rddm_fast.fast.tuning import clock
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import save_model
from rddm_fast.restoration.demo import PHOTOS


def test_version_and_help() -> None:
    assert run("--version").stdout == f"rddm_fast {rddm_fast.__version__}\n"
    names = (
        "demo",
        "restore",
        "evaluate",
        "compile",
        "tune",
        "export",
        "train",
        "paths",
        "convert",
        "env",
        "operators",
    )
    assert all(name in run("--help").stdout for name in names)
    assert "--objective" in run("restore", "--help").stdout


def test_env_is_env_report() -> None:
    report = json.loads(run("env", "--json").stdout)
    assert report["versions"]["torch"] and report["backends"]["reverse_step"]["cpu"]["used"] == "cpp"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", small_model("pred_res", dim=8))
    return tmp_path / "model"


def test_compile_pays_for_the_first_image_ahead_of_time(folder: Path) -> None:
    result = succeeded(run("compile", "--model", folder, "--size", "16x24", "--steps", 2, "--device", "cpu"))
    assert re.fullmatch(r"16x24: \d+\.\d s\n", result.stdout)


def test_tune_measures_once_and_writes_the_table(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "BUDGET_S", 0.0)
    table = tmp_path / "choices.json"
    result = succeeded(run("tune", "--model", folder, "--size", "16x24", "--device", "cpu", "--output", table))
    *layers, images, last = result.stdout.splitlines()
    measured = json.loads(table.read_text())["measured"]
    titles = {row["layer"] for row in measured if "networks of" not in row["layer"]}
    assert titles and all(any(line.startswith(title) for line in layers) for title in titles)
    assert re.fullmatch(r"16x24, batch 1: \d+ ms by the rules, \d+ ms as measured \(\d+\.\d\d times as fast\)", images)
    assert re.fullmatch(r"\d+ measured, \d+ of them other than the rule's; written to .*choices.json", last)
    again = succeeded(run("tune", "--model", folder, "--size", "16x24", "--device", "cpu", "--json"))
    found = json.loads(again.stdout)
    assert found["images"][0]["size"] == "16x24" and found["images"][0]["measured_s"] > 0
    assert json.loads(Path(found["table"]).read_text())["measured"] == measured


def test_compile_names_a_wrong_size(folder: Path) -> None:
    for size in ("16", "0x16", "16x16x3"):
        error = error_of(run("compile", "--model", folder, "--size", size))
        assert f"--size is '{size}': write height and width" in error


def test_restore_in_bfloat16_is_close_to_float32(folder: Path, tmp_path: Path) -> None:
    photo = sorted(PHOTOS.glob("*.png"))[0]
    for dtype in ("float32", "bfloat16"):
        succeeded(run("restore", photo, "-o", tmp_path / dtype, "--dtype", dtype, "--device", "cpu"))
    exact, ours = (read_image(tmp_path / dtype / photo.name).pixels for dtype in ("float32", "bfloat16"))
    assert 0 < (ours - exact).square().mean() < 10 ** (-45 / 10)


def test_debug_shows_the_error_itself(tmp_path: Path) -> None:
    result = run("--debug", "train", "--output", tmp_path / "run")
    assert isinstance(result.exception, ValueError)


def test_without_typer_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['typer'] = None; import rddm_fast.cli"
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr == "error: rddm-fast needs typer: pip install 'rddm_fast[cli]'\n"
