"""Restoring in windows: the whole picture fits its measurement, and no seam is rougher than the inside."""

import math
from functools import cache

import pytest
import torch
from recorded_prior import DDPM, white_prior
from small_models import seeded
from torch import Tensor

from rddm_fast.inverse.operator import Operator
from rddm_fast.inverse.operators import check, named, random_mask
from rddm_fast.inverse.restore import restore
from rddm_fast.inverse.windows import KnownPixels, Window, crop, restore_windows, weight_of_finished, windows

IMAGE = (3, 40, 28)  # not square, and 28 is no multiple of a window's stride
LOCAL = ("denoising", "inpaint", "sr:4", "color", "old:2")


def measured(spec: str, image: tuple[int, int, int] = IMAGE) -> tuple[Operator, Tensor]:
    operator = named(spec, image)
    x = torch.randn(2, *image, dtype=torch.float64, generator=seeded(1)) / 2
    return operator, operator.A(x)


@cache
def covariance(length: int) -> tuple[Tensor, Tensor]:
    """The eigenvalues and vectors of exp(-|i - j| / 20): neighbours differ little."""
    positions = torch.arange(length, dtype=torch.float64)
    return torch.linalg.eigh(torch.exp(-(positions[:, None] - positions).abs() / 20))


def smooth_prior(x: Tensor, t: int) -> Tensor:
    """The exact E[epsilon | x_t] of smooth images of any size: Gaussian, with a separable covariance."""
    a = (1 - DDPM.alpha_bar_at(t)) ** 2
    (rows, down), (columns, across) = covariance(x.shape[-2]), covariance(x.shape[-1])
    rotated = down.T @ x @ across
    return (1 - a) ** 0.5 * down @ (rotated / (0.25 * a * torch.outer(rows, columns) + 1 - a)) @ across.T


def test_the_windows_of_an_image() -> None:
    found = windows(named("sr:4", (3, 40, 28)), tile=19, overlap=5)  # sides of 16, sharing 8
    down, across = [(0, 0), (8, 8), (16, 8), (24, 8)], [(0, 0), (8, 8), (12, 12)]
    assert found == [
        Window(slice(top, top + 16), slice(left, left + 16), above, before)
        for top, above in down
        for left, before in across
    ]
    assert windows(named("cs:0.5", (3, 32, 32)), tile=32) == [Window(slice(0, 32), slice(0, 32), 0, 0)]
    strip = windows(named("denoising", (1, 5, 40)), tile=16)  # a quarter is shared by default
    assert strip == [Window(slice(0, 5), slice(a, a + 16), 0, 4 if a else 0) for a in (0, 12, 24)]


def test_the_weight_of_what_is_finished() -> None:
    """Half of what is shared is known, the rest falls to the new window, block by block."""
    window = Window(slice(8, 20), slice(0, 10), above=6, left=4)
    weight = weight_of_finished(window, block=2)
    assert weight[::2, 8].tolist() == pytest.approx([1, 1, 0.5, 0, 0, 0])
    assert weight[10, ::2].tolist() == pytest.approx([1, 0.5, 0, 0, 0])
    assert torch.equal(weight, weight[::2, ::2].repeat_interleave(2, 0).repeat_interleave(2, 1))
    assert (weight[4:6, :4] == torch.tensor([1, 1, 0.5, 0.5])).all()


@pytest.mark.parametrize("method", ["ddnm", "ddnm+", "ddrm", "ddnm+eq19"])
@pytest.mark.parametrize("spec", LOCAL)
def test_the_whole_fits_its_measurement(spec: str, method: str) -> None:
    operator, y = measured(spec)
    x = restore_windows(y, operator, white_prior, tile=16, method=method, steps=5, generator=seeded(0))
    assert x.shape == (2, *IMAGE) and (operator.A(x) - y).abs().max() < 1e-12
    if spec != "denoising":
        assert x.std() > 0.2  # the prior has filled what is not measured


@pytest.mark.parametrize("spec", LOCAL)
def test_a_picture_of_one_window_is_restored_whole(spec: str) -> None:
    operator, y = measured(spec)
    options = {"steps": 3, "method": "ddrm", "sigma_y": 0.2}
    whole = restore(y, operator, white_prior, **options, generator=seeded(0))
    assert torch.equal(restore_windows(y, operator, white_prior, tile=40, **options, generator=seeded(0)), whole)


@pytest.mark.parametrize("spec", LOCAL)
def test_known_pixels_keep_the_laws_of_an_operator(spec: str) -> None:
    operator, y = measured(spec)
    part, y_part = crop(operator, y, Window(slice(8, 24), slice(4, 20), 8, 4))
    known = torch.zeros(16, 16, dtype=torch.bool)
    known[:8], known[:, :4] = True, True
    both = KnownPixels(part, known)
    assert check(both) == []
    pixels = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=seeded(2))
    x = both.pinv(both.measure(y_part, pixels))
    assert torch.equal(x[..., known], pixels[..., known])
    assert (x - part.pinv(y_part))[..., ~known].abs().max() < 1e-12
    torch.testing.assert_close(part.A(operator.pinv(y)[..., 8:24, 4:20]), y_part)


def steepest(x: Tensor, stride: int) -> float:
    """The mean squared step from a column to the next, the largest of all columns alike to the windows.

    Every fourth column is looked at, the borders of blocks; the first windows' share is left out. In units of the
    prior's own step.
    """
    steps = (x[..., 1:] - x[..., :-1]).square().mean((0, 1, 2)) / (0.5 - 0.5 * math.exp(-1 / 20))
    return max(float(steps[range(23 + phase, 191, stride)].mean()) for phase in range(0, stride, 4))


@pytest.mark.parametrize(
    ("spec", "sigma_y", "method"), [("inpaint", 0.0, "ddnm"), ("sr:4", 0.0, "ddnm"), ("sr:4", 0.1, "ddrm")]
)
def test_a_seam_is_no_rougher_than_the_inside(spec: str, sigma_y: float, method: str) -> None:
    """Windows of 48 columns: where they share some no column shows a step, and where they share none each seam does."""
    image = (1, 24, 192)
    operator = named(spec, image, mask=random_mask(image, 0.9) if spec == "inpaint" else None)
    roots = [vectors * values.sqrt() for values, vectors in (covariance(24), covariance(192))]
    x = 0.5 * roots[0] @ torch.randn(8, *image, dtype=torch.float64, generator=seeded(1)) @ roots[1].T
    y = operator.A(x) + sigma_y * torch.randn(8, *operator.measured, dtype=torch.float64, generator=seeded(2))

    def steepest_with(overlap: int) -> float:
        options = {"method": method, "sigma_y": sigma_y, "steps": 30, "tile": 48, "overlap": overlap}
        return steepest(restore_windows(y, operator, smooth_prior, generator=seeded(0), **options), 48 - overlap)

    # Measured: 1.1 at most where they share, 3.1 to 5.6 where not, and 1.1 for the picture restored whole.
    assert steepest_with(24) < 1.25 and steepest_with(12) < 1.25 and steepest_with(0) > 2.5


@pytest.mark.parametrize(
    ("spec", "options", "sentence"),
    [
        (
            "bicubic:4",
            {"tile": 16},
            "Bicubic reaches across the border of a window: restore the image of 40 × 28 whole",
        ),
        ("blur:gauss", {"tile": 39}, "GaussianBlur reaches across the border of a window"),
        ("sr:4", {"tile": 3}, "a window of 3 pixels is smaller than the operator's block of 4"),
        ("sr:4", {"tile": 16, "overlap": 13}, "windows of 16 pixels cannot overlap by 16"),
        ("color", {"tile": 16, "overlap": -1}, "windows of 16 pixels cannot overlap by -1"),
        ("color", {"tile": 16, "noise": []}, "each window takes the next draws"),
        ("color", {"tile": 16, "sigma_y": -1.0}, "sigma_y must be a standard deviation of 0 or more, not -1.0"),
    ],
)
def test_a_sentence_for_each_mistake(spec: str, options: dict[str, float], sentence: str) -> None:
    operator, y = measured(spec)
    with pytest.raises(ValueError, match=sentence):
        restore_windows(y, operator, white_prior, **options)
    with pytest.raises(TypeError, match="has no windows: choose one of Denoising, "):
        crop(named("blur:gauss", IMAGE), y, Window(slice(0, 8), slice(0, 8), 0, 0))
