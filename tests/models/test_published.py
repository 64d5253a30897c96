"""Published training checkpoints: what they hold, what they do not store, and which experiment they are of."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_models import assert_same_bits, assert_same_images, images, seeded, small_model

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.models.errors import ModelError
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.models.published import load_published, recognised
from rddm_fast.theory.schedule import Schedule


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


KNOWN = {"objective": "pred_res_noise", "path_independent": False, "official_two_pass": False}
"""What a checkpoint of two networks, of no published experiment, does not store."""
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
    loaded = load_published(path, **{**KNOWN, "objective": objective}, image_size=16, **arguments)
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
        load_published(path, **{**KNOWN, "path_independent": own}, condition=False, image_size=16)
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
        loaded = load_published(tmp_path / "m.pt", **{**KNOWN, "objective": "pred_res"}, weights=weights)
        assert_same_bits(loaded.model.state_dict(), diffusion.model.state_dict())


@pytest.mark.parametrize(("alpha_res", "objective"), [(0.52, "pred_res"), (0.0, "pred_noise"), (0.5, "pred_noise")])
def test_the_learnt_weight_of_automatic_selection_says_the_objective(
    alpha_res: float, objective: str, tmp_path: Path
) -> None:
    """It is not a weight of the network. As published, 1/2 itself reads the noise."""
    diffusion = small_model(objective, schedule=Schedule.from_ddim(1000))
    content = {"opt0": {}, "model": {"alpha_res": torch.tensor([alpha_res]), **diffusion.state_dict()}}
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(ModelError, match=r"holds 'alpha_res', the weight by which AOSA .*: pass experiment='aosa'"):
        load_published(tmp_path / "m.pt", weights="model", objective=objective)
    assert_same_images(load_published(tmp_path / "m.pt", weights="model", experiment="aosa"), diffusion)


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
        (
            {},
            {},
            "does not store which published experiment it is of, and so not its time input and its sampling loop: "
            "pass experiment= ('path-independent', ",
        ),
        ({}, {"objective": "pred_res_noise"}, "pass experiment="),
        ({}, {"path_independent": False}, "does not store objective: pass objective="),
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
    with pytest.raises(ModelError) as raised:
        load_published(tmp_path / "m.pt", experiment="restoration")
    assert str(raised.value) == (
        f"{tmp_path / 'm.pt'} holds more than tensors (io.open) and is not loaded, because that could run code: save "
        "its state dicts alone, where you trust it"
    )
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
        load_published(path, experiment="restoration")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "schedule", [Schedule.triangular(1000, 0.01), Schedule.power(500, 1.0), Schedule.from_ddim(1000)]
)
def test_published_schedules_are_recognised_from_float32_tables(schedule: Schedule) -> None:
    assert recognised(schedule.buffers()).recipe == schedule.recipe


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule.power(1000, 0.01, ("decreased", 2.0)),
        Schedule.triangular(100, 1.0, alpha="average"),
        Schedule.from_ddim(1000, "squaredcos_cap_v2"),
    ],
)
def test_other_schedules_are_kept_as_their_tables(schedule: Schedule) -> None:
    state = schedule.buffers()
    tables = [state[name] for name in ("alphas_cumsum", "betas_cumsum")]
    found = recognised(state)
    assert found.recipe == {"family": "tables", "timesteps": schedule.timesteps}
    assert found.sum_scale == pytest.approx(float(schedule.beta_bar[-1]) ** 2, abs=5e-5)
    for ours, theirs in zip((found.alpha_bar, found.beta_bar), tables, strict=True):
        assert np.array_equal(ours, theirs.double().numpy())


def test_diffuir_s_schedule_is_recognised_with_its_delta() -> None:
    found = recognised(Schedule.diffuir(1000, 0.0018).buffers())
    assert found.recipe["family"] == "ddim" and found.recipe["delta_end"] == pytest.approx(0.0018)
    assert found.start_scale == pytest.approx(1 - 0.9005, abs=1e-4)


DIFFUIR = {"schedule": Schedule.diffuir(1000, 0.0018), "path_independent": True}
TRAINED: dict[str, dict[str, Any]] = {
    "path-independent": {"condition": False, "schedule": Schedule.from_ddim(1000), "path_independent": True},
    "restoration": {},
    "inpainting": {
        "img_to_img_translation": True,
        "schedule": Schedule.power(1000, 1.0),
        "path_independent": True,
    },
    "translation": {
        "img_to_img_translation": True,
        "schedule": Schedule.from_ddim(1000),
        "path_independent": True,
    },
    "generation": {"condition": False, "schedule": Schedule.power(1000, 1.0)},
    "diffuir": {"objective": "pred_res", "padding_factor": 4, **DIFFUIR},
}


@pytest.mark.parametrize("name", TRAINED)
def test_the_experiment_s_name_is_all_that_a_file_needs(name: str, tmp_path: Path) -> None:
    diffusion = small_model(**TRAINED[name], official_two_pass=name == "path-independent")
    path = published(tmp_path / "model-80.pt", diffusion, "older" if name == "restoration" else "newer")
    loaded = load_published(path, experiment=name, image_size=16)
    assert (loaded.path_independent, loaded.official_two_pass, loaded.objective) == (
        diffusion.path_independent,
        diffusion.official_two_pass,
        diffusion.objective,
    )
    # A model folder keeps all of it.
    save_model(tmp_path / "ours", loaded)
    given = [images(1, 3, 16, 16)] if diffusion.condition else []
    samplings = [
        model.sample(*given, batch_size=1, sampling_timesteps=2, generator=seeded(0))
        for model in (diffusion, loaded, load_model(tmp_path / "ours"))
    ]
    for other in samplings[1:]:
        torch.testing.assert_close(other, samplings[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "restoration"])
def test_a_file_of_the_later_generation_is_not_loaded_without_its_experiment(name: str, tmp_path: Path) -> None:
    path = published(tmp_path / "m.pt", small_model(**TRAINED[name]), "newer")
    own_settings = {"objective": "pred_res", "path_independent": True, "condition": True}
    with pytest.raises(ModelError, match=r"pass experiment="):
        load_published(path, **own_settings)


@pytest.mark.parametrize(
    ("trained", "named", "sentence"),
    [
        ("diffuir", "translation", "holds 'delta', the share of the degraded image .*: pass experiment='diffuir'"),
        ("diffuir", None, "holds 'delta', the share of the degraded image .*: pass experiment='diffuir'"),
        ("translation", "diffuir", "holds no 'delta', which experiment diffuir has"),
        ("translation", "aosa", "holds no 'alpha_res', which experiment aosa .folder 3. has"),
        ("translation", "inpainting", "has the ddim schedule, and experiment inpainting .folder 4. has the power one"),
        ("generation", 0, "has the power schedule, and experiment path-independent .folder 0. has the ddim one"),
        ("translation", "restoration", "is of the later generation .num_unet., which experiment restoration"),
        ("restoration", 6, "is of the earlier generation .share_encoder., which experiment generation"),
        ("translation", "ddim-conversion", "samples pipelines of diffusers: run rddm-fast ddim FOLDER"),
        ("translation", "dog to cat", "there is no experiment 'dog to cat': choose one of 'path-independent', "),
    ],
)
def test_another_experiment_than_the_file_s_is_refused(
    trained: str, named: str | int | None, sentence: str, tmp_path: Path
) -> None:
    generation = "older" if trained == "restoration" else "newer"
    path = published(tmp_path / "m.pt", small_model(**TRAINED[trained]), generation)
    with pytest.raises(ModelError, match=sentence):
        load_published(path, experiment=named)


@pytest.mark.parametrize(("name", "value"), [("path_independent", False), ("official_two_pass", True)])
def test_a_setting_that_contradicts_the_experiment_is_refused(name: str, value: bool, tmp_path: Path) -> None:
    path = published(tmp_path / "m.pt", small_model(**TRAINED["translation"]), "newer")
    with pytest.raises(ModelError, match=f"{name}={value} contradicts experiment translation .folder 5.: leave one"):
        load_published(path, experiment=5, **{name: value})


def test_a_buffer_that_no_published_model_has_is_refused(tmp_path: Path) -> None:
    diffusion = small_model()
    diffusion.register_buffer("gamma_cumsum", torch.zeros(1000))
    path = published(tmp_path / "m.pt", diffusion, "older")
    with pytest.raises(ModelError, match="holds 'gamma_cumsum', which no published RDDM model has"):
        load_published(path, experiment="restoration")
