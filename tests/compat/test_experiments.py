"""The published experiments and DiffUIR, case by case as recorded, by `experiment=` alone.

`shared/golden/experiments/README.md` says how each tensor was made, and the tolerances. A clone by itself has three of
the 16 cases: folder 0 with the residual alone, AOSA decided for the noise, and DiffUIR with padding.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from golden import Golden, golden_cases
from safetensors.torch import load_file
from torch import Tensor

from rddm_fast import FastSampler
from rddm_fast.compat import ResidualDiffusion, UnetRes, diffuir

CASES = [*golden_cases("experiment", "experiments"), *golden_cases("diffuir", "experiments")]
LONG = 1000
"""Steps of the case that visits every index."""
with_case = pytest.mark.parametrize("golden", CASES)


def built(golden: Golden) -> Any:
    """The case's model by its published arguments and its experiment's name, without a warning."""
    case = golden.case
    theirs = case["kind"] == "diffuir"
    named: dict[str, Any] = {} if theirs else {"experiment": case["folder"]}
    Networks, Diffusion = (diffuir.UnetRes, diffuir.ResidualDiffusion) if theirs else (UnetRes, ResidualDiffusion)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = Networks(**case["unet"])
        diffusion: Any = Diffusion(network, **case["diffusion"], **named)
    prefix = case.get("weights_prefix", "")
    network.load_state_dict({name: x.float() for name, x in golden.weights.items() if name.startswith(prefix)})
    if "alpha_res" in case:
        diffusion.alpha_res.data.fill_(case["alpha_res"])
    return diffusion


def signed(tensors: dict[str, Tensor], name: str) -> Tensor | None:
    return tensors[name] * 2 - 1 if name in tensors else None


def training_images(golden: Golden) -> Any:
    """What the training is given in [0, 1]."""
    tensors = golden.tensors
    images = [tensors[name] for name in ("ground_truth", "input") if name in tensors]
    if golden.case["kind"] == "diffuir":
        return [*images, ["rain"]]
    return images if len(images) > 1 else images[0]


def as_list(losses: Any) -> list[Tensor]:
    return losses if isinstance(losses, list) else [losses]


def assert_losses(losses: Any, recorded: list[Tensor], golden: Golden) -> None:
    assert isinstance(losses, list) == golden.case["loss_is_a_list"]
    assert len(as_list(losses)) == len(recorded)
    for ours, theirs in zip(as_list(losses), recorded, strict=True):
        torch.testing.assert_close(ours.reshape(1), theirs, rtol=0, atol=1e-5)


def assert_images(ours: list[Tensor], recorded: list[Tensor], atol: float = 1e-4) -> None:
    assert len(ours) == len(recorded)
    for number, (image, theirs) in enumerate(zip(ours, recorded, strict=True)):
        torch.testing.assert_close(image, theirs, rtol=0, atol=atol, msg=lambda m, n=number: f"image {n}: {m}")


def assert_buffers(golden: Golden, diffusion: Any, which: str) -> None:
    """Tables lie beside the whole collection alone, 49 KB each."""
    path = golden.path.parent / golden.case[which]
    if not path.is_file():
        return
    recorded = load_file(path)
    tables = {name: table for name, table in diffusion.named_buffers() if not name.startswith("model.")}
    assert tables.keys() == recorded.keys()
    for name, table in recorded.items():
        atol = 1e-5 * max(1.0, float(table.abs().max()))
        torch.testing.assert_close(tables[name], table, rtol=0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def test_a_clone_alone_has_an_experiment_of_each_kind() -> None:
    assert {golden.values[0].case.get("folder", "d")[0] for golden in CASES} >= {"0", "3", "d"}


@with_case
def test_tables_times_and_networks(golden: Golden) -> None:
    diffusion, tensors = built(golden), golden.tensors
    assert_buffers(golden, diffusion, "buffers")
    truth, I_in, t = signed(tensors, "ground_truth"), signed(tensors, "input"), tensors["time"]
    assert truth is not None
    I_res = (0.0 if I_in is None else I_in) - truth
    extra = [I_in] if golden.case["kind"] == "diffuir" else []
    I_t = diffusion.q_sample(truth, I_res, *extra, t, noise=tensors["noise"])
    torch.testing.assert_close(I_t, tensors["x_t"], rtol=0, atol=1e-5)

    times = diffusion.network_times(t)
    recorded = golden.numbered("network_time")
    for ours, theirs in zip(times if isinstance(times, list) else [times] * len(recorded), recorded, strict=False):
        if diffusion.objective.outputs == 2 or len(recorded) == 1:
            torch.testing.assert_close(ours.float(), theirs.float(), rtol=1e-5, atol=0)

    with torch.no_grad():
        outputs = diffusion.outputs(tensors["x_t"], t, I_in, only=diffusion.read_outputs)
        found = diffusion.model_predictions(0 if I_in is None else I_in, tensors["x_t"], t)
    for number, output in zip(diffusion.read_outputs, outputs, strict=True):
        torch.testing.assert_close(output, tensors[f"network_out_{number}"], rtol=0, atol=1e-5)
    for name in ("pred_res", "pred_noise", "pred_x_start"):
        atol = 1e-4 * max(1.0, float(tensors[name].abs().max()))
        torch.testing.assert_close(getattr(found, name), tensors[name], rtol=0, atol=atol)


@with_case
def test_losses_and_gradients(golden: Golden) -> None:
    case, tensors = golden.case, golden.tensors
    if not case["loss"]:
        pytest.skip("the published p_losses fails where a network is switched off")
    diffusion, images = built(golden), training_images(golden)
    if case["kind"] == "diffuir":
        given = images
    else:
        given = [image * 2 - 1 for image in images] if isinstance(images, list) else images * 2 - 1
    if "decided_before" in case:
        assert diffusion.alpha_res_to_0_or_1 == case["decided_before"]
    losses = diffusion.p_losses(given, tensors["time"], noise=tensors["noise"])
    assert_losses(losses, golden.numbered("loss"), golden)
    total = sum(as_list(losses))
    if "total" in tensors:
        assert diffusion.alpha_res_to_0_or_1 == case["decided_after"]
        weight = diffusion.alpha_res if case["decided_after"] is None else float(case["decided_after"])
        total = weight * losses[0] + (1 - weight) * losses[1]
        torch.testing.assert_close(total.reshape(1), tensors["total"], rtol=0, atol=1e-5)
    total.backward()
    if "grad_alpha" in tensors and case["decided_after"] is None:
        torch.testing.assert_close(diffusion.alpha_res.grad, tensors["grad_alpha"], rtol=0, atol=1e-5)
    norms = [torch.zeros(()) if p.grad is None else p.grad.norm() for p in diffusion.model.parameters()]
    recorded = tensors["grad_norms"]
    torch.testing.assert_close(torch.stack(norms), recorded, rtol=0, atol=1e-5 * float(recorded.max()))


@with_case
def test_a_training_step_draws_times_and_noise_as_published(golden: Golden) -> None:
    case = golden.case
    if not case["loss"]:
        pytest.skip("the published p_losses fails where a network is switched off")
    # DiffUIR's cases were seeded before the model was built, the others after.
    torch.manual_seed(case["forward_seed"])
    diffusion = built(golden)
    if case["kind"] != "diffuir":
        torch.manual_seed(case["forward_seed"])
    assert_losses(diffusion(training_images(golden)), golden.numbered("forward_loss"), golden)


def sampled(golden: Golden, diffusion: Any) -> list[Tensor]:
    case, x_input = golden.case, golden.tensors.get("x_input")
    torch.manual_seed(case["sample_seed"])
    if case["kind"] == "diffuir":
        return diffusion.sample(x_input)
    given = None if x_input is None else [x_input]
    return diffusion.sample(given, batch_size=case["batch_size"], last=case["last"])


@with_case
def test_the_same_seed_gives_the_same_images(golden: Golden) -> None:
    case, diffusion = golden.case, built(golden)
    atol = 1e-5 if case["kind"] == "diffuir" else 1e-4
    assert_images(sampled(golden, diffusion), golden.numbered("image"), atol)
    if "init_changes_images" not in case or case["diffusion"]["sampling_timesteps"] == LONG:
        return

    # The published `init()` rebuilds the tables. Of the recorded cases it changes the images of folder 6 alone.
    diffusion.init()
    assert_buffers(golden, diffusion, "buffers_after_init")
    name = "init_image" if case["init_changes_images"] else "image"
    assert_images(sampled(golden, diffusion), golden.numbered(name), atol)


@with_case
def test_the_fast_sampler_makes_them_too(golden: Golden) -> None:
    case, diffusion = golden.case, built(golden)
    if case["diffusion"]["sampling_timesteps"] == LONG:
        pytest.skip("one pass over 1000 indices; the reference walks it, and FastSampler the cases with few steps")
    images = FastSampler(diffusion).sample(
        golden.tensors.get("x_input"),
        batch_size=case.get("batch_size", 1),
        draws=golden.numbered("sample_noise"),
        every_step=not case.get("last", False),
    )
    assert_images(images, golden.numbered("image"), 1e-5 if case["kind"] == "diffuir" else 1e-4)
