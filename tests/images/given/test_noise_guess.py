"""The guess of a picture without its noise: better than a classic, of any size, and blind."""

import cv2
import numpy as np
import pytest
import torch

from rddm_fast.images.given import noise
from rddm_fast.images.given.given import given
from rddm_fast.images.given.noise import noise_in, without_noise
from rddm_fast.images.picture import read_image
from rddm_fast.restoration.demo import photographs
from rddm_fast.restoration.metrics import psnr

PHOTOS = {path.stem: read_image(path).pixels[:, :128, :160] for path in photographs()}


def noisy(photo: torch.Tensor, sigma: float) -> torch.Tensor:
    draws = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    return ((photo * 255 + sigma * draws).round() / 255).clamp(0, 1)


@pytest.mark.parametrize("sigma", [5, 15, 25, 50])
def test_noise_is_measured_in_each_plane(sigma: float) -> None:
    draws = torch.randn(120, 150, generator=torch.Generator().manual_seed(1))
    ramp = torch.linspace(0.3, 0.7, 150).expand(120, 150)
    assert abs(float(noise_in(ramp + sigma / 255 * draws)) * 255 / sigma - 1) < 0.08
    found = [255 * float(noise_in(noisy(photo, sigma).mean(0))) * 3**0.5 / sigma for photo in PHOTOS.values()]
    assert 0.7 < np.median(found) < 1.3


def test_it_is_better_than_the_non_local_means_that_are_told_the_noise() -> None:
    ahead = []
    for photo in PHOTOS.values():
        picture = noisy(photo, 25)
        pixels = (picture.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
        theirs = torch.from_numpy(cv2.fastNlMeansDenoisingColored(pixels, None, 25, 25)).permute(2, 0, 1) / 255
        smooth = (given(picture[None], first_guess="noise").image[0] - noise.KEPT * picture) / (1 - noise.KEPT)
        ahead.append(float(psnr(smooth, photo)) - float(psnr(theirs, photo)))
    assert min(ahead) > 0 and np.mean(ahead) > 1


def test_a_clean_picture_stays_almost_as_it_is() -> None:
    for photo in PHOTOS.values():
        assert float(psnr(without_noise(photo[None])[0], photo)) > 35


def test_bands_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = torch.stack([noisy(photo, 25) for photo in PHOTOS.values()][:2])
    whole = without_noise(pictures)
    assert torch.equal(without_noise(pictures[1:]), whole[1:])
    monkeypatch.setattr(noise, "BAND", 32)
    assert torch.allclose(without_noise(pictures), whole, atol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3, 9, 40), (2, 3, 10, 11), (1, 1, 33, 18), (1, 4, 12, 300)])
def test_any_size_and_any_number_of_channels(shape: tuple[int, ...]) -> None:
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    result = without_noise(picture)
    assert result.shape == picture.shape and result.dtype == picture.dtype and bool(result.isfinite().all())
    assert torch.equal(result, picture) == (min(shape[2:]) < 10)
    assert without_noise(picture.half()).dtype == torch.float16


def test_a_picture_of_one_colour() -> None:
    picture = torch.full((1, 3, 40, 40), 0.3)
    assert (without_noise(picture) - picture).abs().max() < 1e-6
