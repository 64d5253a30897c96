"""Cold Diffusion: every degradation in one operation, exact, and as the chain that it stands for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.inverse import cold
from rddm_fast.inverse.cold.blur import BLURS
from rddm_fast.inverse.cold.resolution import RESOLUTIONS

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
T = 3
Size = tuple[int, int]


def picture(size: Size, channels: int = 3, batch: int = 2, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, channels, *size, generator=generator, dtype=torch.float64).to(dtype) * 2 - 1


MAKE: dict[str, Callable[[Size], cold.Degradation]] = {
    **{f"blur {b}": lambda size, b=b: cold.Blur(size, T, b, std=0.7, taps=5) for b in BLURS},
    "blur discrete": lambda size: cold.Blur(size, T, "Exponential", taps=3, discrete=True),
    "blur reflect discrete": lambda size: cold.Blur(size, T, "Constant_reflect", taps=3, discrete=True),
    **{f"resolution {r}": lambda size, r=r: cold.Resolution(size, T, r) for r in RESOLUTIONS},
    "fade": lambda size: cold.Fade(size, T, std=0.8),
    "fade Constant": lambda size: cold.Fade(size, T, "Constant", std=2.0),
    "fade Random": lambda size: cold.Fade(size, T, "Random_Incremental", offsets=cold.random_offsets(2, size)),
    "fade generation": lambda size: cold.Fade(size, T, std=0.5, initial_mask=3, x_end=torch.tensor([0.3])),
    "fade reverse": lambda size: cold.Fade(size, T, x_end=picture((1, 1), 1), reverse=True),
    "decolour": lambda size: cold.Decolour(T),
    "decolour Constant": lambda size: cold.Decolour(T, "Constant", factor=0.6),
    "decolour total": lambda size: cold.Decolour(T, "Constant", factor=0.6, total_remove=True),
    "snow": lambda size: cold.Snow.drawn(size, T, 2),
    "snow bright": lambda size: cold.Snow.drawn(size, T, 1, fix_brightness=False),
    "snow of each picture": lambda size: cold.Snow.drawn(size, T, 4, fix_brightness=False, pictures=2),
    "animorphosis": lambda size: cold.Animorphosis(T, picture(size, 1, seed=2)),
}
every_degradation = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("size", "channels"), [((12, 9), 3), ((8, 17), 1), ((11, 10), 4)])
@every_degradation
def test_an_exact_restorer_brings_x_0_back(
    make: Callable[[Size], cold.Degradation], size: Size, channels: int, device: str
) -> None:
    degradation, x_0 = make(size), picture(size, channels, dtype=torch.float32).to(device)
    x_T = degradation.start(x_0)
    assert x_T.shape == x_0.shape and x_T.dtype == torch.float32
    for algorithm in ("tacos", "naive"):
        told = []
        restored = cold.sample(lambda x_s, s: (told.append(s), x_0)[1], degradation, x_T, algorithm)  # noqa: B023
        assert told == [3, 2, 1]
        assert (restored - x_0).abs().max() <= 1e-5, algorithm


def test_without_x_end_animorphosis_estimates_it() -> None:
    x_0, x_end = picture((7, 10)), picture((7, 10), seed=2)
    x_T = cold.Animorphosis(T, x_end).start(x_0)
    images: list[Tensor] = []
    unknown = cold.Animorphosis(T)
    restored = cold.sample(lambda x_s, s: x_0, unknown, x_T, on_step=lambda i, step, x: images.append(x))
    assert (restored - x_0).abs().max() <= 1e-12
    for s, x_s in zip((2, 1, 0), images, strict=True):
        assert (x_s - cold.Animorphosis(T, x_end).D(x_0, s)).abs().max() <= 1e-12
    with pytest.raises(ValueError, match=r"^x_end is unknown, so an image cannot be degraded: pass x_end, a picture"):
        unknown.D(x_0, 1)


@every_degradation
def test_levels_of_a_batch_and_changes_are_those_of_D(make: Callable[[Size], cold.Degradation]) -> None:
    degradation, x = make((9, 12)), picture((9, 12)) * 1.1  # estimates leave [-1, 1]
    assert torch.equal(degradation.D(x, 0), x)
    for first, second in ((0, 2), (3, 0), (1, 3)):
        both = degradation.D(x, torch.tensor([first, second]))
        alone = torch.stack([degradation.D(x, first)[0], degradation.D(x, second)[1]])
        assert (both - alone).abs().max() <= 1e-14
        change = degradation.D(x, second) - degradation.D(x, first)
        assert (degradation.change(x, first, second) - change).abs().max() <= 1e-14
        x_s = picture((9, 12), seed=4)
        assert (degradation.tacos(x_s, x, first, second) - (x_s + change)).abs().max() <= 1e-14


# -- the chains, written out -------------------------------------------------------------------------------


def gauss(taps: int, sigma: float) -> Tensor:
    g = torch.tensor([math.exp(-((j - taps // 2) ** 2) / (2 * sigma**2)) for j in range(taps)], dtype=torch.float64)
    return torch.outer(g, g)


def convolved(x: Tensor, kernel: Tensor, edges: str) -> Tensor:
    side = len(kernel) // 2
    weights = (kernel / kernel.sum()).expand(x.shape[1], 1, -1, -1)
    return F.conv2d(F.pad(x, (side,) * 4, mode=edges), weights, groups=x.shape[1])


def sigma_of(schedule: str, i: int, std: float) -> float:
    return {
        "Incremental": std * (i + 1),
        "Constant": std,
        "Exponential": math.exp(std * i),
        "Special_6": i / 100 + 0.35,
        "Individual_Incremental": 2 * (2 * i + 1),
    }[schedule.removesuffix("_reflect")]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("schedule", BLURS)
def test_blur_is_the_chain_of_convolutions(schedule: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    height, width, half, levels = (int(torch.randint(7, 20, (), generator=generator)) // d for d in (1, 1, 3, 3))
    std = 0.2 + float(torch.rand((), generator=generator))
    degradation = cold.Blur((height, width), levels, schedule, std=std, taps=2 * half + 1)
    x_0 = x = picture((height, width), 2)
    edges = "reflect" if "reflect" in schedule or schedule == "Special_6" else "circular"
    for i in range(levels):
        taps = {"Special_6": 11, "Individual_Incremental": 2 * i + 1}.get(schedule, 2 * half + 1)
        x = convolved(x_0 if schedule.startswith("Individual") else x, gauss(taps, sigma_of(schedule, i, std)), edges)
        assert (degradation.D(x_0, i + 1) - x).abs().max() <= 1e-12


@pytest.mark.parametrize("size", [(16, 24), (13, 9)])
@pytest.mark.parametrize("schedule", RESOLUTIONS)
def test_resolution_is_the_chain_of_interpolations(schedule: str, size: Size) -> None:
    degradation, x_0 = cold.Resolution(size, T, schedule), picture(size)
    mode = next((m for m in ("bilinear", "area") if m in schedule), "bicubic")
    x = x_0
    for i in range(T):
        smaller = [side // 2 ** (i + 1) if "factor_2" in schedule else side - i for side in size]
        blur = (lambda x: convolved(x, gauss(3, 0.5), "reflect")) if "blur" in schedule else (lambda x: x)
        x = blur(F.interpolate(F.interpolate(blur(x), size=smaller, mode=mode), size=size, mode="nearest-exact"))
        assert (degradation.D(x_0, i + 1) - x).abs().max() <= 1e-12


@pytest.mark.parametrize("schedule", ["Incremental", "Constant", "Random_Incremental"])
def test_fade_is_the_chain_of_masks(schedule: str) -> None:
    size, std, initial = (8, 13), 0.6, 2
    offsets = torch.tensor([[0, 13], [8, 4]]) if schedule.startswith("Random") else None
    degradation = cold.Fade(size, 4, schedule, std=std, initial_mask=initial, offsets=offsets)
    x_0 = x = picture(size)
    for i in range(4):
        sigma = std if schedule == "Constant" else std * (i + initial)
        grow = 2 if offsets is not None else 1
        sides = [torch.arange(grow * n + 1).double() - (grow * n + 1) // 2 for n in size]
        rows, columns = (torch.exp(-(side**2) / (2 * sigma**2)) for side in sides)
        mask = 1 - torch.outer(rows, columns)[1:, 1:]
        crops = [(0, 0)] * 2 if offsets is None else offsets.tolist()
        x = x * torch.stack([mask[r : r + size[0], c : c + size[1]] for r, c in crops])[:, None]
        assert (degradation.D(x_0, i + 1) - x).abs().max() <= 1e-12


def test_decolour_is_the_chain_of_matrices() -> None:
    x_0 = x = picture((5, 6), 4)
    factors = [0.7, 0.7, 0.0]
    degradation = cold.Decolour(3, "Constant", factor=0.7, total_remove=True)
    for s, f in enumerate(factors, 1):
        matrix = f * torch.eye(4, dtype=torch.float64) + (1 - f) / 4
        x = torch.einsum("ij,bjhw->bihw", matrix, x)
        assert (degradation.D(x_0, s) - x).abs().max() <= 1e-12


def test_a_discrete_fade_starts_from_eight_bits() -> None:
    """So an exact restorer gives x_0 back up to the 1/255 of [0, 1] that the start rounds away."""
    degradation, x_0 = cold.Fade((6, 9), T, std=0.5, discrete=True), picture((6, 9))
    x_T = degradation.start(x_0)
    levels = (x_T + 1) / 2 * 255
    assert (levels - levels.round()).abs().max() <= 1e-9
    lost = degradation.D(x_0, T) - x_T
    assert lost.min() >= -1e-12 and 1e-3 < lost.max() < 2 / 255
    restored = cold.sample(lambda x_s, s: x_0, degradation, x_T)
    assert (restored - (x_0 - lost)).abs().max() <= 1e-12


def test_random_places_cover_the_image_and_follow_their_generator() -> None:
    drawn = [cold.random_offsets(500, (3, 5), torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].amin(0).tolist() == [0, 0] and drawn[0].amax(0).tolist() == [3, 5]


def test_snow_follows_its_generator_and_grows() -> None:
    def fallen(pictures: int) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        return cold.Snow.drawn((40, 25), 4, 4, pictures=pictures, generator=generator).D(-torch.ones(2, 3, 40, 25), 4)

    one, each = fallen(1), fallen(2)
    assert torch.equal(one, fallen(1)) and torch.equal(one[0], one[1])
    assert not torch.equal(each[0], each[1])
    snow = cold.Snow.drawn((40, 25), 4, 4, generator=torch.Generator().manual_seed(3))
    means = [float(snow.D(-torch.ones(1, 3, 40, 25), s).mean()) for s in range(5)]
    assert means == sorted(means) and means[0] == -1 and means[-1] > -0.6


# -- bad input ---------------------------------------------------------------------------------------------

IMAGE = torch.zeros(2, 3, 4, 6)


def wrong(x_s: Tensor, s: int) -> Tensor:
    return x_s


FADE = cold.Fade((4, 6), 3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: cold.Blur(8, 0), "T is 0: a degradation has a whole number of levels, at least 1"),
        (lambda: cold.Snow.drawn(8, -1), "T is -1: a degradation has a whole number of levels, at least 1"),
        (lambda: cold.Decolour(2.5), "T is 2.5: a degradation has a whole number of levels, at least 1"),  # type: ignore
        (
            lambda: cold.Blur(8, 2, "Gaussian"),
            "unknown blur schedule 'Gaussian': choose one of Incremental, Constant, ",
        ),
        (lambda: cold.Resolution(8, 2, "Half"), "unknown resolution schedule 'Half': choose one of Incremental, "),
        (lambda: cold.Fade(8, 2, "Linear"), "unknown fade schedule 'Linear': choose one of Incremental, Constant, R"),
        (lambda: cold.Decolour(2, "Grey"), "unknown decolour schedule 'Grey': choose one of Linear, Constant"),
        (lambda: cold.Snow.drawn(8, 2, 5), "unknown snow level 5: choose one of 1, 2, 3, 4"),
        (lambda: cold.sample(wrong, FADE, IMAGE, "ddim"), "unknown algorithm 'ddim': choose one of tacos, naive"),
        (lambda: cold.Blur(8, 2, taps=4), "taps is 4: a kernel has an odd number of taps, so that it has a middle"),
        (lambda: cold.Blur(8, 2, std=0.0), "std is 0.0: it must be above 0"),
        (lambda: cold.Fade(8, 2, initial_mask=0), "initial_mask is 0: it must be above 0"),
        (lambda: cold.Blur((0, 4), 2), "the size of an image is 0×4: both sides must be at least 1"),
        (
            lambda: cold.Resolution(8, 4),
            "T is 4: step 4 of Incremental_factor_2 leaves no pixel of 8; T may be 3 at most",
        ),
        (lambda: cold.Decolour(2, factor=1.5), "factor is 1.5: it must be between 0 (grey at once) and 1 (no change)"),
        (lambda: cold.Snow(torch.zeros(4, 4)), "layers have the shape (T, H, W) or (pictures, T, H, W), not (4, 4)"),
        (
            lambda: cold.Fade(8, 2, "Random_Incremental"),
            "Random_Incremental has a spot for each picture: pass offsets=r",
        ),
        (
            lambda: cold.Fade((4, 6), 2, "Random_Incremental", offsets=torch.tensor([[5, 0]])),
            "offsets are (B, 2): a row from 0 to 4 and a column from 0 to 6 per picture",
        ),
        (
            lambda: cold.Fade(8, 2, offsets=torch.tensor([[1, 1]])),
            "Incremental has its spot in the middle: leave offsets out, or choose Random_Incremental",
        ),
        (lambda: FADE.D(IMAGE, 4), "s is 4: choose a level from 0 (the clean image) to 3"),
        (lambda: FADE.change(IMAGE, 2, -1), "s is -1: choose a level from 0 (the clean image) to 3"),
        (lambda: FADE.tacos(IMAGE, IMAGE, 4, 2), "s is 4: choose a level from 0 (the clean image) to 3"),
        (lambda: FADE.D(IMAGE, torch.tensor([0, 9])), "s is 9: choose a level from 0 (the clean image) to 3"),
        (lambda: FADE.D(IMAGE, 1.5), "s is a float: pass an int, or integers of shape (2,)"),  # type: ignore
        (
            lambda: FADE.D(IMAGE, torch.ones(3)),
            "s is torch.float32 of shape (3,): pass an int, or integers of shape (2,)",
        ),
        (
            lambda: FADE.D(IMAGE, torch.tensor([True, False])),
            "s is torch.bool of shape (2,): pass an int, or integers of shape (2,)",
        ),
        (lambda: FADE.D(IMAGE[0], 1), "an image has the shape (batch, channels, height, width), not (3, 4, 6)"),
        (lambda: FADE.D(IMAGE.half(), 1), "the image is torch.float16: convert it to float32 or float64"),
        (
            lambda: cold.sample(wrong, FADE, torch.zeros(1, 3, 8, 8)),
            "this degradation is made for images of 4×6, and the image is 8×8: make one of its size",
        ),
        (
            lambda: cold.Snow.drawn((4, 6), 2, pictures=3).D(IMAGE, 1),
            "this degradation has its own tables for 3 pictures, not for 2",
        ),
        (
            lambda: cold.sample(wrong, cold.Animorphosis(3, torch.zeros(1, 3, 4, 5)), IMAGE),
            "x_end has shape (1, 3, 4, 5) and the image (2, 3, 4, 6): pass an x_end that broadcasts to the image",
        ),
        (
            lambda: cold.sample(lambda x, s: x[:, :1], FADE, IMAGE),
            "the restorer returned (2, 1, 4, 6): it must return x_0 of the shape (2, 3, 4, 6)",
        ),
    ],
)
def test_bad_input_is_told_in_a_sentence(call: Callable[[], Any], sentence: str) -> None:
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert str(error.value).startswith(sentence) and "\n" not in str(error.value)
