"""The published names and arguments, and the published code's recorded results at golden/README.md's tolerances."""

import copy
import random
import re
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, golden_cases
from small_models import images, published_model, seeded

from rddm_fast.compat import UnetRes, set_seed
from rddm_fast.fast import FastSampler
from rddm_fast.theory.experiments import EXPERIMENTS
from rddm_fast.theory.schedule import Schedule


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
    x, first, second = torch.randn(1, 6, 8, 8), torch.tensor([3]), torch.tensor([800])
    for objective, expected in (("pred_noise", second), ("pred_res", first)):
        network = UnetRes(16, dim_mults=(1, 2), num_unet=1, objective=objective, condition=True)
        with torch.no_grad():
            assert torch.equal(network(x, [first, second])[0], network(x, expected)[0])
            assert not torch.equal(network(x, first)[0], network(x, second)[0])


def test_the_later_generation_takes_its_test_mode_from_the_network() -> None:
    def outputs_read(mode: str, own: str) -> tuple[int, ...]:
        return published_model({"num_unet": 2, "test_res_or_noise": mode}, test_res_or_noise=own).read_outputs

    assert [outputs_read(mode, "None") for mode in ("res_noise", "res", "noise")] == [(0, 1), (0,), (1,)]
    assert outputs_read("res", "noise") == (1,)  # the model's own, where it has one


def test_each_generation_has_its_schedule_and_its_loss() -> None:
    pair = [images(2, 3, 16, 16, seed=seed) for seed in (1, 2)]
    older, newer = published_model(), published_model({"num_unet": 2})
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
        model = published_model(input_condition=True, input_condition_mask=stays)
        torch.manual_seed(1)
        loss = model([truth, x, mask])
        torch.manual_seed(1)
        t = torch.randint(0, 1000, (2,))
        given = [truth * 2 - 1, x * 2 - 1, mask if stays else mask * 2 - 1]
        assert torch.equal(loss, model.p_losses(given, t))


def test_a_generating_model_is_trained_on_images_alone() -> None:
    truth, t, noise = images(2, 3, 16, 16), torch.tensor([3, 700]), torch.randn(2, 3, 16, 16)
    model = published_model(condition=False)
    losses = [model.p_losses(given, t, noise) for given in (truth, [truth])]
    assert losses[0].shape == () and torch.equal(*losses)
    x_t = model.q_sample(truth, -truth, t, noise)
    with torch.no_grad():
        residual, epsilon = model.model(x_t, t)
    expected = (residual + truth).abs().mean() + (epsilon - noise).abs().mean()
    torch.testing.assert_close(losses[0], expected, rtol=1e-5, atol=0)


def test_arguments_are_not_changed() -> None:
    model, pair = published_model(), [images(1, 3, 16, 16, seed=seed) for seed in (1, 2)]
    kept = copy.deepcopy(pair)
    model(pair)
    model.sample([pair[1]])
    model.p_losses(pair, torch.tensor([3]))
    torch.testing.assert_close(pair, kept, rtol=0, atol=0)


def test_what_sample_returns() -> None:
    x = images(2, 3, 16, 16)
    model = published_model(sampling_timesteps=3)
    assert len(model.sample([x])) == 2 and len(model.sample([x], last=False)) == 4
    assert all(image.shape == x.shape for image in model.sample([x], last=False))
    free = published_model(condition=False, sampling_timesteps=3)
    assert [len(free.sample(batch_size=2, last=last)) for last in (True, False)] == [1, 3]
    assert free.sample(batch_size=5)[-1].shape == (5, 3, 16, 16)
    assert len(free.sample()[-1]) == 16  # as published


def test_the_first_picture_is_the_input_with_noise_and_the_last_the_restored_one() -> None:
    x, model = images(1, 3, 64, 64), published_model(sum_scale=0.25)
    set_seed(10)
    noisy, restored = model.sample([x])
    set_seed(10)
    again = model.sample(x, last=False)  # a tensor counts as a list of one
    assert torch.equal(again[0], noisy) and torch.equal(again[-1], restored) and len(again) == 3
    set_seed(10)
    torch.testing.assert_close(noisy, x + 0.25 * torch.randn(1, 3, 64, 64), rtol=0, atol=1e-6)


def test_a_mask_is_the_list_s_second_entry() -> None:
    model = published_model(input_condition=True, input_condition_mask=True)
    x, mask = images(1, 3, 16, 16), images(1, 3, 16, 16, seed=2).round()
    results = []
    for m in (mask, 1 - mask):
        set_seed(1)
        results.append(model.sample([x, m])[-1])
    assert not torch.equal(*results)
    assert model([x, x, mask]).isfinite()


def test_the_sum_of_the_noise_and_eta_are_as_published() -> None:
    assert published_model().sum_scale == 0.01 and published_model(condition=False).sum_scale == 1
    assert published_model(sum_scale=0.25).sum_scale == 0.25
    assert published_model(ddim_sampling_eta=1.0).ddim_sampling_eta == 0
    assert published_model(condition=False, ddim_sampling_eta=1.0).ddim_sampling_eta == 1
    assert published_model().is_ddim_sampling and not published_model(sampling_timesteps=None).is_ddim_sampling


def test_keywords_in_place_of_edits() -> None:
    ddim = published_model(condition=False, convert_to_ddim=True)
    reference = Schedule.from_ddim(1000)
    torch.testing.assert_close(ddim.alphas_cumsum, torch.from_numpy(reference.alpha_bar).float())
    with pytest.warns(UserWarning, match="sampling would start from noise of variance sum_scale=0.01"):
        published_model(convert_to_ddim=True)
    with pytest.raises(ValueError, match="schedule or convert_to_ddim=True, not both"):
        published_model(convert_to_ddim=True, schedule=reference)

    seen: list[Any] = []
    free = published_model(path_independent=True)
    for member in free.model.members:
        member.register_forward_pre_hook(lambda _m, args: seen.append(args[1]))
    free.sample([images(1, 3, 16, 16)])
    first = [float(t) for t in seen[:2]]
    assert first == pytest.approx([1000.0, 0.1 * 1000], rel=1e-4)  # alpha_bar_T T and beta_bar_T T

    own = published_model(schedule=Schedule.straight(200), sum_scale=0.5)
    assert (own.num_timesteps, own.sum_scale) == (200, 0.5)


def test_init_rebuilds_the_coefficients_for_another_schedule() -> None:
    model = published_model()
    before = model.alphas_cumsum.clone()
    model.init(Schedule.power(1000, 0.01))
    assert not torch.equal(model.alphas_cumsum, before)
    torch.testing.assert_close(model.alphas_cumsum, torch.from_numpy(Schedule.power(1000, 0.01).alpha_bar).float())
    ddim = published_model(condition=False, convert_to_ddim=True)
    assert ddim.alphas[0] == 0
    ddim.init()
    assert ddim.alphas[0] == ddim.alphas[1] > 0


def test_predictions_have_the_published_names_and_agree() -> None:
    model = published_model()
    x_in, x = (images(2, 3, 16, 16, seed=seed) * 2 - 1 for seed in (1, 2))
    t = torch.tensor([500, 500])
    found = model.model_predictions(x_in, x, t, clip_denoised=False)
    a, b = (float(table[500]) for table in (model.schedule.alpha_bar, model.schedule.beta_bar))
    torch.testing.assert_close(found.pred_x_start, x - a * found.pred_res - b * found.pred_noise, rtol=0, atol=1e-5)
    clipped = model.model_predictions(x_in, x, t)
    assert clipped.pred_res.abs().max() <= 1 and clipped.pred_x_start.abs().max() <= 1


def test_predictions_of_a_generating_model_have_0_for_the_input() -> None:
    model = published_model(condition=False)
    x, t = images(2, 3, 16, 16) * 2 - 1, torch.tensor([500, 20])
    found = model.model_predictions(0, x, t)
    expected = model.model_predictions(torch.zeros_like(x), x, t)
    assert found._fields == ("pred_res", "pred_noise", "pred_x_start")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_what_the_model_samples_with_follows_init() -> None:
    """A schedule of as many steps as are sampled is sampled one index at a time."""
    model = published_model(sampling_timesteps=20)
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
        published_model(**arguments)


@pytest.mark.parametrize("missing", [None, []])
def test_restoring_without_an_image_is_named(missing: list[torch.Tensor] | None) -> None:
    with pytest.raises(ValueError, match="this model restores: pass the degraded images"):
        published_model().sample(missing)


def test_set_seed_seeds_python_numpy_and_torch() -> None:
    runs = []
    for _ in range(2):
        set_seed(10)
        runs.append((random.random(), np.random.rand(), float(torch.rand(()))))
    assert runs[0] == runs[1]


def test_a_clone_alone_has_cases_of_every_kind() -> None:
    kinds = ("unet", "schedule", "coefficients", "sample", "loss")
    assert all(len(golden_cases(kind)) >= 2 for kind in kinds)


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_sample_with_the_same_seed(golden: Golden) -> None:
    diffusion, x_input = golden.model(), golden.tensors.get("x_input")
    given, kept = (None, None) if x_input is None else ([x_input], x_input.clone())
    torch.manual_seed(golden.case["seed"])
    images = diffusion.sample(given, batch_size=2, last=False)
    torch.testing.assert_close(images, golden.numbered("image"), rtol=0, atol=1e-4)
    assert x_input is None or torch.equal(x_input, kept)

    torch.manual_seed(golden.case["seed"])
    ends = diffusion.sample(given, batch_size=2, last=True)
    assert len(ends) == (1 if x_input is None else 2)
    assert torch.equal(ends[-1], images[-1]) and (x_input is None or torch.equal(ends[0], images[0]))


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_fast_sampler_with_the_recorded_draws(golden: Golden) -> None:
    sampler, x_input = FastSampler(golden.model()), golden.tensors.get("x_input")
    found = sampler.sample(x_input, batch_size=2, every_step=True, draws=golden.numbered("noise"))
    torch.testing.assert_close(found, golden.numbered("image"), rtol=0, atol=1e-4)


@pytest.mark.parametrize("golden", golden_cases("loss"))
def test_loss_and_gradients(golden: Golden) -> None:
    diffusion, tensors = golden.model(), golden.tensors
    truth, x_input, t, noise = (tensors[k] for k in ("ground_truth", "x_input", "time", "noise"))
    torch.testing.assert_close(
        diffusion.q_sample(truth, x_input - truth, t, noise=noise), tensors["x_t"], rtol=0, atol=1e-6
    )
    loss = diffusion.p_losses([truth, x_input], t, noise=noise)
    torch.testing.assert_close(loss.reshape(1), tensors["loss"], rtol=0, atol=1e-6)
    loss.backward()
    norms = torch.stack([p.grad.norm() if p.grad is not None else torch.zeros(()) for p in diffusion.parameters()])
    # Biases before a norm have no gradient: their recorded norms are rounding, which depends on the threads.
    rounding = 1e-6 * float(tensors["grad_norms"].max())
    torch.testing.assert_close(norms, tensors["grad_norms"], rtol=1e-4, atol=rounding)


AOSA = {"network": {"num_unet": 1, "objective": "auto_res_noise"}, "objective": "auto_res_noise", "sum_scale": 1}


def test_sampling_reads_alpha_res_when_it_is_used() -> None:
    """As published: set or trained in place, the next sampling sees it. A fast sampler keeps what it was built with."""
    diffusion, x = published_model(**AOSA, experiment="aosa"), images(1, 3, 16, 16)
    made = {}
    for weight, objective in ((0.5, "pred_noise"), (0.9, "pred_res"), (0.1, "pred_noise")):
        with torch.no_grad():
            diffusion.alpha_res.fill_(weight)
        assert diffusion.objective.name == diffusion.read_objective.name == objective
        made[weight] = diffusion.sample([x], generator=seeded(0))[-1]
        fast = FastSampler(diffusion)(x, generator=seeded(0))
        torch.testing.assert_close(fast, made[weight].clamp(0, 1), rtol=0, atol=1e-4)
    assert torch.equal(made[0.5], made[0.1]) and (made[0.9] - made[0.1]).abs().max() > 0.1


def test_a_decision_is_fixed_by_asking_for_a_loss_and_by_loading() -> None:
    diffusion, x = published_model(**AOSA, experiment="aosa"), images(2, 3, 16, 16)
    t = torch.tensor([100, 500])
    undecided = diffusion.p_losses([x, x], t, noise=torch.zeros_like(x))
    assert len(undecided) == 2 and all(float(loss) > 0 for loss in undecided)
    with torch.no_grad():
        diffusion.alpha_res.fill_(0.3)
    assert diffusion.alpha_res_to_0_or_1 is None
    residual, noise = diffusion.p_losses([x, x], t)
    assert diffusion.alpha_res_to_0_or_1 == 0 and float(residual) == 0 and float(noise) > 0
    other = published_model(**AOSA, experiment="aosa")
    other.load_state_dict(diffusion.state_dict())
    assert other.alpha_res_to_0_or_1 == 0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"experiment": "translation", "path_independent": False},
            "path_independent=False contradicts experiment trans",
        ),
        (
            {"experiment": 6, "convert_to_ddim": True},
            "convert_to_ddim=True contradicts experiment generation (folder 6)",
        ),
        ({"experiment": "0", "official_two_pass": False}, "official_two_pass=False contradicts experiment path-ind"),
        ({"experiment": 2}, "experiment restoration (folder 2) has networks chosen by share_encoder"),
        ({"experiment": 1}, "experiment ddim-conversion (folder 1) samples pipelines of diffusers: run rddm-fast ddim"),
        ({"experiment": 7}, "there is no experiment 7: choose one of 'path-independent', "),
        ({"experiment": 5, "delta_end": 0.1}, "delta_end is DiffUIR's: pass experiment='diffuir' with it"),
    ],
)
def test_what_contradicts_the_experiment_is_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        published_model({"num_unet": 2}, sum_scale=1, **options)


def test_the_networks_experiment_is_the_model_s() -> None:
    network = {"num_unet": 2, "experiment": "inpainting"}
    diffusion = published_model(network)
    assert diffusion.experiment is EXPERIMENTS["inpainting"] and diffusion.path_independent
    with pytest.raises(
        ValueError, match=r"two experiments are named, inpainting .folder 4. and translation .folder 5.:"
    ):
        published_model(network, experiment="translation")
    with pytest.raises(ValueError, match=r"experiment generation .folder 6. chooses its networks by num_unet, not by"):
        UnetRes(8, share_encoder=0, experiment="generation")
    assert UnetRes(8, dim_mults=(1,), experiment="diffuir").unet0.factor == 2
