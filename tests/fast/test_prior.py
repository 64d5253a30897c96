"""`FastPrior` is `inverse.predictor` on folded networks: the same noise, and the same restored images."""

import pytest
import torch
from small_models import assert_same_bits, seeded, small_model
from torch import nn

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.noise_network import NoiseDiffusion
from rddm_fast.fast import FastPrior
from rddm_fast.inverse.operators import Inpainting, SuperResolution, random_mask
from rddm_fast.inverse.predictor import predictor
from rddm_fast.inverse.restore import restore
from rddm_fast.theory.schedule import Schedule

DDPM = Schedule.from_ddim()


def prior_model(**options: object) -> ResidualDiffusion:
    return small_model("pred_noise", condition=False, schedule=DDPM, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(16, 16), (24, 12), (7, 5)])
def test_the_same_noise_at_every_index(size: tuple[int, int]) -> None:
    diffusion = prior_model()
    x = torch.randn(2, 3, *size)
    eager, fast = predictor(diffusion), FastPrior(diffusion)
    expected = {t: eager(x, t) for t in (999, 998, 500, 1, 0)}
    assert (expected[999] - expected[500]).abs().max() > 1e-2  # the index matters
    for t, epsilon in expected.items():
        assert (fast(x, t) - epsilon).abs().max() < 1e-5


def test_the_noise_of_other_networks() -> None:
    """A shared encoder, and two networks of which the first predicts the noise."""
    x = torch.randn(1, 3, 16, 16)
    for networks in ("shared", "two"):
        diffusion = prior_model(networks=networks)
        assert (FastPrior(diffusion)(x, 700) - predictor(diffusion)(x, 700)).abs().max() < 1e-5


def test_a_model_of_the_clean_image_gives_the_noise_that_is_left() -> None:
    diffusion = small_model("pred_x0", condition=False, schedule=DDPM)
    x, fast, eager = torch.randn(2, 3, 16, 12), FastPrior(diffusion), predictor(diffusion)
    for t in (999, 500, 30):
        root_a = float(1 - DDPM.alpha_bar[t])
        with torch.no_grad():
            x_0 = diffusion.outputs(x, torch.full((2,), t))[0]
        epsilon = (x - root_a * x_0) / (1 - root_a**2) ** 0.5
        for prior in (fast, eager):
            torch.testing.assert_close(prior(x, t), epsilon, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("method", "sigma_y"), [("ddnm", 0.0), ("ddnm+", 0.1), ("ddrm", 0.1)])
def test_the_same_restored_image(method: str, sigma_y: float) -> None:
    diffusion = prior_model()
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    operator = SuperResolution((3, 16, 24), 4)
    y = operator.A(2 * torch.rand(2, 3, 16, 24) - 1)
    travel = (2, 2) if method == "ddnm" else (1, 1)
    fast, eager = (
        restore(y, operator, prior, method, sigma_y, 6, travel=travel, generator=seeded(1))
        for prior in (FastPrior(diffusion), predictor(diffusion))
    )
    # Random weights know nothing of images, so the values reach 200; the tolerance is relative to the largest.
    assert (fast - eager).abs().max() < 1e-5 * eager.abs().max()
    assert_same_bits(before, diffusion.state_dict())


def test_dtypes() -> None:
    diffusion = prior_model()
    x = torch.randn(1, 3, 16, 16)
    exact = predictor(diffusion)(x, 400)
    low = FastPrior(diffusion, dtype=torch.bfloat16)(x, 400)
    assert low.dtype == torch.float32 and low.is_contiguous() and 0 < (low - exact).abs().max() < 0.1
    assert FastPrior(diffusion)(x.double(), 400).dtype == torch.float64


def test_a_short_schedule_gives_its_own_indices() -> None:
    diffusion = small_model("pred_noise", condition=False, schedule=Schedule.from_ddim(12))
    times: list[int] = []
    operator = Inpainting((3, 16, 16), random_mask((3, 16, 16), 0.5, 0))
    y = operator.A(torch.rand(1, 3, 16, 16))
    restore(y, operator, FastPrior(diffusion), on_step=lambda i, step, x: times.append(step.t))
    assert times == list(range(11, -1, -1))


def test_models_that_are_no_priors() -> None:
    with pytest.raises(ValueError, match=r"a prior predicts the noise .* this model's objective is pred_res"):
        FastPrior(small_model("pred_res", condition=False, schedule=DDPM))
    with pytest.raises(TypeError, match="can be folded, not NoiseNetwork"):
        FastPrior(NoiseDiffusion(nn.Conv2d(3, 3, 1), DDPM, channels=3, image_size=8))
    with pytest.raises(ValueError, match=r"dtype is torch\.float64: choose torch\.float32"):
        FastPrior(prior_model(), dtype=torch.float64)
