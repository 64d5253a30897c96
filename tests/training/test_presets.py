"""Settings and presets: what they resolve to, and what a mistake in them says."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from rddm_fast.cli import app
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.prepared import equalized, resized
from rddm_fast.models.folder import MODELS, built_in_models, described, load_model
from rddm_fast.training.aosa import AutoObjective
from rddm_fast.training.from_settings import model_of, trainer_of
from rddm_fast.training.presets import PRESETS, preset
from rddm_fast.training.settings import (
    ModelSettings,
    RunSettings,
    SettingsError,
    TrainSettings,
    read_settings,
    setting_of,
)

PHOTOS = Path(__file__).parents[2] / "rddm_fast" / "restoration" / "photos"


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["train", *map(str, arguments)])


# -- presets -------------------------------------------------------------------------------------------------

# size, images a batch x accumulated, steps, networks, objective, loss, schedule, optimiser, optimisers, rate, times, S
PUBLISHED = {
    "deraining": (256, 1, 120_000, "two", "pred_res_noise", "l1", "triangular", "adam", "one", 8e-5, False, 10),
    "lowlight": (256, 1, 80_000, "one", "auto", "l1", "ddim", "adam", "one", 8e-5, False, 2),
    "inpainting": (64, 64, 100_000, "two", "pred_res_noise", "l2", "power", "radam", "each", 2e-4, True, 10),
    "translation": (64, 64, 100_000, "two", "pred_res_noise", "l2", "ddim", "radam", "each", 2e-4, True, 10),
    "generation": (64, 128, 100_000, "two", "pred_res_noise", "l2", "power", "radam", "each", 2e-4, False, 10),
    "path_independent": (64, 128, 100_000, "two", "pred_res_noise", "l2", "ddim", "radam", "each", 2e-4, True, 10),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_experiments(name: str) -> None:
    settings = RunSettings.of(preset(name))
    m, d, t = settings.model, settings.data, settings.train
    of_it = (d.size, t.batch_size, t.steps, m.networks, m.objective, m.loss_type, m.schedule)
    assert (*of_it, t.optimizer, t.optimizers, t.lr, m.path_independent, m.sampling_timesteps) == PUBLISHED[name]
    assert (m.dim, m.mults, m.timesteps, m.sum_scale, m.clip_res) == (64, (1, 2, 4, 8), 1000, 1.0, 1.0)
    assert (t.accumulate, t.grad_clip, t.lr_schedule, t.warmup) == (2, 1.0, "constant", 0)
    assert (t.ema, t.ema_decay, t.ema_every, t.lam, t.weight_decay) == ("published", 0.995, 10, 0.5, 0.0)
    assert t.betas == ((0.9, 0.99) if t.optimizer == "adam" else (0.9, 0.999))
    assert d.equalize_input == (name == "lowlight") and d.patch is None
    kinds = {"inpainting": "translate", "translation": "translate"}
    assert m.kind == kinds.get(name, "restore" if m.loss_type == "l1" else "generate")


def test_shadow_removal_takes_a_mask() -> None:
    assert RunSettings.of(preset("shadow_removal")).model.mask is True
    with pytest.raises(SettingsError, match="this model takes a mask: pass --mask"):
        model_of(RunSettings.of(preset("shadow_removal")).model, False, 256)


@pytest.mark.parametrize(("name", "model"), [(f"photos-{model}", model) for model in built_in_models()])
def test_the_built_in_models_presets_are_how_they_were_trained(name: str, model: str) -> None:
    settings, built_in = RunSettings.of(preset(name)), load_model(model)
    untrained = model_of(settings.model, built_in.input_condition, 64)
    assert not isinstance(untrained, AutoObjective)
    ours, theirs = described(untrained), described(built_in)
    ours["network"] = {key: value for key, value in ours["network"].items() if key in theirs["network"]}
    assert json.dumps(ours, sort_keys=True) == json.dumps(
        {**theirs, "network": {key: theirs["network"][key] for key in ours["network"]}}, sort_keys=True
    )
    info = json.loads((MODELS / model / "config.json").read_text())["info"]
    trained = {key: value for key, value in info["training"].items() if key != "trained_steps"}
    now = json.loads(json.dumps(asdict(settings.train)))
    assert {key: now[key] for key in trained} == trained
    assert settings.data.degradation == info["task"]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_s_model_can_be_built(name: str) -> None:
    """With fewer channels, which is faster."""
    settings = RunSettings.of(preset(name), {"model": {"dim": 8}})
    model = model_of(settings.model, settings.model.mask or False, settings.data.side)
    diffusion = model.diffusion if isinstance(model, AutoObjective) else model
    shape = (1, 3, 16, 16)
    image = torch.zeros(shape)
    mask = image if diffusion.input_condition else None
    out = diffusion.outputs(image, torch.tensor([3]), image if diffusion.condition else None, mask)
    assert [x.shape for x in out] == [shape] * diffusion.objective.outputs


def test_an_unknown_preset_names_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match="there is no preset 'derain': choose one of deraining, lowlight"):
        preset("derain")


# -- settings ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "values", "sentence"),
    [
        ("train", {"optimizer": "sgd"}, "train.optimizer is 'sgd': choose one of adam, adamw, radam"),
        ("train", {"stepz": 3}, "there is no setting train.stepz: choose one of steps, batch_size"),
        ("train", {"steps": "many"}, "train.steps is 'many': it must be a whole number"),
        ("train", {"steps": 2.5}, "train.steps is 2.5: it must be a whole number"),
        ("train", {"steps": True}, "train.steps is True: it must be a whole number"),
        ("train", {"steps": 0}, "train.steps is 0: it must be at least 1"),
        ("train", {"lr": "fast"}, "train.lr is 'fast': it must be a number"),
        ("train", {"lr": float("nan")}, "train.lr is nan: it must be at least 0"),
        ("train", {"lam": 1.5}, "train.lam is 1.5: it must be between 0 and 1"),
        ("train", {"betas": 0.9}, "train.betas is 0.9: write a list"),
        ("train", {"betas": [0.9]}, "train.betas has 1 numbers: it takes 2"),
        ("train", {"compile": "yes"}, "train.compile is 'yes': it must be true or false"),
        ("train", {"save_every": -1}, "train.save_every is -1.0: it is seconds"),
        ("model", {"kind": "dream"}, "model.kind is 'dream': choose one of restore, translate, generate"),
        ("model", {"mults": []}, "model.mults is []: write whole numbers"),
        ("model", {"mults": ["x"]}, "model.mults is 'x': it must be a whole number"),
        ("model", None, "model is None: it must be a section of names and values"),
        ("data", {"patch": 0}, "data.patch is 0: it must be at least 8"),
        ("dada", {}, "there is no section 'dada': choose one of model, data, train"),
    ],
)
def test_a_mistake_is_one_sentence(section: str, values: Any, sentence: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)) as raised:
        RunSettings.of({section: values})
    assert "\n" not in str(raised.value)


def test_python_s_settings_are_checked_too() -> None:
    with pytest.raises(SettingsError, match=r"train\.optimizers is 'both': choose one of one, each"):
        TrainSettings(optimizers="both")  # type: ignore[arg-type]
    assert TrainSettings(lr=1).lr == 1.0 and ModelSettings(mults=[1, 2]).mults == (1, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_what_is_written_is_read_again(form: str, tmp_path: Path) -> None:
    settings = RunSettings.of(preset("inpainting"), {"train": {"lr": 8e-05}})
    path = tmp_path / f"run.{form}"
    path.write_text(settings.text(form))
    assert RunSettings.of(read_settings(path)) == settings


def test_a_number_without_a_point_is_a_number(tmp_path: Path) -> None:
    """YAML 1.1 reads 4e-4 as a text."""
    (tmp_path / "run.yaml").write_text("train: {lr: 4e-4}\n")
    assert RunSettings.of(read_settings(tmp_path / "run.yaml")).train.lr == 4e-4


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("none.yaml", None, "none.yaml cannot be read"),
        ("bad.yaml", "train: [", "bad.yaml is not YAML"),
        ("bad.json", "{\n,", "bad.json, line 2: not JSON"),
        ("list.yaml", "- 1\n", "list.yaml holds no settings: write sections such as 'train:'"),
    ],
)
def test_a_bad_file_is_named(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=re.escape(sentence)) as raised:
        read_settings(tmp_path / name)
    assert "\n" not in str(raised.value)
    assert name in run("--config", tmp_path / name, "--dry-run").stderr


def test_a_setting_of_the_command_line() -> None:
    assert setting_of("train.warmup=10") == {"train": {"warmup": 10}}
    assert setting_of("model.mults=[1, 2]") == {"model": {"mults": [1, 2]}}
    with pytest.raises(SettingsError, match=r"'warmup=10' is not a setting: write SECTION\.NAME=VALUE"):
        setting_of("warmup=10")


# -- the command ---------------------------------------------------------------------------------------------


def test_later_sources_are_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("preset: deraining\ntrain: {lr: 1e-3, steps: 7, warmup: 3}\nmodel: {dim: 32}\n")
    done = run("--config", tmp_path / "run.yaml", "--steps", 9, "--set", "train.warmup=4", "--dry-run", "--json")
    assert done.exit_code == 0, done.output
    shown = json.loads(done.stdout)
    train, model = shown["train"], shown["model"]
    assert (train["lr"], train["steps"], train["warmup"], train["accumulate"]) == (1e-3, 9, 4, 2)
    assert (model["dim"], model["networks"], shown["data"]["size"]) == (32, "two", 256)
    assert yaml.safe_load(run("--config", tmp_path / "run.yaml", "--dry-run").stdout)["train"]["steps"] == 7


def test_a_patch_is_instead_of_the_preset_s_size() -> None:
    shown = json.loads(run("--preset", "deraining", "--patch", 64, "--dry-run", "--json").stdout)
    assert (shown["data"]["patch"], shown["data"]["size"]) == (64, None)
    shown = json.loads(run("--size", 32, "--dry-run", "--json").stdout)
    assert (shown["data"]["patch"], shown["data"]["size"]) == (None, 32)


def test_the_defaults_are_those_of_the_readme_s_command() -> None:
    """`rddm-fast train --photos photos --degradation rain --steps 4500 --output run`."""
    plain = RunSettings.of({"data": {"photos": "photos"}})
    assert plain == RunSettings.of(preset("photos-derain"), {"data": {"photos": "photos"}})


def test_a_run_needs_a_folder() -> None:
    result = run("--photos", PHOTOS)
    assert result.exit_code == 1 and "pass --output" in result.stderr


SMALL = ("--dim", 8, "--mults", "1,2", "--batch", 2, "--steps", 2, "--set", "train.plot=false")


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[Path, Path]:
    """Three pairs of different sizes."""
    for i, (height, width) in enumerate([(20, 30), (24, 24), (40, 18)]):
        target = torch.rand(3, height, width, generator=torch.Generator().manual_seed(i))
        write_image(tmp_path / "truth" / f"{i}.png", Picture(pixels=target))
        write_image(tmp_path / "dark" / f"{i}.png", Picture(pixels=target * 0.4))
    return tmp_path / "dark", tmp_path / "truth"


@pytest.mark.parametrize("name", ["deraining", "inpainting", "lowlight"])
def test_a_published_experiment_on_pairs(name: str, pairs: tuple[Path, Path], tmp_path: Path) -> None:
    extra = ("--lr", 2e-2) if name == "lowlight" else ()  # decides in the first step
    result = run(
        *("--preset", name, "--input", pairs[0], "--target", pairs[1], "--size", 16, *SMALL, "--output"),
        *(tmp_path / "run", "--sample-every", 2, *extra),
    )
    assert result.exit_code == 0, result.output
    model = load_model(tmp_path / "run" / "model")
    assert model.objective.name in (("pred_res", "pred_noise") if name == "lowlight" else ("pred_res_noise",))
    assert ("lambda 0." in result.stdout) == (name == "lowlight")
    assert model.img_to_img_translation == (name == "inpainting")
    assert (tmp_path / "run" / "samples" / "step-00000002.png").is_file()
    again = run("--config", tmp_path / "run" / "settings.json", "--dry-run", "--json")
    assert again.stdout == (tmp_path / "run" / "settings.json").read_text()


def test_generating_digits_and_images(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    generate = ("--preset", "generation", *SMALL)
    result = run(*generate, "--digits", "--size", 16, "--set", "model.channels=1", "--output", tmp_path / "digits")
    assert result.exit_code == 0, result.output
    assert load_model(tmp_path / "digits" / "model").channels == 1
    result = run(*generate, "--target", pairs[1], "--size", 16, "--output", tmp_path / "images")
    assert result.exit_code == 0, result.output
    assert not load_model(tmp_path / "images" / "model").condition
    result = run(*generate, "--output", tmp_path / "nothing")
    assert (
        result.exit_code == 1
        and "to generate, pass either --target, images to learn from, or --digits" in result.stderr
    )


def test_what_is_done_to_the_images(pairs: tuple[Path, Path], tmp_path: Path) -> None:
    data = {"input": pairs[0], "target": pairs[1], "patch": None, "size": 16, "equalize_input": True, "flip": False}
    settings = RunSettings.of({"data": data, "model": {"dim": 8, "mults": [1]}, "train": {"plot": False}})
    item = trainer_of(settings, tmp_path / "run").dataset[0]
    assert item["input"].shape == item["target"].shape == (3, 16, 16)
    dark = read_image(pairs[0] / f"{item['name']}.png").pixels
    torch.testing.assert_close(item["input"], resized(equalized(dark), 16))
    # Equalised, a channel's levels are spread evenly: its ranks are those of the original, its mean is near 1/2.
    assert equalized(dark).max() == 1 and dark.max() < 0.41
    assert abs(float(equalized(dark)[0].mean()) - 0.5) < 0.05
    order = dark[0].flatten().argsort(stable=True)
    assert (equalized(dark)[0].flatten()[order].diff() >= 0).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"photos": PHOTOS, "patch": None}}, "photographs are degraded in patches: pass --patch"),
        ({"data": {"input": PHOTOS, "target": PHOTOS, "size": 16}}, "pass data.patch, random patches, or data.size"),
        ({"data": {"photos": PHOTOS}, "model": {"schedule": "ddim"}}, "ends at beta_bar_T = 1: pass model.sum_scale 1"),
        ({"data": {"photos": PHOTOS}, "model": {"mask": True}}, "this model takes a mask: pass --mask"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(changes: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(sentence)):
        trainer_of(RunSettings.of(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
