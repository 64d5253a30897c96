"""Malformed models: whatever a file holds, there is a model that samples, or one sentence that names the file."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import run
from safetensors.torch import load_file, save_file
from small_models import images, seeded, small_model

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.inverse.cold import Recipe
from rddm_fast.models.config import DIFFUSION, NETWORK
from rddm_fast.models.errors import ModelError
from rddm_fast.models.folder import load_cold_restorer, load_model, save_model
from rddm_fast.models.published import load_published
from rddm_fast.restoration.cold import ColdPictureRestorer
from rddm_fast.theory.schedule import Schedule

FOLDERS: dict[str, Any] = {
    "triangular": {"input_condition": True, "image_size": 16, "schedule": Schedule.triangular(50, 0.01)},
    "power": {"schedule": Schedule.power(100, 0.01)},
    "ddim": {"schedule": Schedule.from_ddim(100, alpha=("decreased", 0.5))},
    "diffuir": {"schedule": Schedule.diffuir(100)},
    "resshift": {"schedule": Schedule.resshift(15)},
    "ir_sde": {"schedule": Schedule.ir_sde(50)},
    "straight": {"schedule": Schedule.straight(50, 0.01)},
    "tables": {"schedule": Schedule.from_tables([0.1, 0.5, 1.0], [0.1, 0.2, 0.4])},
}
WRONG = ["x", None, True, [], {}, [None], -1, 0, 1.5, float("nan"), 10**12, 10**400]


def fields(values: dict[str, Any], inside: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every field of a config.json, those of groups included."""
    for name, value in values.items():
        yield (*inside, name)
        if isinstance(value, dict):
            yield from fields(value, (*inside, name))


def changed(config: dict[str, Any], path: tuple[str, ...], value: Any) -> dict[str, Any]:
    name, *rest = path
    return {**config, name: changed(config[name], tuple(rest), value) if rest else value}


def outcome(folder: Path) -> str | None:
    """The one sentence that loading a folder or sampling with it ends in; None where it gives images."""
    try:
        diffusion = load_model(folder)
        given = [images(1, 3, 16, 16)] * (diffusion.condition + diffusion.input_condition)
        steps = min(diffusion.sampling_timesteps, 2)
        result = diffusion.sample(*given, sampling_timesteps=steps, generator=seeded(0))[-1]
        assert result.shape == (1, 3, 16, 16)
    except ModelError as error:
        assert str(folder) in str(error) and "\n" not in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("kind", FOLDERS)
def test_every_field_of_a_config_may_be_wrong(kind: str, tmp_path: Path) -> None:
    save_model(tmp_path, small_model("pred_res", dim=8, **{"sampling_timesteps": 2, **FOLDERS[kind]}))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    assert outcome(tmp_path) is None
    for path in fields(config):
        if path[0] == "info" or (kind != "triangular" and path[0] != "schedule"):
            continue
        for value in WRONG:
            file.write_text(json.dumps(changed(config, path, value)))
            told = outcome(tmp_path)
            if value == [None]:  # no field is that
                assert told is not None and (path[-1] in told or path[0] in ("format", "version")), (path, told)


def test_every_argument_has_its_field() -> None:
    unets = ResidualUnets(8, networks="one", dim_mults=[1, 2])
    first = type(unets.members[0]).__mro__[1].__init__.__annotations__
    assert NETWORK.keys() == {*first, "networks"} - {"return"}
    ours = ResidualDiffusion.__init__.__annotations__
    assert DIFFUSION.keys() == ours.keys() - {"model", "schedule", "objective", "return"}


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        (("diffusion", "clip_res"), "x", "config.json: diffusion.clip_res is 'x': it must be a number"),
        (("diffusion", "eta"), 2, "config.json: diffusion.eta is 2.0: it must be between 0 and 1"),
        (("diffusion", "clip"), 1, "config.json: diffusion.clip is not known: update rddm_fast, or leave it out"),
        (("network", "dim"), 10**6, "model.safetensors does not fit its network: unet0."),
        (("network", "dim_mults"), [], "a U-Net has an even dim of at least 4 and some dim_mults, not 8 and []"),
        (("network", "padding_factor"), 3, "padding_factor is 3: 2 stages need a multiple of 2"),
        (("diffusion", "condition"), False, '"network" takes 6 channels and "diffusion" gives it 3: their condition'),
        (("schedule", "sum_scale"), float("nan"), "schedule.sum_scale is nan: it must be at least 0"),
        (("schedule", "timesteps"), 10**12, "schedule.timesteps is 1000000000000: it must be between 1 and 1000000"),
        (("objective",), 3, "config.json: objective is 3: it must be text"),
    ],
)
def test_a_wrong_field_is_named(path: tuple[str, ...], value: Any, sentence: str, tmp_path: Path) -> None:
    save_model(tmp_path, small_model("pred_res", dim=8))
    file = tmp_path / "config.json"
    file.write_text(json.dumps(changed(json.loads(file.read_text()), path, value)))
    assert sentence in str(outcome(tmp_path))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.float8_e4m3fn])
def test_weights_of_other_dtypes_are_refused(dtype: torch.dtype, tmp_path: Path) -> None:
    diffusion = small_model("pred_res", dim=8)
    save_model(tmp_path, diffusion)
    weights = tmp_path / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(weights).items()}, weights)
    spelled = str(dtype).removeprefix("torch.")
    sentence = f" as {spelled}: save its weights as dense float32, float64, float16 or bfloat16"
    assert sentence in str(outcome(tmp_path))
    state = {f"ema_model.{name}": value.to(dtype) for name, value in diffusion.state_dict().items()}
    torch.save({"ema": state}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=re.escape(sentence)):
        load_published(tmp_path / "m.pt", experiment="restoration")


def published_state() -> dict[str, Any]:
    """What a published checkpoint holds under "ema"."""
    state = small_model("pred_res", dim=8).state_dict()
    return {f"ema_model.{name}": value for name, value in state.items()}


def without_channels(state: dict[str, Any]) -> dict[str, Any]:
    name = "ema_model.model.unet0.final_conv.weight"
    return {**state, name: state[name][:0]}


def of_shape(name: str, *shape: int) -> Any:
    return lambda state: {**state, f"ema_model.{name}": torch.ones(shape)}


PUBLISHED: dict[str, Any] = {
    "number": lambda state: 5,
    "text": lambda state: "weights",
    "list": lambda state: list(state.values()),
    "numbers for names": lambda state: dict(enumerate(state.values())),
    "no channels": without_channels,
    "sparse": lambda state: {name: value.to_sparse() for name, value in state.items()},
    "meta": lambda state: {name: value.to("meta") for name, value in state.items()},
    "complex": lambda state: {name: value.to(torch.complex64) for name, value in state.items()},
    "flat stem": of_shape("model.unet0.init_conv.weight", 8),
    "stem of no images": of_shape("model.unet0.init_conv.weight", 8, 0, 7, 7),
    "one number for the time": of_shape("model.unet0.time_mlp.1.weight"),
    "no time": of_shape("model.unet0.time_mlp.1.weight", 32, 0),
    "one coefficient": of_shape("alphas_cumsum"),
    "no coefficients": of_shape("alphas_cumsum", 0),
    "a square of coefficients": of_shape("betas_cumsum", 9, 9),
    "another number of coefficients": of_shape("betas_cumsum", 9),
    "nan": lambda state: {**state, "ema_model.alphas_cumsum": torch.full((1000,), float("nan"))},
    "one table": lambda state: {k: v for k, v in state.items() if not k.endswith("betas_cumsum")},
    "two weights of AOSA": of_shape("alpha_res", 2),
    "delta": of_shape("delta_cumsum", 3),
    "a stage of no channels": of_shape("model.unet0.downs.0.3.weight", 0, 8, 4, 4),
    "a stage that is no multiple": of_shape("model.unet0.downs.0.3.weight", 9, 8, 4, 4),
    "a name of two lines": of_shape("model.unet0.two\nlines", 8),
}


@pytest.mark.parametrize("command", [["convert", "-o", "model"], ["doctor"]], ids=["convert", "doctor"])
@pytest.mark.parametrize("how", PUBLISHED)
def test_a_malformed_checkpoint_is_one_sentence(
    how: str, command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"ema": PUBLISHED[how](published_state())}, tmp_path / "m.pt")
    named = ["--experiment", "aosa" if "AOSA" in how else "restoration", "--objective", "pred_res"]
    told = run(command[0], "m.pt", *command[1:], *(named if command[0] == "convert" else []))
    if told.exit_code == 0:  # what the networks are does not depend on what is wrong
        assert command[0] == "doctor" and "networks" in told.stdout
        return
    assert told.exit_code == 1 and isinstance(told.exception, SystemExit), told.exception
    assert told.stderr.startswith("error: m.pt") and told.stderr.count("\n") == 1
    assert "object has no attribute" not in told.stderr


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("number", "its entry 'ema' is of type int, not a dict of weights by name"),
        ("list", "its entry 'ema' is of type list, not a dict of weights by name"),
        ("numbers for names", "m.pt holds no weights under 'ema'"),
        ("no channels", "holds model.unet0.final_conv.weight without values"),
        ("nan", "m.pt: a schedule has numbers that are not finite"),
    ],
)
def test_what_is_wrong_with_a_checkpoint_is_said(how: str, sentence: str, tmp_path: Path) -> None:
    torch.save({"ema": PUBLISHED[how](published_state())}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=re.escape(sentence)):
        load_published(tmp_path / "m.pt", experiment="restoration", objective="pred_res", path_independent=False)


@pytest.mark.parametrize("kind", ["blur", "resolution", "fade", "snow", "decolour"])
def test_every_field_of_a_cold_restorer_may_be_wrong(kind: str, tmp_path: Path) -> None:
    recipe = Recipe.parsed(f"cold:{kind}:3").values()
    save_model(tmp_path, ColdRestorer(ResidualUnets(8, networks="one", dim_mults=[1, 2]), recipe))
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    for path in fields(config):
        for value in WRONG:
            file.write_text(json.dumps(changed(config, path, value)))
            try:
                restorer = ColdPictureRestorer(load_cold_restorer(tmp_path), measured=lambda numbers: None)
                restorer._sampled(images(1, 3, 16, 16), None)
            except ValueError as error:
                assert "\n" not in str(error) and path[0] != "info"
