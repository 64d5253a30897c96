"""A sheet holds every image at its place, white elsewhere, with text above where it is asked for."""

from pathlib import Path

import pytest
import torch

from rddm_fast.images.picture import read_image
from rddm_fast.images.sheet import LINE_HEIGHT, captioned, sheet, text, write_sheet

pytest.importorskip("PIL.Image")


def test_images_stand_at_their_places_on_white() -> None:
    small, wide, grey = torch.rand(3, 4, 5), torch.rand(3, 6, 9), torch.rand(1, 3, 2)
    drawn = sheet([[small, wide], [grey]], gap=2, margin=3)
    assert drawn.shape == (3, 3 + 6 + 2 + 3 + 3, 3 + 9 + 2 + 9 + 3) and drawn.dtype == torch.float32
    assert torch.equal(drawn[:, 3:7, 3:8], small)
    assert torch.equal(drawn[:, 3:9, 14:23], wide)
    assert torch.equal(drawn[:, 11:14, 3:5], grey.expand(3, -1, -1))
    images = sum(int(image[0].numel()) for image in (small, wide, grey))
    assert int((drawn == 1).all(0).sum()) == drawn[0].numel() - images


def test_batches_are_rows_and_values_are_clamped() -> None:
    batch = torch.full((3, 1, 2, 2), 1.5)
    drawn = sheet([batch, -batch], column=4)
    assert drawn.shape == (3, 6, 3 * 4 + 2 * 2)
    assert torch.equal(drawn[:, 4:, :2], torch.zeros(3, 2, 2)) and drawn.max() == 1


def test_text_is_black_on_white_and_as_wide_as_its_longest_line() -> None:
    one, two = text(["restored"]), text(["i", "restored"])
    assert one.shape[1] == LINE_HEIGHT and two.shape == (3, 2 * LINE_HEIGHT, one.shape[2])
    assert torch.equal(two[:, LINE_HEIGHT:], one)
    assert one.max() == 1 and one.min() < 0.3 and 0.7 < one.mean() < 0.97
    assert torch.equal(text([""]), torch.ones(3, LINE_HEIGHT, 1))


def test_a_caption_stands_above_and_may_be_wider() -> None:
    image = torch.rand(3, 5, 200)
    assert torch.equal(captioned(image, ["a", "b"])[:, 2 * LINE_HEIGHT :], image)
    assert captioned(image[..., :3], ["restored"]).shape == (3, LINE_HEIGHT + 5, text(["restored"]).shape[2])


@pytest.mark.parametrize(
    ("batches", "size"),
    [([16], (4, 4)), ([11], (3, 4)), ([9], (3, 3)), ([8], (1, 8)), ([12, 12], (2, 12))],
)
def test_a_generated_row_of_more_than_eight_becomes_a_square(
    batches: list[int], size: tuple[int, int], tmp_path: Path
) -> None:
    rows = [torch.rand(count, 1, 5, 7) for count in batches]
    write_sheet(tmp_path / "sheet.png", rows)
    written = read_image(tmp_path / "sheet.png").pixels
    assert written.shape == (3, size[0] * 7 - 2, size[1] * 9 - 2)
    last = rows[-1][(size[0] - 1) * size[1]] if len(rows) == 1 else rows[-1][0]
    assert (written[:, -5:, :7] - last).abs().max() <= 0.5 / 255 + 1e-6
