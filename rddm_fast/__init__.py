"""Few-step image restoration and generation with Residual Denoising Diffusion Models, fast.

    from rddm_fast import FastSampler, load_model
    sampler = FastSampler(load_model("derain"), steps=3)
    restored = sampler(images)                                # (B, 3, H, W) in [0, 1]

Importing is silent, needs torch and numpy alone, and never initialises CUDA; names are loaded when used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "FastSampler": "fast",
    "ModelError": "checkpoint",
    "Objective": "objective",
    "ResidualDiffusion": "diffusion",
    "ResidualUnets": "unet",
    "Schedule": "schedule",
    "Unet": "unet",
    "load_model": "checkpoint",
    "load_published": "checkpoint",
    "reverse_step": "ops",
    "save_model": "checkpoint",
}
__all__ = [
    "FastSampler",
    "ModelError",
    "Objective",
    "ResidualDiffusion",
    "ResidualUnets",
    "Schedule",
    "Unet",
    "__version__",
    "load_model",
    "load_published",
    "reverse_step",
    "save_model",
]

if TYPE_CHECKING:
    from .checkpoint import ModelError, load_model, load_published, save_model
    from .diffusion import ResidualDiffusion
    from .fast import FastSampler
    from .objective import Objective
    from .ops import reverse_step  # type: ignore[no-redef]  # the function, and the module that defines it
    from .schedule import Schedule
    from .unet import ResidualUnets, Unet


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
