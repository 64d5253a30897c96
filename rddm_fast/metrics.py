"""How close an image is to its ground truth: PSNR and SSIM, by torchmetrics."""

from __future__ import annotations

import torch
from torch import Tensor

from ._extras import require


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean squared error); infinite for equal images.

    pred, target: images in [0, 1], (C, H, W) or a batch (N, C, H, W), of the same shape, dtype and device.

    Returns a scalar for one image and (N,), one value an image, for a batch. Raises ValueError for other
    shapes or dtypes and for targets outside [0, 1], ImportError where torchmetrics is not installed.
    """
    functional = require("torchmetrics.functional.image", "metrics")
    pred, target, batched = _batched(pred, target)
    values = functional.peak_signal_noise_ratio(pred, target, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values if batched else values[0]


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5.

    The mean over channels and over the places where the whole window lies inside the image, as in its
    authors' code; torchmetrics' own mean takes in the border, which it fills by reflection.

    Arguments, shape of the result and errors as in `psnr`; images must be at least 11 pixels high and wide.
    """
    functional = require("torchmetrics.functional.image", "metrics")
    pred, target, batched = _batched(pred, target)
    if min(pred.shape[-2:]) < 11:
        raise ValueError(f"ssim needs images of at least 11x11 pixels, got {pred.shape[-1]}x{pred.shape[-2]}")
    _, similarity = functional.structural_similarity_index_measure(
        pred, target, data_range=1.0, reduction="none", return_full_image=True
    )
    values: Tensor = similarity[..., 5:-5, 5:-5].mean((1, 2, 3))
    return values if batched else values[0]


def _batched(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, bool]:
    if pred.shape != target.shape:
        raise ValueError(f"images differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}")
    if pred.dim() not in (3, 4) or pred.numel() == 0:
        raise ValueError(f"expected images (C, H, W) or (N, C, H, W), got {tuple(pred.shape)}")
    if not pred.is_floating_point() or not target.is_floating_point():
        raise ValueError(f"expected floating-point images in [0, 1], got {pred.dtype} and {target.dtype}")
    # A picture left in [-1, 1] or 0..255 is the usual way to a wrong figure. The prediction may overshoot a
    # little.
    low, high = torch.aminmax(target)
    if low < 0 or high > 1:
        raise ValueError(f"expected a target in [0, 1], got {low:g} to {high:g}")
    if pred.dim() == 3:
        return pred[None], target[None], False
    return pred, target, True
