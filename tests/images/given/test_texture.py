"""Texture is continued into holes; what is known stays to the bit."""

import math

import pytest
import torch

from rddm_fast.images.given.holes import filled
from rddm_fast.images.given.marks import shown
from rddm_fast.images.given.texture import WINDOW, textured

SIDE = 72


def waves(period: float, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    """A picture (1, 3, H, W) of slanting waves, in three colours."""
    row, column = torch.arange(height)[:, None], torch.arange(width)
    phase = 2 * math.pi * (row + 2 * column) / (period * math.sqrt(5))
    return torch.stack([0.5 + 0.4 * torch.sin(phase + shift) for shift in (0.0, 0.5, 2.0)])[None]


def holes(*corners: tuple[int, int], side: int = 7, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    hole = torch.zeros(1, 1, height, width)
    for top, left in corners:
        hole[..., top : top + side, left : left + side] = 1
    return hole


def apart(found: torch.Tensor, image: torch.Tensor, hole: torch.Tensor) -> float:
    return float(((found - image) * hole).square().sum() / (3 * hole.sum())) ** 0.5


@pytest.mark.parametrize("period", [4.0, 6.0])
@pytest.mark.parametrize(("corner", "best"), [((33, 33), 0.55), ((0, 40), 0.8), ((65, 65), 1.0)])
def test_waves_are_continued_where_diffusion_flattens_them(period: float, corner: tuple[int, int], best: float) -> None:
    """At the border half of what a window shows is a reflection, in a corner most of it."""
    image, hole = waves(period), holes(corner)
    flat = filled(image, hole)
    found = textured(flat, hole)
    assert apart(found, image, hole) <= best * apart(flat, image, hole)
    assert torch.equal(torch.where(hole > 0, image, found), image)


def test_it_is_deterministic_and_an_image_is_the_same_in_a_batch() -> None:
    image, hole = waves(5.0).repeat(3, 1, 1, 1), holes((20, 9), (40, 50)).repeat(3, 1, 1, 1)
    image[1], hole[1], hole[2] = image[1].flip(-1), hole[1].flip(-1), 0
    flat = filled(image, hole)
    found = textured(flat, hole)
    assert torch.equal(found[2], flat[2])
    for i in range(2):
        assert torch.equal(textured(flat[i : i + 1], hole[i : i + 1]), found[i : i + 1])
    grey = textured(flat.mean(1, keepdim=True), hole)
    assert grey.shape == (3, 1, SIDE, SIDE)


def test_what_is_too_small_or_whole_or_lost_stays() -> None:
    for side, hole in ((WINDOW, holes((3, 3), height=WINDOW, width=WINDOW)), (SIDE, torch.zeros(1, 1, SIDE, SIDE))):
        image = torch.rand(1, 3, side, side)
        assert textured(image, hole) is image
    lost = torch.full((1, 3, SIDE, SIDE), 0.5)
    assert torch.equal(textured(lost, torch.ones(1, 1, SIDE, SIDE)), lost)


def test_the_range_is_that_of_the_picture_and_the_dtype_stays() -> None:
    image, hole = (waves(4.0) > 0.5).double(), holes((30, 30), side=20)
    found = textured(filled(image, hole), hole)
    assert found.dtype == torch.float64 and found.amin() >= 0 and found.amax() <= 1


def test_a_filled_hole_is_shown_with_texture() -> None:
    image, hole = waves(5.0), holes((33, 20))
    hidden = torch.where(hole > 0, torch.rand(image.shape), image)
    assert torch.equal(shown(hidden, hole, "filled hole"), textured(filled(image, hole), hole))
