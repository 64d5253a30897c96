"""The first guess of an exposure brings dark photographs near to what they were, and noise does not mislead it."""

import numpy as np
import pytest
import torch

from rddm_fast.images.degrade import degrade
from rddm_fast.images.given.exposure import CELLS, exposed, measures
from rddm_fast.images.picture import read_image
from rddm_fast.restoration.demo import photographs

PHOTOS = [read_image(path).pixels[None] for path in photographs()]
"""None of them was fitted to."""


def decibels(images: list[torch.Tensor], truths: list[torch.Tensor]) -> np.ndarray:
    return np.array([-10 * float((a - b).square().mean().log10()) for a, b in zip(images, truths, strict=True)])


def ours(photo: torch.Tensor, seed: int) -> torch.Tensor:
    dark = degrade(photo[0].permute(1, 2, 0).contiguous().numpy(), "lowlight", np.random.default_rng(seed))
    return torch.from_numpy(dark.image).permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("darken", "gained"),
    [
        (lambda photo, seed: (photo * 0.15 * 255).round() / 255, 9.0),
        (lambda photo, seed: (photo**3 * 255).round() / 255, 6.0),
        (ours, 9.0),
    ],
    ids=["15 % of the light", "gamma 3", "our lowlight"],
)
def test_dark_photographs_come_nearer(darken: object, gained: float) -> None:
    dark = [darken(photo, seed) for seed, photo in enumerate(PHOTOS)]  # type: ignore[operator]
    gain = decibels([exposed(image) for image in dark], PHOTOS) - decibels(dark, PHOTOS)
    assert gain.mean() > gained
    assert np.sort(gain)[1] > 0  # all but one: a rocket in the night is dark itself


def test_a_photograph_that_is_not_dark_stays_near_itself() -> None:
    assert decibels([exposed(photo) for photo in PHOTOS], PHOTOS).mean() > 20


def test_noise_does_not_change_the_guess() -> None:
    photo = PHOTOS[2]
    noise = torch.randn(photo.shape, generator=torch.Generator().manual_seed(0))
    clean, noisy = (measures((photo * 0.3 + amount * noise).clamp(0, 1)) for amount in (0, 0.02))
    assert (clean - noisy).abs().max() < 0.1  # of a stop


def test_each_picture_of_a_batch_has_its_own_exposure_and_a_small_one_has_one_too() -> None:
    pair = torch.cat([PHOTOS[0][..., :64, :64], PHOTOS[0][..., :64, :64] ** 3])
    assert torch.allclose(exposed(pair)[1:], exposed(pair[1:]), atol=1e-6)
    tiny = torch.rand(1, 3, 5, 1, generator=torch.Generator().manual_seed(0))
    assert exposed(tiny).shape == tiny.shape and bool(exposed(tiny).isfinite().all())
    assert measures(tiny).shape == (1, 13) and CELLS == 32
    black = torch.zeros(1, 3, 8, 8)
    assert bool(exposed(black).isfinite().all()) and exposed(black.double()).dtype is torch.float64
