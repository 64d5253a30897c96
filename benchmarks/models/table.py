"""What the built-in models do to photographs that no training has seen, beside the classics.

    python -m rddm_fast.images.photographs held --held-aside --scale 8 --shortest 256
    python -m benchmarks.models --photos held [--models derain denoise ...] [-o benchmarks/results/models]

Each model is measured on degradations of this package and on the same by OpenCV and scikit-image, in 1, 2, 3, 5 and 10
steps, and on clean pictures. NAME.json and NAME.jpg are written for each model, and README.md from all that are there.
`--model-folder` measures a folder in a model's place, before it becomes the built-in one.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from rddm_fast.images.find import find_images
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.images.prepared import resized
from rddm_fast.images.sheet import captioned, sheet
from rddm_fast.models.folder import built_in_models, load_model
from rddm_fast.system.files import write_text_whole

from ..timing import conditions
from .cases import CASES
from .curve import FOLDER, told
from .measure import exposure_gaps, measure, shown

SHOWN = 4
"""Photographs on a sheet."""
_WORST = "worst photograph"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs that no training has seen")
    parser.add_argument("--models", nargs="+", choices=list(CASES), help="these alone")
    parser.add_argument("--model-folder", type=Path, help="measure this folder in the place of the one model named")
    parser.add_argument("--seed", type=int, default=0, help="of the starting noise (default: 0)")
    parser.add_argument("-o", "--output", type=Path, default=Path("models"), help="folder (default: models)")
    options = parser.parse_args(argv)
    if options.model_folder is not None and len(options.models or []) != 1:
        parser.error("--model-folder stands for one model: name it with --models")
    photographs = {path.stem: read_image(path).pixels for path in find_images(options.photos)}
    options.output.mkdir(parents=True, exist_ok=True)
    for name in options.models or [name for name in CASES if name in built_in_models()]:
        diffusion = load_model(options.model_folder or name)
        found = {
            **conditions("cpu"),
            "photographs": list(photographs),
            **measure(name, diffusion, photographs, options.seed),
        }
        if diffusion.global_exposure:
            found["levels between tilings"] = exposure_gaps(diffusion, CASES[name][0], photographs)
        write_text_whole(options.output / f"{name}.json", json.dumps(found, indent=1) + "\n")
        _draw(options.output / f"{name}.jpg", name, diffusion, photographs)
        print(table(name, found), end="\n\n", flush=True)
    made = {path.stem: json.loads(path.read_text()) for path in sorted(options.output.glob("*.json"))}
    curves = {name: options.output / FOLDER / f"{name}.json" for name in made}
    trained = {name: told(json.loads(path.read_text())) for name, path in curves.items() if path.is_file()}
    write_text_whole(options.output / "README.md", report(made, trained))


def _draw(path: Path, name: str, diffusion: Any, photographs: Mapping[str, Tensor]) -> None:
    """Draw every case on its own photographs: input, restored, truth."""
    names = list(photographs)
    rows = []
    for number, case in enumerate(CASES[name]):
        chosen = [names[(number + SHOWN * i) % len(names)] for i in range(2)]
        images = [
            resized(image, (image.shape[1] // 2, image.shape[2] // 2))
            for image in shown(diffusion, case, photographs, chosen)
        ]
        captions = [case.name, "restored", "truth"] * len(chosen)
        rows.append([captioned(image, [caption]) for image, caption in zip(images, captions, strict=True)])
    write_image(path, Picture(sheet(rows, gap=4, margin=4)))


def table(name: str, found: Mapping[str, Any]) -> str:
    """One model's rows in Markdown: by case the mean PSNR and SSIM of input, model and classics, and the worst gain."""
    lines = [
        f"| {name}, {found['steps']} steps | method | PSNR in dB | gain, {_WORST} | SSIM |",
        "|---|---|---|---|---|",
    ]
    for case, scores in found["cases"].items():
        given = scores["input"]["psnr"]
        for method, entry in scores.items():
            mean, ssim = statistics.fmean(entry["psnr"]), statistics.fmean(entry["ssim"])
            gains = [after - before for after, before in zip(entry["psnr"], given, strict=True)]
            gain = "" if method == "input" else f"{statistics.fmean(gains):+.2f}, {min(gains):+.2f}"
            bold = "**" if method == "model" else ""
            lines.append(f"| {case} | {method} | {bold}{mean:.2f}{bold} | {gain} | {ssim:.3f} |")
    for case, by_steps in found["by_steps"].items():
        steps = ", ".join(f"{value:.2f} in {count}" for count, value in by_steps.items())
        lines.append(f"| {case} | by steps | {steps} | | |")
    clean = found["clean"]
    changed = [value for value in clean if value is not None]
    same = len(clean) - len(changed)
    told = f"{same} of {len(clean)} equal to the bit" if same else ""
    if changed:
        others = " of the others" if same else ""
        told += f"{', ' if same else ''}mean {statistics.fmean(changed):.1f}, least {min(changed):.1f}{others}"
    lines.append(f"| a clean picture | model | {told} | | |")
    if gaps := found.get("levels between tilings"):
        told = ", ".join(f"{gap:.1f} levels in tiles of {tile}" for tile, gap in gaps.items())
        lines.append(f"| tiles, to no tiles | model | | at most {told} | |")
    return "\n".join(lines)


def report(made: Mapping[str, Mapping[str, Any]], trained: Mapping[str, str]) -> str:
    """All models' tables and, where there are some, the paragraphs on their trainings, for README.md of the results."""
    parts = ["# The built-in models, measured", "", "Written by `python -m benchmarks.models`.", ""]
    for name, found in made.items():
        parts += [f"## {name}", "", f"{len(found['photographs'])} photographs, {found['machine']}.", ""]
        parts += [table(name, found), "", *([trained[name], ""] if name in trained else [])]
        parts += [f"![{name}]({name}.jpg)", ""]
    return "\n".join(parts)
