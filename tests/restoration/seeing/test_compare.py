"""Before and after, side by side."""

import json
from pathlib import Path

import pytest
import torch
from commands import error_of, run, succeeded
from PIL import ImageCms

from rddm_fast.images.picture import Picture, read_image, write_image

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """A picture with a transparent lower half, 200 wide and 40 high."""
    alpha = torch.ones(1, 40, 200)
    alpha[:, 20:] = 0
    write_image(tmp_path / "in" / "a.png", Picture(pixels=torch.rand(3, 40, 200) * 0.5, alpha=alpha, icc=PROFILE))
    return tmp_path / "in" / "a.png"


def contains(sheet: torch.Tensor, image: torch.Tensor) -> list[tuple[int, int]]:
    """Where an image (3, H, W) stands in a sheet: (top, left) of each place."""
    height, width = image.shape[1:]
    places = sheet.unfold(1, height, 1).unfold(2, width, 1)
    same = (places == image[:, None, None]).all(-1).all(-1).all(0)
    return [(int(top), int(left)) for top, left in same.nonzero()]


def test_both_stand_side_by_side_and_opaque(model: Path, photo: Path, tmp_path: Path) -> None:
    told = succeeded(run("restore", photo, "-o", tmp_path / "out", "-m", model, "--compare", "--json"))
    beside = tmp_path / "out" / "a.png.compare.png"
    assert json.loads(told.stdout.splitlines()[0])["comparison"] == str(beside)
    sheet = read_image(beside)
    assert sheet.icc == PROFILE
    assert sheet.pixels.shape == (3, 8 + 16 + 40 + 8, 8 + 200 + 8 + 200 + 8)
    for path, left in ((photo, 8), (tmp_path / "out" / "a.png", 216)):
        upper = read_image(path).pixels[:, :20]
        assert contains(sheet.pixels, upper) == [(24, left)]
        assert (sheet.pixels[:, 44:64, left : left + 200] == 1).all()
    caption = sheet.pixels[:, 8:24, 8:208]
    assert caption.min() < 0.2 and caption.max() == 1


def test_a_comparison_that_lacks_is_made_without_restoring_again(model: Path, photo: Path, tmp_path: Path) -> None:
    command = ("restore", photo, "-o", tmp_path / "out", "-m", model)
    succeeded(run(*command))
    result, beside = tmp_path / "out" / "a.png", tmp_path / "out" / "a.png.compare.png"
    written = result.stat().st_mtime_ns
    assert "0 restored, 1 already in" in succeeded(run(*command, "--compare")).stdout
    assert beside.exists() and result.stat().st_mtime_ns == written
    made = beside.stat().st_mtime_ns
    succeeded(run(*command, "--compare"))
    assert beside.stat().st_mtime_ns == made


def test_a_smaller_picture_is_enlarged_to_its_result(photo: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "small.png", Picture(pixels=torch.rand(3, 8, 16)))
    formula = ("--method", "ddnm", "--operator", "sr:4", "--steps", 1)
    succeeded(run("restore", tmp_path / "small.png", "-o", tmp_path / "out", "--compare", *formula))
    sheet = read_image(tmp_path / "out" / "small.png.compare.png").pixels
    assert sheet.shape[1] == 8 + 16 + 32 + 8
    assert len(contains(sheet, read_image(tmp_path / "out" / "small.png").pixels)) == 1


def test_with_degrade_three_are_compared(photo: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "clean.png", Picture(pixels=torch.rand(3, 16, 16)))
    formula = ("--method", "ddnm", "--operator", "color", "--steps", 1, "--degrade")
    succeeded(run("restore", tmp_path / "clean.png", "-o", tmp_path / "out", "--compare", *formula))
    sheet = read_image(tmp_path / "out" / "clean.png.compare.png").pixels
    lefts = [
        contains(sheet, read_image(path).pixels)[0][1]
        for path in (tmp_path / "out" / "clean.degraded.png", tmp_path / "out" / "clean.png", tmp_path / "clean.png")
    ]
    assert lefts == sorted(lefts) and len(set(lefts)) == 3


def test_a_comparison_is_written_over_nothing(model: Path, photo: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.png.compare.png", Picture(pixels=torch.rand(3, 9, 9)))
    line = error_of(run("restore", tmp_path / "in", "-o", tmp_path / "out", "-m", model, "--compare"))
    assert "the comparison of" in line and "a.png.compare.png, which belongs to" in line and "rename one" in line
    assert not (tmp_path / "out").exists()
