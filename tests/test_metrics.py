"""PSNR and SSIM against known values and scikit-image."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from rddm_fast.metrics import psnr, ssim

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


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_image_is_a_batch_of_one(metric):
    pred, target = images(1, 1, 16, 20)
    assert metric(pred, target).shape == (1,)
    assert metric(pred[0], target[0]).shape == ()
    assert torch.equal(metric(pred[0], target[0]), metric(pred, target)[0])


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_errors(metric):
    pred, target = images(3, 16, 16)
    with pytest.raises(ValueError, match=r"images differ in shape: \(3, 16, 16\) and \(1, 16, 16\)"):
        metric(pred, target[:1])
    with pytest.raises(ValueError, match=r"expected images \(C, H, W\) or \(N, C, H, W\), got \(16, 16\)"):
        metric(pred[0], target[0])
    with pytest.raises(ValueError, match=r"floating-point images in \[0, 1\], got torch.uint8"):
        metric(pred.byte(), target.byte())
    with pytest.raises(ValueError, match=r"expected a target in \[0, 1\], got -\d"):
        metric(pred, target * 2 - 1)


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
    modules = "data, degrade, image_files, io, metrics, pairs, photographs"
    code = (
        f"import sys; from rddm_fast import {modules}; "
        "print([name for name in ('PIL', 'cv2', 'torchmetrics', 'skimage') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_values_are_numbers_of_the_inputs_dtype():
    pred, target = images(3, 16, 16)
    assert psnr(pred.double(), target.double()).dtype == torch.float64
    assert np.isfinite(psnr(pred, target).item())
