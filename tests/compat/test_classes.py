"""The published names and arguments beyond the recorded cases (test_golden.py)."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from small_models import images

from rddm_fast.compat import GaussianDiffusion, ResidualDiffusion, Unet, UnetRes, set_seed
from rddm_fast.theory.schedule import Schedule


def diffusion(network: UnetRes | None = None, **options: Any) -> ResidualDiffusion:
    torch.manual_seed(0)
    settings: dict[str, Any] = {"image_size": 16, "sampling_timesteps": 2, "condition": True, **options}
    network = network or UnetRes(16, dim_mults=(1, 2), share_encoder=0, condition=settings["condition"])
    return ResidualDiffusion(network, **settings)


@pytest.mark.parametrize(
    ("arguments", "networks"),
    [
        ({}, "shared"),
        ({"share_encoder": 0}, "two"),
        ({"share_encoder": 1}, "shared"),
        ({"share_encoder": -1}, "one"),
        ({"num_unet": 2}, "two"),
        ({"num_unet": 1, "objective": "pred_res", "test_res_or_noise": "res"}, "one"),
    ],
)
def test_both_generations_arguments(arguments: dict[str, Any], networks: str) -> None:
    network = UnetRes(16, dim_mults=(1, 2), condition=True, **arguments)
    assert network.networks == networks
    out = network(torch.zeros(1, 6, 8, 8), [torch.tensor([1]), torch.tensor([1])])
    assert [o.shape for o in out] == [(1, 3, 8, 8)] * network.outputs


def test_a_single_noise_network_of_the_later_generation_takes_the_second_time() -> None:
    torch.manual_seed(0)
    x, first, second = torch.randn(1, 6, 8, 8), torch.tensor([3]), torch.tensor([800])
    for objective, expected in (("pred_noise", second), ("pred_res", first)):
        network = UnetRes(16, dim_mults=(1, 2), num_unet=1, objective=objective, condition=True)
        with torch.no_grad():
            assert torch.equal(network(x, [first, second])[0], network(x, expected)[0])
            assert not torch.equal(network(x, first)[0], network(x, second)[0])


def test_the_later_generation_takes_its_test_mode_from_the_network() -> None:
    def outputs_read(mode: str, own: str) -> tuple[int, ...]:
        network = UnetRes(16, dim_mults=(1, 2), num_unet=2, test_res_or_noise=mode, condition=True)
        return diffusion(network, test_res_or_noise=own).read_outputs

    assert [outputs_read(mode, "None") for mode in ("res_noise", "res", "noise")] == [(0, 1), (0,), (1,)]
    assert outputs_read("res", "noise") == (1,)  # the model's own, where it has one


def test_each_generation_has_its_schedule_and_its_loss() -> None:
    pair = [images(2, 3, 16, 16, seed=seed) for seed in (1, 2)]
    older = diffusion()
    newer = diffusion(UnetRes(16, dim_mults=(1, 2), num_unet=2, condition=True))
    assert older.schedule.recipe["form"] == "triangular" and newer.schedule.recipe["form"] == "power"
    assert older(pair).shape == () and [loss.shape for loss in newer(pair)] == [(), ()]
    t = torch.tensor([5, 700])
    noise = torch.randn(2, 3, 16, 16)
    newer.load_state_dict(older.state_dict())  # the tables too: now only the form of the result differs
    total = older.p_losses([p * 2 - 1 for p in pair], t, noise)
    torch.testing.assert_close(torch.stack(newer.p_losses([p * 2 - 1 for p in pair], t, noise)).sum(), total)


def test_calling_the_model_is_the_loss_of_signed_images_at_random_times() -> None:
    """A mask stays in [0, 1] only with input_condition_mask, as published."""
    truth, x, mask = (images(2, 3, 16, 16, seed=seed) for seed in (1, 2, 3))
    for stays in (True, False):
        network = UnetRes(16, dim_mults=(1, 2), share_encoder=0, condition=True, input_condition=True)
        model = diffusion(network, input_condition=True, input_condition_mask=stays)
        torch.manual_seed(1)
        loss = model([truth, x, mask])
        torch.manual_seed(1)
        t = torch.randint(0, 1000, (2,))
        given = [truth * 2 - 1, x * 2 - 1, mask if stays else mask * 2 - 1]
        assert torch.equal(loss, model.p_losses(given, t))


def test_a_generating_model_is_trained_on_images_alone() -> None:
    truth, t, noise = images(2, 3, 16, 16), torch.tensor([3, 700]), torch.randn(2, 3, 16, 16)
    model = diffusion(condition=False)
    losses = [model.p_losses(given, t, noise) for given in (truth, [truth])]
    assert losses[0].shape == () and torch.equal(*losses)
    x_t = model.q_sample(truth, -truth, t, noise)
    with torch.no_grad():
        residual, epsilon = model.model(x_t, t)
    expected = (residual + truth).abs().mean() + (epsilon - noise).abs().mean()
    torch.testing.assert_close(losses[0], expected, rtol=1e-5, atol=0)


def test_arguments_are_not_changed() -> None:
    model, pair = diffusion(), [images(1, 3, 16, 16, seed=seed) for seed in (1, 2)]
    kept = copy.deepcopy(pair)
    model(pair)
    model.sample([pair[1]])
    model.p_losses(pair, torch.tensor([3]))
    assert len(pair) == 2 and all(torch.equal(a, b) for a, b in zip(pair, kept, strict=True))


def test_what_sample_returns() -> None:
    x = images(2, 3, 16, 16)
    model = diffusion(sampling_timesteps=3)
    assert len(model.sample([x])) == 2 and len(model.sample([x], last=False)) == 4
    assert all(image.shape == x.shape for image in model.sample([x], last=False))
    free = diffusion(condition=False, sampling_timesteps=3)
    assert [len(free.sample(batch_size=2, last=last)) for last in (True, False)] == [1, 3]
    assert free.sample(batch_size=5)[-1].shape == (5, 3, 16, 16)
    assert len(free.sample()[-1]) == 16  # as published


def test_the_first_picture_is_the_input_with_noise_and_the_last_the_restored_one() -> None:
    x, model = images(1, 3, 64, 64), diffusion(sum_scale=0.25)
    set_seed(10)
    noisy, restored = model.sample([x])
    set_seed(10)
    again = model.sample(x, last=False)  # a tensor is taken for a list of one
    assert torch.equal(again[0], noisy) and torch.equal(again[-1], restored) and len(again) == 3
    set_seed(10)
    torch.testing.assert_close(noisy, x + 0.25 * torch.randn(1, 3, 64, 64), rtol=0, atol=1e-6)


def test_a_mask_is_the_list_s_second_entry() -> None:
    network = UnetRes(16, dim_mults=(1, 2), share_encoder=0, condition=True, input_condition=True)
    model = diffusion(network, input_condition=True, input_condition_mask=True)
    x, mask = images(1, 3, 16, 16), images(1, 3, 16, 16, seed=2).round()
    results = []
    for m in (mask, 1 - mask):
        set_seed(1)
        results.append(model.sample([x, m])[-1])
    assert not torch.equal(*results)
    assert model([x, x, mask]).isfinite()


def test_the_sum_of_the_noise_and_eta_are_as_published() -> None:
    assert diffusion().sum_scale == 0.01 and diffusion(condition=False).sum_scale == 1
    assert diffusion(sum_scale=0.25).sum_scale == 0.25
    assert diffusion(ddim_sampling_eta=1.0).ddim_sampling_eta == 0
    assert diffusion(condition=False, ddim_sampling_eta=1.0).ddim_sampling_eta == 1
    assert diffusion().is_ddim_sampling and not diffusion(sampling_timesteps=None).is_ddim_sampling


def test_keywords_in_place_of_edits() -> None:
    ddim = diffusion(condition=False, convert_to_ddim=True)
    reference = Schedule.from_ddim(1000)
    torch.testing.assert_close(ddim.alphas_cumsum, torch.from_numpy(reference.alpha_bar).float())
    with pytest.warns(UserWarning, match="sampling would start from noise of variance sum_scale=0.01"):
        diffusion(convert_to_ddim=True)
    with pytest.raises(ValueError, match="schedule or convert_to_ddim=True, not both"):
        diffusion(convert_to_ddim=True, schedule=reference)

    seen: list[Any] = []
    free = diffusion(path_independent=True)
    for member in free.model.members:
        member.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    free.sample([images(1, 3, 16, 16)])
    first = [float(t) for t in seen[:2]]
    assert first == pytest.approx([1000.0, 0.1 * 1000], rel=1e-4)  # alpha_bar_T T and beta_bar_T T

    own = diffusion(schedule=Schedule.straight(200), sum_scale=0.5)
    assert (own.num_timesteps, own.sum_scale) == (200, 0.5)


def test_init_rebuilds_the_coefficients_for_another_schedule() -> None:
    model = diffusion()
    before = model.alphas_cumsum.clone()
    model.init(Schedule.power(1000, 0.01))
    assert not torch.equal(model.alphas_cumsum, before)
    torch.testing.assert_close(model.alphas_cumsum, torch.from_numpy(Schedule.power(1000, 0.01).alpha_bar).float())
    ddim = diffusion(condition=False, convert_to_ddim=True)
    assert ddim.alphas[0] == 0
    ddim.init()
    assert ddim.alphas[0] == ddim.alphas[1] > 0


def test_predictions_have_the_published_names_and_agree() -> None:
    model = diffusion()
    x_in, x = (images(2, 3, 16, 16, seed=seed) * 2 - 1 for seed in (1, 2))
    t = torch.tensor([500, 500])
    found = model.model_predictions(x_in, x, t, clip_denoised=False)
    a, b = (float(table[500]) for table in (model.schedule.alpha_bar, model.schedule.beta_bar))
    torch.testing.assert_close(found.pred_x_start, x - a * found.pred_res - b * found.pred_noise, rtol=0, atol=1e-5)
    clipped = model.model_predictions(x_in, x, t)
    assert clipped.pred_res.abs().max() <= 1 and clipped.pred_x_start.abs().max() <= 1


def test_predictions_of_a_generating_model_have_0_for_the_input() -> None:
    model = diffusion(condition=False)
    x, t = images(2, 3, 16, 16) * 2 - 1, torch.tensor([500, 20])
    found = model.model_predictions(0, x, t)
    expected = model.model_predictions(torch.zeros_like(x), x, t)
    assert found._fields == ("pred_res", "pred_noise", "pred_x_start")
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_what_the_model_samples_with_follows_init() -> None:
    """A schedule of as many steps as are sampled is sampled one index at a time."""
    model = diffusion(sampling_timesteps=20)
    assert model.is_ddim_sampling and not any(step.draws for step in model.steps())
    model.init(Schedule.triangular(20, 0.01))
    assert model.num_timesteps == 20 and not model.is_ddim_sampling
    assert [step.t for step in model.steps()] == list(range(19, -1, -1))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"objective": "pred_everything"}, "unknown objective 'pred_everything'"),
        ({"loss_type": "huber"}, "loss_type is 'l1' or 'l2', not 'huber'"),
        ({"sampling_timesteps": 1001}, "between 1 and the schedule's 1000 steps, not 1001"),
        ({"test_res_or_noise": "x0"}, "test_res_or_noise='x0' is no mode of pred_res_noise"),
        ({"condition": False, "ddim_sampling_eta": 2.0}, "eta must be between 0"),
    ],
)
def test_a_wrong_argument_is_named(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        diffusion(**arguments)


@pytest.mark.parametrize("missing", [None, []])
def test_restoring_without_an_image_is_named(missing: list[torch.Tensor] | None) -> None:
    with pytest.raises(ValueError, match="this model restores: pass the degraded images"):
        diffusion().sample(missing)


def test_set_seed_seeds_python_numpy_and_torch() -> None:
    runs = []
    for _ in range(2):
        set_seed(10)
        runs.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert runs[0] == runs[1]


def test_gaussian_diffusion_samples_ddim_s_equation() -> None:
    """x_s = sqrt(a_s) x_0 + sqrt(1 - a_s) epsilon, with the clean image clamped and the noise made to fit."""
    torch.manual_seed(0)
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
    torch.manual_seed(0)
    network = Unet(16, dim_mults=(1, 2))
    model = GaussianDiffusion(network, image_size=16, timesteps=8, loss_type="l2", objective="pred_x0")
    loss = model(images(2, 3, 16, 16))
    loss.backward()
    assert loss.isfinite() and network.init_conv.weight.grad is not None
    every = model.sample(batch_size=2, return_all_timesteps=True)
    assert every.shape == (2, 9, 3, 16, 16) and every[:, -1].min() >= 0 and every[:, -1].max() <= 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"objective": "pred_v"}, "objective is 'pred_noise' or 'pred_x0'"),
        ({"beta_schedule": "quartic"}, "beta_schedule is one of"),
        ({"loss_type": "l3"}, "loss_type is 'l1' or 'l2'"),
    ],
)
def test_gaussian_diffusion_names_a_wrong_argument(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GaussianDiffusion(Unet(16, dim_mults=(1, 2)), image_size=16, **arguments)
