"""A network of the noise alone, trained on real digits and sampled with every preset."""

from typing import Any

import pytest
import torch
from small_models import seeded
from torch import Tensor, nn

from rddm_fast.diffusion import ResidualDiffusion, to_signed
from rddm_fast.diffusion.noise_network import NoiseNetwork
from rddm_fast.theory.ddim import PRESETS, ddim_steps
from rddm_fast.theory.schedule import Schedule


class Perceptron(nn.Module):
    """Noise of 8x8 images and their times, by three layers."""

    def __init__(self) -> None:
        super().__init__()
        widths = [(64 + 16, 256), (256, 256), (256, 64)]
        self.layers = nn.Sequential(*[layer for a, b in widths for layer in (nn.Linear(a, b), nn.SiLU())][:-1])

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        u = t[:, None] / 1000
        angles = u * torch.arange(1, 9)
        noise = self.layers(torch.cat([x.flatten(1), angles.sin(), angles.cos()], 1))
        return (noise + u**0.25 * x.flatten(1)).reshape(x.shape)


@pytest.fixture(scope="module")
def digits() -> tuple[ResidualDiffusion, Tensor, list[float]]:
    """A noise network trained on the UCI digits for a few seconds, the digits, and its losses."""
    pytest.importorskip("sklearn")
    from rddm_fast.images.digits import Digits

    torch.manual_seed(0)
    images = Digits(8).images
    network = NoiseNetwork(Perceptron(), channels=1)
    model = ResidualDiffusion(network, Schedule.from_ddim(), objective="pred_noise", loss_type="l2", image_size=8)
    optimiser = torch.optim.Adam(model.parameters(), 2e-3)
    losses = []
    for _ in range(800):
        batch = images[torch.randint(0, len(images), (64,))]
        loss = model.losses(to_signed(batch), None, torch.randint(0, 1000, (64,)))[0]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return model.eval(), images, losses


def covariance(images: Tensor) -> Tensor:
    return torch.cov(images.flatten(1).T)


@pytest.mark.parametrize(("preset", "count"), [("ddim", 20), ("ddpm", 50), ("ddpm_large", 50), ("rddm", 20)])
def test_presets_sample_digits_from_one_network(digits: Any, preset: str, count: int) -> None:
    model, images, losses = digits
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])

    def sample() -> Tensor:
        steps = ddim_steps(model.schedule, count, **PRESETS[preset])
        return model.sample(batch_size=256, steps=steps, generator=seeded(1))[-1].clamp(0, 1)

    found = sample()
    noise = (torch.randn(found.shape, generator=seeded(1)) / 2 + 0.5).clamp(0, 1)

    def distances(x: Tensor) -> tuple[float, float]:
        off = (x.mean(0) - images.mean(0)).abs().mean()
        shape = (covariance(x) - covariance(images)).norm() / covariance(images).norm()
        return float(off), float(shape)

    assert distances(found)[0] < 0.5 * distances(noise)[0]
    assert distances(found)[1] < 0.85 * distances(noise)[1]
    assert torch.equal(found, sample())
