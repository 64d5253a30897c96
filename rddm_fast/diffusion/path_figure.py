"""The paper's figure of path independence: the same seed under several schedules and orders, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from ..system.extras import require
from ..system.files import write_whole
from ..theory.schedule import Schedule
from ..theory.steps import path
from .paths import sample_along
from .residual import ResidualDiffusion

SCHEDULES = ("trained", "ddim", "power", "average", "readjusted")


@dataclass(frozen=True, eq=False)
class PathRow:
    """A row of the figure: the images (N, C, H, W) in [0, 1] that its seed becomes under one schedule and order."""

    schedule: str
    order: str
    images: Tensor


def schedule_named(name: str, diffusion: ResidualDiffusion) -> Schedule:
    """Make the schedule of this name, with the number of steps and the noise of the model's training.

    "trained" is the model's own, "ddim" DDIM's linear one, "power" P(1-x, 1) and P(x, 1), "average" equal increments,
    "readjusted" DDIM's with alpha_bar from P(1-x, 0.3). Raises ValueError for another name.
    """
    T, scale = diffusion.num_timesteps, float(diffusion.schedule.beta_bar[-1]) ** 2
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(SCHEDULES)}")
    return {
        "trained": lambda: diffusion.schedule,
        "ddim": lambda: Schedule.from_ddim(T),
        "power": lambda: Schedule.power(T, scale),
        "average": lambda: Schedule.power(T, scale, ("average", 1.0), ("average", 1.0)),
        "readjusted": lambda: Schedule.from_ddim(T, alpha=("decreased", 0.3)),
    }[name]()


def path_rows(
    diffusion: ResidualDiffusion,
    schedules: Sequence[str],
    orders: Sequence[str],
    *,
    steps: int = 10,
    count: int = 8,
    seed: int = 0,
) -> list[PathRow]:
    """Generate one row of `count` images per schedule and order, all from the noise of `seed`."""
    rows = []
    for name in schedules:
        for order in orders:
            generator = torch.Generator(diffusion.device).manual_seed(seed)
            along = path(schedule_named(name, diffusion), steps, order)
            images = sample_along(diffusion, along, batch_size=count, generator=generator)[-1]
            rows.append(PathRow(name, order, images.clamp(0, 1).cpu()))
    return rows


def distances(rows: Sequence[PathRow]) -> tuple[float, float]:
    """Return two root mean square distances: between paths of one seed, and between seeds on one path.

    The smaller the first is in relation to the second, the less the path matters. Raises ValueError for fewer than two
    rows or two images.
    """
    if len(rows) < 2 or len(rows[0].images) < 2:
        raise ValueError("distances are between at least two paths and two seeds: draw more rows or images")
    images = torch.stack([row.images for row in rows]).double()  # (paths, seeds, C, H, W)
    return _apart(images), _apart(images.transpose(0, 1))


def _apart(images: Tensor) -> float:
    """Return the root mean square distance of all pairs along the first axis."""
    first, second = torch.triu_indices(len(images), len(images), 1)
    return float((images[first] - images[second]).square().mean().sqrt())


def draw_rows(file: str | PathLike[str], rows: Sequence[PathRow]) -> None:
    """Write the figure, PNG or SVG by its suffix, whole or not at all."""
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("Agg")
    pyplot = require("matplotlib.pyplot", "plot")
    count = len(rows[0].images)
    figure, axes = pyplot.subplots(len(rows), count, figsize=(2.2 + 0.8 * count, 0.85 * len(rows)), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for image, axis in zip(row.images, line, strict=True):
            grey = image.shape[0] == 1
            pixels = (image[0] if grey else image.permute(1, 2, 0)).numpy()
            axis.imshow(pixels, cmap="gray" if grey else None, vmin=0, vmax=1)
            axis.set_xticks([]), axis.set_yticks([])
        label = f"{row.schedule}\n{row.order.replace('_', ' ')}"
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=8)
    figure.tight_layout(pad=0.4)
    target = Path(file)
    write_whole(target, lambda unfinished: figure.savefig(unfinished, dpi=110))
    pyplot.close(figure)
