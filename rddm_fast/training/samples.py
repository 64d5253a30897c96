"""Images sampled during a training, for the sheets that show its progress."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from ..diffusion.start import to_signed, to_unit
from ..inverse.cold.recipes import Recipe
from ..inverse.cold.sample import sample


@torch.no_grad()
def sampled(
    diffusion: ResidualDiffusion | ColdRestorer, dataset: Dataset[dict[str, Any]], count: int, seed: int
) -> list[Tensor]:
    """Sample for the first `count` items; the same seed gives the same noise at every call.

    Returns:
        Rows of images (count, C, H, W) in [0, 1]: input, result and truth; the result alone if the model generates.
    """
    if isinstance(diffusion, ColdRestorer):
        return _restored(diffusion, dataset, count, seed)
    generator = torch.Generator(diffusion.device).manual_seed(seed)
    I_in = mask = None
    if diffusion.condition:
        items = [dataset[i % len(dataset)] for i in range(count)]  # type: ignore[arg-type]
        truth, I_in = (torch.stack([item[name] for item in items]) for name in ("target", "input"))
        if diffusion.input_condition:
            mask = torch.stack([item["mask"].expand_as(item["target"]) for item in items])
    diffusion = diffusion.of_given()  # photographs are prepared where they are degraded
    start = diffusion.start(diffusion.steps(), I_in, mask, batch_size=count, generator=generator)
    result = start.finished(diffusion.walk(start))[-1]
    return [result] if I_in is None else [I_in.to(diffusion.device), result, truth.to(diffusion.device)]


def _restored(restorer: ColdRestorer, dataset: Dataset[dict[str, Any]], count: int, seed: int) -> list[Tensor]:
    """Degrade the first `count` items to level T and restore them by TACoS."""
    truth = torch.stack([dataset[i % len(dataset)]["target"] for i in range(count)]).to(restorer.device)  # type: ignore[arg-type]
    recipe, size = Recipe.of(restorer.recipe), (truth.shape[-2], truth.shape[-1])
    degradation = recipe.made(size, recipe.draw(size, count, torch.Generator().manual_seed(seed)))
    x_T = degradation.start(to_signed(truth))
    rows = [x_T, sample(restorer, degradation, x_T)]
    return [*(to_unit(row).clamp(0, 1) for row in rows), truth]
