"""How bright a region becomes is decided for the whole picture, not for each tile."""

import pytest
import torch
from small_models import small_model

from rddm_fast.images.picture import Picture
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.restoration.restore import Restorer
from rddm_fast.restoration.whole.exposure import with_exposure_of
from rddm_fast.theory.steps import Step


class Judging:
    """A sampler that brings what it sees to a mean of 0.5, tile by tile: the worst that a model may do."""

    steps: tuple[Step, ...] = ()

    def __call__(self, image: torch.Tensor, **noise: object) -> torch.Tensor:
        return (image * (0.5 / image.mean((1, 2, 3), keepdim=True))).clamp(0, 1)


def dark(side: int = 160) -> Picture:
    """A dark picture, twice as bright on the right."""
    x = torch.linspace(0, 1, side)
    texture = 0.02 * torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    return Picture((0.1 + 0.1 * (x > 0.5)).expand(3, side, side) + texture)


def restorer(tile: int | None, exposure: bool) -> Restorer:
    made = Restorer(small_model("pred_res", global_exposure=exposure), tile=tile, overlap=16)
    made.sampler = Judging()  # type: ignore[assignment]
    return made


def gap(exposure: bool) -> float:
    """The greatest difference between the picture whole and in tiles of 64, in levels of 255."""
    whole, tiles = (restorer(tile, exposure)(dark()).pixels for tile in (None, 64))
    return 255 * float((whole - tiles).abs().max())


def test_tiles_agree_with_the_whole_to_two_levels() -> None:
    assert gap(exposure=False) > 20
    assert gap(exposure=True) < 2.1


def test_the_built_in_model_gives_the_same_picture_in_any_tile() -> None:
    """Its result does depend on tiles of 64, so that the others are not equal for nothing."""
    diffusion, picture = load_model("lowlight"), Picture(dark(200).pixels[:, :150].contiguous())
    whole, *others, small = (Restorer(diffusion, tile=tile)(picture).pixels for tile in (None, 512, 256, 128, 64))
    for other in others:
        torch.testing.assert_close(other, whole, rtol=0, atol=0)
    assert (small - whole).abs().max() > 1 / 255


def test_a_gain_is_taken_over_and_fine_detail_is_kept() -> None:
    generator = torch.Generator().manual_seed(1)
    detailed = 0.2 + 0.1 * torch.rand(1, 3, 128, 96, generator=generator)
    whole = torch.nn.functional.avg_pool2d(detailed, 2) * torch.tensor([1.5, 1.0, 0.8])[:, None, None]
    result = with_exposure_of(detailed, whole)
    wanted = detailed * torch.tensor([1.5, 1.0, 0.8])[:, None, None]
    torch.testing.assert_close(result, wanted, rtol=0, atol=0.02)


@pytest.mark.parametrize("exposure", [True, False])
def test_the_setting_is_kept_with_the_model(exposure: bool, tmp_path: object) -> None:
    diffusion = load_model("lowlight")
    assert diffusion.global_exposure
    diffusion.global_exposure = exposure
    save_model(str(tmp_path), diffusion)
    assert load_model(str(tmp_path)).global_exposure is exposure
