"""Lights of a night are part of the photograph that a model restores, and not of the rain."""

import numpy as np
import pytest
from PIL import Image

from rddm_fast.images.datasets import PhotoPatches
from rddm_fast.images.degradations.night import night
from rddm_fast.images.degrade import degrade
from rddm_fast.restoration.demo import photographs

PHOTO = np.asarray(Image.open(photographs()[0]).convert("RGB"), np.float32)[:64, :64] / np.float32(255)


@pytest.mark.parametrize("seed", range(6))
def test_a_night_is_darker_and_its_lights_are_small(seed: int) -> None:
    result = night(PHOTO, np.random.default_rng(seed))
    assert result.dtype == np.float32 and result.shape == PHOTO.shape
    assert result.min() >= 0 and result.max() <= 1
    assert np.median(result) < np.median(PHOTO)
    assert np.array_equal(result, night(PHOTO, np.random.default_rng(seed)))


def test_rain_in_the_night_is_to_leave_the_lights() -> None:
    clean = nights = 0
    for seed in range(300):
        result = degrade(PHOTO, "wide-rain", np.random.default_rng(seed))
        assert result.photograph is not None
        nights += not np.array_equal(result.photograph, PHOTO)
        clean += np.array_equal(result.photograph, result.image)
    assert 0.04 < nights / 300 < 0.13  # 8 %
    assert 0.10 < clean / 300 < 0.21  # 15 %


def test_the_patch_of_a_night_has_its_lights_in_input_and_target() -> None:
    night_of = [
        item
        for item in PhotoPatches(photographs()[:1], "wide-rain", patch=48, length=150, seed=1)
        if float(item["target"].mean()) < 0.05
    ]
    assert night_of  # the photograph itself is brighter than that
    for item in night_of:
        # Rain adds light and takes none; a light that only the input had would be rain.
        assert float((item["target"] - item["input"]).max()) < 0.02
