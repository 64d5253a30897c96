"""Sheets of sampled images, which show how far a training is."""

from __future__ import annotations

import math
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .diffusion import ResidualDiffusion
from .io import Picture, write_image


def sampled(diffusion: ResidualDiffusion, dataset: Dataset[dict[str, Any]], count: int, seed: int) -> list[Tensor]:
    """Rows of `count` images (count, C, H, W) in [0, 1]: the first items' input, result and truth.

    A generating model's is one row. The same seed gives the same noise at every call.
    """
    device = diffusion.alphas_cumsum.device
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


def sheet(rows: list[Tensor], gap: int = 2) -> Tensor:
    """`rows` of images (N, C, H, W) in [0, 1], one row below the other on white: (3, height, width).

    A single row of more than eight, which generation makes, is folded into a square.
    """
    if len(rows) == 1 and len(rows[0]) > 8:
        rows = list(rows[0].split(math.ceil(math.sqrt(len(rows[0])))))
    height, width = rows[0].shape[-2:]
    columns = max(len(row) for row in rows)
    result = torch.ones(3, len(rows) * (height + gap) - gap, columns * (width + gap) - gap)
    for r, row in enumerate(rows):
        for c, image in enumerate(row.detach().float().cpu()):
            result[:, r * (height + gap) :, c * (width + gap) :][:, :height, :width] = image
    return result.clamp(0, 1)


def write_sheet(path: str | PathLike[str], rows: list[Tensor]) -> None:
    """Write `sheet(rows)` as a PNG."""
    write_image(path, Picture(pixels=sheet(rows)))
