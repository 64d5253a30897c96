"""Models on disk: our folder of safetensors and JSON, and published training checkpoints.

    MODEL/config.json         the network's arguments, the schedule and the objective, readable
    MODEL/model.safetensors   the weights, by their published names
    MODEL/README.md           the model card (`models.card`)

A restorer of Cold Diffusion is kept in the same way, under a format of its own, which `load_model` refuses.
A published checkpoint stores neither objective, time input nor schedule recipe; `load_published` asks for them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..system.errors import one_line, quoted
from ..system.extras import require
from ..system.files import write_text_whole, write_whole
from ..theory.schedule import Schedule
from .architecture import built_networks, check_dtypes
from .card import write_card
from .catalogue import BUILT_IN as MODELS
from .config import COLD, DIFFUSION, RDDM, checked_config
from .errors import ModelError, reading
from .hub import fetched, is_on_hub

FORMAT = "rddm_fast model"
COLD_FORMAT = "rddm_fast cold restorer"
VERSION = 1
_USED_BY = {
    FORMAT: "an RDDM model, not a restorer of Cold Diffusion: use `rddm-fast restore` and `load_model`",
    COLD_FORMAT: "a restorer of Cold Diffusion, not an RDDM model: use `rddm-fast cold` and `load_cold_restorer`",
}
"""What a folder of each format is, and what takes it."""
M = TypeVar("M", ResidualDiffusion, ColdRestorer)


# -- our format ---------------------------------------------------------------------------------------------


def save_model(
    folder: str | PathLike[str],
    diffusion: ResidualDiffusion | ColdRestorer,
    *,
    dtype: torch.dtype | None = None,
    info: dict[str, Any] | None = None,
) -> None:
    """Write `diffusion` to `folder` as model.safetensors and config.json, with a model card.

    A README.md that somebody has written stays as it is.

    Args:
        diffusion: the model, or a restorer of Cold Diffusion; its network must be `ResidualUnets`.
        folder: where to write; it is created if needed.
        dtype: the dtype to store the weights in. None keeps theirs; float16 halves the file.
        info: a JSON object to keep with the model: how it was trained, its licence. The card shows its purpose,
            licence, measured (on what, and numbers before and after by the metric's name), training and converted_from.

    Raises:
        ModelError: the network is not one of `rddm_fast`'s.
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
    form = COLD_FORMAT if isinstance(diffusion, ColdRestorer) else FORMAT
    config = {"format": form, "version": VERSION, **described(diffusion), "info": info or {}}
    if isinstance(diffusion, ResidualDiffusion) and config["schedule"]["family"] == "tables":
        tensors["schedule.alpha_bar"] = torch.from_numpy(diffusion.schedule.alpha_bar)
        tensors["schedule.beta_bar"] = torch.from_numpy(diffusion.schedule.beta_bar)
        if diffusion.schedule.delta_bar is not None:
            tensors["schedule.delta_bar"] = torch.from_numpy(diffusion.schedule.delta_bar)
    # Before any file is written: an `info` that JSON cannot hold fails here.
    text = json.dumps(config, indent=2) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda path: safetensors.save_file(tensors, path))
    write_text_whole(folder / "config.json", text)
    write_card(folder, json.loads(text))


def described(diffusion: ResidualDiffusion | ColdRestorer) -> dict[str, Any]:
    """Describe a model without its weights, ready for JSON; its network must be `ResidualUnets`."""
    if isinstance(diffusion, ColdRestorer):
        return {
            "degradation": diffusion.recipe,
            "network": diffusion.model.config,
            "loss_type": diffusion.loss_type,
        }
    schedule = diffusion.schedule
    recipe = schedule.recipe if "family" in schedule.recipe else {"family": "tables", "timesteps": schedule.timesteps}
    return {
        "objective": diffusion.objective.name,
        "network": diffusion.model.config,
        "schedule": {**recipe, "sum_scale": schedule.sum_scale},
        "diffusion": {name: getattr(diffusion, name) for name in DIFFUSION},
    }


def built_in_models() -> list[str]:
    """List the names of the models that come with the package."""
    return sorted(path.parent.name for path in MODELS.glob("*/config.json"))


def load_model(folder: str | PathLike[str]) -> ResidualDiffusion:
    """Load the model in `folder`, or the built-in one of that name, on the CPU in float32, in evaluation mode.

    A folder takes precedence over a built-in model of the same name. "hub:owner/name" and "hub:owner/name@revision"
    are models on the Hugging Face Hub, which are fetched once (`models.hub`).

    Raises:
        ModelError: the folder or one of its files is missing, damaged or of another format, or the model cannot be
            fetched.
        ImportError: a package is missing that reads or fetches models.
    """
    return _loaded(folder, FORMAT, _built)


def load_cold_restorer(folder: str | PathLike[str]) -> ColdRestorer:
    """Load the restorer of Cold Diffusion in `folder`, on the CPU in float32, in evaluation mode.

    It may be one on the Hub, as in `load_model`.

    Raises:
        ModelError: the folder or one of its files is missing, damaged or of another format.
    """

    def built(config: dict[str, Any], tensors: dict[str, Tensor], weights: str) -> ColdRestorer:
        parts = checked_config(config, COLD)
        return ColdRestorer(
            built_networks(parts["network"], tensors, weights), parts["degradation"], parts["loss_type"]
        )

    return _loaded(folder, COLD_FORMAT, built)


def _loaded(folder: str | PathLike[str], form: str, built: Callable[[dict[str, Any], dict[str, Tensor], str], M]) -> M:
    """Load a folder of the format `form`; `built` makes the model from the two files' content and the second's name."""
    safetensors = require("safetensors.torch", "models")
    if is_on_hub(folder):
        folder = fetched(str(folder))
    if not Path(folder).exists() and str(folder) in built_in_models():
        folder = MODELS / folder
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(
            f"there is no model folder {quoted(folder)}: pass one with model.safetensors and config.json, or the name "
            f"of a built-in model ({', '.join(built_in_models()) or 'none is installed'})"
        )
    config, weights = folder / "config.json", folder / "model.safetensors"
    for file in (config, weights):
        if not file.is_file():
            raise ModelError(f"{folder} is not a model folder: it holds no {file.name}")
    described = _json_object(config)
    found = str(described.get("format"))
    if found != form and found in _USED_BY:
        raise ModelError(f"{folder} is {_USED_BY[found]}")
    if found != form or described.get("version") != VERSION:
        raise ModelError(f"{config} is not of format {form!r}, version {VERSION}: update rddm_fast or save again")
    with reading(weights):
        stored = safetensors.load_file(weights)
    check_dtypes(stored, str(weights))
    # Weights may be stored in half precision. The schedule's tables are float64 and stay so.
    tensors = {name: t if t.dtype == torch.float64 else t.float() for name, t in stored.items()}
    with reading(config):
        return built(described, tensors, str(weights)).eval()


def _json_object(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} cannot be read as a model: {one_line(error)}") from error
    if not isinstance(found, dict):
        raise ModelError(f"{file} cannot be read as a model: it holds no JSON object")
    return found


def _built(config: dict[str, Any], tensors: dict[str, Tensor], weights: str) -> ResidualDiffusion:
    parts = checked_config(config, RDDM)
    recipe = parts["schedule"]
    if recipe["family"] == "tables":
        names = ("schedule.alpha_bar", "schedule.beta_bar")
        if missing := [name for name in names if name not in tensors]:
            raise ModelError(f"model.safetensors holds no {missing[0]}, which config.json says it does: save it again")
        tables = [tensors.pop(name) for name in names]
        delta_bar = tensors.pop("schedule.delta_bar", None)
        schedule = Schedule.from_tables(tables[0], tables[1], recipe["sum_scale"], delta_bar)
    else:
        schedule = Schedule.from_recipe(recipe)
    networks = built_networks(parts["network"], tensors, weights)
    diffusion = ResidualDiffusion(networks, schedule, objective=parts["objective"], **parts["diffusion"])
    degraded = diffusion.condition and not diffusion.img_to_img_translation
    given = networks.channels * (1 + networks.self_condition + degraded + diffusion.input_condition)
    if networks.members[0].input_channels != given:
        raise ValueError(
            f'"network" takes {networks.members[0].input_channels} channels and "diffusion" gives it {given}: their '
            "condition, input_condition and img_to_img_translation must be the same"
        )
    return diffusion
