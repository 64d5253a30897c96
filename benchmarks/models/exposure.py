"""Fit the first guess of a dark picture's exposure to photographs, and write the numbers that the package reads.

    python -m benchmarks.models.exposure --photos PHOTOS [--held HELD] [-o rddm_fast/images/given/exposure.json]

Parts of the photographs are darkened as `wide-lowlight` darkens them. It takes about two minutes. With --held the PSNR
of the guess alone is printed for the cases of `benchmarks.models`, on photographs that were not fitted to.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.models.cases import CASES
from rddm_fast.images.degradations.degraded import to_array, to_tensor
from rddm_fast.images.degradations.lowlight import wide_lowlight
from rddm_fast.images.degrade import FloatImage
from rddm_fast.images.find import images_below
from rddm_fast.images.given.exposure import developed, guess, measures
from rddm_fast.images.picture import read_image
from rddm_fast.system.files import write_text_whole

SIDE = 320
"""Longer side of the photographs in pixels while they are darkened."""
COMPARED = 48
"""Side to which a picture is scaled before it is compared: the guess is global."""
DRAWS, UNITS, ITERATIONS, BATCH, JITTER = 100, 16, 6000, 96, 0.1


def photographs(folder: Path) -> list[FloatImage]:
    """Read a folder of photographs, scaled down to `SIDE`."""
    images = []
    for path in images_below(folder):
        pixels = read_image(path).pixels[None]
        scale = min(1.0, SIDE / max(pixels.shape[-2:]))
        small = F.interpolate(pixels, scale_factor=scale, mode="bilinear", antialias=True) if scale < 1 else pixels
        images.append(to_array(small[0].clamp(0, 1)))
    return images


def part(image: FloatImage, rng: np.random.Generator) -> FloatImage:
    """Cut a random part of at least half of each side."""
    height, width = image.shape[:2]
    h, w = (round(side * rng.uniform(0.5, 1)) for side in (height, width))
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    return image[top : top + h, left : left + w]


def small(image: FloatImage) -> Tensor:
    return F.interpolate(to_tensor(image)[None], (COMPARED, COMPARED), mode="area")


def mean_squares(measured: Tensor, dark: Tensor, light: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The mean squared error of the guess for each picture, (B,)."""
    return (developed(dark, *guess(measured, weights)) - light).square().flatten(1).mean(1)


def fitted(images: Sequence[FloatImage]) -> dict[str, Tensor]:
    """Fit the weights to darkened parts of `images`, by the root of the mean square of each."""
    rng = np.random.default_rng(7)
    torch.manual_seed(0)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for image in (image for image in images for _ in range(DRAWS)):
        whole = part(image, rng)
        lacking = wide_lowlight(whole, rng).image
        rows.append((measures(to_tensor(lacking)[None]), small(lacking), small(whole)))
    measured, dark, light = (torch.cat(column) for column in zip(*rows, strict=True))
    count = measured.shape[1]
    weights = {"mean": measured.mean(0), "deviation": measured.std(0)}
    trained = {
        "w1": torch.randn(UNITS, count) / count**0.5,
        "b1": torch.zeros(UNITS),
        "w2": torch.zeros(4, UNITS),
        "b2": torch.tensor([0.5, 0.5, 0.5, -0.5]),
    }
    parameters = [values.requires_grad_() for values in trained.values()]
    optimizer = torch.optim.AdamW(parameters, 4e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, ITERATIONS)
    for _ in range(ITERATIONS):
        chosen = torch.randint(len(measured), (BATCH,))
        jittered = measured[chosen] + JITTER * weights["deviation"] * torch.randn(BATCH, count)
        loss = mean_squares(jittered, dark[chosen], light[chosen], {**weights, **trained}).sqrt().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return {name: values.detach() for name, values in {**weights, **trained}.items()}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of photographs to fit to")
    parser.add_argument("--held", type=Path, help="folder of other photographs, to measure on")
    parser.add_argument("-o", "--output", type=Path, default=Path("rddm_fast/images/given/exposure.json"))
    options = parser.parse_args(argv)
    weights = fitted(photographs(options.photos))
    # Four decimals are more than a guess of 0.1 of a stop needs.
    stored = {name: np.round(values.numpy().astype(float), 4).tolist() for name, values in weights.items()}
    write_text_whole(options.output, json.dumps(stored) + "\n")
    print(f"written to {options.output}")
    if options.held is None:
        return
    for case in (*CASES["lowlight"], None):
        before, after = [], []
        for number, light in enumerate(photographs(options.held)):
            rng = np.random.default_rng(number)
            dark = light if case is None else case.make(light, rng).image
            given, wanted = to_tensor(dark)[None], to_tensor(light)[None]
            before.append(float((given - wanted).square().mean().clamp(min=1e-10)))
            after.append(float(mean_squares(measures(given), given, wanted, weights)))
        decibels = -10 * np.log10([before, after])
        gain = f", least gain {(decibels[1] - decibels[0]).min():.1f}" if case else ""
        print(f"{case.name if case else 'clean'}: {decibels[0].mean():.2f} -> {decibels[1].mean():.2f} dB{gain}")


if __name__ == "__main__":
    main()
