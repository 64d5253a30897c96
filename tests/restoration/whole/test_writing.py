"""Results are written while the next picture is computed: in order, each told, none lost."""

import threading
from pathlib import Path

import pytest
import torch

from rddm_fast.images.picture import ImageError, Picture, read_image, write_image
from rddm_fast.restoration.files import each
from rddm_fast.restoration.restore import restore_files


class Counting:
    """A restorer that inverts pictures, and tells of it."""

    needs_mask, tile = False, None

    def __init__(self) -> None:
        self.events: list[str] = []
        self.second = threading.Event()

    def __call__(self, picture: Picture, mask: Picture | None = None, advance: object = None) -> Picture:
        self.events.append(f"compute {picture.path.name}")
        if picture.path.name == "b.png":
            self.second.set()
        return picture.with_pixels(1 - picture.pixels)

    def smaller(self, picture: Picture) -> None:
        return None


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number, name in enumerate("abc"):
        pixels = torch.full((3, 8, 8), number / 4)
        write_image(tmp_path / "photos" / f"{name}.png", Picture(pixels))
    return tmp_path / "photos"


def test_the_next_picture_is_computed_while_a_result_is_written(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    restorer, waited = Counting(), []

    def slow(path: Path, picture: Picture) -> None:
        if path.name == "a.png":  # cannot end before the next picture is computed
            waited.append(restorer.second.wait(60))
        write_image(path, picture)

    monkeypatch.setattr(each, "write_image", slow)
    done = list(restore_files(restorer, [photos], photos.parent / "out"))
    assert waited == [True]
    assert [outcome.source.name for outcome in done] == ["a.png", "b.png", "c.png"]
    assert not any(outcome.error for outcome in done)
    for number, name in enumerate("abc"):
        result = read_image(photos.parent / "out" / f"{name}.png").pixels
        assert (result - (1 - number / 4)).abs().max() <= 0.5 / 255 + 1e-6


def test_a_result_that_is_written_soon_is_told_before_the_next_picture(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(each, "WAITED", 1e9)
    restorer = Counting()
    for outcome in restore_files(restorer, [photos], photos.parent / "out"):
        restorer.events.append(f"told {outcome.source.name}")
    assert restorer.events == [f"{what} {name}.png" for name in "abc" for what in ("compute", "told")]


def test_a_result_that_cannot_be_written_is_told_of_its_own_file(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(path: Path, picture: Picture) -> None:
        if path.name == "a.png":
            restorer.second.wait(60)
            raise ImageError(f"{path} cannot be written: no space left on device")
        write_image(path, picture)

    restorer = Counting()
    monkeypatch.setattr(each, "write_image", failing)
    done = list(restore_files(restorer, [photos], photos.parent / "out"))
    assert [(outcome.source.name, outcome.error is None) for outcome in done] == [
        ("a.png", False),
        ("b.png", True),
        ("c.png", True),
    ]
    assert done[0].error is not None and done[0].error.endswith("no space left on device")


def test_whoever_stops_early_has_whole_results(photos: Path) -> None:
    outcomes = restore_files(Counting(), [photos], photos.parent / "out")
    next(outcomes)
    outcomes.close()
    found = sorted((photos.parent / "out").iterdir())
    assert found[0].name == "a.png" and all(read_image(path).pixels.shape == (3, 8, 8) for path in found)
