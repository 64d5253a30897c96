"""Pictures restored by Cold Diffusion: whole, measured, and with the properties of their files."""

from __future__ import annotations

import pytest
import torch

from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.picture import ImageError, Picture
from rddm_fast.inverse import cold
from rddm_fast.restoration.cold import ColdPictureRestorer, Measured
from rddm_fast.restoration.metrics import psnr, ssim


def restorer(name: str, channels: int = 3) -> ColdRestorer:
    network = ResidualUnets(8, networks="one", dim_mults=[1, 2], channels=channels)
    return ColdRestorer(network, cold.Recipe.parsed(f"cold:{name}").values()).eval()


PICTURE = Picture(torch.rand(3, 16, 12, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("algorithm", ["tacos", "naive"])
def test_a_degraded_picture_is_sampled_from(algorithm: str) -> None:
    R, seen = restorer("blur:3"), []
    ours = ColdPictureRestorer(R, algorithm=algorithm)(PICTURE, advance=lambda done, count: seen.append((done, count)))
    expected = cold.sample(R, cold.named("blur", (16, 12), 3), PICTURE.pixels[None] * 2 - 1, algorithm)
    torch.testing.assert_close(ours.pixels, ((expected[0] + 1) / 2).clamp(0, 1), rtol=0, atol=1e-5)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_clean_picture_is_degraded_and_measured() -> None:
    R, measured = restorer("snow:3"), list[Measured]()
    results = [ColdPictureRestorer(R, measured=measured.append, seed=seed)(PICTURE) for seed in (1, 1, 2)]
    assert torch.equal(results[0].pixels, results[1].pixels) and not torch.equal(results[0].pixels, results[2].pixels)
    degradation = cold.named("snow", (16, 12), 3, generator=torch.Generator().manual_seed(1))
    snowy = (degradation.start(PICTURE.pixels[None] * 2 - 1)[0] + 1) / 2
    expected = [float(measure(x, PICTURE.pixels)) for x in (snowy, results[0].pixels) for measure in (psnr, ssim)]
    assert list(vars(measured[0]).values()) == pytest.approx(expected, rel=1e-4)


def test_grey_files_stay_grey_unless_colour_comes_back() -> None:
    grey = Picture(PICTURE.pixels.mean(0, keepdim=True).expand(3, -1, -1), grey=True, icc=b"grey profile")
    blurred = ColdPictureRestorer(restorer("blur:2"))(grey)
    assert blurred.grey and blurred.icc == b"grey profile"
    coloured = ColdPictureRestorer(restorer("decolour:2"))(grey)
    assert not coloured.grey and coloured.icc is None
    one_channel = ColdPictureRestorer(restorer("fade:2", channels=1))(PICTURE)
    assert torch.equal(one_channel.pixels[0], one_channel.pixels[2])


def test_what_cannot_be_restored_is_one_sentence() -> None:
    with pytest.raises(
        ValueError, match="cold:snow draws a degradation for each picture, and a degraded picture does not"
    ):
        ColdPictureRestorer(restorer("snow"))
    with pytest.raises(ImageError, match="the picture: T is 5: step 5 of Incremental_factor_2 leaves no pixel of 16"):
        ColdPictureRestorer(restorer("resolution:5"))(PICTURE)
    with pytest.raises(ValueError, match="unknown algorithm 'both': choose one of tacos, naive"):
        ColdPictureRestorer(restorer("blur"), algorithm="both")(PICTURE)
