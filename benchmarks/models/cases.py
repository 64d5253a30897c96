"""What the models are measured on: degradations of this package, and the same by OpenCV and scikit-image.

No training has used the second kind. Where only the first improves, a model has learnt our code and not the task.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from rddm_fast.images.degrade import Degraded, FloatImage, degrade
from rddm_fast.system.extras import require

Make = Callable[[FloatImage, np.random.Generator], Degraded]


@dataclass(frozen=True)
class Case:
    """A degradation that a model is measured on.

    Attributes:
        name: for the table.
        make: degrades an image (H, W, 3) in [0, 1] with draws from the generator.
        foreign: whether the code is another library's.
    """

    name: str
    make: Make
    foreign: bool = True


def _ours(kind: str, name: str | None = None) -> Case:
    return Case(name or f"our {kind}", lambda image, rng: degrade(image, kind, rng), foreign=False)


def _cv2() -> Any:
    return require("cv2", "metrics")


def _bytes(image: Any) -> Any:
    return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)


def _floats(image: Any) -> FloatImage:
    return np.asarray(image, np.float32) / np.float32(255)


def _motion_kernel(length: int, degrees: float) -> Any:
    cv2 = _cv2()
    kernel = np.zeros((length, length), np.float32)
    kernel[length // 2] = 1
    centre = ((length - 1) / 2, (length - 1) / 2)
    kernel = cv2.warpAffine(kernel, cv2.getRotationMatrix2D(centre, degrees, 1.0), (length, length))
    return kernel / kernel.sum()


def _streaks(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """Noise above a threshold, blurred along a line and added, as photo editors' tutorials make rain."""
    cv2 = _cv2()
    seeds = (rng.random(image.shape[:2]) > 1 - rng.uniform(0.004, 0.012)).astype(np.float32)
    kernel = _motion_kernel(int(rng.integers(15, 40)) | 1, 90 + rng.uniform(-40, 40))
    streaks = cv2.GaussianBlur(cv2.filter2D(seeds, -1, kernel), (3, 3), 0)
    streaks = np.clip(streaks / streaks.max() * rng.uniform(0.5, 0.9), 0, 1)
    return Degraded(np.clip(image + streaks[..., None], 0, 1).astype(np.float32))


def _gaussian_noise(sigma: int) -> Case:
    def make(image: FloatImage, rng: np.random.Generator) -> Degraded:
        util = require("skimage.util", "metrics")
        noisy = util.random_noise(image, "gaussian", rng=rng, var=(sigma / 255) ** 2)
        return Degraded(_floats(_bytes(noisy)))

    return Case(f"Gaussian noise, sigma {sigma}", make)


def _gamma(image: FloatImage, rng: np.random.Generator) -> Degraded:
    exposure = require("skimage.exposure", "metrics")
    return Degraded(_floats(_bytes(exposure.adjust_gamma(image, rng.uniform(2.5, 4)))))


def _dimmed(image: FloatImage, rng: np.random.Generator) -> Degraded:
    dark = image * rng.uniform(0.1, 0.25)
    return Degraded(_floats(_bytes(dark + rng.normal(0, 0.006, image.shape))))


def _shadow(image: FloatImage, rng: np.random.Generator) -> Degraded:
    """A polygon filled and blurred by OpenCV, with a mask drawn 2 pixels wider than it reaches."""
    cv2 = _cv2()
    height, width = image.shape[:2]
    angles = np.sort(rng.uniform(0, 2 * math.pi, 6))
    radius = rng.uniform(0.2, 0.45, 6) * min(height, width)
    centre = rng.uniform(0.35, 0.65, 2) * (width, height)
    points = np.round(centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]).astype(np.int32)
    shape = cv2.fillPoly(np.zeros((height, width), np.float32), [points], 1.0)
    soft = cv2.GaussianBlur(shape, (0, 0), rng.uniform(0.8, 3))
    mask = cv2.dilate((soft > 1 / 255).astype(np.float32), np.ones((5, 5)))
    taken = rng.uniform(0.4, 0.7) * np.array([1.05, 1.0, 0.95], np.float32)
    return Degraded(_floats(_bytes(image * (1 - soft[..., None] * taken))), mask)


def _hole(draw: Callable[[Any, np.random.Generator], None], name: str) -> Case:
    def make(image: FloatImage, rng: np.random.Generator) -> Degraded:
        canvas = np.zeros(image.shape[:2], np.uint8)
        draw(canvas, rng)
        mask = (canvas > 0).astype(np.float32)
        return Degraded(np.where(mask[..., None] > 0, np.float32(1), image), mask)

    return Case(name, make)


def _thin(canvas: Any, rng: np.random.Generator) -> None:
    height, width = canvas.shape
    for _ in range(12):
        points = np.round(rng.uniform(0, 1, (4, 2)) * (width, height)).astype(np.int32)
        _cv2().polylines(canvas, [points], False, 255, int(rng.integers(2, 5)))


def _text(canvas: Any, rng: np.random.Generator) -> None:
    cv2 = _cv2()
    for top in range(20, canvas.shape[0], 36):
        word = "".join(chr(97 + n) for n in rng.integers(0, 26, 40))
        cv2.putText(canvas, word, (-5, top), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 255, 2)


def _blocks(canvas: Any, rng: np.random.Generator) -> None:
    for _ in range(6):
        top, left = (int(rng.integers(0, side - 32)) for side in canvas.shape)
        canvas[top : top + 32, left : left + 32] = 255


def _gaussian_blur(image: FloatImage, rng: np.random.Generator) -> Degraded:
    return Degraded(_floats(_bytes(_cv2().GaussianBlur(image, (0, 0), rng.uniform(1.5, 2.5)))))


def _motion_blur(image: FloatImage, rng: np.random.Generator) -> Degraded:
    kernel = _motion_kernel(int(rng.integers(9, 16)) | 1, rng.uniform(0, 180))
    return Degraded(_floats(_bytes(_cv2().filter2D(image, -1, kernel, borderType=4))))


def _jpeg(quality: int) -> Case:
    def make(image: FloatImage, rng: np.random.Generator) -> Degraded:
        cv2 = _cv2()
        ok, stored = cv2.imencode(".jpg", _bytes(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        assert ok
        return Degraded(_floats(np.ascontiguousarray(cv2.imdecode(stored, cv2.IMREAD_COLOR)[..., ::-1])))

    return Case(f"JPEG, quality {quality}", make)


CASES: dict[str, tuple[Case, ...]] = {
    "derain": (_ours("rain"), Case("added streaks", _streaks)),
    "denoise": (_ours("noise"), _gaussian_noise(15), _gaussian_noise(25), _gaussian_noise(50)),
    "lowlight": (_ours("lowlight"), Case("gamma 2.5 to 4", _gamma), Case("10 to 25 % of the light", _dimmed)),
    "deshadow": (_ours("shadow"), Case("a blurred polygon", _shadow)),
    "inpaint": (
        _hole(_thin, "thin strokes"),
        _hole(_text, "writing"),
        _hole(_blocks, "blocks of 32 pixels"),
        _ours("mask", "our mask"),
    ),
    "deblur": (_ours("blur"), Case("Gaussian blur, sigma 1.5 to 2.5", _gaussian_blur), Case("motion", _motion_blur)),
    "dejpeg": (_ours("jpeg"), _jpeg(10), _jpeg(30), _jpeg(50)),
}
"""The cases of each built-in model; the default number of steps is judged on the first two."""
