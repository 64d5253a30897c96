"""Settings by name: those of the published experiments and of the built-in models.

A preset lists what differs from the defaults of `training.settings`. It never says where the images are.
"""

from __future__ import annotations

from typing import Any

from ..system.errors import quoted_value
from .settings import SettingsError

Preset = dict[str, dict[str, Any]]


def _published(
    steps: int, batch_size: int, lr: float, size: int, model: dict[str, Any], data: dict[str, Any], **train: Any
) -> Preset:
    """A published experiment: its arguments over what all of them share (dim 64, EMA 0.995 every 10 steps, …)."""
    return {
        "model": {"dim": 64, "mults": [1, 2, 4, 8], "sum_scale": 1.0, "clip_res": 1.0, "image_size": size, **model},
        "data": {"patch": None, "size": size, **data},
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "accumulate": 2,
            "lr": lr,
            "lr_schedule": "constant",
            "warmup": 0,
            "grad_clip": 1.0,
            "ema": "published",
            "ema_decay": 0.995,
            "ema_every": 10,
            "sample_every": 1000,
            "samples": 1 if batch_size == 1 else 64,
            **train,
        },
    }


def _restoring(**changes: Any) -> Preset:
    """The deraining experiment: two networks, the triangular schedule, L1, one Adam."""
    model = {"networks": "two", "objective": "pred_res_noise", "schedule": "triangular", "sampling_timesteps": 10}
    steps = changes.pop("steps", 120_000)
    return _published(steps, 1, 8e-5, 256, {**model, **changes}, {}, optimizer="adam", betas=[0.9, 0.99])


def _pair_of_networks(kind: str, batch_size: int, schedule: str, path_independent: bool) -> Preset:
    """The later experiments at 64 pixels: two networks, each with its own RAdam, L2."""
    model = {
        "kind": kind,
        "networks": "two",
        "objective": "pred_res_noise",
        "loss_type": "l2",
        "schedule": schedule,
        "path_independent": path_independent,
        "sampling_timesteps": 10,
    }
    optimizer = {"optimizer": "radam", "optimizers": "each", "betas": [0.9, 0.999]}
    return _published(100_000, batch_size, 2e-4, 64, model, {}, **optimizer)


def _lowlight() -> Preset:
    model = {"networks": "one", "objective": "auto", "schedule": "ddim", "sampling_timesteps": 2}
    data = {"equalize_input": True}
    return _published(80_000, 1, 8e-5, 256, model, data, optimizer="adam", betas=[0.9, 0.99])


def _photos(
    degradation: str,
    steps: int,
    patch: int = 96,
    batch_size: int = 4,
    lr: float = 3e-4,
    sampled_in: int = 3,
    at_start: float = 0.0,
) -> Preset:
    """A built-in model: small, trained on photographs that are degraded as they are read."""
    return {
        "model": {
            "networks": "one",
            "dim": 24,
            "mults": [1, 2, 4],
            "objective": "pred_res",
            "schedule": "triangular",
            "sum_scale": 0.01,
            "sampling_timesteps": sampled_in,
        },
        "data": {"degradation": degradation, "patch": patch},
        "train": {
            "steps": steps,
            "batch_size": batch_size,
            "lr": lr,
            "lr_schedule": "cosine",
            "warmup": 100,
            "at_start": at_start,
        },
    }


def _prior(steps: int, channels: int, batch_size: int, lr: float) -> Preset:
    """A built-in prior of DDRM and DDNM: a small model of the noise in DDPM's images."""
    return {
        "model": {
            "kind": "generate",
            "networks": "one",
            "dim": 24,
            "mults": [1, 2, 4],
            "channels": channels,
            "objective": "pred_noise",
            "loss_type": "l2",
            "schedule": "ddim",
            "sum_scale": 1.0,
            "sampling_timesteps": 100,
        },
        "train": {"steps": steps, "batch_size": batch_size, "lr": lr, "lr_schedule": "cosine", "warmup": 200},
    }


PRESETS: dict[str, Preset] = {
    # The paper's experiments. Shadow removal and deblurring were not released as such: the first follows an unused
    # branch of the released scripts, the second is the deraining experiment on other images.
    "deraining": _restoring(),
    "lowlight": _lowlight(),
    "shadow_removal": _restoring(mask=True, sum_scale=0.01),
    "deblurring": _restoring(),
    "inpainting": _pair_of_networks("translate", 64, "power", True),
    "translation": _pair_of_networks("translate", 64, "ddim", True),
    "generation": _pair_of_networks("generate", 128, "power", False),
    "path_independent": _pair_of_networks("generate", 128, "ddim", True),
    # The built-in models.
    "photos-derain": _photos("wide-rain", 6000, lr=5e-4, sampled_in=1, at_start=0.75),
    "photos-lowlight": _photos("wide-lowlight", 3500, lr=5e-4, sampled_in=1, at_start=0.75),
    "photos-denoise": _photos("wide-noise", 3000, lr=5e-4, sampled_in=1, at_start=0.75),
    "photos-deshadow": _photos("wide-shadow", 1500, lr=4e-4, sampled_in=1, at_start=0.75),
    "photos-inpaint": _photos("wide-mask", 1500, lr=4e-4, sampled_in=1, at_start=0.75),
    "photos-deblur": _photos("wide-blur", 1300, lr=4e-4, sampled_in=1, at_start=0.75),
    "photos-dejpeg": _photos("wide-jpeg", 5000, lr=5e-4, sampled_in=1, at_start=0.75),
    # The built-in priors: photographs in patches, and handwritten digits of 32 x 32 pixels as whole images.
    "prior-photos": {**_prior(8_000, 3, 8, 4e-4), "data": {"patch": 64}},
    "prior-digits": {**_prior(8_000, 1, 16, 4e-4), "data": {"patch": None, "size": 32, "flip": False}},
}
"""Settings by the name of the experiment."""


def preset(name: str) -> Preset:
    """The preset of this name. Raises SettingsError, which lists the names, if there is none."""
    if not isinstance(name, str) or name not in PRESETS:
        raise SettingsError(f"there is no preset {quoted_value(name)}: choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
