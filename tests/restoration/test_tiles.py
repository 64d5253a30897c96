"""Large images in tiles: every pixel is covered, and a pixelwise model gives what it gives on the whole."""

from itertools import pairwise

import pytest
import torch

from rddm_fast.restoration.tiles import starts, tiled


@pytest.mark.parametrize(("length", "tile", "overlap"), [(1, 4, 1), (4, 4, 0), (5, 4, 0), (37, 16, 5), (1000, 64, 63)])
def test_starts_cover_the_side_and_overlap(length: int, tile: int, overlap: int) -> None:
    begins = starts(length, tile, overlap)
    assert begins[0] == 0 and begins[-1] == max(0, length - tile)
    assert all(0 < after - before <= tile - overlap for before, after in pairwise(begins))


def test_as_few_tiles_as_can_be() -> None:
    assert starts(100, 60, 20) == [0, 40]
    assert starts(101, 60, 20) == [0, 20, 41]


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
    assert torch.equal(row[:12], torch.zeros(12)) and torch.equal(row[16:], torch.ones(12))
    torch.testing.assert_close(row[12:16], torch.tensor([0.2, 0.4, 0.6, 0.8]))


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
