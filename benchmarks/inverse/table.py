"""The table of DDRM's and DDNM's papers: A+y, DDRM and DDNM on images that the priors have not seen.

    rddm-fast bench inverse [--digits FOLDER] [--crop 64] [--seeds 3] [-o inverse]

Photographs: those of `rddm-fast demo`, centre crops, with the built-in prior-photos. Digits: pictures in the folder
held-out of `python -m rddm_fast.images.mnist`, with prior-digits. inverse.json, inverse.md and a sheet of each set are
written after each problem. Where RDDM trained a model for a problem, it has a column too.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rddm_fast.fast import FastPrior
from rddm_fast.images.find import find_images
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.sheet import captioned, sheet
from rddm_fast.models.folder import load_model
from rddm_fast.restoration.demo import photographs
from rddm_fast.system.files import write_text_whole

from ..timing import conditions
from .problems import METHODS, PROBLEMS, Settings, scores, solved

Scores = dict[str, dict[str, list[float]]]
SHOWN = 4
"""Images on a sheet."""
COLUMNS = (*METHODS, "RDDM")


def photographs_of(crop: int) -> Tensor:
    """Return the package's photographs, (8, 3, crop, crop) in [0, 1]: squares from their middle, scaled down by 2.

    The prior was trained on photographs that were scaled down too, so that a patch shows a part of a scene.
    """
    images = []
    for path in photographs():
        pixels = read_image(path).pixels
        top, left = ((side - 2 * crop) // 2 for side in pixels.shape[1:])
        square = pixels[:, top : top + 2 * crop, left : left + 2 * crop]
        images.append(torch.nn.functional.avg_pool2d(square, 2))
    return torch.stack(images)


def digits_of(folder: Path, count: int) -> Tensor:
    """Return `count` pictures of a folder, (count, 1, H, W) in [0, 1], evenly spaced in the order of their names."""
    paths = find_images(folder)
    return torch.stack([read_image(paths[i * len(paths) // count]).pixels[:1] for i in range(count)])


def measure(truth: Tensor, model: str, seeds: int, settings: Settings) -> dict[str, dict[str, Any]]:
    """Restore `truth` from each problem with each seed.

    Returns:
        By problem: `psnr` and `ssim` by method, each a list over seeds of the mean over images; `psnr_of_image` by
        method, the mean over seeds for each image; `misfit` by method, the greatest |A x - y|; `images` by method,
        those of the first seed.
    """
    prior = FastPrior(load_model(model))
    found: dict[str, dict[str, Any]] = {}
    for name, problem in PROBLEMS.items():
        if truth.shape[1] == 1 and not problem.grey:
            continue
        start = time.perf_counter()
        runs: list[Scores] = []
        misfits: list[dict[str, Tensor]] = []
        shown: dict[str, Tensor] = {}
        for seed in range(seeds):
            images, misfit = solved(problem, prior, truth, seed, settings)
            runs.append(scores(images, truth))
            misfits.append(misfit)
            shown = shown or images
        found[name] = {
            metric: {method: [statistics.mean(run[method][metric]) for run in runs] for method in runs[0]}
            for metric in ("psnr", "ssim")
        }
        found[name]["psnr_of_image"] = {
            method: torch.tensor([run[method]["psnr"] for run in runs]).mean(0).tolist() for method in runs[0]
        }
        found[name]["misfit"] = {method: max(float(m[method].max()) for m in misfits) for method in misfits[0]}
        found[name]["images"] = shown
        psnrs = ", ".join(f"{method} {_spread(v, 2)}" for method, v in found[name]["psnr"].items())
        print(f"{model}, {name}: PSNR {psnrs} ({time.perf_counter() - start:.0f} s)", flush=True)
    return found


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the deviation over seeds."""
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def markdown(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The table of one set of images: PSNR / SSIM by problem and method, and DDNM's misfit."""
    lines = [f"| | {' | '.join(COLUMNS)} | max abs(Ax − y), DDNM |", "|---" * (len(COLUMNS) + 2) + "|"]
    for name, row in found.items():
        cells = [
            f"{_spread(row['psnr'][m], 2)} / {_spread(row['ssim'][m], 3)}" if m in row["psnr"] else "–" for m in COLUMNS
        ]
        lines.append(f"| {name} | {' | '.join(cells)} | {row['misfit']['DDNM']:.1e} |")
    return "\n".join(lines) + "\n"


def ordering(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Say for each problem whether the papers' order of PSNR holds: A+y < DDRM <= DDNM."""
    lines = []
    for name, row in found.items():
        of = {method: statistics.mean(row["psnr"][method]) for method in METHODS}
        holds = of["A+y"] < of["DDRM"] <= of["DDNM"]
        by_psnr = " < ".join(sorted(of, key=lambda method: of[method]))
        lines.append(f"- {name}: A+y < DDRM ≤ DDNM {'holds' if holds else f'does not hold: {by_psnr}'}")
    return lines


def picture(found: Mapping[str, Mapping[str, Any]], truth: Tensor) -> Tensor:
    """The first images of every problem beside the truth, with the PSNR of each."""
    blocks = []
    for name, row in found.items():
        cells = [captioned(sheet([[x] for x in _large(truth[:SHOWN])]), [name.replace("×", "x"), "truth"])]
        for method, images in row["images"].items():
            caption = [method, f"{statistics.mean(row['psnr'][method]):.2f} dB"]
            cells.append(captioned(sheet([[x] for x in _large(images[:SHOWN])]), caption))
        blocks.append(sheet([cells], gap=4))
    half = (len(blocks) + 1) // 2
    return sheet([[b] for b in (sheet([blocks[i : i + 2]], gap=16) for i in range(0, 2 * half, 2))], gap=16, margin=8)


def _large(images: Tensor) -> Tensor:
    """Images of at least 96 pixels, so that captions fit."""
    return images.repeat_interleave(k := -(-96 // images.shape[-1]), -1).repeat_interleave(k, -2)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--digits", type=Path, metavar="FOLDER", help="digits that prior-digits has not seen")
    parser.add_argument("--crop", type=int, default=64, help="side of the photographs in pixels")
    parser.add_argument("--count", type=int, default=20, help="digits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--photos-prior", default="prior-photos", metavar="MODEL")
    parser.add_argument("--digits-prior", default="prior-digits", metavar="MODEL")
    parser.add_argument("--output", "-o", type=Path, default=Path("inverse"), metavar="STEM")
    options = parser.parse_args(argv)
    sets = {"photographs": (photographs_of(options.crop), options.photos_prior)}
    if options.digits is not None:
        sets["digits"] = (digits_of(options.digits, options.count), options.digits_prior)
    settings, written, texts = Settings(), {}, []
    for name, (truth, model) in sets.items():
        found = measure(truth, model, options.seeds, settings)
        sides = "x".join(map(str, truth.shape[1:]))
        texts += [
            f"{len(truth)} {name} of {sides}, {model}, {options.seeds} seeds: PSNR in dB / SSIM.\n",
            markdown(found),
        ]
        texts += ["\n".join(ordering(found)) + "\n"]
        write_image(options.output.with_name(f"{options.output.name}-{name}.png"), Picture(picture(found, truth)))
        for row in found.values():
            del row["images"]
        written[name] = {"model": model, "shape": list(truth.shape), "problems": found}
        result = {**conditions("cpu"), "seeds": options.seeds, "settings": asdict(settings), "sets": written}
        write_text_whole(options.output.with_suffix(".json"), json.dumps(result, indent=1, ensure_ascii=False) + "\n")
        write_text_whole(options.output.with_suffix(".md"), "\n".join(texts))
    print("\n".join(texts))
