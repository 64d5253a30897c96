"""Presets: the published experiments, and how the built-in models were trained."""

import json
from dataclasses import asdict, fields, replace

import pytest

from rddm_fast.models.folder import MODELS, built_in_models, described, load_model
from rddm_fast.training.aosa import AutoObjective
from rddm_fast.training.from_settings import model_of
from rddm_fast.training.presets import preset
from rddm_fast.training.settings import (
    RunSettings,
    SettingsError,
)

# size, batch size, steps, networks, objective, loss, schedule, optimiser, optimisers, rate, own times, sampling steps
PUBLISHED = {
    "deraining": (256, 1, 120_000, "two", "pred_res_noise", "l1", "triangular", "adam", "one", 8e-5, False, 10),
    "lowlight": (256, 1, 80_000, "one", "auto", "l1", "ddim", "adam", "one", 8e-5, False, 2),
    "inpainting": (64, 64, 100_000, "two", "pred_res_noise", "l2", "power", "radam", "each", 2e-4, True, 10),
    "translation": (64, 64, 100_000, "two", "pred_res_noise", "l2", "ddim", "radam", "each", 2e-4, True, 10),
    "generation": (64, 128, 100_000, "two", "pred_res_noise", "l2", "power", "radam", "each", 2e-4, False, 10),
    "path_independent": (64, 128, 100_000, "two", "pred_res_noise", "l2", "ddim", "radam", "each", 2e-4, True, 10),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_experiments(name: str) -> None:
    settings = RunSettings.of(preset(name))
    m, d, t = settings.model, settings.data, settings.train
    of_it = (d.size, t.batch_size, t.steps, m.networks, m.objective, m.loss_type, m.schedule)
    assert (*of_it, t.optimizer, t.optimizers, t.lr, m.path_independent, m.sampling_timesteps) == PUBLISHED[name]
    assert (m.dim, m.mults, m.timesteps, m.sum_scale, m.clip_res) == (64, (1, 2, 4, 8), 1000, 1.0, 1.0)
    assert (t.accumulate, t.grad_clip, t.lr_schedule, t.warmup) == (2, 1.0, "constant", 0)
    assert (t.ema, t.ema_decay, t.ema_every, t.lam, t.weight_decay) == ("published", 0.995, 10, 0.5, 0.0)
    assert t.betas == ((0.9, 0.99) if t.optimizer == "adam" else (0.9, 0.999))
    assert d.equalize_input == (name == "lowlight") and d.patch is None
    kinds = {"inpainting": "translate", "translation": "translate"}
    assert m.kind == kinds.get(name, "restore" if m.loss_type == "l1" else "generate")


def preset_of(model: str) -> str:
    return model if model.startswith("prior-") else f"photos-{model}"


@pytest.mark.parametrize(("name", "model"), [(preset_of(model), model) for model in built_in_models()])
def test_the_built_in_models_presets_are_how_they_were_trained(name: str, model: str) -> None:
    settings, built_in = RunSettings.of(preset(name)), load_model(model)
    degradation = None if settings.model.kind == "generate" else settings.data.degradation
    untrained = model_of(settings.model, built_in.input_condition, settings.data.side, degradation)
    assert not isinstance(untrained, AutoObjective)
    ours, theirs = described(untrained), described(built_in)
    common = ours["network"].keys() & theirs["network"].keys()
    for described_model in (ours, theirs):
        described_model["network"] = {key: described_model["network"][key] for key in common}
    assert json.loads(json.dumps(ours)) == theirs
    info = json.loads((MODELS / model / "config.json").read_text())["info"]
    bound = [
        f.name for f in fields(settings.train) if not f.metadata["free"]
    ]  # the weights do not depend on the others
    trained = {key: value for key, value in info["training"].items() if key in bound}
    now = json.loads(json.dumps(asdict(settings.train)))
    assert {key: now[key] for key in trained} == trained
    assert info["task"] == ("generation" if settings.model.kind == "generate" else settings.data.degradation)


def test_an_unknown_preset_names_those_that_there_are() -> None:
    with pytest.raises(SettingsError, match="there is no preset 'derain': choose one of deraining, lowlight"):
        preset("derain")


def test_the_default_network_is_that_of_the_built_in_models() -> None:
    built_in = RunSettings.of(preset("photos-denoise")).model
    assert replace(RunSettings.of().model, sampling_timesteps=built_in.sampling_timesteps) == built_in
