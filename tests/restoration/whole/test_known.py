"""The pixels that a mask leaves out come back to the bit, and what a hole held does not matter."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small_model

from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.diffusion.start import Start
from rddm_fast.fast import FastSampler
from rddm_fast.images.given.holes import filled
from rddm_fast.images.given.texture import textured
from rddm_fast.images.picture import ImageError, Picture
from rddm_fast.restoration.demo import photographs
from rddm_fast.restoration.restore import Restorer

PHOTO = (
    torch.from_numpy(np.asarray(Image.open(photographs()[0]).convert("RGB"))[:64, :80].copy()).permute(2, 0, 1) / 255
)


def restorer(marks: str | None, tile: int | None = None) -> Restorer:
    model = small_model("pred_res", input_condition=True, input_condition_mask=True, mask_marks=marks)
    return Restorer(model, steps=2, tile=tile, overlap=8)


def mask(rows: slice = slice(20, 30), columns: slice = slice(10, 60)) -> torch.Tensor:
    marked = torch.zeros_like(PHOTO)
    marked[:, rows, columns] = 1
    return marked


@pytest.mark.parametrize("tile", [None, 32])
@pytest.mark.parametrize("marks", ["change", "shadow", "grey hole", "filled hole"])
def test_known_pixels_are_equal_to_the_bit_and_marked_ones_are_restored(marks: str, tile: int | None) -> None:
    marked = mask()
    result = restorer(marks, tile)(Picture(PHOTO), Picture(marked)).pixels
    assert torch.equal(result[marked == 0], PHOTO[marked == 0])
    assert (result - PHOTO)[marked == 1].abs().mean() > 0.01  # a network of random weights


@pytest.mark.parametrize("marks", ["change", "shadow", "grey hole", "filled hole"])
def test_an_empty_mask_returns_the_picture(marks: str) -> None:
    jpeg_noise = torch.full_like(PHOTO, 0.08)
    for empty in (torch.zeros_like(PHOTO), jpeg_noise):
        assert torch.equal(restorer(marks)(Picture(PHOTO), Picture(empty)).pixels, PHOTO)


@pytest.mark.parametrize("marks", ["grey hole", "filled hole"])
def test_what_a_hole_held_has_no_influence(marks: str) -> None:
    work, marked = restorer(marks), mask()
    results = []
    for held in (0.0, 1.0, 0.5):
        given = torch.where(marked > 0, torch.full_like(PHOTO, held), PHOTO)
        results.append(work(Picture(given), Picture(marked)).pixels)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@pytest.mark.parametrize("marks", ["shadow", "filled hole"])
def test_both_samplers_keep_known_pixels_and_agree(marks: str) -> None:
    model = small_model("pred_res", input_condition=True, input_condition_mask=True, mask_marks=marks)
    inputs = PHOTO[None], mask()[None]
    generators = (torch.Generator().manual_seed(3) for _ in range(3))
    eager = model.sample(*inputs, sampling_timesteps=2, generator=next(generators))[-1]
    fast = FastSampler(model, steps=2)(*inputs, generator=next(generators))
    for result in (eager, fast):
        assert torch.equal(result[0][mask() == 0], PHOTO[mask() == 0])
        assert (result[0] - PHOTO)[mask() == 1].abs().mean() > 0.01
    torch.testing.assert_close(eager.clamp(0, 1), fast, rtol=0, atol=1e-4)
    # The noisy image that the walk starts from is shown as it is.
    assert len(model.sample(*inputs, sampling_timesteps=2, every_step=True, generator=next(generators))) == 3


def test_a_published_model_sees_the_mask_and_may_change_every_pixel() -> None:
    result = restorer(None)(Picture(PHOTO), Picture(mask())).pixels
    assert (result != PHOTO).float().mean() > 0.9


def test_a_soft_mask_of_a_change_blends() -> None:
    half = 0.5 * mask()
    full = restorer("change")(Picture(PHOTO), Picture(mask())).pixels
    blended = restorer("change")(Picture(PHOTO), Picture(half)).pixels
    inside = mask() == 1
    torch.testing.assert_close(blended[inside], ((PHOTO + full) / 2)[inside], rtol=0, atol=1e-6)


def test_a_mask_of_another_size_is_one_sentence() -> None:
    with pytest.raises(ImageError, match=r"the mask None is 40x64 and None is 80x64"):
        restorer("change")(Picture(PHOTO), Picture(mask()[:, :, :40]))


def test_a_mark_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="mask_marks is 'change', 'grey hole', 'filled hole', 'shadow', of a model"):
        small_model("pred_res", input_condition=True, mask_marks="hole")
    with pytest.raises(ValueError, match="of a model that takes a mask"):
        small_model("pred_res", mask_marks="change")


def test_a_tile_that_lies_in_a_hole_is_given_what_surrounds_the_hole(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    start = ResidualDiffusion.start

    def watched(self: ResidualDiffusion, *arguments: Any, **named: Any) -> Start:
        begun = start(self, *arguments, **named)
        seen.append(begun.I_in)
        return begun

    monkeypatch.setattr(ResidualDiffusion, "start", watched)
    marked = mask(slice(8, 56), slice(8, 72))
    restorer("filled hole", tile=32)(Picture(PHOTO), Picture(marked))
    hole = marked[None, :1]
    whole = 2 * textured(filled(PHOTO[None], hole), hole) - 1
    assert any(torch.equal(tile, whole[..., 16:48, 24:56]) for tile in seen)
