"""From settings to a data set, a model and a trainer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from rddm_fast.images.picture import read_image
from rddm_fast.images.prepared import equalized, resized
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.training.aosa import AutoObjective
from rddm_fast.training.from_settings import model_of, trainer_of
from rddm_fast.training.presets import PRESETS, preset
from rddm_fast.training.settings import (
    RunSettings,
    SettingsError,
)


def test_shadow_removal_takes_a_mask() -> None:
    assert RunSettings.of(preset("shadow_removal")).model.mask is True
    with pytest.raises(SettingsError, match="this model takes a mask: pass --mask"):
        model_of(RunSettings.of(preset("shadow_removal")).model, False, 256)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_s_model_can_be_built(name: str) -> None:
    """With fewer channels, which is faster."""
    settings = RunSettings.of(preset(name), {"model": {"dim": 8}})
    model = model_of(settings.model, settings.model.mask or False, settings.data.side)
    diffusion = model.diffusion if isinstance(model, AutoObjective) else model
    shape = (1, settings.model.channels, 16, 16)
    image = torch.zeros(shape)
    mask = image if diffusion.input_condition else None
    out = diffusion.outputs(image, torch.tensor([3]), image if diffusion.condition else None, mask)
    assert [x.shape for x in out] == [shape] * diffusion.objective.outputs


def test_what_is_done_to_the_images(dark_pairs: tuple[Path, Path], tmp_path: Path) -> None:
    source, target = dark_pairs
    data = {"input": source, "target": target, "patch": None, "size": 16, "equalize_input": True, "flip": False}
    settings = RunSettings.of({"data": data, "model": {"dim": 8, "mults": [1]}, "train": {"plot": False}})
    item = trainer_of(settings, tmp_path / "run").dataset[0]
    assert item["input"].shape == item["target"].shape == (3, 16, 16)
    dark = read_image(source / f"{item['name']}.png").pixels
    torch.testing.assert_close(item["input"], resized(equalized(dark), 16))
    # Equalised, a channel's levels are spread evenly: its ranks are those of the original, its mean is near 1/2.
    assert equalized(dark).max() == 1 and dark.max() < 0.41
    assert abs(float(equalized(dark)[0].mean()) - 0.5) < 0.05
    order = dark[0].flatten().argsort(stable=True)
    assert (equalized(dark)[0].flatten()[order].diff() >= 0).all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": {"photos": PHOTOS, "patch": None}}, "photographs are read in patches: pass --patch"),
        ({"data": {"input": PHOTOS, "target": PHOTOS, "size": 16}}, "pass data.patch, random patches, or data.size"),
        ({"data": {"photos": PHOTOS}, "model": {"schedule": "ddim"}}, "ends at beta_bar_T = 1: pass model.sum_scale 1"),
        (
            {"data": {"photos": PHOTOS}, "model": {"channels": 10**9}},
            "there is not enough memory for networks of model.dim",
        ),
        (
            {"data": {"photos": PHOTOS}, "model": {"dim": 10**9}},
            "there is not enough memory for networks of model.dim",
        ),
        (
            {"data": {"photos": PHOTOS}, "model": {"timesteps": 1 << 40}},
            "model.timesteps is 1099511627776: it must be between",
        ),
        ({"data": {"photos": PHOTOS}, "model": {"objective": "x" * 999}}, "unknown objective 'xxxxxxxxxxxx...x"),
        ({"data": {"photos": PHOTOS}, "model": {"mask": True}}, "this model takes a mask: pass --mask"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(changes: Any, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        trainer_of(RunSettings.of(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_starts_from_another_model_s_weights(tmp_path: Path) -> None:
    settings = {"data": {"photos": PHOTOS}, "model": {"dim": 8, "mults": [1]}, "train": {"plot": False}}
    first = trainer_of(RunSettings.of(settings, {"train": {"seed": 5}}), tmp_path / "first").export()
    tuned = trainer_of(RunSettings.of(settings, {"model": {"start_from": str(first)}}), tmp_path / "tuned").export()
    ours, theirs = (load_model(folder).model.state_dict() for folder in (tuned, first))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert json.loads((tuned / "config.json").read_text())["info"]["start_from"] == str(first)
    with pytest.raises(SettingsError, match=r"model.start_from .*first/model. has other networks .*\"dim\": 8"):
        trainer_of(RunSettings.of(settings, {"model": {"start_from": str(first), "dim": 16}}), tmp_path / "other")


@pytest.mark.parametrize(
    ("degradation", "wanted"),
    [
        ("shadow", ("change", None, None, False)),
        ("mask", ("grey hole", None, None, False)),
        ("wide-mask", ("filled hole", None, None, False)),
        ("wide-shadow", ("shadow", None, None, False)),
        ("lowlight", (None, None, None, True)),
        ("wide-lowlight", (None, "exposure", None, True)),
        ("wide-blur", (None, "blur", None, False)),
        ("wide-noise", (None, "noise", "noise", False)),
        ("wide-jpeg", (None, None, "blocks", False)),
        ("wide-rain", (None, None, None, False)),
    ],
)
def test_a_model_says_how_pictures_are_prepared(degradation: str, wanted: tuple[object, ...], tmp_path: Path) -> None:
    model = {"dim": 8, "mults": [1]}
    data = {"photos": PHOTOS, "degradation": degradation}
    trained = trainer_of(RunSettings.of({"data": data, "model": model, "train": {"plot": False}}), tmp_path / "run")
    made = load_model(trained.export())
    assert (made.mask_marks, made.first_guess, made.clean_without, made.global_exposure) == wanted
