"""Models on disk: our folder of safetensors and JSON, and published training checkpoints.

    MODEL/config.json         what the network is, its schedule and its objective; for people to read
    MODEL/model.safetensors   its weights, by their published names

A published checkpoint stores neither objective, time input nor schedule recipe; `load_published` asks for them.
"""

from __future__ import annotations

import json
import pickle
import re
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ._extras import require
from .aosa import decision
from .diffusion import ResidualDiffusion
from .files import write_text_whole, write_whole
from .published import MissingArgument, ModelError, assembled, load_networks, recognised
from .schedule import Schedule
from .unet import ResidualUnets

FORMAT = "rddm_fast model"
VERSION = 1
MODELS = Path(__file__).parent / "models"
_DIFFUSION_FIELDS = (
    "condition",
    "input_condition",
    "input_condition_mask",
    "img_to_img_translation",
    "path_independent",
    "test_res_or_noise",
    "loss_type",
    "sampling_timesteps",
    "eta",
    "clip_res",
    "image_size",
)


# -- our format ---------------------------------------------------------------------------------------------


def save_model(
    folder: str | PathLike[str],
    diffusion: ResidualDiffusion,
    *,
    dtype: torch.dtype | None = None,
    info: dict[str, Any] | None = None,
) -> None:
    """Write `diffusion` to `folder` as model.safetensors and config.json.

    `dtype` is what weights are stored in (None: as they are; float16 halves the file). `info` is any JSON
    object to keep with the model: how it was trained, its licence. Raises ModelError if the network is not one
    of `rddm_fast`'s.
    """
    safetensors = require("safetensors.torch", "models")
    if not isinstance(diffusion.model, ResidualUnets):
        raise ModelError(
            f"only models made of ResidualUnets or compat.UnetRes can be saved, not {type(diffusion.model).__name__}"
        )
    tensors = {
        name: (value.to(dtype) if dtype else value).contiguous().cpu()
        for name, value in diffusion.model.state_dict().items()
    }
    config = {"format": FORMAT, "version": VERSION, **described(diffusion), "info": info or {}}
    if config["schedule"]["family"] == "tables":
        tensors["schedule.alpha_bar"] = torch.from_numpy(diffusion.schedule.alpha_bar)
        tensors["schedule.beta_bar"] = torch.from_numpy(diffusion.schedule.beta_bar)
    text = json.dumps(config, indent=2) + "\n"  # what cannot be written is found before anything is
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda path: safetensors.save_file(tensors, path))
    write_text_whole(folder / "config.json", text)


def described(diffusion: ResidualDiffusion) -> dict[str, Any]:
    """What a model is beside its weights, ready for JSON; its network must be `ResidualUnets`."""
    schedule = diffusion.schedule
    recipe = schedule.recipe if "family" in schedule.recipe else {"family": "tables", "timesteps": schedule.timesteps}
    return {
        "objective": diffusion.objective.name,
        "network": diffusion.model.config,
        "schedule": {**recipe, "sum_scale": schedule.sum_scale},
        "diffusion": {name: getattr(diffusion, name) for name in _DIFFUSION_FIELDS},
    }


def built_in_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def load_model(folder: str | PathLike[str]) -> ResidualDiffusion:
    """The model in `folder`, or the built-in one of that name, on the CPU in float32, in evaluation mode.

    A folder takes precedence over a built-in model of the same name. Raises ModelError for a folder or a file
    that is missing, damaged or of another format.
    """
    safetensors = require("safetensors.torch", "models")
    if not Path(folder).exists() and str(folder) in built_in_models():
        folder = MODELS / folder
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {folder}: pass one with model.safetensors and config.json, or the name of a "
            f"built-in model ({', '.join(built_in_models()) or 'none is installed'})"
        )
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise ModelError(f"{folder} is not a model folder: it holds no {file.name}")
    try:
        described = json.loads(config.read_text())
        if described.get("format") != FORMAT or described.get("version") != VERSION:
            raise ModelError(f"{config} is not of format {FORMAT!r}, version {VERSION}: update rddm_fast or save again")
        # Weights may be stored in half precision; a schedule's tables are float64 and stay so.
        tensors = {
            name: t if t.dtype == torch.float64 else t.float() for name, t in safetensors.load_file(weights).items()
        }
        diffusion = _built(described, tensors)
    except ModelError:
        raise
    except KeyError as error:
        raise ModelError(f"{config} has no field {error}: save the model again") from error
    except Exception as error:
        raise ModelError(f"{folder} cannot be read as a model: {_one_line(error)}") from error
    load_networks(diffusion, tensors, str(weights))
    return diffusion.eval()


def _built(config: dict[str, Any], tensors: dict[str, Tensor]) -> ResidualDiffusion:
    recipe = config["schedule"]
    if recipe["family"] == "tables":
        names = ("schedule.alpha_bar", "schedule.beta_bar")
        if missing := [name for name in names if name not in tensors]:
            raise ModelError(f"model.safetensors holds no {missing[0]}, which config.json says it does: save it again")
        tables = [tensors.pop(name) for name in names]
        schedule = Schedule.from_tables(tables[0], tables[1], sum_scale=recipe["sum_scale"])
    else:
        schedule = Schedule.from_recipe(recipe)
    return ResidualDiffusion(
        ResidualUnets(**config["network"]), schedule, objective=config["objective"], **config["diffusion"]
    )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -- published checkpoints ----------------------------------------------------------------------------------


def load_published(
    path: str | PathLike[str],
    *,
    objective: str | None = None,
    path_independent: bool | None = None,
    condition: bool | None = None,
    input_condition: bool | None = None,
    self_condition: bool | None = None,
    input_condition_mask: bool = False,
    test_res_or_noise: str | None = None,
    schedule: Schedule | None = None,
    sum_scale: float | None = None,
    sampling_timesteps: int = 5,
    image_size: int | None = None,
    resnet_block_groups: int = 8,
    weights: str = "ema",
) -> ResidualDiffusion:
    """A model from a published training checkpoint (`model-N.pt`), architecture read off its keys.

    Args:
        path: the file; it is read with `weights_only=True`, so it cannot run code.
        objective: what the networks predict, for example "pred_res_noise". The file does not store it, unless it was
            selected (AOSA): then None takes what `alpha_res` has decided.
        path_independent: the time input: False for t, True for alpha_bar_t T and beta_bar_t T. Not stored.
        condition, input_condition, self_condition: needed only where the number of input channels leaves more
            than one possibility; the error says so.
        schedule: the recipe it was trained with. By default the file's own coefficients, recognised as a
            published recipe where they are one.
        sum_scale: variance of the starting noise; beta_bar_T^2 of the schedule, to four digits, if None.
        weights: "ema" as published evaluation does, or "model" for the raw weights.

    Raises ModelError, in one sentence: an unreadable file, a missing argument (by name), a network that does
    not fit.
    """
    state = _published_state(Path(path), weights)
    if objective is None and "alpha_res" in state and (decided := decision(state["alpha_res"])) is not None:
        objective = decided.name
    for name, value, choices in (
        ("objective", objective, "what the networks predict, such as 'pred_res_noise' or 'pred_res'"),
        ("path_independent", path_independent, "False if the networks see t, True if alpha_bar_t T and beta_bar_t T"),
    ):
        if value is None:
            raise MissingArgument(name, f"a published checkpoint does not store {name}", choices)
    return assembled(
        state,
        str(path),
        objective=objective or "",
        path_independent=bool(path_independent),
        condition=condition,
        input_condition=input_condition,
        self_condition=self_condition,
        resnet_block_groups=resnet_block_groups,
        schedule=schedule,
        sum_scale=sum_scale,
        sampling_timesteps=sampling_timesteps,
        input_condition_mask=input_condition_mask,
        test_res_or_noise=test_res_or_noise,
        image_size=image_size,
    )


def _published_state(path: Path, weights: str) -> dict[str, Tensor]:
    """The diffusion object's state dict in a published file, wrappers' prefixes removed."""
    if weights not in ("ema", "model"):
        raise ModelError(f"weights is 'ema' or 'model', not {weights!r}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and plain values and is not loaded: {_one_line(error)}"
        ) from error
    except Exception as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {_one_line(error)}") from error
    if not isinstance(content, dict) or weights not in content:
        raise ModelError(f"{path} is not a published training checkpoint: it has no entry {weights!r}")
    entries = content[weights] or {}
    wrapper = "ema_model." if weights == "ema" else ""
    state = {}
    for key, value in entries.items():
        if key.startswith(wrapper) and isinstance(value, Tensor):
            state[re.sub(r"(^|\.)((module|_orig_mod)\.)+", r"\1", key[len(wrapper) :])] = value.float()
    if not state:
        raise ModelError(f"{path} holds no weights under {weights!r}")
    return state


__all__ = [
    "MODELS",
    "MissingArgument",
    "ModelError",
    "built_in_models",
    "load_model",
    "load_published",
    "recognised",
    "save_model",
]
