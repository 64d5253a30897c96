"""Degraded photographs: deterministic, in range, and as heavy as promised."""

import numpy as np
import pytest

from rddm_fast.images.degrade import KINDS, WITH_MASK, degrade
from rddm_fast.restoration.demo import photographs

Image = pytest.importorskip("PIL.Image")

PHOTOS = photographs()


def photograph(name: str) -> np.ndarray:
    path = next(path for path in PHOTOS if path.stem == name)
    return np.asarray(Image.open(path).convert("RGB"), np.float32) / np.float32(255)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a - b) ** 2)))


def test_there_are_demo_photographs_with_a_licence_each():
    licences = (PHOTOS[0].parent / "LICENCES.md").read_text()
    assert len(PHOTOS) >= 6
    assert all(f"`{path.name}`" in licences for path in PHOTOS)
    assert sum(path.stat().st_size for path in PHOTOS) < 1_000_000


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(1, 1), (1, 40), (37, 5), (64, 64)])
def test_result_is_float32_in_range_and_repeats_from_the_seed(kind, size):
    image = np.random.default_rng(1).random((*size, 3), np.float32)
    before = image.copy()
    first = degrade(image, kind, np.random.default_rng(7))
    again = degrade(image, kind, np.random.default_rng(7))
    other = degrade(image, kind, np.random.default_rng(8))
    assert first.image.dtype == np.float32 and first.image.shape == image.shape
    assert first.image.min() >= 0 and first.image.max() <= 1
    assert np.array_equal(first.image, again.image)
    assert np.array_equal(image, before)
    if size == (64, 64) and not kind.startswith("wide-"):  # of those, 12 % are clean
        assert not np.array_equal(first.image, other.image)
        assert not np.array_equal(first.image, image)
    if kind in WITH_MASK:
        assert first.mask is not None and first.mask.shape == size and first.mask.dtype == np.float32
        assert set(np.unique(first.mask)) <= {0.0, 1.0}
    else:
        assert first.mask is None


@pytest.mark.parametrize("kind", KINDS)
def test_black_and_white_stay_in_range(kind):
    for value in (0, 1):
        result = degrade(np.full((32, 48, 3), value, np.float32), kind, np.random.default_rng(3)).image
        assert result.min() >= 0 and result.max() <= 1


def test_rain_is_heavy_on_the_demo_photographs():
    values = [
        psnr(degrade(image, "rain", np.random.default_rng(seed)).image, image)
        for image in map(photograph, [path.stem for path in PHOTOS])
        for seed in range(2)
    ]
    assert 14 < np.mean(values) < 19
    assert max(values) < 22


def test_rain_brightens_some_pixels_much_and_the_others_little():
    grey = np.full((256, 256, 3), 0.4, np.float32)
    rise = degrade(grey, "rain", np.random.default_rng(0), coverage=(0.12, 0.12)).image[..., 0] - 0.4
    assert rise.min() >= 0
    assert np.mean(rise > 0.1) == pytest.approx(0.12, abs=0.05)
    # Away from streaks there is only the veil: 0.2 * 0.12 of the way from 0.4 to 0.8.
    assert np.median(rise) == pytest.approx(0.0096, abs=1e-5)


def test_rain_has_the_same_statistics_at_every_size():
    grey = np.full((512, 512, 3), 0.4, np.float32)
    rng = np.random.default_rng(0)
    whole = np.mean([degrade(grey, "rain", rng).image.mean() for _ in range(20)])
    patches = np.mean([degrade(grey[:32, :32].copy(), "rain", rng).image.mean() for _ in range(1000)])
    assert patches == pytest.approx(whole, rel=0.02)


def test_no_rain_at_coverage_zero():
    image = photograph("flower")
    result = degrade(image, "rain", np.random.default_rng(0), coverage=(0.0, 0.0)).image
    assert np.allclose(result, image, atol=1e-6)


def test_lowlight_is_darker_and_noisier():
    grey = np.full((64, 64, 3), 0.5, np.float32)
    result = degrade(grey, "lowlight", np.random.default_rng(0), exposure=(0.2, 0.2), gamma=(1.0, 1.0), cast=0.0)
    assert result.image.mean() == pytest.approx(0.1, abs=0.001)
    assert result.image.std() == pytest.approx((0.1 / 1000 + 0.004**2) ** 0.5, rel=0.05)


def test_noise_has_the_variance_asked_for():
    grey = np.full((128, 128, 3), 0.5, np.float32)
    result = degrade(grey, "noise", np.random.default_rng(0), sigma=(0.05, 0.05), photons=400).image
    assert result.mean() == pytest.approx(0.5, abs=0.002)
    assert result.std() == pytest.approx((0.05**2 + 0.5 / 400) ** 0.5, rel=0.03)


@pytest.mark.parametrize("style", ["motion", "defocus"])
def test_blur_keeps_a_flat_image_and_spreads_a_point_symmetrically(style):
    flat = np.full((20, 30, 3), 0.3, np.float32)
    assert np.allclose(degrade(flat, "blur", np.random.default_rng(0), style=style).image, 0.3, atol=1e-6)
    point = np.zeros((41, 41, 3), np.float32)
    point[20, 20] = 1
    spread = degrade(point, "blur", np.random.default_rng(0), style=style, size=(9, 9)).image
    assert spread.sum() == pytest.approx(3, rel=1e-4)
    assert spread.max() < 0.2
    assert np.allclose(spread, spread[::-1, ::-1], atol=1e-6)


def test_blur_has_an_odd_kernel_reaching_over_the_border():
    ramp = np.tile(np.linspace(0, 1, 32, dtype=np.float32)[:, None, None], (1, 32, 3))
    blurred = degrade(ramp, "blur", np.random.default_rng(0), style="defocus", size=(7, 7)).image
    assert np.allclose(blurred[8:-8], ramp[8:-8], atol=1e-5)  # not shifted


def test_shadow_darkens_inside_its_mask_and_red_most():
    white = np.ones((96, 96, 3), np.float32)
    result = degrade(white, "shadow", np.random.default_rng(2), darkness=(0.5, 0.5), softness=1e-3)
    inside, outside = result.mask == 1, result.mask == 0
    assert 0.05 < result.mask.mean() < 0.95
    assert np.allclose(np.median(result.image[inside], axis=0), [0.45, 0.50, 0.55], atol=1e-6)
    assert np.median(result.image[outside]) == 1


@pytest.mark.parametrize("style", ["box", "centre", "strokes"])
def test_mask_is_a_grey_hole(style):
    image = photograph("coffee")
    result = degrade(image, "mask", np.random.default_rng(0), style=style)
    hole = result.mask == 1
    assert 0.02 < hole.mean() < 0.5
    assert np.all(result.image[hole] == 0.5)
    assert np.array_equal(result.image[~hole], image[~hole])


def test_centre_mask_is_the_middle_half():
    result = degrade(np.zeros((8, 12, 3), np.float32), "mask", np.random.default_rng(0), style="centre")
    expected = np.zeros((8, 12))
    expected[2:6, 3:9] = 1
    assert np.array_equal(result.mask, expected)


def test_errors_say_what_is_wrong():
    image = np.zeros((4, 4, 3), np.float32)
    for wrong, kind, options, error, sentence in [
        (image, "snow", {}, ValueError, "unknown degradation 'snow'; choose one of rain, lowlight"),
        (image.astype(np.uint8), "rain", {}, TypeError, r"float32 image with values in \[0, 1\], got uint8"),
        (image[..., 0], "rain", {}, ValueError, r"shape \(H, W, 3\), got \(4, 4\)"),
        (np.stack([image[0], image[0] + 255]), "rain", {}, ValueError, r"values in \[0, 1\], got 0 to 255"),
        (image + np.float32("nan"), "rain", {}, ValueError, "nan"),
        (image, "blur", {"style": "zoom"}, ValueError, "unknown blur style 'zoom'"),
        (image, "mask", {"style": "oval"}, ValueError, "unknown mask style 'oval'"),
        (image, "rain", {"wetness": 2}, TypeError, "wetness"),
    ]:
        with pytest.raises(error, match=sentence):
            degrade(wrong, kind, np.random.default_rng(0), **options)
