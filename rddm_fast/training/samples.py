"""Sampled images for a sheet that shows how far a training is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..diffusion.residual import ResidualDiffusion


def sampled(diffusion: ResidualDiffusion, dataset: Dataset[dict[str, Any]], count: int, seed: int) -> list[Tensor]:
    """Rows of `count` images (count, C, H, W) in [0, 1]: the first items' input, result and truth.

    A generating model's is one row. The same seed gives the same noise at every call.
    """
    device = diffusion.device
    generator = torch.Generator(device).manual_seed(seed)
    # The class's own: `compat`'s subclass has another method of this name.
    if not diffusion.condition:
        return [ResidualDiffusion.sample(diffusion, batch_size=count, generator=generator)[-1]]
    items = [dataset[i % len(dataset)] for i in range(count)]  # type: ignore[arg-type]
    truth, I_in = (torch.stack([item[name] for item in items]).to(device) for name in ("target", "input"))
    mask = None
    if diffusion.input_condition:
        mask = torch.stack([item["mask"].expand_as(item["target"]) for item in items]).to(device)
    return [I_in, ResidualDiffusion.sample(diffusion, I_in, mask, generator=generator)[-1], truth]
