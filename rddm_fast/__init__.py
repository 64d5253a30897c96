"""Few-step image restoration and generation with Residual Denoising Diffusion Models, fast.

    from rddm_fast import FastSampler, load_model
    sampler = FastSampler(load_model("derain"), steps=3)
    restored = sampler(images)                                # (B, 3, H, W) in [0, 1]

The import is silent, needs only torch and numpy, and never initialises CUDA. Names are loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .system import launcher as _launcher  # noqa: F401  # it notes the parent of this process
from .system.version import __version__

_HOMES = {
    "FastSampler": "fast.engine",
    "ModelError": "models.errors",
    "Objective": "theory.objective",
    "ResidualDiffusion": "diffusion.residual",
    "ResidualUnets": "diffusion.residual_unets",
    "Schedule": "theory.schedule",
    "Unet": "diffusion.unet",
    "load_model": "models.folder",
    "load_published": "models.published",
    "push_model": "models.hub",
    "reverse_step": "ops.reverse_step",
    "save_model": "models.folder",
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
    "push_model",
    "reverse_step",
    "save_model",
]

if TYPE_CHECKING:
    from .diffusion.residual import ResidualDiffusion
    from .diffusion.residual_unets import ResidualUnets
    from .diffusion.unet import Unet
    from .fast.engine import FastSampler
    from .models.errors import ModelError
    from .models.folder import load_model, save_model
    from .models.hub import push_model
    from .models.published import load_published
    from .ops.reverse_step import reverse_step  # type: ignore[no-redef]  # the function, and the module that defines it
    from .theory.objective import Objective
    from .theory.schedule import Schedule


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
