"""Model folders: what is saved is loaded, and whatever is damaged is named."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import assert_same_bits, assert_same_images, images, published_model, seeded, small_model

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.inverse.cold import Recipe
from rddm_fast.models.folder import load_cold_restorer, load_model, save_model
from rddm_fast.models.published import ModelError
from rddm_fast.theory.schedule import Schedule


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"objective": "pred_noise", "path_independent": True, "eta": 0.5, "loss_type": "l2"},
        {"networks": "shared", "clip_res": 2.0, "test_res_or_noise": "res"},
        {"schedule": Schedule.power(100, 1.0), "sampling_timesteps": 7},
        {"schedule": Schedule.from_ddim(1000, "squaredcos_cap_v2", alpha=("decreased", 0.3))},
        {"schedule": Schedule.from_tables([0.1, 0.5, 1.0], [0.1, 0.2, 0.4])},
    ],
    ids=["two", "noise", "shared", "power", "ddim", "tables"],
)
def test_what_is_saved_is_loaded(options: dict[str, Any], tmp_path: Path) -> None:
    diffusion = small_model(**{"sampling_timesteps": 2, **options})
    save_model(tmp_path / "m", diffusion, info={"made": "here"})
    loaded = load_model(tmp_path / "m")
    assert_same_bits(loaded.state_dict(), diffusion.state_dict())
    for name in ("objective", "condition", "path_independent", "eta", "loss_type", "clip_res", "sampling_timesteps"):
        assert getattr(loaded, name) == getattr(diffusion, name), name
    assert loaded.schedule.recipe == diffusion.schedule.recipe and not loaded.training
    assert_same_images(loaded, diffusion)


def test_every_setting_is_saved(tmp_path: Path) -> None:
    sees = {"condition": True, "input_condition": True, "img_to_img_translation": True}
    network = ResidualUnets(16, dim_mults=[1, 2], **sees)
    settings = {"objective": "pred_x0_noise", **sees, "input_condition_mask": True, "path_independent": True}
    settings |= {"test_res_or_noise": "x0", "loss_type": "l2", "sampling_timesteps": 7, "eta": 0.25}
    settings |= {"clip_res": 1.5, "image_size": 24}
    diffusion = ResidualDiffusion(network, Schedule.ir_sde(50), **settings)
    save_model(tmp_path, diffusion, info={"licence": "none", "steps": 3})
    loaded = load_model(tmp_path)
    found = {name: getattr(loaded, name) for name in settings}
    assert found == {**settings, "objective": diffusion.objective}
    assert loaded.model.config == network.config and loaded.read_outputs == (0,)
    assert loaded.schedule.recipe == diffusion.schedule.recipe
    assert loaded.schedule.sum_scale == diffusion.schedule.sum_scale
    assert json.loads((tmp_path / "config.json").read_text())["info"] == {"licence": "none", "steps": 3}


@pytest.mark.parametrize("generation", [{"share_encoder": 1}, {"num_unet": 2, "test_res_or_noise": "res"}])
def test_a_model_of_the_published_class_is_saved_too(generation: dict[str, Any], tmp_path: Path) -> None:
    published = published_model(generation)
    save_model(tmp_path, published)
    loaded, x = load_model(tmp_path), images(1, 3, 16, 16)
    ours = loaded.sample(x, generator=seeded(0))[-1]
    theirs = published.sample([x], generator=seeded(0))[-1]
    assert torch.equal(ours, theirs)


def test_a_schedule_of_one_s_own_is_saved_as_its_tables(tmp_path: Path) -> None:
    schedule = Schedule(np.array([0.25, 0.75, 1.0]), np.array([0.1, 0.2, 0.3]), sum_scale=0.05)
    save_model(tmp_path, small_model(schedule=schedule, sampling_timesteps=2))
    loaded = load_model(tmp_path).schedule
    assert np.array_equal(loaded.alpha_bar, schedule.alpha_bar) and loaded.sum_scale == 0.05
    assert np.array_equal(loaded.beta_bar, schedule.beta_bar)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_save_that_fails_leaves_the_old_model_whole(tmp_path: Path) -> None:
    save_model(tmp_path, small_model())
    before = contents(tmp_path)
    with pytest.raises(TypeError, match="not JSON serializable"):
        save_model(tmp_path, small_model(seed=1), info={"dataset": object()})
    assert contents(tmp_path) == before


def test_a_full_disk_leaves_the_old_model_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path, small_model())
    before = contents(tmp_path)

    def full(_tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"a part")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(tmp_path, small_model(seed=1))
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: None, "there is no model folder .*: pass one with model.safetensors and config.json"),
        (lambda path: path.write_text("x"), "there is no model folder"),
        (lambda path: path.mkdir(), "is not a model folder: it holds no config.json"),
    ],
)
def test_what_is_no_model_folder(make: Any, sentence: str, tmp_path: Path) -> None:
    make(tmp_path / "m")
    with pytest.raises(ModelError, match=sentence) as raised:
        load_model(tmp_path / "m")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "text", ["[]", "null", '"rddm_fast model"', "\x00", '{"format": "rddm_fast model", "version": 1}']
)
def test_a_config_of_another_kind_is_one_sentence(text: str, tmp_path: Path) -> None:
    save_model(tmp_path, small_model())
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError) as raised:
        load_model(tmp_path)
    assert str(tmp_path) in str(raised.value) and "\n" not in str(raised.value)


def test_tables_that_are_missing_are_looked_for_in_the_right_file(tmp_path: Path) -> None:
    schedule = Schedule.from_tables([0.5, 1.0], [0.1, 0.2])
    save_model(tmp_path, small_model(schedule=schedule, sampling_timesteps=1))
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["schedule.beta_bar"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors .*schedule\.beta_bar"):
        load_model(tmp_path)


def test_half_the_size_in_float16(tmp_path: Path) -> None:
    diffusion = small_model()
    save_model(tmp_path / "full", diffusion)
    save_model(tmp_path / "half", diffusion, dtype=torch.float16)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert 0.5 < sizes[1] / sizes[0] < 0.55
    weight = load_model(tmp_path / "half").model.state_dict()["unet0.init_conv.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, diffusion.model.state_dict()["unet0.init_conv.weight"].half().float())


def damaged(folder: Path, how: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    tensors, fields = load_file(weights), json.loads(config.read_text())
    name = "unet1.final_conv.weight"
    if how == "cut":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "no weights":
        weights.unlink()
    elif how == "no config":
        config.unlink()
    elif how == "garbage":
        config.write_text("{")
    elif how == "version":
        config.write_text(json.dumps({**fields, "version": 99}))
    elif how == "field":
        del fields["schedule"]["sum_scale"]
        config.write_text(json.dumps(fields))
    elif how == "missing":
        del tensors[name]
        save_file(tensors, weights)
    elif how == "more":
        save_file({**tensors, "unet9.x": torch.zeros(1)}, weights)
    elif how == "shape":
        save_file({**tensors, name: torch.zeros(3, 8, 1, 1)}, weights)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut", "cannot be read as a model"),
        ("no weights", "holds no model.safetensors"),
        ("no config", "holds no config.json"),
        ("garbage", "cannot be read as a model"),
        ("version", "is not of format 'rddm_fast model', version 1"),
        ("field", "has no field 'sum_scale'"),
        ("missing", "does not fit its network: unet1.final_conv.weight is missing"),
        ("more", "does not fit its network: unet9.x is not part of this network"),
        ("shape", r"unet1.final_conv.weight has shape \(3, 8, 1, 1\) instead of \(3, 16, 1, 1\)"),
    ],
)
def test_a_damaged_model_is_named_in_one_sentence(how: str, sentence: str, tmp_path: Path) -> None:
    save_model(tmp_path, small_model())
    damaged(tmp_path, how)
    with pytest.raises(ModelError, match=sentence) as raised:
        load_model(tmp_path)
    assert "\n" not in str(raised.value) and str(tmp_path) in str(raised.value)


def test_a_network_that_is_not_ours_is_not_saved(tmp_path: Path) -> None:
    class Zero(torch.nn.Module):
        channels, self_condition = 3, False

    diffusion = ResidualDiffusion(Zero(), Schedule.triangular(10), condition=True, objective="pred_res")
    with pytest.raises(ModelError, match="not Zero"):
        save_model(tmp_path / "m", diffusion)
    assert not (tmp_path / "m").exists()


def test_a_cold_restorer_is_a_folder_of_its_own_kind(tmp_path: Path) -> None:
    recipe = Recipe.parsed("cold:blur:7").values()
    restorer = ColdRestorer(ResidualUnets(8, networks="one", dim_mults=[1, 2]), recipe, "l2")
    save_model(tmp_path / "cold", restorer, info={"made": "here"})
    loaded = load_cold_restorer(tmp_path / "cold")
    assert_same_bits(loaded.state_dict(), restorer.state_dict())
    assert (loaded.recipe, loaded.T, loaded.loss_type, loaded.training) == (recipe, 7, "l2", False)
    # Readers from before this format refuse it, because they know "rddm_fast model" alone.
    assert json.loads((tmp_path / "cold" / "config.json").read_text())["format"] == "rddm_fast cold restorer"

    with pytest.raises(
        ModelError, match=r"cold is a restorer of Cold Diffusion, not an RDDM model: use `rddm-fast cold`"
    ):
        load_model(tmp_path / "cold")
    save_model(tmp_path / "rddm", small_model("pred_res", dim=8))
    with pytest.raises(
        ModelError, match=r"rddm is an RDDM model, not a restorer of Cold Diffusion: use `rddm-fast res"
    ):
        load_cold_restorer(tmp_path / "rddm")
    config = tmp_path / "cold" / "config.json"
    config.write_text(config.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(ModelError, match="is not of format 'rddm_fast cold restorer', version 1: update rddm_fast"):
        load_cold_restorer(tmp_path / "cold")
