"""The gallery's pixels: three images per row at fixed places, scaled down to fit, under their caption."""

from pathlib import Path

import pytest
import torch

from rddm_fast.images.picture import read_image
from rddm_fast.images.prepared import resized
from rddm_fast.images.sheet import LINE_HEIGHT, text
from rddm_fast.restoration.gallery import GAP, Row, write_gallery

pytest.importorskip("PIL.Image")


def test_every_part_stands_at_its_place(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    pred, target = torch.rand(2, 3, 20, 30, generator=generator)
    large = torch.rand(3, 200, 100, generator=generator)
    numbers = {name: 1 / 3 for name in ("psnr", "ssim", "rmse", "mae_lab", "lpips")}
    rows = [Row("first", pred, target, numbers), Row("second", large, large, {})]
    write_gallery(tmp_path / "worst.png", rows, side=100)
    drawn = read_image(tmp_path / "worst.png").pixels

    def at(top: int, column: int, height: int, width: int) -> torch.Tensor:
        left = GAP + column * (100 + GAP)
        return drawn[:, top : top + height, left : left + width]

    def assert_shown(shown: torch.Tensor, expected: torch.Tensor) -> None:
        assert (shown - expected).abs().max() <= 0.5 / 255 + 1e-6  # 8 bits

    title = text(["difference x4"])
    assert_shown(at(GAP, 2, LINE_HEIGHT, title.shape[2]), title)
    # A name, then five numbers on two lines, then the images.
    top = GAP + LINE_HEIGHT + GAP
    line = text(["psnr 0.3333   ssim 0.3333   rmse 0.3333   mae_lab 0.3333"])
    assert_shown(at(top + LINE_HEIGHT, 0, LINE_HEIGHT, line.shape[2]), line)
    top += 3 * LINE_HEIGHT
    for column, image in enumerate((pred, target, ((pred - target).abs() * 4).clamp(0, 1))):
        assert_shown(at(top, column, 20, 30), image)
    # The second row, scaled from 100x200 to 50x100; equal images differ nowhere.
    top += 20 + GAP + LINE_HEIGHT
    for column, image in enumerate((large, large, torch.zeros_like(large))):
        assert_shown(at(top, column, 100, 50), resized(image, (100, 50)))
    assert drawn.shape[1] == top + 100 + GAP
