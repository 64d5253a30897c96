"""An object of the published class goes into `FastSampler` as it is; here, one with that class's attributes alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import Golden, golden_cases
from small_models import images
from torch import Tensor, nn

from rddm_fast.compat import UnetRes
from rddm_fast.fast import FastSampler
from rddm_fast.models.published import ModelError, from_published
from rddm_fast.theory.schedule import Schedule

SETTINGS = {"condition": True, "input_condition": False, "input_condition_mask": False, "self_condition": False}


class PublishedLike(nn.Module):
    """What a published diffusion object has that a sampler reads: its attributes, buffers and call of the networks."""

    def __init__(self, network: nn.Module, schedule: Schedule, times: str = "t", **settings: Any) -> None:
        super().__init__()
        self.model, self.times, self.channels, self.loss_type = network, times, 3, "l1"
        for name, value in {**SETTINGS, **settings}.items():
            setattr(self, name, value)
        self.num_timesteps, self.sum_scale = schedule.timesteps, schedule.sum_scale
        for name, values in schedule.buffers().items():
            self.register_buffer(name, values)

    def model_predictions(self, x_input: Any, x: Tensor, t: Tensor, x_input_condition: Any = 0) -> None:
        given = [image for image in (x, x_input, x_input_condition) if isinstance(image, Tensor)]
        if self.times == "coefficients":
            seen: Any = [self.alphas_cumsum[t] * self.num_timesteps, self.betas_cumsum[t] * self.num_timesteps]
        else:
            seen = [t, t] if self.times == "two" else t * (3 if self.times == "foreign" else 1)
        self.model(torch.cat(given, dim=1), seen)


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_the_published_images_come_out(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    restoring = case.get("condition", True)
    names = ("dim", "dim_mults", "share_encoder")
    network = UnetRes(**{name: case[name] for name in names}, condition=restoring)
    network.load_state_dict(golden.weights)
    sum_scale = case.get("sum_scale") or 1.0
    theirs = PublishedLike(
        network,
        Schedule.triangular(case.get("timesteps", 1000), sum_scale),
        objective=case["objective"],
        condition=restoring,
        sampling_timesteps=case.get("sampling_timesteps"),
        ddim_sampling_eta=case.get("eta", 0.0),
        test_res_or_noise="None",
        image_size=32,
    )
    sampler = FastSampler(theirs)
    recorded = golden.numbered("image")
    draws = golden.numbered("noise")
    found = sampler.sample(tensors.get("x_input"), batch_size=len(recorded[-1]), draws=draws, every_step=True)
    for ours, image in zip(found, recorded, strict=True):
        torch.testing.assert_close(ours, image, rtol=0, atol=1e-4)


def theirs(times: str = "t", **settings: Any) -> PublishedLike:
    torch.manual_seed(0)
    network = UnetRes(8, dim_mults=[1, 2], num_unet=2, condition=True)
    settings = {"objective": "pred_res_noise", "test_res_or_noise": "res_noise", "sampling_timesteps": 2, **settings}
    return PublishedLike(network, Schedule.power(1000, 1.0), times, **settings)


@pytest.mark.parametrize(("times", "independent"), [("t", False), ("two", False), ("coefficients", True)])
def test_the_times_are_found_out(times: str, independent: bool) -> None:
    ours = from_published(theirs(times))
    assert ours.path_independent is independent and ours.sampling_timesteps == 2 and ours.schedule.sum_scale == 1
    assert ours.schedule.recipe["family"] == "power" and ours.read_outputs == (0, 1)


def test_other_times_are_refused() -> None:
    with pytest.raises(
        ModelError, match=r"gives its networks the time .* at t = 500, which is neither t nor alpha_bar_t"
    ):
        FastSampler(theirs("foreign"))


def test_the_published_object_stays_as_it_was() -> None:
    diffusion = theirs()
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    FastSampler(diffusion)(images(1, 3, 16, 16))
    assert not diffusion.model._forward_pre_hooks
    for name, value in diffusion.state_dict().items():
        assert torch.equal(value, before[name])


def test_eta_of_a_restoring_object_is_zero_as_published() -> None:
    assert from_published(theirs(ddim_sampling_eta=1.0)).eta == 0


def test_anything_else_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not an RDDM diffusion object, it has no attribute 'model': pass a"):
        FastSampler(nn.Linear(2, 2))
    network = theirs()
    network.model = nn.Conv2d(6, 3, 1)
    with pytest.raises(ModelError, match="not an RDDM U-Net"):
        FastSampler(network)
