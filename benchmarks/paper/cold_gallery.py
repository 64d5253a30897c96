"""Cold Diffusion, naive sampling beside TACoS: rddm-fast bench cold RUN/model … [--output STEM].

Each model is a restorer that `rddm-fast train --degradation cold:NAME` made. It restores random crops of the package's
photographs, which no training here has seen: in one step (R at level T), by Algorithm 1 (naive) and by Algorithm 2
(TACoS). STEM.png shows the crops of the first seed, STEM.json holds the numbers. The spread is the standard deviation
of the means over the seeds, which choose the crops and what the degradation draws.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rddm_fast.diffusion import to_signed
from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.fast import FastColdRestorer
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.sheet import captioned, sheet
from rddm_fast.inverse import cold
from rddm_fast.models.folder import load_cold_restorer
from rddm_fast.restoration.demo import photographs
from rddm_fast.restoration.metrics import psnr, ssim

from ..findings import Findings, Table, write_json

METHODS = ("degraded", "direct", "naive", "TACoS")


@dataclass(frozen=True)
class Row:
    """The means of one method over the crops, and their spread over the seeds; None for a single seed."""

    degradation: str
    T: int
    method: str
    crops: int
    psnr: float
    psnr_spread: float | None
    ssim: float
    ssim_spread: float | None


TABLE = Table(
    ("degradation", "degradation", "<12", ""),
    ("T", "T", ">3", ""),
    ("method", "method", "<8", ""),
    ("crops", "crops", ">5", ""),
    ("PSNR", "psnr", ">6", ".2f"),
    ("+-", "psnr_spread", ">5", ".2f"),
    ("SSIM", "ssim", ">6", ".3f"),
    ("+-", "ssim_spread", ">5", ".3f"),
)


def crops(side: int, seed: int) -> Tensor:
    """Cut a random square out of each photograph: (8, 3, side, side) in [0, 1].

    Raises:
        ValueError: a side larger than a photograph.
    """
    generator, cut = torch.Generator().manual_seed(seed), []
    for path in photographs():
        pixels = read_image(path).pixels
        room = [size - side for size in pixels.shape[-2:]]
        if min(room) < 0:
            raise ValueError(f"a crop of {side} pixels is larger than {path.name}: choose a smaller side")
        top, left = (int(torch.randint(0, free + 1, (), generator=generator)) for free in room)
        cut.append(pixels[:, top : top + side, left : left + side])
    return torch.stack(cut)


@torch.no_grad()
def restored(restorer: ColdRestorer, truth: Tensor, seed: int) -> dict[str, Tensor]:
    """Degrade the crops and restore them by each method: images in [0, 1] by the names in `METHODS`.

    Crops that the degradation leaves as they are, such as grey ones under decolour, are not restored; they are missing
    from all batches, and from "truth".
    """
    recipe, size = cold.Recipe.of(restorer.recipe), (truth.shape[-2], truth.shape[-1])

    def degradation(pictures: int) -> cold.Degradation:
        return recipe.made(size, recipe.draw(size, pictures, torch.Generator().manual_seed(seed)))

    x_0 = to_signed(truth)
    changed = (degradation(len(x_0)).start(x_0) - x_0).abs().amax((1, 2, 3)) > 1 / 255
    x_0 = x_0[changed]
    of_these = degradation(len(x_0))
    x_T, R = of_these.start(x_0), FastColdRestorer(restorer, dtype=torch.float32)
    images = {
        "truth": x_0,
        "degraded": x_T,
        "direct": R(x_T, restorer.T),
        "naive": cold.sample(R, of_these, x_T, "naive"),
        "TACoS": cold.sample(R, of_these, x_T, "tacos"),
    }
    return {name: ((image + 1) / 2).clamp(0, 1) for name, image in images.items()}


def rows_of(restorer: ColdRestorer, results: Sequence[dict[str, Tensor]]) -> list[Row]:
    """Average PSNR and SSIM of what `restored` returned, one result per seed."""
    rows = []
    for method in METHODS:
        measures = {"psnr": psnr, "ssim": ssim}
        means = {
            name: [float(measure(images[method], images["truth"]).mean()) for images in results]
            for name, measure in measures.items()
        }
        numbers = {name: statistics.fmean(values) for name, values in means.items()}
        spreads = {
            f"{name}_spread": statistics.stdev(values) if len(values) > 1 else None for name, values in means.items()
        }
        count = sum(len(images["truth"]) for images in results)
        rows.append(Row(restorer.recipe["name"], restorer.T, method, count, **numbers, **spreads))  # type: ignore[arg-type]
    return rows


def drawn(rows: Sequence[Row], images: dict[str, Tensor]) -> Tensor:
    """Draw one degradation: the truth, and below it each method's images, with its numbers above them."""
    captions = {row.method: f"{row.method}: {row.psnr:.2f} dB, SSIM {row.ssim:.3f}" for row in rows}
    captions["truth"] = f"{rows[0].degradation}, T = {rows[0].T}: the truth"
    return sheet([[captioned(sheet([images[name]]), [captions[name]])] for name in ("truth", *METHODS)], gap=4)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folders of trained restorers")
    parser.add_argument("--output", "-o", type=Path, default=Path("cold-gallery"), metavar="STEM")
    parser.add_argument("--side", type=int, default=64, help="of the crops, in pixels")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args(arguments)
    try:
        restorers = [load_cold_restorer(folder) for folder in options.models]
        findings: Findings[Row] = Findings(TABLE)
        print(TABLE.header)
        parts = []
        for restorer in restorers:
            results = [restored(restorer, crops(options.side, seed), seed) for seed in range(options.seeds)]
            rows = rows_of(restorer, results)
            for row in rows:
                findings.report(row)
            parts.append(drawn(rows, results[0]))
    except ValueError as error:
        raise SystemExit(f"error: {error}") from error
    write_image(options.output.with_suffix(".png"), Picture(sheet([[part] for part in parts], gap=16, margin=8)))
    write_json(options.output.with_suffix(".json"), findings.rows)
