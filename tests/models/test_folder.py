"""Models on disk: ours and published ones, whole ones and damaged ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import images, small_model

from rddm_fast import compat
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.models.published import MissingArgument, ModelError, load_published, recognised
from rddm_fast.theory.schedule import Schedule


def same(a: ResidualDiffusion, b: ResidualDiffusion, *inputs: torch.Tensor) -> bool:
    x = inputs or (images(1, 3, 16, 16),)
    results = [m.sample(*x, sampling_timesteps=2, generator=torch.Generator().manual_seed(0))[-1] for m in (a, b)]
    return torch.equal(*results)


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
    state = loaded.state_dict()
    for name, value in diffusion.state_dict().items():
        assert torch.equal(state[name], value), name
    for name in ("objective", "condition", "path_independent", "eta", "loss_type", "clip_res", "sampling_timesteps"):
        assert getattr(loaded, name) == getattr(diffusion, name), name
    assert loaded.schedule.recipe == diffusion.schedule.recipe and not loaded.training
    assert same(loaded, diffusion)


def test_every_setting_is_saved(tmp_path: Path) -> None:
    sees = {"condition": True, "input_condition": True, "img_to_img_translation": True}
    network = ResidualUnets(16, dim_mults=[1, 2], **sees)
    settings = {
        "objective": "pred_x0_noise",
        "condition": True,
        "input_condition": True,
        "input_condition_mask": True,
        "img_to_img_translation": True,
        "path_independent": True,
        "test_res_or_noise": "x0",
        "loss_type": "l2",
        "sampling_timesteps": 7,
        "eta": 0.25,
        "clip_res": 1.5,
        "image_size": 24,
    }
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
    network = compat.UnetRes(16, dim_mults=(1, 2), condition=True, **generation)
    published = compat.ResidualDiffusion(network, image_size=16, sampling_timesteps=2, condition=True)
    save_model(tmp_path, published)
    loaded, x = load_model(tmp_path), images(1, 3, 16, 16)
    ours = loaded.sample(x, generator=torch.Generator().manual_seed(0))[-1]
    theirs = published.sample([x], generator=torch.Generator().manual_seed(0))[-1]
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


# -- published files ----------------------------------------------------------------------------------------


def published(path: Path, diffusion: ResidualDiffusion, generation: str, raw: ResidualDiffusion | None = None) -> Path:
    """A training checkpoint as the published trainers write it; `raw` are the weights that are not averaged."""
    online = (raw or diffusion).state_dict()
    newer = generation == "newer"
    ema = {
        "initted": torch.tensor(True) if newer else torch.tensor([1.0]),
        "step": torch.tensor(8) if newer else torch.tensor([8]),
        **{f"online_model.{name}": value for name, value in online.items()},
        **{f"ema_model.{name}": value for name, value in diffusion.state_dict().items()},
    }
    first = torch.zeros_like(next(diffusion.parameters()))
    optimiser = {
        "state": {0: {"step": torch.tensor(8.0), "exp_avg": first, "exp_avg_sq": first}},
        "param_groups": [{"lr": 8e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "params": [0]}],
    }
    opts = {"older": {"opt": optimiser}, "newer": {"opt0": optimiser, "opt1": optimiser}}[generation]
    torch.save({"step": 80_000, "model": online, **opts, "ema": ema, "scaler": None}, path)
    return path


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two": ({}, {}),
    "shared": ({"networks": "shared"}, {}),
    "one": ({"objective": "pred_res"}, {}),
    "mask": ({"input_condition": True}, {"input_condition": True}),
    "self": ({"self_condition": True}, {"self_condition": True}),
    "generation": ({"condition": False}, {"condition": False}),
    "power": ({"schedule": Schedule.power(1000, 0.01)}, {}),
    "own schedule": ({"schedule": Schedule.resshift(100)}, {}),
}


@pytest.mark.parametrize("generation", ["older", "newer"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_gives_its_model_s_images(kind: str, generation: str, tmp_path: Path) -> None:
    options, arguments = KINDS[kind]
    diffusion = small_model(**options, sampling_timesteps=2)
    path = published(tmp_path / "model-80.pt", diffusion, generation, raw=small_model(**options, seed=9))
    objective = options.get("objective", "pred_res_noise")
    loaded = load_published(path, objective=objective, path_independent=False, image_size=16, **arguments)
    state = loaded.model.state_dict()
    for name, value in diffusion.model.state_dict().items():
        assert torch.equal(state[name], value), name
    for name in ("alphas_cumsum", "betas_cumsum"):
        torch.testing.assert_close(getattr(loaded, name), getattr(diffusion, name), rtol=1e-5, atol=1e-6)

    inputs = [images(2, 3, 16, 16)] if diffusion.condition else [None]
    if kind == "mask":
        inputs.append(images(2, 3, 16, 16, seed=2))
    runs = [
        m.sample(*inputs, batch_size=2, sampling_timesteps=2, generator=torch.Generator().manual_seed(0))[-1]
        for m in (loaded, diffusion)
    ]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-5)

    save_model(tmp_path / "ours", loaded)
    again = load_model(tmp_path / "ours")
    ours, theirs = again.state_dict(), loaded.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.schedule.recipe == loaded.schedule.recipe
    assert again.schedule.sum_scale == loaded.schedule.sum_scale


def test_a_translating_model_is_told_from_a_generating_one(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = ResidualUnets(16, dim_mults=[1, 2], condition=True, img_to_img_translation=True)
    diffusion = ResidualDiffusion(
        network, Schedule.power(1000, 1.0), condition=True, img_to_img_translation=True, sampling_timesteps=2
    )
    path = published(tmp_path / "m.pt", diffusion, "newer")
    known = {"objective": "pred_res_noise", "path_independent": False}
    with pytest.raises(ModelError, match=r"pass condition= \(False to generate, True to translate\)"):
        load_published(path, **known)
    loaded = load_published(path, condition=True, **known)
    assert loaded.img_to_img_translation and same(loaded, diffusion)
    generating = load_published(path, condition=False, image_size=8, **known)
    assert not generating.img_to_img_translation
    assert generating.sample(batch_size=2, sampling_timesteps=1)[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("known", [{"self_condition": True}, {"input_condition": True}])
def test_two_images_of_which_one_is_known_are_still_ambiguous(known: dict[str, Any], tmp_path: Path) -> None:
    """Besides the previous estimate or the mask, the network sees I_t: it may generate, or translate."""
    diffusion = small_model(condition=False, **known)
    path = published(tmp_path / "m.pt", diffusion, "newer")
    known = {"objective": "pred_res_noise", "path_independent": False, **known}
    generating = load_published(path, condition=False, image_size=16, **known)
    assert not generating.condition and not generating.img_to_img_translation
    with pytest.raises(ModelError, match=r"pass condition= "):
        load_published(path, **known)


def test_path_independent_networks_get_their_own_times(tmp_path: Path) -> None:
    diffusion = small_model(condition=False, path_independent=True, schedule=Schedule.from_ddim(1000))
    path = published(tmp_path / "m.pt", diffusion, "newer")
    loaded, other = (
        load_published(path, objective="pred_res_noise", path_independent=own, condition=False, image_size=16)
        for own in (True, False)
    )
    I_t, t = images(1, 3, 16, 16) * 2 - 1, torch.tensor([700])
    with torch.no_grad():
        outputs = [model.outputs(I_t, t) for model in (diffusion, loaded, other)]
    for ours, theirs, wrong in zip(outputs[1], outputs[0], outputs[2], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        assert not torch.allclose(wrong, theirs, rtol=0, atol=1e-3)
    assert loaded.schedule.recipe == Schedule.from_ddim(1000).recipe


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_do_not_matter(prefix: str, tmp_path: Path) -> None:
    """Of DistributedDataParallel and torch.compile, one in the other too."""
    diffusion = small_model("pred_res")
    state = diffusion.state_dict()
    content = {
        "model": {f"{prefix}{name}": value for name, value in state.items()},
        "ema": {f"ema_model.{prefix}{name}": value for name, value in state.items()},
    }
    torch.save(content, tmp_path / "m.pt")
    for weights in ("model", "ema"):
        loaded = load_published(
            tmp_path / "m.pt", objective="pred_res", path_independent=False, weights=weights
        ).state_dict()
        network = [name for name in state if name.startswith("model.")]
        assert network and all(torch.equal(loaded[name], state[name]) for name in network)


@pytest.mark.parametrize(("alpha_res", "objective"), [(0.52, "pred_res"), (0.0, "pred_noise"), (0.504, None)])
def test_the_learnt_weight_of_automatic_selection_says_the_objective(
    alpha_res: float, objective: str | None, tmp_path: Path
) -> None:
    """It is no weight of the network, and within the threshold of 1/2 it says nothing."""
    diffusion = small_model(objective or "pred_res")
    content = {"model": {"alpha_res": torch.tensor([alpha_res]), **diffusion.state_dict()}}
    torch.save(content, tmp_path / "m.pt")
    given = {"path_independent": False, "weights": "model"}
    if objective is None:
        with pytest.raises(MissingArgument, match="does not store objective"):
            load_published(tmp_path / "m.pt", **given)
    loaded = load_published(tmp_path / "m.pt", objective=None if objective else "pred_res", **given)
    assert same(loaded, diffusion)


def test_a_checkpoint_cut_short_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = published(tmp_path / "m.pt", small_model(), "older")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"m\.pt cannot be read as a checkpoint") as raised:
        load_published(path, objective="pred_res_noise", path_independent=False)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="there is no file"):
        load_published(tmp_path / "n.pt", objective="pred_res_noise", path_independent=False)


def test_the_raw_weights_on_request(tmp_path: Path) -> None:
    averaged, raw = small_model(), small_model(seed=9)
    path = published(tmp_path / "m.pt", averaged, "older", raw)
    loaded = load_published(path, objective="pred_res_noise", path_independent=False, weights="model")
    assert torch.equal(loaded.model.unet0.init_conv.weight, raw.model.unet0.init_conv.weight)


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ({}, {}, "does not store objective: pass objective="),
        ({}, {"objective": "pred_res_noise"}, "does not store path_independent: pass path_independent="),
        ({"condition": False}, {"objective": "pred_res_noise", "path_independent": False}, "pass condition= "),
        ({"input_condition": True}, {"objective": "pred_res_noise", "path_independent": False}, "pass input_condition"),
        ({}, {"objective": "pred_res_noise", "path_independent": False, "condition": False}, "do not add up"),
        ({}, {"objective": "pred_res_noise", "path_independent": False, "weights": "best"}, "'ema' or 'model'"),
        ({}, {"objective": "pred_rse", "path_independent": False}, "unknown objective 'pred_rse': choose one of"),
        (
            {"objective": "pred_res"},
            {"objective": "pred_res_noise", "path_independent": False},
            "needs 2 outputs, but the model has 1",
        ),
    ],
)
def test_what_a_checkpoint_does_not_store_is_asked_for(
    options: dict[str, Any], arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = published(tmp_path / "m.pt", small_model(**options), "older")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_published(path, **arguments)


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"ema": _Attack(tmp_path / "pwned")}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="holds more than tensors and plain values and is not loaded"):
        load_published(tmp_path / "m.pt", objective="pred_res", path_independent=False)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a checkpoint", "m.pt"),
        ({"weights": 1}, "is not a published training checkpoint: it has no entry 'ema'"),
        ([torch.zeros(1)], "is not a published training checkpoint"),
        ({"ema": None}, "holds no weights under 'ema'"),
        ({"ema": {"step": torch.tensor(1)}}, "holds no weights under 'ema'"),
        ({"ema": {"ema_model.model.conv.weight": torch.zeros(1)}}, "is not an RDDM U-Net"),
    ],
)
def test_other_files_are_named(content: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=sentence) as raised:
        load_published(path, objective="pred_res", path_independent=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schedule", [Schedule.triangular(1000, 0.01), Schedule.power(500, 1.0), Schedule.from_ddim(1000)]
)
def test_published_schedules_are_recognised_from_float32_tables(schedule: Schedule) -> None:
    found = recognised(*(torch.from_numpy(table).float() for table in (schedule.alpha_bar, schedule.beta_bar)))
    assert found.recipe == schedule.recipe


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.power(1000, 0.01, ("decreased", 2.0)),
        Schedule.triangular(100, 1.0, alpha="average"),
        Schedule.from_ddim(1000, "squaredcos_cap_v2"),
    ],
)
def test_other_schedules_are_kept_as_their_tables(schedule: Schedule) -> None:
    tables = [torch.from_numpy(table).float() for table in (schedule.alpha_bar, schedule.beta_bar)]
    found = recognised(*tables)
    assert found.recipe == {"family": "tables", "timesteps": schedule.timesteps}
    assert found.sum_scale == pytest.approx(float(schedule.beta_bar[-1]) ** 2, abs=5e-5)
    for ours, theirs in zip((found.alpha_bar, found.beta_bar), tables, strict=True):
        assert np.array_equal(ours, theirs.double().numpy())
