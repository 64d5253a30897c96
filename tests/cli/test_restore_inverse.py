"""`rddm-fast restore --method`: degraded pictures from their files, clean ones degraded first, and bad input."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import error_of, run, succeeded
from PIL import Image
from small_priors import saved_prior
from torch import Tensor
from torch.nn.functional import max_pool2d
from typer.testing import Result

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.inverse.operators import named
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.restoration.metrics import psnr, ssim

LEVEL = 1 / 255


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_prior(tmp_path_factory.mktemp("prior"))


def photo(path: Path, size: tuple[int, int] = (32, 24), mode: str = "RGB") -> Path:
    """A photograph of low contrast, so that few pixels of a result are clamped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(PHOTOS / "coffee.png") as image:
        small = np.asarray(image.convert(mode).resize(size))
        Image.fromarray((112 + small // 8).astype(np.uint8)).save(path)
    return path


def solve(prior: Path, output: Path, operator: str, *arguments: object) -> Result:
    """Five steps of DDNM, unless the arguments say otherwise."""
    options = ["--method", "ddnm", "--operator", operator, "--prior", prior, "--steps", 5, "--output", output]
    return run("restore", *options, *arguments)


def misfit(operator: str, result: Path, given: Path) -> Tensor:
    """|A x - y| per pixel of y, in levels of 8 bits; NaN where a pixel of x is black or white, so perhaps clamped."""
    x, y = read_image(result).pixels, read_image(given).pixels
    error = (named(operator, tuple(x.shape), **kept(operator, x)).A(x[None])[0] - y).abs().amax(0)
    clamped = ((x == 0) | (x == 1)).any(0).float()[None]
    clamped = max_pool2d(clamped, x.shape[1] // y.shape[1])[0] > 0
    assert clamped.float().mean() < 0.5
    return (error / LEVEL).masked_fill(clamped, torch.nan)


def kept(operator: str, x: Tensor) -> dict[str, Tensor]:
    """The mask that keeps every pixel, for the operator that draws one."""
    return {"mask": torch.ones(x.shape[1:])} if operator.startswith("old") else {}


def fits(levels: Tensor) -> bool:
    """Whether nothing is missed by more than a result's rounding to 8 bits."""
    return bool((levels.nan_to_num(0.0) < 0.51).all())


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


@pytest.mark.parametrize("tile", [[], ["--tile", 16], ["--tile", 16, "--overlap", 8], ["--tile", 0]])
def test_a_small_picture_becomes_four_times_larger(prior: Path, tmp_path: Path, tile: list[object]) -> None:
    """Its block means are the picture that was given, in one window or in several."""
    small = photo(tmp_path / "small.png", (9, 6))
    result = succeeded(solve(prior, tmp_path / "out", "sr:4", small, *tile))
    assert re.fullmatch(r".*small\.png  \d+\.\d\d s\n1 restored\n", result.stdout)
    assert read_image(tmp_path / "out" / "small.png").pixels.shape == (3, 24, 36)
    assert fits(misfit("sr:4", tmp_path / "out" / "small.png", small))
    larger = read_image(tmp_path / "out" / "small.png").pixels
    assert (larger[..., 1::4] - larger[..., ::4]).std() > LEVEL  # it is no enlarged copy


@pytest.mark.parametrize("method", ["ddnm", "ddnm+", "ddnm+eq19", "ddrm"])
def test_missing_pixels_are_filled_and_the_others_kept(prior: Path, tmp_path: Path, method: str) -> None:
    holes = torch.zeros(3, 24, 32)
    holes[:, 8:16, 8:20] = 1.0
    torn = read_image(photo(tmp_path / "in" / "a.png"))
    write_image(tmp_path / "in" / "a.png", Picture(torn.pixels * (1 - holes)))
    write_image(tmp_path / "masks" / "a.png", Picture(holes))
    masks = ["--mask", tmp_path / "masks"]
    succeeded(solve(prior, tmp_path / "out", "inpaint", tmp_path / "in", *masks, "--method", method))
    change = (read_image(tmp_path / "out" / "a.png").pixels - torn.pixels * (1 - holes)).abs()
    assert change[holes == 0].max() < 0.01 * LEVEL and change[holes == 1].mean() > 0.3


def test_a_grey_picture_gets_colours(prior: Path, tmp_path: Path) -> None:
    grey = photo(tmp_path / "grey.png", mode="L")
    succeeded(solve(prior, tmp_path / "out", "color", grey))
    assert Image.open(tmp_path / "out" / "grey.png").mode == "RGB"
    assert fits(misfit("color", tmp_path / "out" / "grey.png", grey))
    coloured = read_image(tmp_path / "out" / "grey.png").pixels
    assert (coloured[0] - coloured[1]).std() > LEVEL


def test_an_old_photograph_and_its_tear(prior: Path, tmp_path: Path) -> None:
    old, mask = photo(tmp_path / "old.png", (16, 12), mode="L"), torch.zeros(3, 24, 32)
    mask[:, 6:12] = 1.0  # three rows of blocks are torn
    write_image(tmp_path / "tears" / "old.png", Picture(mask))
    succeeded(solve(prior, tmp_path / "torn", "old:2", old, "--mask", tmp_path / "tears"))
    succeeded(solve(prior, tmp_path / "whole", "old:2", old))
    torn, whole = (misfit("old:2", tmp_path / folder / "old.png", old) for folder in ("torn", "whole"))
    assert fits(whole) and fits(torn[:3]) and fits(torn[6:])
    assert torn[3:6].nan_to_num(0.0).max() > 10


def test_depth_alpha_and_resolution_are_kept(prior: Path, tmp_path: Path) -> None:
    pixels, alpha = torch.rand(3, 6, 8), torch.full((1, 6, 8), 0.3)
    write_image(tmp_path / "deep.png", Picture(pixels, alpha=alpha, bits=16, dpi=(100.0, 100.0)))
    succeeded(solve(prior, tmp_path / "out", "sr:2", tmp_path / "deep.png"))
    result = read_image(tmp_path / "out" / "deep.png")
    assert result.bits == 16 and result.alpha is not None and result.alpha.shape == (1, 12, 16)
    assert (result.alpha - 0.3).abs().max() < 1e-4
    assert result.dpi == pytest.approx((200.0, 200.0), abs=0.1)  # as large on paper


def test_a_prior_of_grey_pictures(tmp_path: Path) -> None:
    prior = saved_prior(tmp_path / "prior", channels=1)
    grey, colour = photo(tmp_path / "in" / "grey.png", (8, 6), "L"), photo(tmp_path / "in" / "colour.png", (8, 6))
    result = solve(prior, tmp_path / "out", "sr:2", tmp_path / "in")
    assert error_of(result).endswith(
        "colour.png is in colour, and this prior makes grey pictures: convert it to grey first"
    )
    assert "1 restored, 1 failed" in result.stdout and colour.exists()
    with Image.open(tmp_path / "out" / "grey.png") as written:
        assert written.mode == "L" and written.size == (16, 12)
    assert fits(misfit("sr:2", tmp_path / "out" / "grey.png", grey))


def numbers(line: str) -> dict[str, tuple[float, float]]:
    found = re.findall(r"(\S+) (\d+\.\d\d) dB, SSIM (\d\.\d{4})", line)
    return {name: (float(decibels), float(similarity)) for name, decibels, similarity in found}


def test_degrade_measures_what_it_makes(prior: Path, tmp_path: Path) -> None:
    for name in "ab":
        photo(tmp_path / "in" / f"{name}.png", (32, 24 if name == "a" else 28))
    arguments = [tmp_path / "in", "--degrade", "--sigma-y", 0.05]
    lines = succeeded(solve(prior, tmp_path / "out", "inpaint", *arguments)).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4:2]] == [str(tmp_path / "out" / f"{name}.png") for name in "ab"]
    scores = [numbers(lines[1]), numbers(lines[3])]
    assert all(list(score) == ["input", "A⁺y", "result"] for score in scores)
    assert lines[4].startswith("mean of 2: ") and lines[5] == "2 restored"
    for name, mean in numbers(lines[4]).items():
        for i in (0, 1):
            assert mean[i] == pytest.approx((scores[0][name][i] + scores[1][name][i]) / 2, abs=0.006)
    clean = read_image(tmp_path / "in" / "a.png").pixels
    for name, file in (("A⁺y", "a.degraded.png"), ("result", "a.png")):
        pixels = read_image(tmp_path / "out" / file).pixels
        assert scores[0][name][0] == pytest.approx(float(psnr(pixels, clean)), abs=0.15)  # 0.5 becomes 128
        assert scores[0][name][1] == pytest.approx(float(ssim(pixels, clean)), abs=0.005)

    degraded, kept = read_image(tmp_path / "out" / "a.degraded.png").pixels, named("inpaint", (3, 24, 32)).mask.value[0]
    noise = (degraded - clean)[:, kept]
    assert float(noise.std()) == pytest.approx(0.05, rel=0.1)  # in the scale of pictures
    assert (degraded[:, ~kept] - 0.5).abs().max() < LEVEL  # missing is grey, 0 in [-1, 1]
    assert "0 restored, 2 already in" in solve(prior, tmp_path / "out", "inpaint", *arguments).stdout


@pytest.mark.parametrize(
    "operator", ["denoising", "sr:4", "bicubic:4", "blur:gauss", "color", "cs:0.5", "cs-block:0.25", "old:4"]
)
def test_degrade_by_each_operator(prior: Path, tmp_path: Path, operator: str) -> None:
    clean = photo(tmp_path / "a.png", (32, 32))
    result = succeeded(solve(prior, tmp_path / "out", operator, clean, "--degrade", "--steps", 2))
    shown = ["input"] if operator in ("denoising", "blur:gauss", "color") else []
    assert list(numbers(result.stdout.splitlines()[1].replace("inf", "99.00"))) == [*shown, "A⁺y", "result"]
    assert files(tmp_path / "out") == ["a.degraded.png", "a.png"]


def test_the_seed_decides(prior: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "a.png", (8, 6))
    for folder, seed in (("one", 1), ("again", 1), ("two", 2)):
        succeeded(solve(prior, tmp_path / folder, "sr:2", picture, "--seed", seed, "--sigma-y", 0.1))
    one, again, two = ((tmp_path / folder / "a.png").read_bytes() for folder in ("one", "again", "two"))
    assert one == again != two


def test_a_mask_of_another_size(prior: Path, tmp_path: Path) -> None:
    picture = photo(tmp_path / "in" / "a.png", (16, 12), mode="L")
    mask = photo(tmp_path / "masks" / "a.png", (16, 12))
    error = error_of(solve(prior, tmp_path / "out", "old:2", picture, "--mask", mask))
    assert error == (
        f"error: the mask {mask} is 16x12 and the result for {picture} is 32x24: give a mask of the result's size"
    )


def test_a_picture_that_does_not_fit_fails_alone(prior: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png", (33, 24))
    photo(tmp_path / "in" / "b.png", (32, 24))
    result = solve(prior, tmp_path / "out", "sr:4", tmp_path / "in", "--degrade")
    sentence = (
        "a.png: the image's height and width must be multiples of factor 4, but it is 24 × 33: crop it to 24 × 32"
    )
    assert error_of(result).endswith(sentence)
    assert files(tmp_path / "out") == ["b.degraded.png", "b.png"] and "1 restored, 1 failed" in result.stdout


@pytest.mark.parametrize(
    ("operator", "arguments", "sentence"),
    [
        ("fog", [], "unknown --operator 'fog': choose denoising, inpaint, sr:F, "),
        ("sr:big", [], "sr:big: 'big' is not a whole number: write for example 'sr:4'"),
        ("sr:4", ["--method", "dps"], "--method is 'dps': choose one of ddnm, ddnm+, ddnm+eq19, ddrm"),
        ("sr:4", ["--sigma-y", "-0.1"], "--sigma-y must be a standard deviation of 0 or more, not -0.1"),
        ("sr:4", ["--eta", 2], "--eta must be between 0 and 1, not 2.0"),
        ("sr:4", ["--eta-b", 0.5], "--eta-b is for --method ddrm: leave it out of ddnm"),
        ("sr:4", ["--steps", 2000], "--steps must be between 1 and the schedule's 1000, not 2000"),
        ("sr:4", ["--travel", "6,2"], "time travel of 6 steps is longer than the walk of 5 steps: take at most 5"),
        ("sr:4", ["--travel", "6"], "--travel is '6': write two numbers from 1, how far back and how often"),
        ("sr:4", ["--method", "ddrm", "--travel", "2,2"], "--travel is for --method ddnm and its variants"),
        ("sr:4", ["--prior", "derain"], "a prior predicts the noise or the clean image (objective pred_noise or"),
        ("sr:4", ["--model", "derain"], "--model is for restoring without --method: with it, name a model of the"),
        ("sr:4", ["--mask", "a.png"], "sr:4 has no use for a mask: leave it out, or choose inpaint or old:F"),
        ("sr:4", ["--tile", 3], "a window of 3 pixels is smaller than the operator's block of 4"),
        ("sr:4", ["--tile", 0, "--overlap", 8], "overlap is for windows, and without a tile there are none"),
        ("bicubic:4", ["--tile", 64], "bicubic:4 reaches across the border of a window: restore pictures whole"),
        ("cs:0.25", [], "a picture cannot be a measurement by cs:0.25: pass clean pictures and"),
        ("cs-block:0.25", [], "a picture cannot be a measurement by cs-block:0.25"),
        ("cs:0.25", ["--degrade"], "powers of 2, but the image is 24 × 32: crop it to 16 × 32"),
        ("inpaint", [], "inpaint needs a mask, white where pixels are missing: pass one or a folder of masks (--mask)"),
        ("color", [], "a.png is in colour, and color restores grey pictures (--degrade makes one grey): convert it to"),
        ("inpaint", ["--mask", PHOTOS / "coffee.png"], "there is no mask for "),
    ],
)  # fmt: skip
def test_a_sentence_for_each_mistake(
    prior: Path, tmp_path: Path, operator: str, arguments: list[object], sentence: str
) -> None:
    picture = photo(tmp_path / "a.png")
    assert sentence in error_of(solve(prior, tmp_path / "out", operator, picture, *arguments))
    assert files(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--method", "ddnm"], "--method needs --operator, such as sr:4: rddm-fast operators lists them"),
        (["--operator", "sr:4"], "--operator is for --method: add one, such as --method ddnm, or leave --operator out"),
        (["--sigma-y", 0.0], "--sigma-y is for --method: add one"),
        (["--eta-b", 1.0], "--eta-b is for --method: add one"),
        (["--degrade"], "--degrade is for --method: add one"),
        (["--method", "ddnm", "--operator", "sr:4", "--prior", "nowhere"], "there is no model folder nowhere"),
    ],
)
def test_options_that_need_others(tmp_path: Path, arguments: list[object], sentence: str) -> None:
    assert sentence in error_of(run("restore", photo(tmp_path / "a.png"), "-o", tmp_path / "out", *arguments))
    assert files(tmp_path / "out") == []


def test_a_degraded_picture_overwrites_no_result(prior: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.png")
    photo(tmp_path / "in" / "a.degraded.png")
    error = error_of(solve(prior, tmp_path / "out", "color", tmp_path / "in", "--degrade"))
    assert "a.degraded.png, which belongs to " in error and files(tmp_path / "out") == []


def test_help_says_what_the_numbers_mean() -> None:
    text = " ".join(re.sub(r"[│\s]+", " ", run("restore", "--help").stdout).split())
    assert "white where the image is missing" in text and "doubles it" in text
