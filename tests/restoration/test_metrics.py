"""The metrics against known values, scikit-image, SciPy, and the numbers in MATLAB's documentation."""

import math
import sys

import numpy as np
import pytest
import torch
from commands import python

from rddm_fast.restoration.metrics import lab, lab_mae, luma, psnr, rmse, ssim, ssim_volume

pytest.importorskip("torchmetrics")


def images(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(shape, generator=generator)
    return (target + 0.1 * torch.randn(shape, generator=generator)).clamp(0, 1), target


def test_psnr_of_a_constant_error():
    target = torch.full((3, 8, 8), 0.5)
    assert psnr(target + 0.1, target).item() == pytest.approx(20, abs=1e-4)
    assert psnr(target, target).item() == math.inf


def test_psnr_is_of_each_image_not_of_the_batch():
    target = torch.full((2, 3, 8, 8), 0.5)
    pred = target + torch.tensor([0.1, 0.01]).reshape(2, 1, 1, 1)
    assert psnr(pred, target).tolist() == pytest.approx([20, 40], abs=1e-3)


def test_agree_with_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    pred, target = images(2, 3, 40, 33)
    for index in range(2):
        ours, theirs = pred[index].double().numpy(), target[index].double().numpy()
        expected = metrics.peak_signal_noise_ratio(theirs, ours, data_range=1)
        assert psnr(pred, target)[index].item() == pytest.approx(expected, abs=1e-4)
        options = {"channel_axis": 0, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        expected = metrics.structural_similarity(theirs, ours, data_range=1, **options)
        assert ssim(pred, target)[index].item() == pytest.approx(expected, abs=1e-4)
    assert ssim(target, target).tolist() == pytest.approx([1, 1])


@pytest.mark.parametrize("metric", [psnr, ssim, ssim_volume, rmse])
def test_one_image_is_a_batch_of_one(metric):
    pred, target = images(1, 1, 16, 20)
    assert metric(pred, target).shape == (1,)
    assert metric(pred[0], target[0]).shape == ()
    assert torch.equal(metric(pred[0], target[0]), metric(pred, target)[0])


@pytest.mark.parametrize("metric", [psnr, ssim, ssim_volume, rmse, lab_mae])
def test_errors(metric):
    pred, target = images(3, 16, 16)
    for given, sentence in [
        ((pred, target[:1]), r"images differ in shape: \(3, 16, 16\) and \(1, 16, 16\)"),
        ((pred[0], target[0]), r"expected images \(C, H, W\) or \(N, C, H, W\), got \(16, 16\)"),
        ((pred.byte(), target.byte()), r"floating-point images in \[0, 1\], got torch.uint8"),
        ((pred, target * 2 - 1), r"expected a target in \[0, 1\], got -\d"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            metric(*given)


def test_ssim_needs_the_window():
    pred, target = images(3, 10, 30)
    with pytest.raises(ValueError, match="at least 11x11 pixels, got 30x10"):
        ssim(pred, target)


def test_a_missing_torchmetrics_is_named_with_what_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics.functional.image", None)
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    pred, target = images(3, 16, 16)
    with pytest.raises(ImportError, match=r"torchmetrics is not installed; pip install 'rddm_fast\[metrics\]'"):
        psnr(pred, target)


def test_importing_brings_no_optional_package():
    modules = "datasets, degrade, find, picture, pairs, photographs"
    code = (
        f"import sys; from rddm_fast.restoration import metrics; from rddm_fast.images import {modules}; "
        "print([name for name in ('PIL', 'cv2', 'torchmetrics', 'skimage') if name in sys.modules])"
    )
    assert python("-c", code, check=True).stdout.strip() == "[]"


def test_values_are_numbers_of_the_inputs_dtype():
    pred, target = images(3, 16, 16)
    assert psnr(pred.double(), target.double()).dtype == torch.float64
    assert np.isfinite(psnr(pred, target).item())


def hwc(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).double().numpy()


def test_rmse_is_the_root_of_the_mean_square():
    pred, target = images(2, 3, 20, 30)
    expected = ((pred - target) ** 2).numpy().mean((1, 2, 3)) ** 0.5
    assert rmse(pred, target).tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    assert (-20 * rmse(pred, target).log10()).tolist() == pytest.approx(psnr(pred, target).tolist(), rel=1e-5)


def test_ssim_of_a_volume_is_the_formula_on_scipys_filter():
    blur = pytest.importorskip("scipy.ndimage").gaussian_filter
    pred, target = (image.double() for image in images(3, 24, 31))

    def mean(x):
        return blur(x, 1.5, mode="nearest", truncate=3.5)  # a radius of 5: 11 taps along each of the three axes

    x, y = pred.numpy(), target.numpy()
    mx, my = mean(x), mean(y)
    vx, vy, cov = mean(x * x) - mx**2, mean(y * y) - my**2, mean(x * y) - mx * my
    quotient = (2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4))
    assert ssim_volume(pred, target).item() == pytest.approx(quotient.mean(), abs=1e-9)
    assert ssim_volume(pred.float(), target.float()).item() == pytest.approx(quotient.mean(), abs=1e-5)
    assert abs(quotient.mean() - ssim(pred, target).item()) > 1e-3  # they are two metrics


def test_luma_is_matlabs_rgb2ycbcr_of_8_bits():
    rgb2ycbcr = pytest.importorskip("skimage.color").rgb2ycbcr
    image = images(3, 64, 48)[1]
    levels = (hwc(image) * 255).round().astype(np.uint8)
    expected = np.floor(rgb2ycbcr(levels)[..., 0] + 0.5)
    assert np.array_equal((luma(image)[0] * 255).numpy().round(), expected)
    colours = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255]]
    bars = torch.tensor(colours).T[:, None] / 255
    assert (luma(bars) * 255).round().flatten().tolist() == [16, 235, 81, 145, 41]  # the colour bars of BT.601


def test_luma_rounds_halves_up():
    # 16 + (65.481 R + 128.553 G + 24.966 B) / 255 ends in exactly one half for these levels.
    halves = [(r, g, b) for r in range(256) for g in range(256) for b in (0, 255)]
    halves = [c for c in halves if (65481 * c[0] + 128553 * c[1] + 24966 * c[2]) % 255_000 == 127_500]
    assert halves
    r, g, b = halves[0]
    below = 16 + (65481 * r + 128553 * g + 24966 * b) // 255_000
    assert luma(torch.tensor(halves[0]).reshape(3, 1, 1) / 255).item() * 255 == pytest.approx(below + 1)


def test_lab_agrees_with_scikit_image():
    rgb2lab = pytest.importorskip("skimage.color").rgb2lab
    pred, target = (image.double() for image in images(2, 3, 40, 33))
    for p, t in zip(pred, target, strict=True):
        # Its matrix does not map white to its own white point, which moves b* by 0.005; see the next test.
        assert np.abs(hwc(lab(t)) - rgb2lab(hwc(t))).max() < 6e-3
        expected = np.abs(rgb2lab(hwc(p)) - rgb2lab(hwc(t))).sum(2)
        assert lab_mae(p, t).item() == pytest.approx(expected.mean(), abs=1e-3)
        assert lab_mae(p.float(), t.float()).item() == pytest.approx(expected.mean(), abs=1e-3)
        mask = torch.arange(40 * 33).reshape(1, 40, 33) % 3 == 0
        assert lab_mae(p, t, mask).item() == pytest.approx(expected[mask[0].numpy()].mean(), abs=1e-3)


def test_lab_agrees_with_matlabs_documentation():
    assert lab(torch.ones(3, 1, 1)).flatten().tolist() == pytest.approx([100, 0, 0], abs=1e-4)
    # The documented rgb2lab([.2 .3 .4], "ColorSpace", "adobe-rgb-1998"), taken to sRGB by way of XYZ.
    white = np.array([0.95047, 1, 1.08883])

    def matrix(primaries):
        columns = np.array([[x / y, 1, (1 - x - y) / y] for x, y in primaries]).T
        return columns * np.linalg.solve(columns, white)

    adobe = matrix([(0.64, 0.33), (0.21, 0.71), (0.15, 0.06)])
    srgb = matrix([(0.64, 0.33), (0.30, 0.60), (0.15, 0.06)])
    linear = np.linalg.solve(srgb, adobe @ np.array([0.2, 0.3, 0.4]) ** (563 / 256))
    coded = torch.from_numpy(1.055 * linear ** (1 / 2.4) - 0.055).reshape(3, 1, 1)
    assert lab(coded).flatten().tolist() == pytest.approx([30.1783, -5.6902, -20.8223], abs=1e-3)


def test_lab_mae_of_a_batch_and_of_an_empty_mask():
    pred, target = images(2, 3, 12, 9)
    mask = torch.zeros(2, 1, 12, 9, dtype=torch.bool)
    mask[0, :, :4] = True
    values = lab_mae(pred, target, mask)
    assert values[0].item() == pytest.approx(lab_mae(pred[0, :, :4], target[0, :, :4]).item(), rel=1e-5)
    assert values[1].isnan()
    with pytest.raises(ValueError, match=r"expected a bool mask \(2, 1, 12, 9\), got torch.float32"):
        lab_mae(pred, target, mask.float())


@pytest.mark.parametrize("function", [luma, lab])
def test_colour_is_needed(function):
    with pytest.raises(ValueError, match=r"expected floating-point images \(..., 3, H, W\), got torch.uint8"):
        function(torch.zeros(3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got torch.float32 \(1, 4, 4\)"):
        function(torch.zeros(1, 4, 4))
