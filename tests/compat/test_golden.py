"""The published code's recorded results, case by case, at the tolerances of golden/README.md."""

from __future__ import annotations

import pytest
import torch
from conftest import Golden, golden_cases

from rddm_fast.compat import ResidualDiffusion, Unet, UnetRes
from rddm_fast.fast import FastSampler
from rddm_fast.theory.families import increments
from rddm_fast.theory.schedule import BUFFER_NAMES, Schedule


def test_a_clone_alone_has_cases_of_every_kind() -> None:
    kinds = ("unet", "schedule", "coefficients", "sample", "loss")
    assert all(len(golden_cases(kind)) >= 2 for kind in kinds)


@pytest.mark.parametrize("golden", golden_cases("coefficients"))
def test_coefficients(golden: Golden) -> None:
    case = golden.case
    power = case["form"].startswith("linspace")
    ours = increments(
        case["timesteps"],
        case["schedule"],
        form="power" if power else "triangular",
        ratio=case.get("ratio", 1),
        sum_scale=case["sum_scale"],
    )
    torch.testing.assert_close(ours.float(), golden.tensors["coefficients"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("golden", golden_cases("schedule"))
def test_schedule_buffers(golden: Golden) -> None:
    case = golden.case
    if "source" in case:
        schedule = Schedule.from_ddim(1000, boundary="test" if "rebuilt" in case["boundary"] else "train")
    else:
        schedule = Schedule.triangular(case["timesteps"], case["sum_scale"])
    ours = schedule.buffers()
    assert tuple(ours) == BUFFER_NAMES
    for name, recorded in golden.tensors.items():
        torch.testing.assert_close(ours[name], recorded, rtol=1e-6, atol=0, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("golden", golden_cases("unet"))
def test_unet(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    kind = Unet if case["cls"] == "Unet" else UnetRes
    arguments = {k: v for k, v in case.items() if k not in ("kind", "cls", "weights")}
    network = kind(**arguments)
    network.load_state_dict(golden.weights)
    time = [tensors["time"], tensors["time_noise"]] if "time_noise" in tensors else tensors["time"]
    with torch.no_grad():
        out = network(tensors["x"], time, tensors.get("x_self_cond"))
    out = [out] if isinstance(out, torch.Tensor) else out
    recorded = golden.numbered("out")
    assert len(out) == len(recorded)
    for ours, theirs in zip(out, recorded, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def diffusion_of(golden: Golden) -> ResidualDiffusion:
    case = golden.case
    restoring = case.get("condition", True)
    network = UnetRes(
        case["dim"],
        dim_mults=case["dim_mults"],
        share_encoder=case["share_encoder"],
        condition=restoring,
        input_condition=case.get("input_condition", False),
    )
    network.load_state_dict(golden.weights)
    return ResidualDiffusion(
        network,
        image_size=32,
        timesteps=case.get("timesteps", 1000),
        sampling_timesteps=case.get("sampling_timesteps"),
        objective=case["objective"],
        loss_type=case.get("loss_type", "l1"),
        ddim_sampling_eta=case.get("eta", 0.0),
        condition=restoring,
        sum_scale=case.get("sum_scale", 1),
    )


def assert_images(ours: list[torch.Tensor], recorded: list[torch.Tensor]) -> None:
    assert len(ours) == len(recorded)
    for number, (image, theirs) in enumerate(zip(ours, recorded, strict=True)):
        torch.testing.assert_close(image, theirs, rtol=0, atol=1e-4, msg=lambda m, n=number: f"image {n}: {m}")


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_sample_with_the_same_seed(golden: Golden) -> None:
    diffusion, x_input = diffusion_of(golden), golden.tensors.get("x_input")
    kept = None if x_input is None else x_input.clone()
    torch.manual_seed(golden.case["seed"])
    images = diffusion.sample(None if x_input is None else [x_input], batch_size=2, last=False)
    assert_images(images, golden.numbered("image"))
    assert x_input is None or torch.equal(x_input, kept)

    torch.manual_seed(golden.case["seed"])
    ends = diffusion.sample(None if x_input is None else [x_input], batch_size=2, last=True)
    assert [len(ends), len(images)] == ([2, len(images)] if x_input is not None else [1, len(images)])
    assert torch.equal(ends[-1], images[-1]) and (x_input is None or torch.equal(ends[0], images[0]))


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_fast_sampler_with_the_recorded_draws(golden: Golden) -> None:
    sampler = FastSampler(diffusion_of(golden))
    images = sampler.sample(
        golden.tensors.get("x_input"), batch_size=2, every_step=True, draws=golden.numbered("noise")
    )
    assert_images(images, golden.numbered("image"))


@pytest.mark.parametrize("golden", golden_cases("loss"))
def test_loss_and_gradients(golden: Golden) -> None:
    diffusion, tensors = diffusion_of(golden), golden.tensors
    truth, x_input, t, noise = (tensors[k] for k in ("ground_truth", "x_input", "time", "noise"))
    torch.testing.assert_close(
        diffusion.q_sample(truth, x_input - truth, t, noise=noise), tensors["x_t"], rtol=0, atol=1e-6
    )
    loss = diffusion.p_losses([truth, x_input], t, noise=noise)
    torch.testing.assert_close(loss.reshape(1), tensors["loss"], rtol=0, atol=1e-6)
    loss.backward()
    norms = torch.stack([p.grad.norm() if p.grad is not None else torch.zeros(()) for p in diffusion.parameters()])
    # Biases before a norm have no gradient: what is recorded of theirs is rounding, which threads change.
    rounding = 1e-6 * float(tensors["grad_norms"].max())
    torch.testing.assert_close(norms, tensors["grad_norms"], rtol=1e-4, atol=rounding)
