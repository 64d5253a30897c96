"""Restore each photograph of a case by a model and by the classics, and measure them as files hold them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.images.degradations.degraded import to_array, to_tensor
from rddm_fast.images.degrade import Degraded
from rddm_fast.images.picture import Picture
from rddm_fast.restoration.metrics import psnr, ssim
from rddm_fast.restoration.restore import Restorer

from .cases import CASES, Case
from .classics import CLASSICS

STEPS = (1, 2, 3, 5, 10)
EVERY = 3
"""The numbers of steps are compared on every third photograph: they are 21 evaluations of each."""
TILES = (128, 64)
"""Sides of the tiles that are compared with none, where a model judges the exposure."""
Scores = dict[str, dict[str, list[float]]]
"""By method: `psnr` in dB and `ssim`, a value per photograph."""


def degraded_by(case: Case, truth: Tensor, name: str) -> Degraded:
    """Degrade `truth` (3, H, W) in [0, 1]; the draws depend on the case and on the photograph's name alone."""
    rng = np.random.default_rng(zlib.crc32(f"{case.name}/{name}".encode()))
    return case.make(to_array(truth), rng)


def restored(restorer: Restorer, degraded: Degraded) -> Tensor:
    """Restore as `rddm-fast restore` does, and round to 8 bits; (3, H, W)."""
    mask = None if degraded.mask is None else Picture(torch.from_numpy(degraded.mask).expand(3, -1, -1).contiguous())
    result = restorer(Picture(to_tensor(degraded.image)), mask if restorer.needs_mask else None)
    return _rounded(result.pixels)


def measure(
    model: str, diffusion: ResidualDiffusion, photographs: Mapping[str, Tensor], seed: int = 0
) -> dict[str, Any]:
    """Measure one model.

    Args:
        model: its name, of `CASES`.
        diffusion: the model.
        photographs: (3, H, W) in [0, 1] by name.
        seed: of the starting noise.

    Returns:
        `steps`: the model's own number of steps. `cases`: by case the `Scores` of "input", "model" and each classic.
        `by_steps`: of the first two cases the mean PSNR in dB by number of steps. `clean`: for each photograph the PSNR
        of the restored clean picture, None where it is equal to the bit; of a model that takes a mask, with an
        empty one.
    """
    own = Restorer(diffusion, seed=seed, tile=None)
    restorers = {steps: Restorer(diffusion, steps=steps, seed=seed, tile=None) for steps in STEPS}
    cases: dict[str, Scores] = {}
    by_steps: dict[str, dict[int, float]] = {}
    for number, case in enumerate(CASES[model]):
        scores: Scores = {}
        found: dict[int, list[float]] = {}
        for place, (name, truth) in enumerate(photographs.items()):
            degraded = degraded_by(case, truth, name)
            images = {"input": _rounded(to_tensor(degraded.image)), "model": restored(own, degraded)}
            for classic, restore in CLASSICS.get(model, {}).items():
                images[classic] = _rounded(to_tensor(restore(degraded, to_array(truth))))
            for method, image in images.items():
                entry = scores.setdefault(method, {"psnr": [], "ssim": []})
                entry["psnr"].append(float(psnr(image, truth)))
                entry["ssim"].append(float(ssim(image, truth)))
            for steps, restorer in restorers.items() if number < 2 and place % EVERY == 0 else ():
                found.setdefault(steps, []).append(float(psnr(restored(restorer, degraded), truth)))
        cases[case.name] = scores
        if found:
            by_steps[case.name] = {steps: float(np.mean(values)) for steps, values in found.items()}
    clean = [_clean(own, truth) for truth in photographs.values()]
    return {"steps": diffusion.sampling_timesteps, "cases": cases, "by_steps": by_steps, "clean": clean}


def _clean(restorer: Restorer, truth: Tensor) -> float | None:
    """The PSNR of a clean picture that is restored all the same; None where nothing changes."""
    empty = np.zeros(tuple(truth.shape[1:]), np.float32)
    result = restored(restorer, Degraded(to_array(truth), empty))
    return None if torch.equal(result, _rounded(truth)) else float(psnr(result, truth))


def exposure_gaps(diffusion: ResidualDiffusion, case: Case, photographs: Mapping[str, Tensor]) -> dict[int, float]:
    """By side of a tile, the greatest difference of a pixel from the pictures that are not tiled, in levels of 255."""
    gaps = dict.fromkeys(TILES, 0.0)
    for name, truth in photographs.items():
        degraded = degraded_by(case, truth, name)
        whole = restored(Restorer(diffusion, tile=None), degraded)
        for tile in TILES:
            gap = float((whole - restored(Restorer(diffusion, tile=tile), degraded)).abs().max())
            gaps[tile] = max(gaps[tile], 255 * gap)
    return gaps


def shown(
    diffusion: ResidualDiffusion, case: Case, photographs: Mapping[str, Tensor], names: Sequence[str]
) -> list[Tensor]:
    """The rows of a picture: input, restored and truth of each photograph named."""
    restorer = Restorer(diffusion, tile=None)
    tiles = []
    for name in names:
        degraded = degraded_by(case, photographs[name], name)
        tiles += [to_tensor(degraded.image), restored(restorer, degraded), photographs[name]]
    return tiles


def _rounded(image: Tensor) -> Tensor:
    return (image * 255).round().clamp(0, 255) / 255
