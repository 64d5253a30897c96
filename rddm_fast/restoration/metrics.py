"""How close an image is to its ground truth, by the definitions of the published MATLAB scripts.

PSNR and SSIM are torchmetrics'. The scripts of deraining and low light measure both on the luma alone (`luma`),
those of shadow removal add the mean absolute error in Lab (`lab_mae`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..system.extras import require

# The sRGB primaries (IEC 61966-2-1) with the D65 white that MATLAB and scikit-image have: each row sums to it.
_RGB_TO_XYZ = (
    (0.4124564, 0.3575761, 0.1804375),
    (0.2126729, 0.7151522, 0.0721750),
    (0.0193339, 0.1191920, 0.9503041),
)
_D65 = (0.95047, 1.0, 1.08883)


def psnr(pred: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB, 10 log10(1 / mean squared error); infinite for equal images.

    Args:
        pred, target: images in [0, 1], (C, H, W) or a batch (N, C, H, W), of one shape and device, floating point.

    Returns:
        A scalar for one image; (N,), one value per image, for a batch.

    Raises:
        ValueError: other shapes or dtypes, or a target outside [0, 1].
        ImportError: torchmetrics is not installed.
    """
    functional = require("torchmetrics.functional.image", "metrics")
    pred, target, batched = _batched(pred, target)
    values = functional.peak_signal_noise_ratio(pred, target, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return values if batched else values[0]


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004): 11x11 Gaussian window, sigma 1.5.

    The mean is over the channels and over the places where the whole window lies inside the image, as in the
    authors' code. torchmetrics' own mean includes the border, which it fills by reflection.

    Arguments, result and errors are those of `psnr`. Images must be at least 11 pixels high and wide.
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


def ssim_volume(pred: Tensor, target: Tensor) -> Tensor:
    """Structural similarity as MATLAB's `ssim(A, ref)` computes it for colour images.

    Without "DataFormat" that function treats an (H, W, 3) array as a volume of three slices. Its 11x11x11 Gaussian
    window, sigma 1.5, also runs over the channels, and the border is replicated and counted. The published figures of
    deblurring and of shadow removal are of this kind, and higher than those of `ssim`.

    Arguments, result and errors are those of `psnr`; torchmetrics is not needed.
    """
    pred, target, batched = _batched(pred, target)
    count = len(pred)
    moments = _volume_blur(torch.cat([pred, target, pred * pred, target * target, pred * target]))
    mu_p, mu_t, pp, tt, pt = moments.split(count)
    c1, c2 = 0.01**2, 0.03**2
    similarity = (2 * mu_p * mu_t + c1) * (2 * (pt - mu_p * mu_t) + c2)
    similarity /= (mu_p**2 + mu_t**2 + c1) * (pp - mu_p**2 + tt - mu_t**2 + c2)
    values = similarity.mean((1, 2, 3))
    return values if batched else values[0]


def _volume_blur(images: Tensor) -> Tensor:
    """Blur (N, C, H, W) along C, H and W by 11 taps of a Gaussian of sigma 1.5, with the border replicated."""
    offsets = range(-5, 6)
    weights = torch.tensor([-0.5 * (offset / 1.5) ** 2 for offset in offsets], dtype=torch.float64).softmax(0).tolist()
    # On a CPU, sums of shifted images are ten times faster than convolutions of one channel.
    for axis in (1, 2, 3):
        size = images.shape[axis]
        places = torch.arange(-5, size + 5, device=images.device).clamp(0, size - 1)
        padded, images = images.index_select(axis, places), torch.zeros_like(images)
        for start, weight in enumerate(weights):
            images.add_(padded.narrow(axis, start, size), alpha=weight)
    return images


def rmse(pred: Tensor, target: Tensor) -> Tensor:
    """Root of the mean squared error, in the images' own unit: 1 is the whole range, 1/255 one of 8 bits' levels.

    Arguments, result and errors are those of `psnr`; torchmetrics is not needed.
    """
    pred, target, batched = _batched(pred, target)
    values = (pred - target).square().mean((1, 2, 3)).sqrt()
    return values if batched else values[0]


def luma(images: Tensor) -> Tensor:
    """Y of MATLAB's `rgb2ycbcr` for 8-bit colour images (ITU-R BT.601): 16 to 235, divided by 255.

    Args:
        images: (..., 3, H, W) floating point. They are first clamped and rounded to the 8-bit levels of [0, 1].

    Returns:
        Y, (..., 1, H, W) of the same dtype. It is rounded to 8 bits too, halves upwards, in exact integers.

    Raises:
        ValueError: other shapes or dtypes.
    """
    _expect_colour(images)
    red, green, blue = (images * 255).round().clamp(0, 255).long().unbind(-3)
    thousandths = 65481 * red + 128553 * green + 24966 * blue  # the weights of Y - 16, times 255
    y = 16 + (thousandths + 127_500) // 255_000
    return (y.to(images.dtype) / 255).unsqueeze(-3)


def lab(images: Tensor) -> Tensor:
    """CIE 1976 L*a*b* of sRGB images, as MATLAB's `rgb2lab`: the white point is D65.

    Args:
        images: (..., 3, H, W) floating point in [0, 1].

    Returns:
        L* (0 to 100), a* and b* as the three channels, of the same shape and dtype.

    Raises:
        ValueError: other shapes or dtypes.
    """
    _expect_colour(images)
    linear = torch.where(images > 0.04045, ((images.clamp(min=0) + 0.055) / 1.055) ** 2.4, images / 12.92)
    matrix, white = (images.new_tensor(table) for table in (_RGB_TO_XYZ, _D65))
    xyz = torch.einsum("ij,...jhw->...ihw", matrix / white[:, None], linear)
    edge = 6 / 29
    f = torch.where(xyz > edge**3, xyz.clamp(min=0) ** (1 / 3), xyz / (3 * edge**2) + 4 / 29)
    x, y, z = f.unbind(-3)
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], dim=-3)


def lab_mae(pred: Tensor, target: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean absolute error in L*a*b*, summed over the three channels: what the shadow-removal scripts call RMSE.

    Args:
        pred, target: colour images in [0, 1], (3, H, W) or a batch (N, 3, H, W).
        mask: bool (1, H, W) or (N, 1, H, W), the pixels that count; all if None.

    Returns:
        A scalar for one image, (N,) for a batch; NaN where the mask is empty.

    Raises:
        ValueError: as for `psnr`, and for images that are not colour or a mask of another shape or dtype.
    """
    pred, target, batched = _batched(pred, target)
    _expect_colour(pred)
    error = (lab(pred) - lab(target)).abs().sum(1, keepdim=True)
    if mask is None:
        values = error.mean((1, 2, 3))
    else:
        mask = mask if batched else mask[None]
        if mask.dtype != torch.bool or mask.shape != error.shape:
            raise ValueError(f"expected a bool mask {tuple(error.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        values = (error * mask).sum((1, 2, 3)) / mask.sum((1, 2, 3))
    return values if batched else values[0]


def _expect_colour(images: Tensor) -> None:
    if images.dim() < 3 or images.shape[-3] != 3 or not images.is_floating_point():
        raise ValueError(f"expected floating-point images (..., 3, H, W), got {images.dtype} {tuple(images.shape)}")


def _batched(pred: Tensor, target: Tensor) -> tuple[Tensor, Tensor, bool]:
    if pred.shape != target.shape:
        raise ValueError(f"images differ in shape: {tuple(pred.shape)} and {tuple(target.shape)}")
    if pred.dim() not in (3, 4) or pred.numel() == 0:
        raise ValueError(f"expected images (C, H, W) or (N, C, H, W), got {tuple(pred.shape)}")
    if not pred.is_floating_point() or not target.is_floating_point():
        raise ValueError(f"expected floating-point images in [0, 1], got {pred.dtype} and {target.dtype}")
    # Wrong figures usually come from images left in [-1, 1] or 0..255. Only the target is checked, because a
    # prediction may overshoot a little.
    low, high = torch.aminmax(target)
    if low < 0 or high > 1:
        raise ValueError(f"expected a target in [0, 1], got {low:g} to {high:g}")
    if pred.dim() == 3:
        return pred[None], target[None], False
    return pred, target, True
