"""`RDDMPipeline`: what is saved makes the same images, fast and by diffusers' own loop."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import error_of, python, run, succeeded
from small_models import assert_same_bits, images, known_model, published_model, seeded, small_model
from torch import Tensor

pytest.importorskip("diffusers")

import huggingface_hub.constants
from diffusers import DDIMScheduler, DiffusionPipeline
from PIL import Image

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastSampler
from rddm_fast.integrations.diffusers import RDDMPipeline, RDDMScheduler, RDDMUNetModel
from rddm_fast.models.folder import described, save_model
from rddm_fast.theory.schedule import Schedule


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test asks the network, and the Hub's cache is empty."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module", autouse=True)
def _code_of_pipelines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """diffusers copies the code that a pipeline brings, and imports it, here instead of in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder := str(tmp_path_factory.mktemp("modules")))
        patch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", folder)
        yield


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def made(diffusion: ResidualDiffusion) -> RDDMPipeline:
    return quiet(RDDMPipeline.from_rddm(diffusion))


MODELS: dict[str, dict[str, Any]] = {
    "two": {},
    "noise, by coefficients": {"objective": "pred_noise", "path_independent": True, "eta": 0.5, "loss_type": "l2"},
    "shared, one output read": {"networks": "shared", "clip_res": 2.0, "test_res_or_noise": "res"},
    "self-conditioned": {"self_condition": True},
    "mask": {"input_condition": True, "input_condition_mask": True},
    "ancestral": {"schedule": Schedule.power(6, 0.01), "sampling_timesteps": 6},
    "resshift": {"schedule": Schedule.resshift(), "sampling_timesteps": 4},
    "diffuir": {"objective": "pred_res", "schedule": Schedule.diffuir(), "padding_factor": 4},
    "translation": {"img_to_img_translation": True},
    "generation in two passes": {
        "condition": False,
        "schedule": Schedule.from_ddim(1000),
        "path_independent": True,
        "official_two_pass": True,
    },
}


@pytest.mark.parametrize("options", MODELS.values(), ids=list(MODELS))
def test_a_saved_pipeline_makes_the_models_images(options: dict[str, Any], tmp_path: Path) -> None:
    diffusion = small_model(**options)
    x = images(2, 3, 16, 20) if diffusion.condition else None
    mask = images(2, 3, 16, 20, seed=2).round() if diffusion.input_condition else None
    expected = FastSampler(diffusion)(x, mask, generator=seeded(5), batch_size=2)
    made(diffusion).save_pretrained(tmp_path)
    loaded = quiet(RDDMPipeline.from_pretrained(tmp_path))
    for fast in (True, False):
        asked: dict[str, Any] = {"generator": seeded(5), "batch_size": 2, "output_type": "pt", "fast": fast}
        result = loaded(x, mask, **asked).images
        torch.testing.assert_close(result, expected, rtol=0, atol=0 if fast else 1e-5)
    back = loaded.to_rddm()
    assert described(back)["diffusion"] == described(diffusion)["diffusion"]
    assert_same_bits(back.model.state_dict(), diffusion.model.state_dict())
    assert np.array_equal(back.schedule.alpha_bar, diffusion.schedule.alpha_bar)


def test_diffusers_finds_the_pipeline_by_itself(tmp_path: Path) -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    made(diffusion).save_pretrained(tmp_path)
    loaded = quiet(DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True))
    assert type(loaded) is RDDMPipeline
    expected = FastSampler(diffusion)(x, generator=seeded(0))
    assert torch.equal(loaded(x, generator=seeded(0), output_type="pt").images, expected)


@pytest.mark.parametrize("found_by", [RDDMPipeline, DiffusionPipeline])
def test_a_pipeline_on_the_hub(found_by: Any, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "cache" / "models--me--pipeline"
    made(small_model()).save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    trusted = {"trust_remote_code": True} if found_by is DiffusionPipeline else {}
    assert type(found_by.from_pretrained("me/pipeline", **trusted)) is RDDMPipeline


def test_our_class_does_not_run_the_folders_code(tmp_path: Path) -> None:
    made(small_model()).save_pretrained(tmp_path)
    (tmp_path / "pipeline.py").write_text("raise SystemExit('run')\n")
    assert type(RDDMPipeline.from_pretrained(tmp_path)) is RDDMPipeline


def test_the_saved_names_last(tmp_path: Path) -> None:
    """Pipelines that exist somewhere name these modules and keys."""
    made(small_model()).save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    ours = "rddm_fast.integrations.diffusers"
    assert (index["unet"], index["scheduler"]) == ([ours, "RDDMUNetModel"], [ours, "RDDMScheduler"])
    assert index["_class_name"] == ["pipeline", "RDDMPipeline"] and index["default_steps"] == 3
    networks = RDDMUNetModel.from_pretrained(tmp_path / "unet")
    assert "model.unet0.init_conv.weight" in networks.state_dict()


def test_bfloat16(tmp_path: Path) -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    exact = FastSampler(diffusion)(x, generator=seeded(0))
    expected = FastSampler(diffusion, dtype=torch.bfloat16)(x, generator=seeded(0))
    made(diffusion).save_pretrained(tmp_path)
    loaded = quiet(RDDMPipeline.from_pretrained(tmp_path, torch_dtype=torch.bfloat16))
    assert loaded.unet.dtype == torch.bfloat16
    fast, slow = (loaded(x, generator=seeded(0), output_type="pt", fast=fast).images for fast in (True, False))
    for result, reference, mse in ((fast, expected, 1e-4), (fast, exact, 1e-4), (slow, exact, 1e-3)):
        assert (result - reference).square().mean() < mse
    assert not torch.equal(fast, exact) and slow.dtype == torch.float32


def test_images_come_as_pil_arrays_or_tensors() -> None:
    pipeline = made(small_model())
    pixels = (images(16, 20, 3).numpy() * 255).astype(np.uint8)
    picture = Image.fromarray(pixels)
    expected = pipeline(picture, generator=seeded(0), output_type="np").images
    as_array = pipeline(pixels.astype(np.float32) / 255, generator=seeded(0), output_type="np").images
    assert expected.shape == (1, 16, 20, 3) and np.array_equal(as_array, expected)
    (shown,) = pipeline(picture.convert("RGBA"), generator=seeded(0)).images
    assert np.array_equal(np.asarray(shown), (expected[0] * 255).round().astype(np.uint8))
    (two,) = pipeline([picture, picture.copy()], generator=[seeded(0), seeded(0)], output_type="np", return_dict=False)
    np.testing.assert_allclose(two, expected.repeat(2, axis=0), atol=1e-5)


def test_grey_images() -> None:
    diffusion = small_model(schedule=Schedule.triangular(1000, 0.01))
    grey = ResidualDiffusion(
        type(diffusion.model)(16, dim_mults=[1, 2], channels=1, condition=True),
        diffusion.schedule,
        condition=True,
        sampling_timesteps=2,
    )
    (shown,) = made(grey)(Image.new("RGB", (20, 16), "teal")).images
    assert shown.mode == "L" and shown.size == (20, 16)


def test_large_images_are_restored_in_tiles() -> None:
    diffusion, x = small_model(eta=1.0), images(1, 3, 40, 24)
    pipeline = made(diffusion)
    asked = {"output_type": "pt"}
    tiled, whole = (pipeline(x, generator=seeded(0), tile=tile, **asked).images for tile in (24, None))
    assert torch.equal(whole, FastSampler(diffusion)(x, generator=seeded(0)))
    assert tiled.shape == whole.shape and not torch.equal(tiled, whole)
    assert (tiled - whole).square().mean() < 0.01


def test_a_callback_sees_and_changes_every_step() -> None:
    pipeline, x = made(small_model()), images(1, 3, 16, 16)
    seen: list[tuple[int, int]] = []

    def watch(_pipe: RDDMPipeline, number: int, t: Tensor, known: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((number, int(t)))
        return {"latents": torch.ones_like(known["latents"])} if number == 2 else known

    result = pipeline(x, generator=seeded(0), output_type="pt", callback_on_step_end=watch).images
    assert seen == [(0, 999), (1, 666 - 1), (2, 332)] and bool((result == 1).all())


def test_changed_weights_and_settings_are_seen() -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    pipeline = made(diffusion)

    def result() -> Tensor:
        return pipeline(x, generator=seeded(0), output_type="pt").images

    first, kept = result(), pipeline._sampler
    assert torch.equal(result(), first) and pipeline._sampler is kept
    for weight in pipeline.unet.parameters():
        weight.data.mul_(1.5)
    changed = result()
    assert torch.equal(changed, FastSampler(diffusion)(x, generator=seeded(0))) and not torch.equal(changed, first)
    pipeline.scheduler = RDDMScheduler.from_config(pipeline.scheduler.config, clip_residual=0.1)
    assert not torch.equal(result(), changed)


def test_a_published_object_becomes_a_pipeline() -> None:
    diffusion, x = published_model({"share_encoder": 1}), images(1, 3, 16, 16)
    expected = FastSampler(diffusion)(x, generator=seeded(0))
    assert torch.equal(made(diffusion)(x, generator=seeded(0), output_type="pt").images, expected)


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ({}, {}, "this model restores: pass the degraded images, (B, C, H, W) in [0, 1]"),
        ({}, {"image": "photo.png"}, "image is of type str: pass images of PIL, arrays (H, W, C) or tensors (C, H, W)"),
        ({}, {"image": []}, "image is an empty list: pass at least one image"),
        (
            {},
            {"image": [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 8))]},
            "image has images of different sizes, [(8, 8), (9, 8)]: pass those of one size a call",
        ),
        (
            {},
            {"image": torch.zeros(1, 3, 8, 8, dtype=torch.uint8)},
            "image has pixels of torch.uint8: pass floating-point values in [0, 1]",
        ),
        (
            {"input_condition": True},
            {"image": torch.zeros(1, 3, 8, 8), "mask_image": torch.zeros(1, 3, 8, 9)},
            "mask_image is (1, 3, 8, 9) and image (1, 3, 8, 8): make them alike",
        ),
        ({"condition": False}, {"image": torch.zeros(1, 3, 8, 8)}, "this model generates: it takes no degraded image"),
        (
            {},
            {"image": torch.zeros(1, 3, 8, 8), "callback_on_step_end_tensor_inputs": ["noise"]},
            "a callback of this pipeline can have latents, not noise",
        ),
        (
            {},
            {"image": torch.zeros(1, 3, 8, 8), "num_inference_steps": 0},
            "sampling_timesteps must be between 1 and the schedule's 1000 steps, not 0",
        ),
    ],
)
def test_a_mistake_is_one_sentence(options: dict[str, Any], arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises((TypeError, ValueError)) as error:
        made(small_model(**options))(**arguments)
    assert str(error.value) == sentence


def test_offload_in_parts_takes_diffusers_loop() -> None:
    """accelerate keeps the weights away from their modules, where nobody can fold them."""
    from accelerate import cpu_offload

    diffusion, x = small_model(), images(1, 3, 16, 16)
    pipeline = made(diffusion)
    expected = pipeline(x, generator=seeded(0), output_type="pt", fast=False).images
    cpu_offload(pipeline.unet, torch.device("cpu"))
    assert next(pipeline.unet.parameters()).device.type == "meta"
    assert torch.equal(pipeline(x, generator=seeded(0), output_type="pt").images, expected)


def test_networks_that_are_kept_elsewhere_are_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole-model offload: the networks rest on one device, the pipeline computes on another. To torch cpu:0 is one."""
    diffusion, x = small_model(), images(1, 3, 16, 16)
    pipeline = made(diffusion)
    monkeypatch.setattr(RDDMPipeline, "_execution_device", property(lambda _self: torch.device("cpu:0")))
    folded = []
    monkeypatch.setattr(
        "rddm_fast.integrations.diffusers.pipeline.FastSampler",
        lambda model, **options: folded.append(model.model) or FastSampler(model, **options),
    )
    for _ in range(2):
        result = pipeline(x, generator=seeded(0), output_type="pt").images
        assert torch.equal(result, FastSampler(diffusion)(x, generator=seeded(0)))
    assert len(folded) == 1 and folded[0] is not pipeline.unet.model is diffusion.model


def test_compiled_networks() -> None:
    diffusion, x = small_model(), images(1, 3, 16, 16)
    pipeline = made(diffusion)
    expected = pipeline(x, generator=seeded(0), output_type="pt").images
    pipeline.unet = torch.compile(pipeline.unet, backend="eager")
    for fast in (True, False):
        result = pipeline(x, generator=seeded(0), output_type="pt", fast=fast).images
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)


def test_without_diffusers_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['diffusers'] = None; import rddm_fast.integrations.diffusers"
    last = python("-c", code).stderr.splitlines()[-1]
    assert last == "ImportError: diffusers is not installed; pip install 'rddm_fast[diffusers]' installs it"


def test_other_parts_are_named() -> None:
    pipeline = made(small_model())
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match=r"^the scheduler of an RDDMPipeline is an RDDMScheduler, not DDIMScheduler$"):
        pipeline(images(1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"^only models made of ResidualUnets .* a pipeline of diffusers, not Known$"):
        RDDMPipeline.from_rddm(known_model(images(1, 3, 8, 8)))


# -- rddm-fast convert --to diffusers -----------------------------------------------------------------------------


def test_convert_writes_a_pipeline(tmp_path: Path) -> None:
    diffusion, x = small_model("pred_res", dim=8), images(1, 3, 16, 16)
    save_model(tmp_path / "model", diffusion)
    torch.save({"step": 1, "model": {}, "ema": _ema(diffusion)}, tmp_path / "model-1.pt")
    for source, more in ((tmp_path / "model", ()), (tmp_path / "model-1.pt", ("--objective", "pred_res"))):
        target = tmp_path / f"{source.stem}-pipeline"
        result = succeeded(run("convert", source, "-o", target, "--to", "diffusers", *more, *_known(more)))
        assert result.stdout.split() == ["pipeline:", str(target)]
        loaded = quiet(RDDMPipeline.from_pretrained(target))
        asked: dict[str, Any] = {"generator": seeded(0), "output_type": "pt", "num_inference_steps": 3}
        expected = FastSampler(diffusion, steps=3)(x, generator=seeded(0))
        torch.testing.assert_close(loaded(x, **asked).images, expected, rtol=0, atol=1e-5)


def _ema(diffusion: ResidualDiffusion) -> dict[str, Tensor]:
    return {f"ema_model.{name}": value for name, value in diffusion.state_dict().items()}


def _known(more: tuple[str, ...]) -> tuple[str, ...]:
    return ("--no-path-independent",) if more else ()


def test_convert_names_what_it_cannot_write(tmp_path: Path) -> None:
    assert "there is no model folder" in error_of(run("convert", "nowhere", "-o", tmp_path, "--to", "diffusers"))
