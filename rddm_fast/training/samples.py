"""Images sampled during a training, for the sheets that show its progress."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..diffusion.residual import ResidualDiffusion


@torch.no_grad()
def sampled(diffusion: ResidualDiffusion, dataset: Dataset[dict[str, Any]], count: int, seed: int) -> list[Tensor]:
    """Sample for the first `count` items; the same seed gives the same noise at every call.

    Returns:
        Rows of images (count, C, H, W) in [0, 1]: input, result and truth; the result alone if the model generates.
    """
    generator = torch.Generator(diffusion.device).manual_seed(seed)
    I_in = mask = None
    if diffusion.condition:
        items = [dataset[i % len(dataset)] for i in range(count)]  # type: ignore[arg-type]
        truth, I_in = (torch.stack([item[name] for item in items]) for name in ("target", "input"))
        if diffusion.input_condition:
            mask = torch.stack([item["mask"].expand_as(item["target"]) for item in items])
    start = diffusion.start(diffusion.steps(), I_in, mask, batch_size=count, generator=generator)
    result = start.finished(diffusion.walk(start))[-1]
    return [result] if I_in is None else [I_in.to(diffusion.device), result, truth.to(diffusion.device)]
