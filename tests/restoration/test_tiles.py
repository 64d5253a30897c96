"""Large images in tiles: every pixel is covered, and a pixelwise model gives what it gives on the whole."""

import inspect
from itertools import pairwise

import pytest
import torch

from rddm_fast.cli.restore import restore as command
from rddm_fast.restoration.restore import Restorer
from rddm_fast.restoration.tiles import OVERLAP, TILE, cut, tiled


@pytest.mark.parametrize(("length", "tile", "overlap"), [(1, 4, 1), (4, 4, 0), (5, 4, 0), (37, 16, 5), (1000, 64, 63)])
def test_tiles_cover_the_side_and_overlap(length: int, tile: int, overlap: int) -> None:
    side, begins = cut(length, tile, overlap)
    assert begins[0] == 0 and begins[-1] == length - side and side <= tile
    assert all(0 < after - before <= side - overlap for before, after in pairwise(begins))


@pytest.mark.parametrize(
    ("length", "side", "begins"),
    [
        (60, 60, [0]),
        (100, 60, [0, 40]),
        (101, 48, [0, 26, 53]),  # 3 of 60 would do 180 pixels for 101
        (61, 48, [0, 13]),  # 41, in whole eights
    ],
)
def test_as_few_tiles_as_can_be_and_no_larger_than_needed(length: int, side: int, begins: list[int]) -> None:
    assert cut(length, 60, 20) == (side, begins)


@pytest.mark.parametrize("length", range(257, 4000, 61))
def test_what_tiles_overlap_costs_little(length: int) -> None:
    side, begins = cut(length, TILE, OVERLAP)
    assert side * len(begins) / length < 1.16 if length > 1000 else side * len(begins) / length < 1.2


@pytest.mark.parametrize("shape", [(1, 3, 50, 70), (1, 3, 5, 100), (2, 1, 33, 16)])
def test_a_pixelwise_model_sees_no_tiles(shape: tuple[int, ...]) -> None:
    image, noise = torch.rand(shape), torch.randn(shape)
    seen = []
    result = tiled(
        lambda parts: parts[0] * 2 + parts[1],
        [image, noise],
        tile=16,
        overlap=5,
        advance=lambda done, count: seen.append((done, count)),
    )
    torch.testing.assert_close(result, image * 2 + noise, rtol=0, atol=1e-6)
    assert seen == [(i + 1, seen[-1][1]) for i in range(len(seen))] and seen[-1][0] == seen[-1][1]


def test_no_tile_is_larger_than_asked_for() -> None:
    sides = []
    tiled(lambda parts: sides.append(parts[0].shape[-2:]) or parts[0], [torch.rand(1, 1, 40, 23)], tile=16, overlap=4)
    assert max(max(side) for side in sides) == 16


def test_neighbours_that_disagree_are_blended_smoothly() -> None:
    values = iter([0.0, 1.0])
    result = tiled(lambda parts: torch.full_like(parts[0], next(values)), [torch.rand(1, 1, 4, 28)], tile=16, overlap=4)
    row = result[0, 0, 2]
    torch.testing.assert_close(row[:12], torch.zeros(12))
    torch.testing.assert_close(row[16:], torch.ones(12))
    torch.testing.assert_close(row[12:16], torch.tensor([0.0381, 0.3087, 0.6913, 0.9619]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("overlap", [-1, 16])
def test_an_overlap_that_cannot_be(overlap: int) -> None:
    with pytest.raises(ValueError, match="overlap must be 0 or more and less than tile=16"):
        tiled(lambda parts: parts[0], [torch.rand(1, 1, 40, 40)], tile=16, overlap=overlap)


@pytest.mark.parametrize("batch", [2, 3, 50])
def test_tiles_are_restored_together(batch: int) -> None:
    image = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    done: list[tuple[int, int]] = []

    def restore(parts):
        assert all(part.shape[1:] == (3, 32, 32) for part in parts)
        calls.append(len(parts[0]) // 2)
        return parts[0] * parts[1].mean((1, 2, 3), keepdim=True)  # depends on the tile, so that a swap would show

    other = torch.rand(2, 3, 50, 70, generator=torch.Generator().manual_seed(1))
    one_by_one = tiled(restore, [image, other], 32, 8)
    calls.clear()
    together = tiled(restore, [image, other], 32, 8, lambda n, of: done.append((n, of)), batch)
    torch.testing.assert_close(together, one_by_one, rtol=0, atol=1e-6)
    assert sum(calls) == 6 and max(calls) == min(batch, 6) and done[-1] == (6, 6)


def test_the_command_and_the_function_have_the_same_tiles() -> None:
    for options in (inspect.signature(command).parameters, inspect.signature(Restorer).parameters):
        assert (options["tile"].default, options["overlap"].default) == (TILE, OVERLAP)


def test_no_seam() -> None:
    """Where the model's answer differs from tile to tile, the step across a tile's border is no larger than inside."""
    image = torch.rand(1, 1, 256, 1000, generator=torch.Generator().manual_seed(0)).cumsum(-1) / 500

    def restore(parts: list[torch.Tensor]) -> torch.Tensor:  # an exposure for each tile, as low light's networks have
        return parts[0] / parts[0].mean((1, 2, 3), keepdim=True)

    row = tiled(restore, [image], TILE, OVERLAP)[0, 0].mean(0)
    side, begins = cut(1000, TILE, OVERLAP)
    borders = [begin - 1 for begin in begins[1:]] + [begin + side - 1 for begin in begins[:-1]]
    steps = row.diff().abs()
    inside = torch.ones(len(steps), dtype=torch.bool)
    inside[borders] = False
    assert steps[borders].max() <= steps[inside].max() and steps[borders].mean() <= 2 * steps[inside].median()
