"""`GaussianDiffusion` against DDPM's and DDIM's equations, written from the papers in numpy."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from small_models import images
from torch import Tensor, nn

from rddm_fast.compat import Unet
from rddm_fast.compat.gaussian import GaussianDiffusion
from rddm_fast.diffusion import ResidualDiffusion, to_signed
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import few_steps

LINEAR = np.linspace(1e-4, 0.02, 1000)
CUMULATED = np.cumprod(1 - LINEAR)


def noise_of(x: Any, t: int) -> Any:
    """A network's noise that depends on the image and the time, the same in numpy and torch."""
    return 0.9 * x + 0.1 * x**3 / (1 + x**2) + 0.05 * math.cos(t)


def clean_of(x: Any, t: int) -> Any:
    """A network's clean image, some of it beyond [-1, 1]."""
    return 0.8 * x / (1 + x**2) ** 0.25 + 0.1 * math.sin(t)


class Network(nn.Module):
    channels, self_condition = 3, False

    def __init__(self, answer: Callable[[Any, int], Any]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor, t: Tensor, *_unused: Any) -> Tensor:
        return torch.stack([self.answer(image, int(time)) for image, time in zip(x, t, strict=True)])


def gaussian(objective: str = "pred_noise", **options: Any) -> GaussianDiffusion:
    network = Network(noise_of if objective == "pred_noise" else clean_of)
    settings = {"image_size": 8, "beta_schedule": "linear", "sampling_timesteps": 5, **options}
    return GaussianDiffusion(network, objective=objective, **settings)


def squared_cosine(timesteps: int) -> np.ndarray:
    """Nichol and Dhariwal's cumulative product, with their cap of 0.999 on each beta."""
    u = np.arange(timesteps + 1) / timesteps
    f = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


@pytest.mark.parametrize(
    ("name", "cumulated"),
    [
        ("linear", CUMULATED),
        ("cosine", squared_cosine(1000)),
        ("scaled_linear", np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)),
    ],
)
def test_the_forward_process_of_every_beta_schedule(name: str, cumulated: np.ndarray) -> None:
    x_0, noise, t = to_signed(images(3, 3, 8, 8)), torch.randn(3, 3, 8, 8), torch.tensor([2, 500, 999])
    x_t = gaussian(beta_schedule=name).q_sample(x_0, t, noise)
    a = cumulated[t.numpy()][:, None, None, None]
    expected = np.sqrt(a) * x_0.double().numpy() + np.sqrt(1 - a) * noise.double().numpy()
    np.testing.assert_allclose(x_t.double().numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0"])
def test_the_noise_belongs_to_the_clamped_image(objective: str) -> None:
    x, t = 2 * torch.randn(2, 3, 8, 8), torch.tensor([300, 300])
    noise, x_0 = gaussian(objective).model_predictions(x, t)
    root = CUMULATED[300] ** 0.5
    values = x.double().numpy()
    raw = clean_of(values, 300)
    if objective == "pred_noise":
        raw = (values - (1 - CUMULATED[300]) ** 0.5 * noise_of(values, 300)) / root
    np.testing.assert_allclose(x_0.numpy(), np.clip(raw, -1, 1), rtol=0, atol=1e-5)
    assert (np.abs(raw) > 1).any() and (np.abs(raw) < 1).any()
    rebuilt = root * x_0.double() + (1 - CUMULATED[300]) ** 0.5 * noise.double()
    torch.testing.assert_close(rebuilt, x.double(), rtol=0, atol=1e-5)


def walk(indices: list[int], eta: float, objective: str, draws: list[np.ndarray]) -> list[np.ndarray]:
    """DDIM (Song et al., 2021, eq. 12 and 16), the clean image clamped and the noise made to fit it."""
    a = {**dict(enumerate(CUMULATED)), -1: 1.0}
    x, *unused = draws
    walked = [x]
    for t, s in pairwise(indices):
        root, sigma_t = a[t] ** 0.5, (1 - a[t]) ** 0.5
        x_0 = clean_of(x, t) if objective == "pred_x0" else (x - sigma_t * noise_of(x, t)) / root
        x_0 = np.clip(x_0, -1, 1)
        noise = (x - root * x_0) / sigma_t
        sigma = eta * math.sqrt((1 - a[s]) / (1 - a[t])) * math.sqrt(1 - a[t] / a[s])
        x = math.sqrt(a[s]) * x_0 + math.sqrt(1 - a[s] - sigma**2) * noise
        if eta and s >= 0:
            x = x + sigma * unused.pop(0)
        walked.append(x)
    assert not unused
    return walked


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0"])
def test_fewer_steps_are_ddim_s(objective: str, eta: float) -> None:
    model = gaussian(objective, ddim_sampling_eta=eta)
    torch.manual_seed(7)
    draws = [torch.randn(2, 3, 8, 8).double().numpy() for _ in range(5 if eta else 1)]
    torch.manual_seed(7)
    found = model.sample(batch_size=2, return_all_timesteps=True)
    expected = walk([999, 799, 599, 399, 199, -1], eta, objective, draws)
    assert found.shape == (2, 6, 3, 8, 8)
    for number, image in enumerate(expected):
        np.testing.assert_allclose(found[:, number].numpy(), (image + 1) / 2, rtol=0, atol=2e-4)


def test_all_steps_are_ddpm_s() -> None:
    """Ho et al., 2020, eq. 7: the posterior's mean from x_0 and x_t and its variance; no noise last."""
    T = 8
    betas = np.linspace(1e-4, 0.02, T)
    a = np.cumprod(1 - betas)
    torch.manual_seed(7)
    draws = [torch.randn(2, 3, 8, 8).double().numpy() for _ in range(T)]
    torch.manual_seed(7)
    found = gaussian("pred_x0", timesteps=T, sampling_timesteps=None).sample(2, return_all_timesteps=True)
    x = draws[0]
    for number, t in enumerate(reversed(range(T))):
        before = a[t - 1] if t else 1.0
        x_0 = np.clip(clean_of(x, t), -1, 1)
        mean = math.sqrt(before) * betas[t] / (1 - a[t]) * x_0
        mean = mean + math.sqrt(1 - betas[t]) * (1 - before) / (1 - a[t]) * x
        variance = betas[t] * (1 - before) / (1 - a[t])
        x = mean + math.sqrt(variance) * draws[number + 1] if t else mean
        np.testing.assert_allclose(found[:, number + 1].numpy(), (x + 1) / 2, rtol=0, atol=2e-4)


def test_ddim_s_steps_are_rddm_s_with_converted_coefficients() -> None:
    """True where no clamp is active, for networks that give the clean image, or residual and noise.

    (With the noise alone, RDDM's read-out divides by the published 1e-6 at the last index, DDIM's does not.)
    """

    def clean(x: Any, t: int) -> Any:  # depends on x and stays inside the clamp
        return 0.6 * torch.sin(2 * x + t) + 0.3 * torch.cos(x)

    def residual_and_noise(x: Tensor, t: Tensor, *_unused: Any) -> list[Tensor]:
        x_0, a = clean(x, int(t[0])), CUMULATED[int(t[0])]
        return [-x_0, (x - a**0.5 * x_0) / (1 - a) ** 0.5]

    class Both(Network):
        forward = staticmethod(residual_and_noise)  # type: ignore[assignment]

    ddim = GaussianDiffusion(
        Network(clean), image_size=8, objective="pred_x0", beta_schedule="linear", sampling_timesteps=10
    )
    torch.manual_seed(3)
    expected = ddim.sample(batch_size=2)
    for network, objective in ((Network(clean), "pred_x0"), (Both(clean), "pred_res_noise")):
        rddm = ResidualDiffusion(
            network, Schedule.from_ddim(1000), objective=objective, sampling_timesteps=10, image_size=8
        )
        torch.manual_seed(3)
        (found,) = rddm.sample(batch_size=2)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)
    assert expected.min() > 0.05 and expected.max() < 0.95 and expected.std() > 0.05


def test_ddim_s_variance_is_rddm_s_divided_by_the_cumulative_product() -> None:
    step = few_steps(Schedule.from_ddim(1000), 5, 1.0)[1]
    t, s = 799, 599
    assert (step.t, step.s) == (t, s)
    ddim = (1 - CUMULATED[s]) / (1 - CUMULATED[t]) * (1 - CUMULATED[t] / CUMULATED[s])
    assert ddim / step.sigma**2 == pytest.approx(1 / CUMULATED[s], rel=1e-9)
    assert ddim / step.sigma**2 == pytest.approx(38.6, abs=0.05)


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0"])
def test_the_loss_compares_the_output_with_the_noise_or_the_image(objective: str, loss_type: str) -> None:
    x_0, noise, t = to_signed(images(2, 3, 8, 8)), torch.randn(2, 3, 8, 8), torch.tensor([400, 400])
    loss = gaussian(objective, loss_type=loss_type).p_losses(x_0, t, noise)
    a = CUMULATED[400]
    x_t = a**0.5 * x_0.double().numpy() + (1 - a) ** 0.5 * noise.double().numpy()
    answer, target = (noise_of, noise) if objective == "pred_noise" else (clean_of, x_0)
    difference = answer(x_t, 400) - target.numpy()
    expected = np.mean(np.abs(difference) if loss_type == "l1" else difference**2)
    assert loss.shape == () and float(loss) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("normalises", "expected"), [(True, 0.5), (False, 0.75)])
def test_images_are_mapped_to_signed_ones_unless_told_otherwise(normalises: bool, expected: float) -> None:
    """An image of 0.75 is 0.5 in [-1, 1], which is the mean absolute loss of a network that answers 0."""
    model = gaussian("pred_x0", auto_normalize=normalises)
    model.model = Network(lambda x, _t: torch.zeros_like(x))
    assert float(model(torch.full((4, 3, 8, 8), 0.75))) == pytest.approx(expected)
    low, high = model.sample(batch_size=1).aminmax()
    assert (float(low), float(high)) == ((0.5, 0.5) if normalises else (0.0, 0.0))


def test_training_times_cover_the_schedule() -> None:
    seen: list[int] = []

    def answer(x: Tensor, t: int) -> Tensor:
        seen.append(t)
        return x

    model = GaussianDiffusion(Network(answer), image_size=4, timesteps=5)
    model(images(200, 3, 4, 4))
    assert {t: seen.count(t) > 20 for t in set(seen)} == dict.fromkeys(range(5), True)


def test_shapes_and_seeds() -> None:
    model = gaussian(sampling_timesteps=3, image_size=4)
    torch.manual_seed(1)
    first = model.sample(batch_size=7)
    torch.manual_seed(1)
    again, other = model.sample(batch_size=7), model.sample(batch_size=7)
    assert first.shape == (7, 3, 4, 4) and torch.equal(first, again) and not torch.equal(first, other)
    assert first.min() >= 0 and first.max() <= 1


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sampling_timesteps": 1001}, "between 1 and the schedule's 1000 steps, not 1001"),
        ({"sampling_timesteps": 0}, "between 1 and the schedule's 1000 steps, not 0"),
        ({"sampling_timesteps": -2}, "between 1 and the schedule's 1000 steps, not -2"),
        ({"ddim_sampling_eta": 2.0}, "eta"),
        *(({"objective": name}, f"objective is 'pred_noise' or 'pred_x0', not '{name}'") for name in ("pred_v", "x")),
        *(({"loss_type": name}, f"loss_type is 'l1' or 'l2', not '{name}'") for name in ("huber", "l3")),
        *(
            ({"beta_schedule": name}, f"beta_schedule is one of linear, cosine, scaled_linear, not '{name}'")
            for name in ("sqrt", "quartic")
        ),
    ],
)
def test_settings_that_cannot_be_are_named(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        gaussian(**options)


def test_gaussian_diffusion_samples_ddim_s_equation() -> None:
    """x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) epsilon, with the clean image clamped and the noise made to fit."""
    network = Unet(16, dim_mults=(1, 2)).eval()
    model = GaussianDiffusion(network, image_size=16, sampling_timesteps=4, beta_schedule="linear")
    torch.manual_seed(3)
    found = model.sample(batch_size=2)

    a = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    torch.manual_seed(3)
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        for t, s in ((999, 749), (749, 499), (499, 249), (249, None)):
            noise = network(x, torch.tensor([t, t])).double()
            x_0 = ((x.double() - (1 - a[t]) ** 0.5 * noise) / a[t] ** 0.5).clamp(-1, 1)
            noise = (x.double() - a[t] ** 0.5 * x_0) / (1 - a[t]) ** 0.5
            x = (x_0 if s is None else a[s] ** 0.5 * x_0 + (1 - a[s]) ** 0.5 * noise).float()
    torch.testing.assert_close(found, (x + 1) / 2, rtol=0, atol=1e-4)


def test_gaussian_diffusion_trains_and_returns_every_step() -> None:
    network = Unet(16, dim_mults=(1, 2))
    model = GaussianDiffusion(network, image_size=16, timesteps=8, loss_type="l2", objective="pred_x0")
    loss = model(images(2, 3, 16, 16))
    loss.backward()
    assert loss.isfinite() and network.init_conv.weight.grad is not None
    every = model.sample(batch_size=2, return_all_timesteps=True)
    assert every.shape == (2, 9, 3, 16, 16) and every[:, -1].min() >= 0 and every[:, -1].max() <= 1
