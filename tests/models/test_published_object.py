"""Objects of the published classes: here with their attributes, and a loop from the paper's formulas."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from golden import Golden, golden_cases
from small_models import assert_same_bits, images
from torch import Tensor, nn

from rddm_fast.compat import UnetRes
from rddm_fast.fast import FastSampler
from rddm_fast.models.errors import MissingArgument, ModelError
from rddm_fast.models.published_object import from_published
from rddm_fast.theory.schedule import Schedule

SETTINGS = {
    "condition": True,
    "input_condition": False,
    "input_condition_mask": False,
    "self_condition": False,
    "image_size": 16,
    "ddim_sampling_eta": 0.0,
}


class PublishedLike(nn.Module):
    """All that a sampler reads of a published diffusion object: attributes, buffers and the call of its networks."""

    def __init__(self, network: nn.Module, schedule: Schedule, times: str = "t", **settings: Any) -> None:
        super().__init__()
        self.model, self.times, self.channels, self.loss_type = network, times, 3, "l1"
        for name, value in {**SETTINGS, **settings}.items():
            setattr(self, name, value)
        self.num_timesteps, self.sum_scale = schedule.timesteps, schedule.sum_scale
        for name, values in schedule.buffers().items():
            self.register_buffer(name, values)

    def seen_times(self, t: Tensor) -> Any:
        if self.times == "coefficients":
            return [self.alphas_cumsum[t] * self.num_timesteps, self.betas_cumsum[t] * self.num_timesteps]
        return [t, t] if self.times == "two" else t * (3 if self.times == "foreign" else 1)

    def model_predictions(self, x_input: Any, x: Tensor, t: Tensor, x_input_condition: Any = 0) -> Any:
        given = [image for image in (x, x_input, x_input_condition) if isinstance(image, Tensor)]
        return self.model(torch.cat(given, dim=1), self.seen_times(t))


class WithLoop(PublishedLike):
    """Samples with two networks in few steps, as the published code does.

    `passes` is the number of loops over the times. `share` multiplies the residual's term: 0.9 is an edited loop.
    """

    passes, share, eta_is_0 = 1, 1.0, False

    @torch.no_grad()
    def sample(self, x_input: Any = 0, batch_size: int = 16, last: bool = True) -> list[Tensor]:
        I_in = x_input[0] * 2 - 1 if self.condition else None
        shape = (batch_size, 3, self.image_size, self.image_size) if I_in is None else I_in.shape
        noise = torch.randn(shape)
        I_t = noise if I_in is None else I_in + math.sqrt(self.sum_scale) * noise
        found = [] if I_in is None else [I_t]
        eta = 0.0 if self.eta_is_0 or self.condition else self.ddim_sampling_eta
        indices = torch.linspace(-1, self.num_timesteps - 1, self.sampling_timesteps + 1).int().tolist()[::-1]
        moves = {1: [(1.0, 1.0)], 2: [(1.0, 0.0), (0.0, 1.0)]}[self.passes]
        for residual, of_noise in moves:
            for t, s in pairwise(indices):
                out0, epsilon, *clean = self.model_predictions(I_in, I_t, torch.full((len(I_t),), t))
                I_res = out0.clamp(-1, 1)
                if s < 0:
                    of_both = I_t - self.alphas_cumsum[t] * I_res - self.betas_cumsum[t] * epsilon
                    I_t = clean[0] if clean else of_both.clamp(-1, 1)
                else:
                    between = self.betas2_cumsum[t] - self.betas2_cumsum[s]
                    sigma2 = eta * between * self.betas2_cumsum[s] / self.betas2_cumsum[t]
                    down = self.betas_cumsum[t] - (self.betas2_cumsum[s] - sigma2).sqrt()
                    step = (self.alphas_cumsum[t] - self.alphas_cumsum[s]) * I_res * self.share
                    I_t = I_t - residual * step - of_noise * down * epsilon
                    I_t = I_t + sigma2.sqrt() * torch.randn_like(I_t) if eta else I_t
                found.append(I_t)
        kept = found if not last else ([found[0], I_t] if self.condition else [I_t])
        return [(image + 1) * 0.5 for image in kept]


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_the_published_images_come_out(golden: Golden) -> None:
    model = golden.model()
    names = ("condition", "sampling_timesteps", "image_size", "ddim_sampling_eta")
    settings = {"objective": golden.case["objective"], **{name: getattr(model, name) for name in names}}
    model.model.num_unet = None  # of the earlier generation
    theirs = PublishedLike(model.model, model.schedule, test_res_or_noise="None", **settings)
    del theirs.model.num_unet
    found = FastSampler(theirs).sample(
        golden.tensors.get("x_input"), batch_size=2, draws=golden.numbered("noise"), every_step=True
    )
    torch.testing.assert_close(found, golden.numbered("image"), rtol=0, atol=1e-4)


def theirs(
    times: str = "t",
    schedule: Schedule | None = None,
    kind: type[PublishedLike] = PublishedLike,
    condition: bool = True,
    translates: bool = False,
    **settings: Any,
) -> PublishedLike:
    torch.manual_seed(0)
    network = UnetRes(8, dim_mults=[1, 2], num_unet=2, condition=condition, img_to_img_translation=translates)
    settings = {"objective": "pred_res_noise", "test_res_or_noise": "res_noise", "sampling_timesteps": 2, **settings}
    return kind(network, schedule or Schedule.power(1000, 1.0), times, condition=condition, **settings)


def test_an_object_of_the_later_generation_is_asked_for_its_experiment() -> None:
    sentence = "is of the later published generation, whose experiments differ in their source alone: pass experiment="
    for wrap in (FastSampler, from_published):
        with pytest.raises(MissingArgument, match=sentence):
            wrap(theirs())


@pytest.mark.parametrize(("times", "experiment"), [("two", "generation"), ("coefficients", "inpainting")])
def test_an_object_without_a_loop_is_known_by_its_times(times: str, experiment: str) -> None:
    ours = from_published(theirs(times), experiment)
    assert ours.path_independent is (times == "coefficients") and ours.sampling_timesteps == 2
    assert ours.schedule.recipe["family"] == "power" and ours.read_outputs == (0, 1) and ours.schedule.sum_scale == 1
    for other in ("foreign", "t" if times == "coefficients" else "coefficients"):
        with pytest.raises(ModelError, match=r"gives its networks the time .* at t = 500, where its experiment gives"):
            from_published(theirs(other), experiment)


DDIM = Schedule.from_ddim(1000)
OBJECTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "path-independent": ("coefficients", {"schedule": DDIM, "condition": False}, {"passes": 2}),
    "inpainting": ("coefficients", {}, {"eta_is_0": True}),
    "translation": ("coefficients", {"schedule": DDIM}, {"eta_is_0": True}),
    "generation": ("two", {"condition": False, "ddim_sampling_eta": 0.6}, {}),
}


def looping(name: str, **edits: Any) -> PublishedLike:
    """An object of an experiment's class, with its loop and what is edited in it."""
    times, settings, loop = OBJECTS[name]
    kind = type("ResidualDiffusion", (WithLoop,), {**loop, **edits})
    return theirs(times, kind=kind, sampling_timesteps=3, **settings)


@pytest.mark.parametrize("name", OBJECTS)
def test_the_object_s_own_images_come_out(name: str) -> None:
    diffusion = looping(name)
    x = images(1, 3, 16, 16)
    torch.manual_seed(3)
    recorded = diffusion.sample([x] if diffusion.condition else 0, batch_size=1, last=False)
    sampler = FastSampler(diffusion, experiment=name)
    torch.manual_seed(3)
    found = sampler.sample(x if diffusion.condition else None, batch_size=1, every_step=True)
    torch.testing.assert_close(found, recorded, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", OBJECTS)
@pytest.mark.parametrize("edit", [{"share": 0.9}, {"passes": 3}, {"times": "foreign"}])
def test_an_edited_loop_is_refused(name: str, edit: dict[str, Any]) -> None:
    edited = dict(edit)
    if "passes" in edited:
        edited["passes"] = 3 - OBJECTS[name][2].get("passes", 1)
    diffusion = looping(name, **edited)
    diffusion.times = edited.get("times", diffusion.times)
    with pytest.raises(
        ModelError, match=r"does not sample as experiment .* does: name another experiment, or see what"
    ):
        FastSampler(diffusion, experiment=name)


def test_one_experiment_s_object_is_refused_as_another() -> None:
    with pytest.raises(ModelError, match=r"ResidualDiffusion.sample.. does not sample as experiment inpainting"):
        from_published(looping("generation", eta_is_0=True), "inpainting")
    with pytest.raises(ModelError, match=r"has the ddim schedule, and experiment generation .folder 6. has the power"):
        from_published(looping("path-independent"), "generation")


def test_a_loop_that_fails_is_named() -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise KeyError("beta")

    with pytest.raises(ModelError, match=r"ResidualDiffusion.sample.. fails, so its images are not known: .*beta"):
        from_published(looping("generation", sample=fails), "generation")


def test_the_published_object_stays_as_it_was() -> None:
    diffusion = looping("translation")
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    state = torch.get_rng_state()
    FastSampler(diffusion, experiment="translation")
    assert torch.equal(torch.get_rng_state(), state), "building a sampler must not consume random numbers"
    assert "forward" not in vars(diffusion.model) and diffusion.image_size == 16
    assert_same_bits(diffusion.state_dict(), before)


def test_eta_of_a_restoring_object_is_zero_as_published() -> None:
    assert from_published(theirs("two", ddim_sampling_eta=1.0), "generation").eta == 0


def test_anything_else_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"Linear is not an RDDM diffusion object, it has no attribute 'model': pass a"
    ):
        FastSampler(nn.Linear(2, 2))
    network = theirs()
    network.model = nn.Conv2d(6, 3, 1)
    with pytest.raises(ModelError, match="not an RDDM U-Net"):
        FastSampler(network)


def test_our_own_models_need_no_experiment() -> None:
    with pytest.raises(ValueError, match="experiment is for objects of the published class"):
        FastSampler("derain", experiment="restoration")


class Selecting(WithLoop):
    """AOSA's class: one network, whose output `alpha_res` reads as the residual above 1/2, else as the noise."""

    eta_is_0 = True

    def model_predictions(self, x_input: Any, x: Tensor, t: Tensor, x_input_condition: Any = 0) -> Any:
        (f,) = self.model(torch.cat([x, x_input], dim=1), [t, t])
        alpha_bar, beta_bar = (table[t].view(-1, 1, 1, 1) for table in (self.alphas_cumsum, self.betas_cumsum))
        if self.alpha_res > 0.5:
            I_res = f.clamp(-1, 1)
            return [I_res, (x - x_input - (alpha_bar - 1) * I_res) / beta_bar, (x_input - I_res).clamp(-1, 1)]
        below = self.one_minus_alphas_cumsum[t].view(-1, 1, 1, 1)
        I_0 = ((x - alpha_bar * x_input - beta_bar * f) / below).clamp(-1, 1)
        return [(x_input - I_0).clamp(-1, 1), f, I_0]


@pytest.mark.parametrize("alpha_res", [0.7, 0.3])
def test_an_object_of_aosa_is_read_by_its_alpha_res(alpha_res: float) -> None:
    torch.manual_seed(0)
    network = UnetRes(8, dim_mults=[1, 2], num_unet=1, objective="auto_res_noise", condition=True)
    settings = {"objective": "auto_res_noise", "test_res_or_noise": "res_noise", "sampling_timesteps": 3}
    diffusion = Selecting(network, DDIM, "two", **settings)
    diffusion.alpha_res = nn.Parameter(torch.tensor([alpha_res]))
    x = images(1, 3, 16, 16)
    torch.manual_seed(3)
    recorded = diffusion.sample([x], last=True)[-1]
    torch.manual_seed(3)
    found = FastSampler(diffusion, experiment="aosa").sample(x)[-1]
    assert recorded.std() > 0.05
    torch.testing.assert_close(found, recorded, rtol=0, atol=2e-4)
