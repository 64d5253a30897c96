"""Load the pipelines that diffusers saves as models for RDDM's sampler.

    diffusion = from_diffusers("ddpm-cifar10-32")
    images = diffusion.sample(batch_size=4, sampling_timesteps=10)[-1]

`rddm_fast.theory.ddim` explains how their coefficients become RDDM's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..diffusion.noise_network import NoiseDiffusion
from ..system.extras import require
from ..theory.ddim import PRESETS, converted
from ..theory.families import ddim_betas
from ..theory.schedule import Schedule


def from_diffusers(folder: str | PathLike[str], preset: str | None = None) -> NoiseDiffusion:
    """Load a pipeline that diffusers saved: a `UNet2DModel` with a `DDIMScheduler` or `DDPMScheduler`.

    The model makes the images that the pipeline makes from the same generator, with the scheduler's schedule, spacing,
    clamp and variance, in 50 steps like `DDIMPipeline` or in T like `DDPMPipeline`.

    Args:
        folder: the pipeline's folder.
        preset: a name in `ddim.PRESETS`; None takes the scheduler's. "ddim" samples a DDPM pipeline as `DDIMPipeline`
            does, "rddm" takes RDDM's own steps with the same weights.

    Raises:
        ValueError: the folder holds no such pipeline, the preset is unknown, or the pipeline cannot be converted: it
            predicts something other than the noise, thresholds, learns variances or takes classes.
        ImportError: diffusers is not installed.
    """
    folder = Path(folder)
    parts = _json(folder / "model_index.json")
    kinds = {part: (parts.get(part) or [None, None])[1] for part in ("unet", "scheduler")}
    if kinds["unet"] != "UNet2DModel" or kinds["scheduler"] not in ("DDIMScheduler", "DDPMScheduler"):
        raise ValueError(
            f"{folder} holds {kinds['unet']} and {kinds['scheduler']}: a UNet2DModel with a DDIMScheduler or "
            "DDPMScheduler can be converted"
        )
    config = _json(folder / "scheduler" / "scheduler_config.json")
    schedule = schedule_from_diffusers(config)
    options = _options(config, preset or _preset(config, kinds["scheduler"]))
    unet = require("diffusers", "diffusers").UNet2DModel.from_pretrained(folder / "unet", local_files_only=True).eval()
    size = unet.config.sample_size
    sides = {size} if isinstance(size, int) else set(size or ())
    classes = unet.config.class_embed_type or unet.config.num_class_embeds
    if len(sides) != 1 or unet.config.out_channels != unet.config.in_channels or classes:
        raise ValueError(f"{folder} is not a network from square images of one size to their noise alone")
    clip = float(config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else None
    return NoiseDiffusion(
        unet, schedule, channels=unet.config.in_channels, image_size=sides.pop(), clip=clip, **options
    ).eval()


def schedule_from_diffusers(config: Mapping[str, Any]) -> Schedule:
    """Make the schedule of a diffusers scheduler's config (`scheduler.config` or its JSON file), in float32 as there.

    Raises:
        ValueError: the config has no counterpart here: a prediction other than the noise, thresholding, a last step of
            pure noise (rescale_betas_zero_snr), or a beta_schedule other than linear, scaled_linear and
            squaredcos_cap_v2.
    """
    prediction = config.get("prediction_type", "epsilon")
    if prediction != "epsilon":
        raise ValueError(f"the network predicts {prediction!r}: only prediction_type 'epsilon' can be converted")
    for name in ("thresholding", "rescale_betas_zero_snr"):
        if config.get(name):
            raise ValueError(f"the scheduler's {name} has no counterpart in RDDM's sampler: it cannot be converted")
    T, name = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    ends = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if config.get("trained_betas") is not None:
        betas = torch.tensor(config["trained_betas"])
    elif name == "linear":
        betas = torch.linspace(*ends, T)
    elif name == "scaled_linear":
        betas = torch.linspace(ends[0] ** 0.5, ends[1] ** 0.5, T) ** 2
    else:
        betas = ddim_betas(T, name, torch.float32)
    return converted(betas)


def _preset(config: Mapping[str, Any], scheduler: str) -> str:
    """Return the name in `PRESETS` of the sampler that a scheduler implements."""
    if scheduler == "DDIMScheduler":
        return "ddim"
    presets = {"fixed_small": "ddpm", "fixed_large": "ddpm_large"}
    variance = config.get("variance_type", "fixed_small")
    if variance not in presets:
        raise ValueError(f"variance_type is {variance!r}: only fixed_small and fixed_large can be converted")
    return presets[variance]


def _options(config: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Return the arguments of `NoiseDiffusion` that sample by a preset at the scheduler's indices."""
    if preset not in PRESETS:
        raise ValueError(f"preset is {preset!r}: choose one of {', '.join(PRESETS)}")
    timesteps = config.get("num_train_timesteps", 1000)
    few = min(50, timesteps)
    if preset == "rddm":
        return {**PRESETS[preset], "sampling_timesteps": few}
    indices = {"spacing": config.get("timestep_spacing", "leading"), "steps_offset": config.get("steps_offset", 0)}
    if preset == "ddim":
        ends = {"set_alpha_to_one": config.get("set_alpha_to_one", True), "fixed_stride": True}
        return {**PRESETS[preset], **indices, **ends, "sampling_timesteps": few}
    return {**PRESETS[preset], **indices, "sampling_timesteps": timesteps}


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no {file}: pass a folder that a diffusers pipeline was saved to") from None
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no JSON object: save the pipeline again")
    return found
