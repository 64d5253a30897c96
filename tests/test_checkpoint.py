"""Models on disk: ours and published ones, whole ones and damaged ones."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from models import images, small_model
from safetensors.torch import load_file, save_file

from rddm_fast.checkpoint import ModelError, load_model, load_published, recognised, save_model
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.schedule import Schedule


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
    optimiser = torch.optim.Adam(diffusion.parameters()).state_dict()
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
    assert torch.equal(
        load_model(tmp_path / "ours").state_dict()["model.unet0.init_conv.weight"]
        if kind != "shared"
        else load_model(tmp_path / "ours").state_dict()["model.init_conv.weight"],
        diffusion.model.members[0].init_conv.weight,
    )


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
