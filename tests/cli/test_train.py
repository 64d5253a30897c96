"""`rddm-fast train`, as a user runs it."""

import json
from pathlib import Path

import pytest
import yaml
from commands import error_of, run, succeeded
from typer.testing import Result

from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import PHOTOS


def train(*arguments: object) -> Result:
    return run("train", *arguments)


def test_later_sources_are_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("preset: deraining\ntrain: {lr: 1e-3, steps: 7, warmup: 3}\nmodel: {dim: 32}\n")
    done = succeeded(
        train("--config", tmp_path / "run.yaml", "--steps", 9, "--set", "train.warmup=4", "--dry-run", "--json")
    )
    shown = json.loads(done.stdout)
    assert [shown["train"][name] for name in ("lr", "steps", "warmup", "accumulate")] == [1e-3, 9, 4, 2]
    assert (shown["model"]["dim"], shown["model"]["networks"], shown["data"]["size"]) == (32, "two", 256)
    assert yaml.safe_load(train("--config", tmp_path / "run.yaml", "--dry-run").stdout)["train"]["steps"] == 7


def test_a_patch_is_instead_of_the_preset_s_size() -> None:
    shown = json.loads(train("--preset", "deraining", "--patch", 64, "--dry-run", "--json").stdout)
    assert (shown["data"]["patch"], shown["data"]["size"]) == (64, None)
    shown = json.loads(train("--size", 32, "--dry-run", "--json").stdout)
    assert (shown["data"]["patch"], shown["data"]["size"]) == (None, 32)


def test_a_run_needs_a_folder() -> None:
    assert "pass --output" in error_of(train("--photos", PHOTOS))


SMALL = ("--dim", 8, "--mults", "1,2", "--batch", 2, "--steps", 2, "--set", "train.plot=false")


@pytest.mark.parametrize("name", ["deraining", "inpainting", "lowlight"])
def test_a_published_experiment_on_pairs(name: str, dark_pairs: tuple[Path, Path], tmp_path: Path) -> None:
    images = ("--input", dark_pairs[0], "--target", dark_pairs[1], "--size", 16)
    extra = ("--lr", 2e-2) if name == "lowlight" else ()  # decides in the first step
    options = ("--output", tmp_path / "run", "--sample-every", 2, *extra)
    result = succeeded(train("--preset", name, *images, *SMALL, *options))
    model = load_model(tmp_path / "run" / "model")
    assert model.objective.name in (("pred_res", "pred_noise") if name == "lowlight" else ("pred_res_noise",))
    assert ("lambda 0." in result.stdout) == (name == "lowlight")
    assert model.img_to_img_translation == (name == "inpainting")
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    again = train("--config", tmp_path / "run" / "settings.json", "--dry-run", "--json")
    assert again.stdout == (tmp_path / "run" / "settings.json").read_text()


def test_generating_digits_and_images(dark_pairs: tuple[Path, Path], tmp_path: Path) -> None:
    generate = ("--preset", "generation", *SMALL)
    succeeded(train(*generate, "--digits", "--size", 16, "--set", "model.channels=1", "--output", tmp_path / "digits"))
    assert load_model(tmp_path / "digits" / "model").channels == 1
    succeeded(train(*generate, "--target", dark_pairs[1], "--size", 16, "--output", tmp_path / "images"))
    assert not load_model(tmp_path / "images" / "model").condition
    error = error_of(train(*generate, "--output", tmp_path / "nothing"))
    assert "to generate, pass one of --target, images to learn from, --photos and --digits" in error


TRAIN = ("--steps", 3, "--batch", 2, "--patch", 16, "--dim", 8, "--mults", "1,2")


def test_train_on_photographs_makes_a_model(tmp_path: Path) -> None:
    succeeded(train(*TRAIN, "--photos", PHOTOS, "--degradation", "lowlight", "--output", tmp_path / "run"))
    model = load_model(tmp_path / "run" / "model")
    assert model.objective.name == "pred_res" and model.model.config["dim_mults"] == [1, 2]
    info = json.loads((tmp_path / "run" / "model" / "config.json").read_text())["info"]
    assert info["task"] == "lowlight" and info["training"]["trained_steps"] == 3


def test_train_on_pairs_with_a_mask(tmp_path: Path) -> None:
    sources = ("--input", PHOTOS, "--target", PHOTOS, "--mask", PHOTOS)
    succeeded(train(*TRAIN, *sources, "--output", tmp_path / "run"))
    assert load_model(tmp_path / "run" / "model").input_condition


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "pass either --photos"),
        (["--photos", PHOTOS, "--input", PHOTOS], "pass either --photos"),
        (["--photos", PHOTOS, "--degradation", "hail"], "unknown --degradation 'hail'"),
        (["--photos", "nowhere"], "nowhere does not exist"),
        (["--input", PHOTOS], "training needs the ground truth"),
        (["--photos", PHOTOS, "--mults", "1,x"], "--mults is '1,x'"),
        (["--photos", PHOTOS, "--networks", "three"], "networks is 'two', 'one' or 'shared'"),
        (["--photos", PHOTOS, "--objective", "pred_res_noise"], "needs 2 outputs, but the model has 1"),
    ],
)
def test_train_names_a_mistake(options: list[object], sentence: str, tmp_path: Path) -> None:
    assert sentence in error_of(train(*TRAIN, *options, "--output", tmp_path / "run"))
    assert not (tmp_path / "run").exists()
