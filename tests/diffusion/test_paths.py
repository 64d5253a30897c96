"""Every path leads an exact prediction to the clean image, and the published two passes to their recorded images."""

import pytest
import torch
from golden import Golden, golden_cases
from small_models import small_model
from torch import Tensor, nn

from rddm_fast.compat import ResidualDiffusion as Published
from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.paths import sample_along
from rddm_fast.fast import FastSampler
from rddm_fast.theory.schedule import Schedule
from rddm_fast.theory.steps import ORDERS, path, two_pass

SCHEDULES = {
    "ddim": Schedule.from_ddim(1000),
    "power": Schedule.power(1000, 1.0),
    "readjusted": Schedule.from_ddim(1000, alpha=("decreased", 0.3)),
    "average": Schedule.power(50, 1.0, alpha=("average", 1.0), beta2=("average", 1.0)),
}


class Oracle(nn.Module):
    """Two networks that know the residual and the noise; they note what they were asked."""

    members = ()

    def __init__(self, I_res: Tensor, epsilon: Tensor) -> None:
        super().__init__()
        self.known = (I_res, epsilon)
        self.asked: list[tuple[tuple[int, ...], float, float]] = []

    def forward(self, x: Tensor, times: list[Tensor], _self: object, only: tuple[int, ...]) -> list[Tensor]:
        self.asked.append((only, float(times[0][0]), float(times[1][0])))
        return [self.known[i] for i in only]


class Generating(ResidualDiffusion):
    channels, self_condition = 3, False  # type: ignore[assignment]


def oracle() -> tuple[Generating, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    I_0 = 2 * torch.rand(2, 3, 8, 8, generator=generator) - 1
    epsilon = torch.randn(2, 3, 8, 8, generator=generator)
    options = {"objective": "pred_res_noise", "path_independent": True, "image_size": 8}
    return Generating(Oracle(-I_0, epsilon), SCHEDULES["ddim"], **options), I_0, epsilon


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_with_exact_networks_every_path_ends_at_the_clean_image(name: str, order: str) -> None:
    (diffusion, I_0, epsilon), schedule = oracle(), SCHEDULES[name]
    start = I_0 - float(schedule.alpha_bar[-1]) * I_0 + float(schedule.beta_bar[-1]) * epsilon
    steps = path(schedule, 5, order)
    found = sample_along(diffusion, steps, batch_size=2, draws=[start])[-1]
    torch.testing.assert_close(found, (I_0 + 1) / 2, rtol=0, atol=1e-5)

    asked = diffusion.model.asked
    assert sum(len(only) for only, _, _ in asked) == 10 and len(asked) == (5 if order == "together" else 10)
    residual = [alpha for only, alpha, _ in asked if 0 in only]
    noise = [beta for only, _, beta in asked if 1 in only]
    visited = [step.t for step in path(schedule, 5)]
    assert residual == pytest.approx([1000 * schedule.alpha_bar[t] for t in visited])
    assert noise == pytest.approx([1000 * schedule.beta_bar[t] for t in visited])
    if order != "together":
        first = {only for only, _, _ in asked[:5]}
        assert first == {(0,) if order == "residual_first" else (1,)}


def test_the_published_two_passes_do_not() -> None:
    diffusion, I_0, epsilon = oracle()
    schedule = diffusion.schedule
    start = I_0 - float(schedule.alpha_bar[-1]) * I_0 + float(schedule.beta_bar[-1]) * epsilon
    found = diffusion.sample(steps=two_pass(diffusion.steps(5, 0.0)), batch_size=2, draws=[start])[-1]
    assert (2 * found - 1 - I_0).abs().max() > 0.5


@pytest.mark.parametrize("golden", golden_cases("path_independent"))
def test_the_published_two_passes_give_the_recorded_images(golden: Golden) -> None:
    case = golden.case
    network = UnetRes(case["dim"], dim_mults=case["dim_mults"], num_unet=2)
    network.load_state_dict(golden.weights)
    diffusion = Published(
        network,
        image_size=32,
        sampling_timesteps=case["steps"],
        sum_scale=1.0,
        convert_to_ddim=True,
        path_independent=True,
        official_two_pass=True,
    )
    recorded = golden.numbered("image")
    for sampled in (
        diffusion.sample(batch_size=2, last=False, draws=golden.numbered("noise")),
        FastSampler(diffusion).sample(batch_size=2, every_step=True, draws=golden.numbered("noise")),
    ):
        assert len(recorded) == 10
        torch.testing.assert_close(sampled, recorded, rtol=0, atol=1e-4)


def test_together_it_is_the_ordinary_sampler_without_its_clamps() -> None:
    diffusion = small_model(condition=False, path_independent=True, schedule=Schedule.from_ddim(1000))
    steps = path(diffusion.schedule, 3)
    noise = torch.randn(1, 3, 16, 16)
    ours = sample_along(diffusion, steps, batch_size=1, draws=[noise], every_step=True)
    ordinary = diffusion.sample(batch_size=1, draws=[noise], every_step=True)
    torch.testing.assert_close([*ours[:-1], ours[-1].clamp(0, 1)], ordinary, rtol=0, atol=1e-5)


def test_a_translating_model_goes_along_a_path_too() -> None:
    diffusion = small_model(path_independent=True, schedule=Schedule.power(1000, 1.0))
    noisy, image = sample_along(diffusion, path(diffusion.schedule, 2, "noise_first"), torch.rand(1, 3, 16, 16))
    assert image.shape == noisy.shape == (1, 3, 16, 16) and torch.isfinite(image).all()


def test_what_has_no_paths_says_so() -> None:
    schedule = Schedule.power(1000, 1.0)
    with pytest.raises(ValueError, match="order is 'sideways': choose one of together, residual_first, noise_first"):
        path(schedule, 5, "sideways")
    with pytest.raises(ValueError, match="this model has path_independent=False, objective pred_res_noise: train"):
        sample_along(small_model(condition=False), path(schedule, 5))
    diffusion = small_model(condition=False, path_independent=True, schedule=schedule)
    with pytest.raises(ValueError, match=r"the path starts at beta_bar 0\.100 and the model was trained up to 1\.000"):
        sample_along(diffusion, path(Schedule.power(1000, 0.01), 5))
