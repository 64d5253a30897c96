"""A picture without noise, or without JPEG's blocks, is found to be clean; a degraded one is not."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from small_models import small_model

from rddm_fast.fast import FastSampler
from rddm_fast.images.given.traces import traces
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.restoration.demo import photographs
from rddm_fast.restoration.restore import Restorer, restore_files

PHOTOS = {path.stem: read_image(path).pixels[None] for path in photographs()}
GRAINY = ("hubble",)
"""Photographs that have noise of their own."""


def noisy(photo: torch.Tensor, sigma: float) -> torch.Tensor:
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return ((photo * 255 + sigma * noise).round() / 255).clamp(0, 1)


def stored(photo: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (photo[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return torch.from_numpy(cv2.imdecode(data, cv2.IMREAD_COLOR)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("name", PHOTOS)
def test_noise(name: str) -> None:
    photo = PHOTOS[name]
    assert traces(noisy(photo, 3), "noise") == 1 and traces(noisy(photo, 25), "noise") == 1
    assert name in GRAINY or traces(photo, "noise") == 0


@pytest.mark.parametrize("name", PHOTOS)
def test_the_blocks_of_jpeg_wherever_they_begin(name: str) -> None:
    photo = PHOTOS[name]
    assert traces(photo, "blocks") == 0
    for quality in (10, 50):
        assert traces(stored(photo, quality), "blocks") == 1
        assert traces(stored(photo, quality)[..., 3:, 5:], "blocks") == 1


def test_the_pictures_of_a_batch_are_judged_one_by_one() -> None:
    photo = PHOTOS["chelsea"]
    assert traces(torch.cat([photo, noisy(photo, 20)]), "noise").flatten().tolist() == [0, 1]


SMALL = [(1, 3, 1, 1), (1, 3, 9, 200), (1, 1, 8, 8)]


@pytest.mark.parametrize(
    ("of", "shape"),
    [*(("noise", shape) for shape in SMALL), *(("blocks", shape) for shape in [*SMALL, (1, 3, 31, 31)])],
)
def test_a_picture_that_is_too_small_to_tell_is_restored(of: str, shape: tuple[int, ...]) -> None:
    assert traces(torch.full(shape, 0.5), of) == 1


def test_a_flat_picture_is_clean_and_a_black_one_too() -> None:
    for value in (0.0, 0.5, 1.0):
        flat = torch.full((1, 3, 64, 64), value)
        assert traces(flat, "noise") == 0 and traces(flat, "blocks") == 0


@pytest.mark.parametrize("tile", [None, 32])
def test_a_clean_picture_comes_back_to_the_bit_and_a_noisy_one_is_restored_alike_in_tiles(tile: int | None) -> None:
    model = small_model("pred_res", clean_without="noise")
    restorer = Restorer(model, steps=1, tile=tile, overlap=8)
    photo = PHOTOS["chelsea"][..., :64, :64]
    assert torch.equal(restorer(Picture(photo[0])).pixels, photo[0])
    assert torch.equal(restorer.together([Picture(photo[0])] * 2)[1].pixels, photo[0])
    noise = noisy(photo, 20)
    assert (restorer(Picture(noise[0])).pixels - noise[0]).abs().mean() > 0.01  # a network of random weights
    plain = Restorer(small_model("pred_res"), steps=1, tile=tile, overlap=8)(Picture(noise[0])).pixels
    assert torch.equal(restorer(Picture(noise[0])).pixels, plain)


def test_a_file_that_is_left_as_it_is_is_told(tmp_path: Path) -> None:
    photo = PHOTOS["chelsea"][0, :, :64, :64]
    write_image(tmp_path / "clean.png", Picture(photo))
    write_image(tmp_path / "noisy.png", Picture(noisy(photo[None], 20)[0]))
    restorer = Restorer(small_model("pred_res", clean_without="noise"), steps=1)
    notes = {outcome.source.stem: outcome.note for outcome in restore_files(restorer, [tmp_path], tmp_path / "out")}
    assert notes == {"clean": "left as it is: it has nothing of what this model removes", "noisy": None}
    assert torch.equal(read_image(tmp_path / "out/clean.png").pixels, photo)


def test_both_samplers_do_it_too() -> None:
    model = small_model("pred_res", clean_without="noise")
    photo = PHOTOS["chelsea"][..., :64, :64]
    batch = torch.cat([photo, noisy(photo, 20)])
    for restored in (
        model.sample(batch, sampling_timesteps=1)[-1],
        FastSampler(model, steps=1)(batch),
    ):
        assert torch.equal(restored[0], photo[0])
        assert (restored[1] - batch[1]).abs().mean() > 0.01


def test_a_measure_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="clean_without is 'noise', 'blocks', of a model that restores, or None"):
        small_model("pred_res", clean_without="rain")
    with pytest.raises(ValueError, match="of a model that restores"):
        small_model("pred_noise", condition=False, clean_without="noise")
