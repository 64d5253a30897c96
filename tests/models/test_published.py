"""Published models: objects of the published class, here with its attributes alone, and training checkpoints."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import Golden, golden_cases
from small_models import assert_same_bits, assert_same_images, images, seeded, small_model
from torch import Tensor, nn

from rddm_fast.compat import UnetRes
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.fast import FastSampler
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.models.published import MissingArgument, ModelError, from_published, load_published, recognised
from rddm_fast.theory.schedule import Schedule

SETTINGS = {"condition": True, "input_condition": False, "input_condition_mask": False, "self_condition": False}


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

    def model_predictions(self, x_input: Any, x: Tensor, t: Tensor, x_input_condition: Any = 0) -> None:
        given = [image for image in (x, x_input, x_input_condition) if isinstance(image, Tensor)]
        if self.times == "coefficients":
            seen: Any = [self.alphas_cumsum[t] * self.num_timesteps, self.betas_cumsum[t] * self.num_timesteps]
        else:
            seen = [t, t] if self.times == "two" else t * (3 if self.times == "foreign" else 1)
        self.model(torch.cat(given, dim=1), seen)


@pytest.mark.parametrize("golden", golden_cases("sample"))
def test_the_published_images_come_out(golden: Golden) -> None:
    model = golden.model()
    names = ("condition", "sampling_timesteps", "image_size", "ddim_sampling_eta")
    settings = {"objective": golden.case["objective"], **{name: getattr(model, name) for name in names}}
    recorded = golden.numbered("image")
    found = FastSampler(PublishedLike(model.model, model.schedule, test_res_or_noise="None", **settings)).sample(
        golden.tensors.get("x_input"), batch_size=2, draws=golden.numbered("noise"), every_step=True
    )
    torch.testing.assert_close(found, recorded, rtol=0, atol=1e-4)


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
    sentence = "gives its networks the time .* at t = 500, which is neither t nor alpha_bar_t"
    with pytest.raises(ModelError, match=sentence):
        FastSampler(theirs("foreign"))


def test_the_published_object_stays_as_it_was() -> None:
    diffusion = theirs()
    before = {name: value.clone() for name, value in diffusion.state_dict().items()}
    FastSampler(diffusion)(images(1, 3, 16, 16))
    assert not diffusion.model._forward_pre_hooks
    assert_same_bits(diffusion.state_dict(), before)


def test_eta_of_a_restoring_object_is_zero_as_published() -> None:
    assert from_published(theirs(ddim_sampling_eta=1.0)).eta == 0


def test_anything_else_is_refused() -> None:
    with pytest.raises(ModelError, match="Linear is not an RDDM diffusion object, it has no attribute 'model': pass a"):
        FastSampler(nn.Linear(2, 2))
    network = theirs()
    network.model = nn.Conv2d(6, 3, 1)
    with pytest.raises(ModelError, match="not an RDDM U-Net"):
        FastSampler(network)


def published(path: Path, diffusion: ResidualDiffusion, generation: str, raw: ResidualDiffusion | None = None) -> Path:
    """A training checkpoint as the published trainers write it; `raw` are the weights that are not averaged."""
    online = (raw or diffusion).state_dict()
    newer = generation == "newer"
    ema = {
        "initted": torch.tensor(True) if newer else torch.tensor([1.0]),
        "step": torch.tensor(8) if newer else torch.tensor([8]),
        **{f"online_model.{name}": value for name, value in online.items()},
        **{f"ema_model.{name}": value for name, value in diffusion.state_dict().items()},
    }
    first = torch.zeros_like(next(diffusion.parameters()))
    optimiser = {
        "state": {0: {"step": torch.tensor(8.0), "exp_avg": first, "exp_avg_sq": first}},
        "param_groups": [{"lr": 8e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "params": [0]}],
    }
    opts = {"older": {"opt": optimiser}, "newer": {"opt0": optimiser, "opt1": optimiser}}[generation]
    torch.save({"step": 80_000, "model": online, **opts, "ema": ema, "scaler": None}, path)
    return path


KNOWN = {"objective": "pred_res_noise", "path_independent": False}
"""What a checkpoint of two networks does not store."""
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "two": ({}, {}),
    "shared": ({"networks": "shared"}, {}),
    "one": ({"objective": "pred_res"}, {}),
    "mask": ({"input_condition": True}, {"input_condition": True}),
    "self": ({"self_condition": True}, {"self_condition": True}),
    "generation": ({"condition": False}, {"condition": False}),
    "power": ({"schedule": Schedule.power(1000, 0.01)}, {}),
    "own schedule": ({"schedule": Schedule.resshift(100)}, {}),
}


@pytest.mark.parametrize("generation", ["older", "newer"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_published_checkpoint_gives_its_model_s_images(kind: str, generation: str, tmp_path: Path) -> None:
    options, arguments = KINDS[kind]
    diffusion = small_model(**options, sampling_timesteps=2)
    path = published(tmp_path / "model-80.pt", diffusion, generation, raw=small_model(**options, seed=9))
    objective = options.get("objective", "pred_res_noise")
    loaded = load_published(path, objective=objective, path_independent=False, image_size=16, **arguments)
    assert_same_bits(loaded.model.state_dict(), diffusion.model.state_dict())
    for name in ("alphas_cumsum", "betas_cumsum"):
        torch.testing.assert_close(getattr(loaded, name), getattr(diffusion, name), rtol=1e-5, atol=1e-6)

    inputs = [images(2, 3, 16, 16)] if diffusion.condition else [None]
    if kind == "mask":
        inputs.append(images(2, 3, 16, 16, seed=2))
    runs = [m.sample(*inputs, batch_size=2, sampling_timesteps=2, generator=seeded(0))[-1] for m in (loaded, diffusion)]
    torch.testing.assert_close(*runs, rtol=0, atol=1e-5)

    save_model(tmp_path / "ours", loaded)
    again = load_model(tmp_path / "ours")
    assert_same_bits(again.state_dict(), loaded.state_dict())
    assert again.schedule.recipe == loaded.schedule.recipe
    assert again.schedule.sum_scale == loaded.schedule.sum_scale


def test_a_translating_model_is_told_from_a_generating_one(tmp_path: Path) -> None:
    diffusion = small_model(img_to_img_translation=True, schedule=Schedule.power(1000, 1.0))
    path = published(tmp_path / "m.pt", diffusion, "newer")
    with pytest.raises(ModelError, match=r"pass condition= \(False to generate, True to translate\)"):
        load_published(path, **KNOWN)
    loaded = load_published(path, condition=True, **KNOWN)
    assert loaded.img_to_img_translation
    assert_same_images(loaded, diffusion)
    generating = load_published(path, condition=False, image_size=8, **KNOWN)
    assert not generating.img_to_img_translation
    assert generating.sample(batch_size=2, sampling_timesteps=1)[0].shape == (2, 3, 8, 8)


@pytest.mark.parametrize("known", [{"self_condition": True}, {"input_condition": True}])
def test_two_images_of_which_one_is_known_are_still_ambiguous(known: dict[str, Any], tmp_path: Path) -> None:
    """Besides the previous estimate or the mask, the network sees I_t: the model may generate, or translate."""
    diffusion = small_model(condition=False, **known)
    path = published(tmp_path / "m.pt", diffusion, "newer")
    known = {**KNOWN, **known}
    generating = load_published(path, condition=False, image_size=16, **known)
    assert not generating.condition and not generating.img_to_img_translation
    with pytest.raises(ModelError, match=r"pass condition= "):
        load_published(path, **known)


def test_path_independent_networks_get_their_own_times(tmp_path: Path) -> None:
    diffusion = small_model(condition=False, path_independent=True, schedule=Schedule.from_ddim(1000))
    path = published(tmp_path / "m.pt", diffusion, "newer")
    loaded, other = (
        load_published(path, objective="pred_res_noise", path_independent=own, condition=False, image_size=16)
        for own in (True, False)
    )
    I_t, t = images(1, 3, 16, 16) * 2 - 1, torch.tensor([700])
    with torch.no_grad():
        outputs = [model.outputs(I_t, t) for model in (diffusion, loaded, other)]
    torch.testing.assert_close(outputs[1], outputs[0], rtol=0, atol=1e-5)
    assert not any(torch.allclose(*both, rtol=0, atol=1e-3) for both in zip(outputs[2], outputs[0], strict=True))
    assert loaded.schedule.recipe == Schedule.from_ddim(1000).recipe


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_wrappers_prefixes_do_not_matter(prefix: str, tmp_path: Path) -> None:
    """The prefixes of DistributedDataParallel and torch.compile, nested ones too."""
    diffusion = small_model("pred_res")
    state = diffusion.state_dict()
    content = {
        "model": {f"{prefix}{name}": value for name, value in state.items()},
        "ema": {f"ema_model.{prefix}{name}": value for name, value in state.items()},
    }
    torch.save(content, tmp_path / "m.pt")
    for weights in ("model", "ema"):
        loaded = load_published(tmp_path / "m.pt", objective="pred_res", path_independent=False, weights=weights)
        assert_same_bits(loaded.model.state_dict(), diffusion.model.state_dict())


@pytest.mark.parametrize(("alpha_res", "objective"), [(0.52, "pred_res"), (0.0, "pred_noise"), (0.504, None)])
def test_the_learnt_weight_of_automatic_selection_says_the_objective(
    alpha_res: float, objective: str | None, tmp_path: Path
) -> None:
    """It is not a weight of the network. Within the threshold of 1/2 it decides nothing."""
    diffusion = small_model(objective or "pred_res")
    content = {"model": {"alpha_res": torch.tensor([alpha_res]), **diffusion.state_dict()}}
    torch.save(content, tmp_path / "m.pt")
    given = {"path_independent": False, "weights": "model"}
    if objective is None:
        with pytest.raises(MissingArgument, match="does not store objective"):
            load_published(tmp_path / "m.pt", **given)
    loaded = load_published(tmp_path / "m.pt", objective=None if objective else "pred_res", **given)
    assert_same_images(loaded, diffusion)


def test_a_checkpoint_cut_short_is_named_in_one_sentence(tmp_path: Path) -> None:
    path = published(tmp_path / "m.pt", small_model(), "older")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ModelError, match=r"m\.pt cannot be read as a checkpoint") as raised:
        load_published(path, **KNOWN)
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="there is no file"):
        load_published(tmp_path / "n.pt", **KNOWN)


def test_the_raw_weights_on_request(tmp_path: Path) -> None:
    averaged, raw = small_model(), small_model(seed=9)
    path = published(tmp_path / "m.pt", averaged, "older", raw)
    loaded = load_published(path, **KNOWN, weights="model")
    assert torch.equal(loaded.model.unet0.init_conv.weight, raw.model.unet0.init_conv.weight)


@pytest.mark.parametrize(
    ("options", "arguments", "sentence"),
    [
        ({}, {}, "does not store objective: pass objective="),
        ({}, {"objective": "pred_res_noise"}, "does not store path_independent: pass path_independent="),
        ({"condition": False}, KNOWN, "pass condition= "),
        ({"input_condition": True}, KNOWN, "pass input_condition"),
        ({}, {**KNOWN, "condition": False}, "do not add up"),
        ({}, {**KNOWN, "weights": "best"}, "'ema' or 'model'"),
        ({}, {**KNOWN, "objective": "pred_rse"}, "unknown objective 'pred_rse': choose one of"),
        ({"objective": "pred_res"}, KNOWN, "needs 2 outputs, but the model has 1"),
    ],
)
def test_what_a_checkpoint_does_not_store_is_asked_for(
    options: dict[str, Any], arguments: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = published(tmp_path / "m.pt", small_model(**options), "older")
    with pytest.raises(ValueError, match=re.escape(sentence)):
        load_published(path, **arguments)


class _Attack:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_a_checkpoint_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    torch.save({"ema": _Attack(tmp_path / "pwned")}, tmp_path / "m.pt")
    with pytest.raises(ModelError, match="holds more than tensors and plain values and is not loaded"):
        load_published(tmp_path / "m.pt", objective="pred_res", path_independent=False)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a checkpoint", "m.pt"),
        ({"weights": 1}, "is not a published training checkpoint: it has no entry 'ema'"),
        ([torch.zeros(1)], "is not a published training checkpoint"),
        ({"ema": None}, "holds no weights under 'ema'"),
        ({"ema": {"step": torch.tensor(1)}}, "holds no weights under 'ema'"),
        ({"ema": {"ema_model.model.conv.weight": torch.zeros(1)}}, "is not an RDDM U-Net"),
    ],
)
def test_other_files_are_named(content: Any, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ModelError, match=sentence) as raised:
        load_published(path, objective="pred_res", path_independent=False)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schedule", [Schedule.triangular(1000, 0.01), Schedule.power(500, 1.0), Schedule.from_ddim(1000)]
)
def test_published_schedules_are_recognised_from_float32_tables(schedule: Schedule) -> None:
    found = recognised(*(torch.from_numpy(table).float() for table in (schedule.alpha_bar, schedule.beta_bar)))
    assert found.recipe == schedule.recipe


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.power(1000, 0.01, ("decreased", 2.0)),
        Schedule.triangular(100, 1.0, alpha="average"),
        Schedule.from_ddim(1000, "squaredcos_cap_v2"),
    ],
)
def test_other_schedules_are_kept_as_their_tables(schedule: Schedule) -> None:
    tables = [torch.from_numpy(table).float() for table in (schedule.alpha_bar, schedule.beta_bar)]
    found = recognised(*tables)
    assert found.recipe == {"family": "tables", "timesteps": schedule.timesteps}
    assert found.sum_scale == pytest.approx(float(schedule.beta_bar[-1]) ** 2, abs=5e-5)
    for ours, theirs in zip((found.alpha_bar, found.beta_bar), tables, strict=True):
        assert np.array_equal(ours, theirs.double().numpy())
