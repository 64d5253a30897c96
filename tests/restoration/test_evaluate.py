"""Measuring folders of results: the numbers, the files, masks, networks from TorchScript, several processes."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, launched, run, succeeded
from small_models import seeded
from typer.testing import Result

from rddm_fast.images.pairs import find_pairs
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.restoration.evaluate import Evaluator, evaluate

pytest.importorskip("torchmetrics")
skimage_metrics = pytest.importorskip("skimage.metrics")
skimage_color = pytest.importorskip("skimage.color")

# TorchScript is deprecated, but these networks come as TorchScript files.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.*` is deprecated:DeprecationWarning")

NAMES = ["a", "b", "c", "d", "e"]


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Five photographs with growing noise in pred/, the photographs in gt/, and masks; `c` is exact."""
    generator = seeded(0)
    photos = sorted(PHOTOS.glob("*.png"))[: len(NAMES)]
    for number, (name, photo) in enumerate(zip(NAMES, photos, strict=True)):
        truth = read_image(photo).pixels[:, 40:90, 30:94]
        noise = 0.02 * number * (name != "c") * torch.randn(truth.shape, generator=generator)
        mask = torch.zeros_like(truth)
        mask[:, 10:30, 20:50] = 1
        write_image(tmp_path / "gt" / f"{name}.png", Picture(truth))
        write_image(tmp_path / "pred" / f"{name}.png", Picture(truth + noise + 0.01 * (name != "c")))
        write_image(tmp_path / "mask" / f"{name}.png", Picture(mask))
    return tmp_path


def measured(folders: Path, *options: object) -> Result:
    """`rddm-fast evaluate` of pred/ against gt/."""
    return run("evaluate", folders / "pred", folders / "gt", *options)


def levels(path: Path) -> np.ndarray:
    """The file's 8-bit samples, (H, W, 3)."""
    return (read_image(path).pixels * 255).round().byte().permute(1, 2, 0).numpy()


def psnr_of(pred: np.ndarray, truth: np.ndarray) -> float:
    return skimage_metrics.peak_signal_noise_ratio(truth, pred, data_range=255)


def ssim_of(pred: np.ndarray, truth: np.ndarray, **options: object) -> float:
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, **options}
    return skimage_metrics.structural_similarity(truth, pred, **options)


def test_colour_and_lab_against_scikit_image(folders: Path) -> None:
    result = succeeded(measured(folders, "--output", folders / "out"))
    table = rows(folders / "out" / "metrics.csv")
    assert list(table) == NAMES
    assert list(table["a"]) == ["name", "psnr", "ssim", "ssim_volume", "rmse", "mae_lab", "pixels"]
    for name in ("a", "b", "d", "e"):
        pred, truth = levels(folders / "pred" / f"{name}.png"), levels(folders / "gt" / f"{name}.png")
        row = {key: float(value) for key, value in table[name].items() if key != "name"}
        assert row["psnr"] == pytest.approx(psnr_of(pred, truth), abs=1e-3)
        assert row["ssim"] == pytest.approx(ssim_of(pred, truth, channel_axis=2), abs=1e-4)
        assert row["rmse"] == pytest.approx(np.sqrt(((pred / 255.0 - truth / 255.0) ** 2).mean()), abs=1e-6)
        lab = np.abs(skimage_color.rgb2lab(pred) - skimage_color.rgb2lab(truth)).sum(2).mean()
        assert row["mae_lab"] == pytest.approx(lab, abs=2e-3)
        assert row["pixels"] == 50 * 64
    assert table["c"]["psnr"] == "inf" and float(table["c"]["ssim"]) == pytest.approx(1)

    text = (folders / "out" / "summary.json").read_text()
    summary = json.loads(text, parse_constant=lambda constant: pytest.fail(f"{constant} is not JSON"))
    assert summary["images"] == 5 and summary["failed"] == [] and summary["metrics"]["psnr"]["mean"] == "inf"
    ssims = [float(table[name]["ssim"]) for name in NAMES]
    assert summary["metrics"]["ssim"]["mean"] == pytest.approx(np.mean(ssims), abs=1e-6)
    assert summary["metrics"]["ssim"]["std"] == pytest.approx(np.std(ssims, ddof=1), abs=1e-6)
    assert "worst: e (" in result.stdout and "ssim" in result.stdout


def test_luma_as_deraining_and_low_light_are_published(folders: Path) -> None:
    succeeded(measured(folders, "-o", folders / "out", "--space", "y"))
    table = rows(folders / "out" / "metrics.csv")
    assert "ssim_volume" not in table["a"]
    for name in ("b", "e"):
        pred, truth = (
            np.floor(skimage_color.rgb2ycbcr(levels(folders / kind / f"{name}.png"))[..., 0] + 0.5)
            for kind in ("pred", "gt")
        )
        assert float(table[name]["psnr"]) == pytest.approx(psnr_of(pred, truth), abs=1e-3)
        assert float(table[name]["ssim"]) == pytest.approx(ssim_of(pred, truth), abs=1e-4)


def test_masks_as_shadow_removal_is_published(folders: Path) -> None:
    write_image(folders / "mask" / "b.png", Picture(torch.zeros(3, 50, 64)))
    succeeded(measured(folders, "--mask", folders / "mask", "-o", folders / "out"))
    table = rows(folders / "out" / "metrics.csv")
    errors, counts = [], []
    for name in NAMES:
        row = table[name]
        pred, truth = levels(folders / "pred" / f"{name}.png"), levels(folders / "gt" / f"{name}.png")
        inside = levels(folders / "mask" / f"{name}.png")[..., :1] > 127
        lab = np.abs(skimage_color.rgb2lab(pred) - skimage_color.rgb2lab(truth)).sum(2, keepdims=True)
        errors.append((lab * inside).sum())
        counts.append(inside.sum())
        for region, mask in (("shadow", inside), ("non_shadow", ~inside)):
            assert int(row[f"pixels_{region}"]) == mask.sum()
            if not mask.any():
                assert row[f"mae_lab_{region}"] == row[f"psnr_{region}"] == row[f"ssim_{region}"] == ""
                continue
            assert float(row[f"mae_lab_{region}"]) == pytest.approx(lab[mask].mean(), abs=2e-3)
            if name != "c":
                expected = psnr_of(pred * mask, truth * mask)  # of the whole, blacked out image
                assert float(row[f"psnr_{region}"]) == pytest.approx(expected, abs=1e-3)
            expected = ssim_of(pred * mask, truth * mask, channel_axis=2)
            assert float(row[f"ssim_{region}"]) == pytest.approx(expected, abs=1e-4)
    summary = json.loads((folders / "out" / "summary.json").read_text())
    means = [error / count for error, count in zip(errors, counts, strict=True) if count]
    assert summary["metrics"]["mae_lab_shadow"]["mean"] == pytest.approx(np.mean(means), abs=2e-3)
    assert summary["mae_lab_per_pixel"]["shadow"] == pytest.approx(sum(errors) / sum(counts), abs=2e-3)


def test_resize_makes_one_size_of_two(folders: Path) -> None:
    big = torch.nn.functional.interpolate(read_image(folders / "gt" / "a.png").pixels[None], scale_factor=2)[0]
    write_image(folders / "gt" / "a.png", Picture(big))
    result = measured(folders)
    assert result.exit_code == 1 and "5 failed" in result.stderr
    assert f"{folders}/pred/a.png is 64x50 and {folders}/gt/a.png is 128x100" in result.stderr
    result = succeeded(measured(folders, "--resize", "32x40", "-o", folders / "out"))
    pil = pytest.importorskip("PIL.Image")
    files = [folders / kind / "e.png" for kind in ("pred", "gt")]
    pred, truth = (np.asarray(pil.open(file).resize((40, 32), pil.Resampling.BICUBIC)) for file in files)
    assert float(rows(folders / "out" / "metrics.csv")["e"]["psnr"]) == pytest.approx(psnr_of(pred, truth), abs=0.05)
    assert int(rows(folders / "out" / "metrics.csv")["a"]["pixels"]) == 32 * 40


def test_a_bad_pair_is_named_and_the_rest_is_measured(folders: Path) -> None:
    (folders / "pred" / "b.png").write_bytes(b"not an image")
    write_image(folders / "pred" / "d.png", Picture(torch.zeros(3, 8, 8)))
    write_image(folders / "gt" / "d.png", Picture(torch.zeros(3, 8, 8)))
    result = measured(folders, "-o", folders / "out")
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    assert "b.png is not a readable" in result.stderr and "2 of 5 failed" in result.stderr
    assert "d.png was not measured: ssim needs images of at least 11x11 pixels, got 8x8" in result.stderr
    assert list(rows(folders / "out" / "metrics.csv")) == ["a", "c", "e"]
    assert len(json.loads((folders / "out" / "summary.json").read_text())["failed"]) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["pred", "nowhere"], "nowhere does not exist"),
        (["pred"], "names no ground truth: pass its folder as the second argument"),
        (["pred", "gt", "--resize", "big"], "--resize is 'big': write height and width"),
        (["pred", "gt", "--lpips", "none.pt"], "none.pt does not exist: name a TorchScript file"),
        (["pred", "gt", "--fid", "gt/a.png"], "a.png is not a TorchScript file: save the network with torch.jit.save"),
    ],
)
def test_a_mistake_is_one_sentence(options: list[str], sentence: str, folders: Path) -> None:
    options = [option if option.startswith("--") or option == "big" else str(folders / option) for option in options]
    assert sentence in error_of(run("evaluate", *options))


def test_folders_that_do_not_match_name_the_odd_file(folders: Path) -> None:
    (folders / "gt" / "b.png").unlink()
    result = measured(folders, "-o", folders / "out")
    assert result.exit_code == 1 and "b.png" in result.stderr and not (folders / "out").exists()


def test_the_gallery_shows_the_worst_first(folders: Path) -> None:
    pil = pytest.importorskip("PIL.Image")
    succeeded(measured(folders, "-o", folders / "out", "--worst", 2))
    gallery = np.asarray(pil.open(folders / "out" / "worst.png").convert("RGB"))
    truths = {name: levels(folders / "gt" / f"{name}.png") for name in NAMES}

    def row_of(name: str) -> int | None:
        """Where the gallery has this image in its second column, left edge at 2 gaps and a width of 256."""
        left = 8 + 256 + 8
        for top in range(gallery.shape[0] - 50):
            if np.array_equal(gallery[top : top + 50, left : left + 64], truths[name]):
                return top
        return None

    places = {name: row_of(name) for name in NAMES}
    assert [name for name in NAMES if places[name] is not None] == ["d", "e"]
    assert places["e"] < places["d"]
    difference = np.abs(levels(folders / "pred" / "e.png") / 255 - truths["e"] / 255) * 4
    shown = gallery[places["e"] : places["e"] + 50, 8 + 2 * 264 : 8 + 2 * 264 + 64]
    assert np.abs(shown - difference.clip(0, 1) * 255).max() <= 1
    succeeded(measured(folders, "-o", folders / "none", "--worst", 0))
    assert not (folders / "none" / "worst.png").exists()


class Distance(torch.nn.Module):
    def forward(self, pred: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return (pred - target).abs().mean().reshape(1, 1, 1, 1)


class TinyInception(torch.nn.Module):
    """Colour means as features, and probabilities of three classes."""

    def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert images.dtype == torch.uint8
        means = images.float().mean((2, 3)) / 32
        return means if return_features else means.softmax(1)


def test_networks_from_torchscript_files(folders: Path) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    torch.jit.script(Distance()).save(folders / "lpips.pt")
    torch.jit.script(TinyInception()).save(folders / "inception.pt")
    networks = ["--lpips", folders / "lpips.pt", "--fid", folders / "inception.pt", "--is", folders / "inception.pt"]
    result = succeeded(measured(folders, "-o", folders / "out", *networks))
    pred, truth = ([levels(folders / kind / f"{name}.png") for name in NAMES] for kind in ("pred", "gt"))
    for name, p, t in zip(NAMES, pred, truth, strict=True):
        expected = 2 * np.abs(p / 255 - t / 255).mean()
        assert float(rows(folders / "out" / "metrics.csv")[name]["lpips"]) == pytest.approx(expected, abs=1e-5)

    summary = json.loads((folders / "out" / "summary.json").read_text())
    fake, real = (np.stack([image.mean((0, 1)) / 32 for image in images]) for images in (pred, truth))
    covariances = np.cov(fake, rowvar=False), np.cov(real, rowvar=False)
    fid = ((fake.mean(0) - real.mean(0)) ** 2).sum() + np.trace(sum(covariances))
    fid -= 2 * np.trace(linalg.sqrtm(covariances[0] @ covariances[1]).real)
    assert summary["fid"] == pytest.approx(fid, rel=1e-3, abs=1e-6)
    # Ten parts of five images are five parts of one image each, with score 1.
    assert summary["inception_score"]["mean"] == pytest.approx(1, abs=1e-6)
    assert "inception score" in result.stdout and "fid" in result.stdout


def test_a_network_that_does_not_fit_is_named(folders: Path) -> None:
    torch.jit.script(torch.nn.Conv2d(1, 1, 3)).save(folders / "conv.pt")
    report = evaluate(find_pairs(folders / "pred", folders / "gt"), Evaluator(fid=folders / "conv.pt"))
    assert report is not None and len(report.errors) == 5
    assert "conv.pt cannot take images (1, 3, 50, 64)" in report.errors[0]


def test_a_csv_names_pairs(folders: Path) -> None:
    (folders / "pairs.csv").write_text("input,target\npred/b.png,gt/b.png\npred/e.png,gt/e.png\n")
    report = evaluate(find_pairs(folders / "pairs.csv"), Evaluator())
    assert report is not None and [record.pair.name for record in report.records] == ["b", "e"]
    succeeded(run("evaluate", folders / "pairs.csv"))


def test_progress_counts_the_pairs(folders: Path) -> None:
    seen: list[tuple[int, int]] = []
    report = evaluate(find_pairs(folders / "pred", folders / "gt"), Evaluator(), lambda *now: seen.append(now))
    assert seen == [(number, 5) for number in range(1, 6)]
    assert report is not None and [record.pair.name for record in report.worst(2)] == ["e", "d"]
    assert math.isinf(report.records[2].values["psnr"] or 0)


def test_two_processes_write_what_one_writes(folders: Path) -> None:
    torch.jit.script(TinyInception()).save(folders / "inception.pt")
    arguments = [folders / "pred", folders / "gt", "--mask", folders / "mask", "--fid", folders / "inception.pt"]
    succeeded(run("evaluate", *arguments, "-o", folders / "one"))
    done = launched(2, "-m", "rddm_fast.cli", "evaluate", *arguments, "-o", folders / "two")
    assert (folders / "two" / "metrics.csv").read_text() == (folders / "one" / "metrics.csv").read_text()
    one, two = (json.loads((folders / name / "summary.json").read_text()) for name in ("one", "two"))
    assert two == one and two["images"] == 5
    assert done.stdout.count("written to") == 1
