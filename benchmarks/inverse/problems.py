"""The inverse problems of the papers' table: what is measured, how each method solves it, and how well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rddm_fast.fast import FastSampler
from rddm_fast.inverse import operators, restore
from rddm_fast.inverse.operator import Operator
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.metrics import psnr, ssim

Prior = Callable[[Tensor, int], Tensor]
METHODS = ("A+y", "DDRM", "DDNM")
"""The columns that every problem has. DDNM is DDNM+ where y has noise."""


@dataclass(frozen=True)
class Problem:
    """A problem of the table.

    Attributes:
        operator: its name on the command line (`rddm-fast operators`).
        sigma_y: the deviation of the noise in y, in the scale of images in [0, 1].
        model: the built-in model that RDDM trained for this problem, if there is one.
        grey: whether pictures of one channel have this problem too.
    """

    operator: str
    sigma_y: float = 0.0
    model: str | None = None
    grey: bool = True


PROBLEMS = {
    "SR 4×": Problem("sr:4"),
    "Gaussian blur": Problem("blur:gauss"),
    "colour": Problem("color", grey=False),
    "CS 25 %": Problem("cs:0.25"),
    "inpainting, half": Problem("inpaint", model="inpaint"),
    "SR 4×, noise": Problem("sr:4", sigma_y=0.05),
    "noise 25/255": Problem("denoising", sigma_y=25 / 255, model="denoise"),
}
"""The papers' five, without noise, and two with it."""


@dataclass(frozen=True)
class Settings:
    """How the methods sample. The papers': DDRM takes 20 steps and DDNM 100, both with eta 0.85.

    clip_0 is `restore`'s. The papers' codes clamp nothing on small images; hq_demo and `rddm-fast restore` do.
    """

    ddrm_steps: int = 20
    ddnm_steps: int = 100
    eta: float = 0.85
    eta_b: float = 1.0
    clip_0: float | None = 1.0


def solved(
    problem: Problem, prior: Prior, truth: Tensor, seed: int, settings: Settings = Settings()
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Degrade images and restore them by each method.

    Args:
        problem: what is measured.
        prior: called as prior(x_t, t); it serves every method.
        truth: the clean images, (B, C, H, W) in [0, 1].
        seed: of the operator's random part, of the noise in y, and of the sampling.
        settings: how the methods sample.

    Returns:
        The images (B, C, H, W) in [0, 1] by method, and max |A x - y| of each image (B,) before it was clamped, in the
        scale [-1, 1].
    """
    shape = truth.shape[1:]
    operator = operators.named(problem.operator, tuple(shape), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    sigma_y = 2 * problem.sigma_y
    y = operator.A(2 * truth - 1)
    y = y + sigma_y * torch.randn(y.shape, generator=generator)
    common: dict[str, Any] = {
        "sigma_y": sigma_y,
        "eta": settings.eta,
        "clip_0": settings.clip_0,
        "generator": generator,
    }
    found = {
        "A+y": operator.pinv(y),
        "DDRM": restore(y, operator, prior, "ddrm", steps=settings.ddrm_steps, eta_b=settings.eta_b, **common),
        "DDNM": restore(y, operator, prior, "ddnm", steps=settings.ddnm_steps, **common),
    }
    if problem.model is not None and truth.shape[1] == 3:
        found["RDDM"] = _by_rddm(problem.model, operator, y, generator)
    misfit = {name: (operator.A(x) - y).abs().flatten(1).amax(1) for name, x in found.items()}
    return {name: ((x + 1) / 2).clamp(0, 1) for name, x in found.items()}, misfit


def _by_rddm(name: str, operator: Operator, y: Tensor, generator: torch.Generator) -> Tensor:
    """Restore A+y by a built-in model, in its own number of steps; returns images in [-1, 1]."""
    model = load_model(name)
    image = ((operator.pinv(y) + 1) / 2).clamp(0, 1)
    if not model.input_condition:
        return 2 * FastSampler(model)(image, generator=generator) - 1
    assert isinstance(operator, operators.Inpainting)
    return 2 * FastSampler(model)(image, 1 - operator.A(torch.ones_like(image)), generator=generator) - 1


def scores(images: Mapping[str, Tensor], truth: Tensor) -> dict[str, dict[str, list[float]]]:
    """Return the PSNR in dB and the SSIM of each image by method."""
    return {
        name: {"psnr": psnr(image, truth).tolist(), "ssim": ssim(image, truth).tolist()}
        for name, image in images.items()
    }
