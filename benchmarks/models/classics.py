"""What a user would do without a network, in OpenCV and, where it is installed, by BM3D."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np

from rddm_fast.images.degrade import Degraded, FloatImage
from rddm_fast.system.extras import require

Classic = Callable[[Degraded, FloatImage], FloatImage]
"""Takes the degraded image and the truth, which only a bound such as `best_gain` looks at."""


def _inpainted(method: str) -> Classic:
    def restore(degraded: Degraded, _truth: FloatImage) -> FloatImage:
        cv2 = require("cv2", "metrics")
        assert degraded.mask is not None
        image, hole = (np.round(part * 255).astype(np.uint8) for part in (degraded.image, degraded.mask))
        return np.asarray(cv2.inpaint(image, hole, 3, getattr(cv2, method)), np.float32) / np.float32(255)

    return restore


def best_gain(degraded: Degraded, truth: FloatImage) -> FloatImage:
    """Return the shadow times the factor of each channel that is nearest to the truth: a bound, not a method."""
    assert degraded.mask is not None
    inside = degraded.mask > 0
    given, wanted = degraded.image[inside], truth[inside]
    result = degraded.image.copy()
    result[inside] = np.clip(given * ((given * wanted).sum(0) / (given * given).sum(0)), 0, 1)
    return result


def _deviation(degraded: Degraded, truth: FloatImage) -> float:
    """The noise's deviation, which these methods are told and the model is not."""
    return float(np.std(degraded.image - truth))


def _non_local_means(degraded: Degraded, truth: FloatImage) -> FloatImage:
    restoration: Any = require("skimage.restoration", "metrics")
    sigma = _deviation(degraded, truth)
    settings = {"patch_size": 5, "patch_distance": 6, "fast_mode": True, "channel_axis": 2}
    return restoration.denoise_nl_means(degraded.image, h=0.6 * sigma, sigma=sigma, **settings).astype(np.float32)


def _unsharp_mask(degraded: Degraded, _truth: FloatImage) -> FloatImage:
    filters: Any = require("skimage.filters", "metrics")
    sharper = filters.unsharp_mask(degraded.image, radius=2, amount=1, channel_axis=2)
    return np.asarray(np.clip(sharper, 0, 1), np.float32)


def _bm3d(degraded: Degraded, truth: FloatImage) -> FloatImage:
    import bm3d  # type: ignore[import-not-found]

    return np.clip(bm3d.bm3d_rgb(degraded.image, _deviation(degraded, truth)), 0, 1).astype(np.float32)


CLASSICS: dict[str, dict[str, Classic]] = {
    "inpaint": {"Telea": _inpainted("INPAINT_TELEA"), "Navier-Stokes": _inpainted("INPAINT_NS")},
    "deblur": {"unsharp mask": _unsharp_mask},
    "deshadow": {"best gain per channel": best_gain},
    "denoise": {
        "non-local means": _non_local_means,
        **({"BM3D": _bm3d} if importlib.util.find_spec("bm3d") is not None else {}),
    },
}
