"""The blur of a picture is guessed and taken back; the blurs here are Pillow's and means of shifted copies."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch import Tensor

from rddm_fast.diffusion.start import in_words
from rddm_fast.images.degradations.kernels import line
from rddm_fast.images.given.blur.blurs import Blur, candidates
from rddm_fast.images.given.blur.guess import doubted, guessed, sharpened, sharpened_by
from rddm_fast.images.given.blur.spectrum import WINDOW, power_spectrum
from rddm_fast.images.given.given import given
from rddm_fast.restoration.demo import photographs
from rddm_fast.restoration.metrics import psnr

SHARP = photographs()[:3]


def tensor(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1).copy()) / 255


def sharp(number: int) -> Tensor:
    return tensor(Image.open(SHARP[number]))


def out_of_focus(number: int, sigma: float) -> Tensor:
    return tensor(Image.open(SHARP[number]).convert("RGB").filter(ImageFilter.GaussianBlur(sigma)))


def cut(image: Tensor, border: int = 16) -> Tensor:
    """The picture without a border: what was blurred into it from beyond is not known."""
    return image[:, border : image.shape[1] - border, border : image.shape[2] - border].contiguous()


def moved(image: Tensor, pixels: int, rows: int = 0) -> Tensor:
    """The mean of copies that are shifted by one pixel each, along a row or a diagonal, in 8 bits, to be `cut`."""
    shifts = range(-(pixels // 2), pixels // 2 + 1)
    copies = [torch.roll(image, (rows * shift, shift), (1, 2)) for shift in shifts]
    return (torch.stack(copies).mean(0) * 255).round() / 255


def gain(picture: Tensor, truth: Tensor, border: int = 16) -> float:
    picture, truth = cut(picture, border), cut(truth, border)
    (restored,), blurred = sharpened(picture[None])
    assert blurred.item() == 1
    return float(psnr(restored, truth)) - float(psnr(picture, truth))


@pytest.mark.parametrize("number", range(len(SHARP)))
def test_pillow_s_gaussian_blur_is_taken_back(number: int) -> None:
    picture = out_of_focus(number, 1.8)
    guess = guessed(picture).blur
    assert guess.form == "gaussian" and guess.size == pytest.approx(1.8, abs=0.3)  # Pillow's is three box blurs
    assert gain(picture, sharp(number)) > 2


@pytest.mark.parametrize("number", range(len(SHARP)))
@pytest.mark.parametrize(("pixels", "rows", "length", "degrees"), [(9, 0, 9, 0), (7, -1, 7 * math.sqrt(2), 45)])
def test_a_motion_is_found_and_taken_back(number: int, pixels: int, rows: int, length: float, degrees: float) -> None:
    picture = moved(sharp(number), pixels, rows)
    guess = guessed(cut(picture)).blur
    assert guess.form == "line" and guess.size == pytest.approx(length, abs=0.6)
    assert math.degrees(guess.angle) % 180 == pytest.approx(degrees if degrees == 0 else 180 - degrees, abs=4)
    assert gain(picture, sharp(number)) > 6


def test_noise_of_two_levels_leaves_a_gain() -> None:
    noise = 2 / 255 * torch.randn(sharp(0).shape, generator=torch.Generator().manual_seed(0))
    assert gain((moved(sharp(0), 9) + noise).clamp(0, 1), sharp(0)) > 1.5


def test_a_sharp_photograph_comes_back_to_the_bit_and_a_blurred_one_beside_it_does_not() -> None:
    pictures = torch.stack([sharp(0), moved(sharp(0), 9)])
    prepared = given(pictures, first_guess="blur")
    assert prepared.share is not None and prepared.share.flatten().tolist() == [0, 1]
    results = prepared.finished(prepared.image)
    assert torch.equal(results[0], pictures[0]) and not torch.equal(results[1], pictures[1])
    assert given(pictures[:1], first_guess="blur").nothing


def stored(picture: Tensor, quality: int) -> Tensor:
    file = io.BytesIO()
    Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality)
    return tensor(Image.open(file))


@pytest.mark.parametrize("number", range(len(SHARP)))
def test_a_blur_is_found_in_a_jpeg_and_none_in_a_sharp_one(number: int) -> None:
    for picture, least in ((moved(sharp(number), 9), 1.5), (out_of_focus(number, 1.8), 0.5)):
        assert gain(stored(cut(picture), 85), cut(sharp(number)), border=0) > least
    assert [int(sharpened(stored(sharp(number), quality)[None])[1]) for quality in (50, 75, 95)] == [0, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (17, 40), (300, 2)])
@pytest.mark.parametrize("value", ["flat", "noise", "nearly"])
def test_any_picture_gets_an_answer(size: tuple[int, int], value: str) -> None:
    noise = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(1))
    picture = {"flat": torch.full_like(noise, 0.5), "noise": noise, "nearly": 0.5 + 1e-6 * noise}[value]
    restored, blurred = sharpened(picture)
    assert restored.shape == picture.shape and restored.isfinite().all() and blurred.shape == (1, 1, 1, 1)


def test_one_channel_and_half_precision_are_taken() -> None:
    grey = cut(moved(sharp(1), 9)).mean(0, keepdim=True)[None]
    restored, _ = sharpened(grey.half())
    assert restored.dtype == torch.float16 and restored.shape == grey.shape
    truth = cut(sharp(1)).mean(0, keepdim=True)
    assert psnr(restored[0].float(), truth) - psnr(grey[0], truth) > 3


def test_the_spectrum_of_noise_is_its_variance() -> None:
    noise = 0.1 * torch.randn(400, 500, generator=torch.Generator().manual_seed(2))
    assert power_spectrum(noise).mean().item() == pytest.approx(0.01, rel=0.02)
    assert len(power_spectrum(noise[:50, :30])) == len(power_spectrum(noise))


def test_a_transfer_function_is_the_kernel_s() -> None:
    blur = Blur("line", 7.3, 0.4)
    kernel = line(7.3, 0.4) / line(7.3, 0.4).sum()
    y, x = np.mgrid[: len(kernel), : len(kernel)] - len(kernel) // 2
    wanted = (kernel * np.cos(2 * math.pi * (3 * y / 64 + 5 * x / 80))).sum()
    assert float(blur.transfer(64, 80)[3, 5]) == pytest.approx(wanted, abs=1e-6)
    assert (Blur().transfer(WINDOW, WINDOW) == 1).all()
    assert candidates()[0] == Blur() and len(set(candidates())) == len(candidates()) > 500


def test_what_is_learnt_from_is_wrong_by_as_much_as_a_guess() -> None:
    rng = np.random.default_rng(0)
    doubts = [doubted(Blur("line", 12.0, 1.0), rng) for _ in range(400)]
    sizes, turns = (np.array([getattr(blur, name) for blur in doubts]) for name in ("size", "angle"))
    assert 0.05 < np.median(np.abs(sizes - 12)) < 0.2 and 0.5 < np.degrees(np.median(np.abs(turns - 1))) < 2
    picture, truth = cut(moved(sharp(2), 9)), cut(sharp(2))
    known = sharpened_by(picture, doubted(Blur("line", 9.0, 0.0), rng))
    assert psnr(known, truth) - psnr(picture, truth) > 3
    assert torch.equal(sharpened_by(picture, Blur("gaussian", 0.5)), picture)


def test_who_runs_the_network_alone_is_told() -> None:
    assert in_words(None, "blur", None) == "guesses the blur, leaves pictures without blur as they are"
