"""Evaluating as BasicSR does, without a border; pyiqa's metrics, by a stand-in with its API; JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from commands import error_of, run, succeeded
from small_models import seeded

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.restoration.demo import PHOTOS

pytest.importorskip("torchmetrics")
skimage_metrics = pytest.importorskip("skimage.metrics")


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two photographs, 64x50, and noisy ones, whose border is black."""
    generator = seeded(0)
    for photo in sorted(PHOTOS.glob("*.png"))[:2]:
        truth = read_image(photo).pixels[:, 40:90, 30:94]
        pred = (truth + 0.05 * torch.randn(truth.shape, generator=generator)).clamp(0, 1)
        pred[:, :4], pred[:, -4:], pred[:, :, :4], pred[:, :, -4:] = 0, 0, 0, 0
        write_image(tmp_path / "gt" / photo.name, Picture(truth))
        write_image(tmp_path / "pred" / photo.name, Picture(pred))
    return tmp_path


def lines(folders: Path, *options: object) -> list[dict[str, Any]]:
    """The JSON lines of `rddm-fast evaluate` of pred/ against gt/."""
    result = succeeded(run("evaluate", folders / "pred", folders / "gt", "--json", *options))
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_crop_border_against_scikit_image(folders: Path) -> None:
    *images, summary = lines(folders, "--crop-border", 4)
    assert summary["status"] == "finished" and summary["crop_border"] == 4
    for image in images:
        pair = [read_image(folders / kind / f"{image['name']}.png").pixels for kind in ("gt", "pred")]
        truth, pred = ((x * 255).round().byte().permute(1, 2, 0).numpy()[4:-4, 4:-4] for x in pair)
        options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
        similarity = skimage_metrics.structural_similarity(truth, pred, data_range=255, channel_axis=2, **options)
        assert image["status"] == "measured" and image["pixels"] == 42 * 56
        assert image["psnr"] == pytest.approx(skimage_metrics.peak_signal_noise_ratio(truth, pred), abs=1e-3)
        assert image["ssim"] == pytest.approx(similarity, abs=1e-4)
    assert summary["metrics"]["psnr"]["mean"] == pytest.approx(np.mean([image["psnr"] for image in images]))
    assert summary["metrics"]["psnr"]["mean"] > lines(folders)[-1]["metrics"]["psnr"]["mean"] + 5  # the black border


def test_a_border_that_leaves_nothing_is_a_failure_of_the_image(folders: Path) -> None:
    result = run("evaluate", folders / "pred", folders / "gt", "--crop-border", 25, "--json")
    assert result.exit_code == 1
    first, *_, summary = map(json.loads, result.stdout.splitlines())
    assert first["status"] == "failed" and first["error"].endswith("is 64x50: nothing is left where crop_border is 25")
    assert summary["images"] == 0 and len(summary["failed"]) == 2


class Metric:
    """A metric as pyiqa makes it: "mae" compares with the truth, "dark" is of one image, of which less is better."""

    def __init__(self, name: str, device: object) -> None:
        if name not in ("mae", "dark"):
            raise KeyError(f"Unknown metric name {name}")
        self.metric_mode, self.lower_better = ("FR" if name == "mae" else "NR"), name == "dark"

    def __call__(self, x: torch.Tensor, ref: torch.Tensor | None = None) -> torch.Tensor:
        assert x.dim() == 4 and x.dtype == torch.float32 and x.min() >= 0 and x.max() <= 1
        assert (ref is None) == (self.metric_mode == "NR")
        if x.shape[-1] < 20:
            raise AssertionError("images must be\nlarger")
        return (x - (0 if ref is None else ref)).abs().mean((1, 2, 3), keepdim=True)


@pytest.fixture
def pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    """The part of pyiqa's API that is used; pyiqa itself needs torchvision, whose wheels ask for one torch."""
    module = ModuleType("pyiqa")
    module.create_metric = lambda name, device: Metric(name, device)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pyiqa", module)


def test_metrics_of_pyiqa(folders: Path, pyiqa: None) -> None:
    options = ("--metric", "pyiqa:mae", "--metric", "pyiqa:dark", "--crop-border", 2, "--output", folders / "out")
    *images, summary = lines(folders, *options)
    for image in images:
        truth, pred = (
            read_image(folders / kind / f"{image['name']}.png").pixels[:, 2:-2, 2:-2] for kind in ("gt", "pred")
        )
        assert image["pyiqa:mae"] == pytest.approx((truth - pred).abs().mean().item(), abs=1e-6)
        assert image["pyiqa:dark"] == pytest.approx(pred.mean().item(), abs=1e-6)
    assert summary["lower_is_better"] == ["rmse", "mae_lab", "pyiqa:dark"]
    assert "pyiqa:mae,pyiqa:dark" in (folders / "out" / "metrics.csv").read_text().splitlines()[0]
    table = succeeded(run("evaluate", folders / "pred", folders / "gt", *options)).stdout
    assert "pyiqa:dark, less is better" in table and "pyiqa:mae," not in table


def test_what_pyiqa_cannot_do_is_one_sentence(folders: Path, pyiqa: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def error(*options: object) -> str:
        return error_of(run("evaluate", folders / "pred", folders / "gt", *options))

    assert error("--metric", "niqe") == "error: --metric is 'niqe': write pyiqa:NAME, such as pyiqa:niqe"
    assert error("--metric", "pyiqa:nique") == "error: pyiqa makes no metric 'nique': 'Unknown metric name nique'"
    small = run("evaluate", folders / "pred", folders / "gt", "--metric", "pyiqa:mae", "--resize", "16x16")
    assert "mae of pyiqa cannot measure images of 16x16: images must be larger" in small.stderr
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    assert error("--metric", "pyiqa:mae") == "error: pyiqa is not installed; pip install pyiqa installs it"
