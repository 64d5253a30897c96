"""The demo: real photographs, degraded, restored by a built-in model, and measured against the truth."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..fast.engine import FastSampler
from ..images.degradations.degraded import to_array, to_tensor
from ..images.degrade import degrade
from ..images.picture import read_image
from ..models.folder import load_model
from ..system.extras import require
from ..system.files import write_whole
from ..system.timing import in_turns
from .metrics import psnr, ssim

PHOTOS = Path(__file__).parent / "photos"
DEGRADATIONS = {
    "derain": "rain",
    "lowlight": "lowlight",
    "denoise": "noise",
    "deshadow": "shadow",
    "inpaint": "mask",
    "dejpeg": "jpeg",
    "deblur": "blur",
}
"""Maps each built-in model to the degradation that it was trained to undo."""


@dataclass(frozen=True)
class Result:
    """The numbers of one photograph: PSNR in dB, median times in milliseconds, images (3, H, W) in [0, 1].

    Attributes:
        difference: greatest absolute difference between the images of the eager and the fast path.
    """

    name: str
    size: str
    psnr_before: float
    psnr_after: float
    ssim_before: float
    ssim_after: float
    eager_ms: float
    fast_ms: float
    difference: float
    degraded: Tensor
    restored: Tensor
    truth: Tensor

    def numbers(self) -> dict[str, str | float]:
        """Return everything but the images, ready for JSON."""
        return {name: value for name, value in vars(self).items() if not isinstance(value, Tensor)}


def photographs() -> list[Path]:
    """List the photographs that come with the package. No built-in model was trained on them."""
    return sorted(PHOTOS.glob("*.png"))


def run(
    model: str = "derain", *, steps: int | None = 3, seed: int = 0, repeats: int = 3, kind: str | None = None
) -> Iterator[Result]:
    """Degrade each photograph, restore it by the eager reference and by the fast path, and yield the numbers.

    Args:
        model: a built-in model's name or a model folder.
        steps: sampling steps; the model's own if None.
        seed: seed of the degradations and of the starting noise.
        repeats: timed runs of each path. The two take turns, after one run each that is not timed.
        kind: degradation (`rddm_fast.images.degrade.KINDS`); None takes the one that the built-in model undoes.

    Raises:
        ModelError: the model cannot be loaded.
        ValueError: `kind` is None and the model is not a built-in one.
    """
    if kind is None:
        trained_for = load_model(model), DEGRADATIONS.get(model)
        diffusion, kind = trained_for
        if kind is None:
            raise ValueError(f"{model} is no built-in model: say what it undoes, for example kind='rain'")
    else:
        diffusion = load_model(model)
    # Not compiled, like `restore`: the pictures have many sizes.
    fast = FastSampler(diffusion, steps=steps, dtype=torch.float32, compile=False, graphs=False)
    for number, path in enumerate(photographs()):
        truth = read_image(path).pixels
        given, mask = degraded_with_mask(truth, kind, seed, number)
        inputs = [given[None], *([mask[None]] if mask is not None and diffusion.input_condition else [])]
        calls = _calls(diffusion, fast, inputs, steps, seed)
        images = {name: call() for name, call in calls.items()}
        times = in_turns(calls, repeats, warm_up=0)
        yield Result(
            name=path.stem,
            size=f"{truth.shape[2]}x{truth.shape[1]}",
            psnr_before=float(psnr(given, truth)),
            psnr_after=float(psnr(images["fast"], truth)),
            ssim_before=float(ssim(given, truth)),
            ssim_after=float(ssim(images["fast"], truth)),
            eager_ms=1e3 * statistics.median(times["eager"]),
            fast_ms=1e3 * statistics.median(times["fast"]),
            difference=float((images["eager"] - images["fast"]).abs().max()),
            degraded=given,
            restored=images["fast"],
            truth=truth,
        )


def degraded(truth: Tensor, kind: str, seed: int, number: int) -> Tensor:
    """Degrade `truth` (3, H, W) in [0, 1] as the demo degrades its photograph `number`."""
    return degraded_with_mask(truth, kind, seed, number)[0]


def degraded_with_mask(truth: Tensor, kind: str, seed: int, number: int) -> tuple[Tensor, Tensor | None]:
    """Return what `degraded` returns, and the mask (3, H, W), 1 where the photograph was changed, or None."""
    result = degrade(to_array(truth), kind, np.random.default_rng((seed, number)))
    mask = None if result.mask is None else torch.from_numpy(result.mask).expand(3, -1, -1).contiguous()
    return to_tensor(result.image), mask


def _calls(
    diffusion: ResidualDiffusion, fast: FastSampler, inputs: Sequence[Tensor], steps: int | None, seed: int
) -> dict[str, Callable[[], Tensor]]:
    """The two paths; each returns the image (3, H, W) from the same noise."""

    def eager() -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return diffusion.sample(*inputs, sampling_timesteps=steps, generator=generator)[-1][0].clamp(0, 1)

    return {"eager": eager, "fast": lambda: fast(*inputs, generator=torch.Generator().manual_seed(seed))[0]}


def summary(results: Sequence[Result]) -> dict[str, float]:
    """Return the means over the photographs, and the ratio of the summed times."""

    def mean(name: str) -> float:
        return statistics.fmean(getattr(result, name) for result in results)

    eager, fast = mean("eager_ms"), mean("fast_ms")
    names = ("psnr_before", "psnr_after", "ssim_before", "ssim_after")
    return {
        "images": len(results),
        **{name: mean(name) for name in names},
        "psnr_gain": mean("psnr_after") - mean("psnr_before"),
        "eager_ms": eager,
        "fast_ms": fast,
        "speedup": eager / fast,
        "difference": max(result.difference for result in results),
    }


def draw(path: str | PathLike[str], results: Sequence[Result], columns: int = 2) -> None:
    """Draw the input, the result and the truth of every photograph, with their PSNR, in one PNG or JPEG file."""
    pil = require("PIL.Image", "cli")
    pil_draw, pil_font = require("PIL.ImageDraw", "cli"), require("PIL.ImageFont", "cli")
    gap, caption = 6, 20
    width = max(result.truth.shape[2] for result in results)
    block = 3 * (width + gap) + 2 * gap
    rows = [results[i : i + columns] for i in range(0, len(results), columns)]
    heights = [max(result.truth.shape[1] for result in row) + caption + gap for row in rows]
    sheet = pil.new("RGB", (columns * block - gap, sum(heights) + gap), "white")
    pen, font = pil_draw.Draw(sheet), pil_font.load_default(13)
    for number, result in enumerate(results):
        row, column = divmod(number, columns)
        top = sum(heights[:row]) + gap
        shown = (
            (f"input {result.psnr_before:.1f} dB", result.degraded),
            (f"restored {result.psnr_after:.1f} dB", result.restored),
            ("truth", result.truth),
        )
        for place, (text, image) in enumerate(shown):
            left = column * block + gap + place * (width + gap)
            pen.text((left, top), text, fill="black", font=font)
            pixels = (image.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
            sheet.paste(pil.fromarray(pixels), (left, top + caption))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 88} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    write_whole(path, lambda unfinished: sheet.save(unfinished, **options))
