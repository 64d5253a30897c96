"""`rddm-fast doctor`."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from .common.app import command, out

SOURCES = ("residual_denoising_diffusion_pytorch.py", "model.py", "scheduling_ddim_our.py")
"""The names of the published sources: RDDM's, DiffUIR's, and folder 1's."""
SETTINGS = (
    *("objective", "test_res_or_noise", "num_unet", "share_encoder", "condition", "input_condition"),
    *("input_condition_mask", "sum_scale", "delta_end", "timesteps", "sampling_timesteps", "image_size"),
    *("train_batch_size", "train_num_steps", "train_lr", "ddim_sampling_eta"),
)
"""The settings of a train.py that are told, where it assigns or passes a plain value."""
CHECKPOINTS = (".pt", ".pth", ".ckpt")


@command
def doctor(
    path: Annotated[
        Path, typer.Argument(help="A published source (.py), a published folder or a checkpoint.", show_default=False)
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say which published experiment a source or a checkpoint is, and how to use it. Nothing in it is run."""
    if path.is_dir():
        report = _of_folder(path)
    elif path.suffix.lower() in CHECKPOINTS:
        report = {"checkpoint": _of_checkpoint(path)}
    else:
        report = {"source": _of_source(path)}
    if as_json:
        out.print(json.dumps(report, indent=2), markup=False)
        return
    for part, facts in report.items():
        for key, value in facts.items():
            _print(f"{part}: " if key == "file" else f"  {key}: ", value)


def _print(name: str, value: Any) -> None:
    if isinstance(value, list):
        out.print(name.rstrip() if value else f"{name}none", markup=False)
        for line in value:
            out.print(f"    {line}", markup=False)
    elif isinstance(value, dict):
        out.print(name + ", ".join(f"{key}={text}" for key, text in value.items()), markup=False)
    elif value is not None:
        out.print(f"{name}{value}", markup=False)


def _of_source(path: Path) -> dict[str, Any]:
    """Return the report of a source, in the order in which it is printed."""
    from ..models.source import diagnosis

    found = diagnosis(path)
    row = found.experiment
    report: dict[str, Any] = {
        "file": str(path),
        "experiment": str(row) if found.exact or not found.compared else f"nearest to {row}, edited",
        "it": row.what,
        "edited": [str(difference) for difference in found.differences] if found.compared else "not compared",
        "keywords": None if found.keywords is None else {name: _text(value) for name, value in found.keywords.items()},
        "not reproduced": found.reason or None,
    }
    if found.keywords is not None and found.keywords == {"experiment": row.name}:
        module = "diffuir" if row.number is None else f"experiment{row.number}"
        names = "ResidualDiffusion, Trainer, Unet, UnetRes, set_seed"
        report["import"] = f"from rddm_fast.compat.{module} import {names}"
        report["convert"] = _convert("model-N.pt", row.name)
    elif found.keywords is not None:
        report["use"] = "ResidualDiffusion(model, ..., **from_source(path)) of rddm_fast.compat"
    return report


def _convert(checkpoint: str, experiment: str) -> str:
    return f"rddm-fast convert {checkpoint} -o MODEL --experiment {experiment}"


def _text(value: Any) -> str:
    """Return a keyword's value as it is written in Python."""
    from ..theory.schedule import Schedule

    if not isinstance(value, Schedule):
        return repr(value)
    recipe = value.recipe
    if recipe["family"] == "power":
        pairs = (f"{name}=({recipe[name]['shape']!r}, {recipe[name]['ratio']:g})" for name in ("alpha", "beta2"))
        return f"Schedule.power({value.timesteps}, {value.sum_scale:g}, {', '.join(pairs)})"
    if recipe["family"] == "triangular":
        pairs = (f"{name}={recipe[name]['shape']!r}" for name in ("alpha", "beta2"))
        return f"Schedule.triangular({value.timesteps}, {value.sum_scale:g}, {', '.join(pairs)})"
    if recipe["family"] == "ddim":
        return f"Schedule.from_ddim({value.timesteps}, {recipe['beta_schedule']!r})"
    return f"the source's own tables of {value.timesteps} steps, which from_source(path) returns"


def _of_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the reports of a published folder's source, train.py and newest checkpoint.

    Raises:
        ValueError: the folder holds none of them.
    """
    report: dict[str, dict[str, Any]] = {}
    source = next((p for name in SOURCES for p in (folder / "src" / name, folder / name) if p.is_file()), None)
    if source is not None:
        report["source"] = _of_source(source)
    if (folder / "train.py").is_file():
        report["settings"] = {"file": str(folder / "train.py"), **_settings(folder / "train.py")}
    found = [p for place in (folder, folder / "results" / "sample") for p in place.glob("model-*.pt")]
    if found:
        newest = max(found, key=lambda p: int((re.findall(r"\d+", p.stem) or ["0"])[-1]))
        report["checkpoint"] = _of_checkpoint(newest)
    if not report.keys() & {"source", "checkpoint"}:
        raise ValueError(
            f"{folder} holds no published source (src/{SOURCES[0]}, src/{SOURCES[1]}) and no checkpoint (model-N.pt): "
            "name the file itself"
        )
    return report


def _settings(path: Path) -> dict[str, str]:
    """Return the settings that a train.py has as plain values."""
    from ..models.source import parsed

    found: dict[str, list[str]] = {}
    for node in ast.walk(parsed(path)):
        pairs: list[tuple[str, ast.expr]] = []
        if isinstance(node, ast.Assign):
            pairs = [(target.id, node.value) for target in node.targets if isinstance(target, ast.Name)]
        elif isinstance(node, ast.keyword) and node.arg:
            pairs = [(node.arg, node.value)]
        for name, value in pairs:
            if name in SETTINGS and isinstance(value, ast.Constant):
                found.setdefault(name, []).append(repr(value.value))
    return {name: " or ".join(dict.fromkeys(found[name])) for name in SETTINGS if name in found}


def _of_checkpoint(path: Path) -> dict[str, Any]:
    """Return the report of a checkpoint, in the order in which it is printed."""
    from ..models.errors import reading
    from ..models.published import published_state

    state, later = published_state(path, "ema")
    with reading(path):
        return _of_state(path, state, later)


def _of_state(path: Path, state: Any, later: bool | None) -> dict[str, Any]:
    from ..models.published import recognised
    from ..theory.experiments import EXPERIMENTS

    network, missing = _network_of(state, str(path))
    schedule = recognised(state) if "alphas_cumsum" in state else None
    if later is None and schedule is not None:
        later = schedule.recipe["family"] != "triangular"
    generation = {True: "later (num_unet)", False: "earlier (share_encoder)", None: "not told by the file"}[later]
    fits = [row.name for row in EXPERIMENTS.values() if _fits(row, state, later, schedule)]
    count = {"one": "one U-Net", "two": "two U-Nets", "shared": "one encoder with two decoders"}
    return {
        "file": str(path),
        "networks": f"{count[network['networks']]} of {network['dim']} channels, stages {network['dim_mults']}",
        "generation": generation,
        "schedule": "none in the file"
        if schedule is None
        else f"{schedule.recipe['family']}, {schedule.timesteps} steps",
        "alpha_res": f"{float(state['alpha_res']):g}" if "alpha_res" in state else None,
        "delta": f"ends at {float(state['delta'][-1]):g}" if "delta" in state else None,
        "not in the file": ["objective", "time input", "sampling loop", *([missing] if missing else [])],
        "fits": fits or ["no published experiment"],
        "convert": [_convert(str(path), name) for name in fits] or None,
    }


def _network_of(state: Any, source: str) -> tuple[dict[str, Any], str | None]:
    """Return the networks' arguments, and what the file does not store of them, if anything."""
    from ..models.architecture import architecture
    from ..models.errors import MissingArgument

    try:
        return architecture(state, source, None, None, None, 8)[0], None
    except MissingArgument as missing:
        mask = True if missing.name == "input_condition" else None
        return architecture(state, source, True, mask, None, 8)[0], str(missing)


def _fits(row: Any, state: Any, later: bool | None, schedule: Any) -> bool:
    """Whether a checkpoint can be of an experiment."""
    from ..models.identity import check_schedule, named, settings_of

    try:
        settings_of(state, "it", named(row), later=later)
        if schedule is not None:
            check_schedule(schedule, "it", row)
    except ValueError:
        return False
    return True
