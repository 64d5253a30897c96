"""Training the restorers of Cold Diffusion: the loss, the run, and the model that it writes."""

from __future__ import annotations

import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import assert_same_bits, images, seeded
from torch import Tensor
from train_worker import SETTINGS, Pairs, weights

from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.picture import read_image
from rddm_fast.inverse import cold
from rddm_fast.models.folder import load_cold_restorer
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.training.from_settings import trainer_of
from rddm_fast.training.log import read_log
from rddm_fast.training.losses import Draws, losses_of
from rddm_fast.training.settings import RunSettings, SettingsError, TrainSettings
from rddm_fast.training.trainer import Interrupted, Progress, Trainer


def restorer(name: str = "blur", T: int = 4, loss_type: str = "l1") -> ColdRestorer:
    torch.manual_seed(0)
    recipe = cold.Recipe.parsed(f"cold:{name}:{T}").values()
    return ColdRestorer(ResidualUnets(16, networks="one", dim_mults=[1, 2]), recipe, loss_type)


def truth(batch: int = 4) -> Tensor:
    return torch.stack([images(3, 16, 16, seed=i) for i in range(batch)]) * 2 - 1


@pytest.mark.parametrize("loss_type", ["l1", "l2"])
@pytest.mark.parametrize("name", cold.COLD)
def test_the_loss_is_the_distance_of_r_of_d_to_x_0(name: str, loss_type: str) -> None:
    model, x_0, T = restorer(name, loss_type=loss_type), truth(), 4
    losses = losses_of(model, 0.5)
    loss, parts = losses(x_0, None, None, draws=Draws(seeded(7), 0, 0, (0, 1)))

    generator, distances = seeded(7), []
    levels = torch.randint(1, T + 1, (4,), generator=generator).tolist()
    degradation = cold.named(name, 16, T, pictures=4, generator=generator)
    for i, s in enumerate(levels):  # picture by picture, each at its own level
        x_s = degradation.D(x_0, s)[i : i + 1]
        estimate = x_s + model.model(x_s, torch.tensor([s]))[0]
        difference = estimate - x_0[i : i + 1]
        distances.append((difference.abs() if loss_type == "l1" else difference.square()).mean())
    assert len(set(levels)) > 1 and losses.names == ["loss_x_0"]
    torch.testing.assert_close(loss, torch.stack(distances).mean(), rtol=1e-5, atol=1e-6)
    assert torch.equal(parts, loss[None])


@pytest.mark.parametrize("name", ["blur", "snow"])
def test_two_shares_make_the_whole_batch(name: str) -> None:
    losses, x_0 = losses_of(restorer(name), 0.5), truth()
    whole, _ = losses(x_0, None, None, draws=Draws(seeded(7), 0, 0, (0, 1)))
    halves = [losses(half, None, None, draws=Draws(seeded(7), 0, 0, (i, 2)))[0] for i, half in enumerate(x_0.chunk(2))]
    torch.testing.assert_close(torch.stack(halves).mean(), whole, rtol=1e-5, atol=1e-6)


def test_levels_are_drawn_from_1_to_t() -> None:
    first, end = losses_of(restorer(T=3), 0.5).times()
    drawn = Draws(seeded(0), 0, 0, (0, 1)).times(torch.zeros(200, 1), first, end)
    assert sorted(set(drawn.tolist())) == [1, 2, 3]


def trainer(folder: Path, settings: TrainSettings = SETTINGS, **options: Any) -> Trainer:
    return Trainer(restorer(**options), Pairs(), folder, settings, info={"task": "test"})


@pytest.mark.parametrize("name", ["blur", "snow"])
def test_an_interrupted_run_ends_at_the_same_bits(name: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, steps=4)
    whole = trainer(tmp_path / "whole", settings, name=name)
    whole.train()

    def interrupt(progress: Progress) -> None:
        if progress.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        trainer(tmp_path / "cut", settings, name=name).train(interrupt)
    again = trainer(tmp_path / "cut", settings, name=name)
    assert again.step == 2
    again.train()
    assert_same_bits(weights(again), weights(whole))


def test_another_degradation_s_folder_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, replace(SETTINGS, steps=1)).train()
    with pytest.raises(ValueError, match="is of another model"):
        trainer(tmp_path, replace(SETTINGS, steps=1), T=5)


class Colours(Pairs):
    """Images of one colour, which show through wherever they have not faded."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"target": images(3, 1, 1, seed=index).expand(3, 16, 16)}


def test_it_learns_and_what_it_writes_restores_the_same(tmp_path: Path) -> None:
    settings = TrainSettings(steps=40, batch_size=4, warmup=5, lr=3e-3, plot=False, sample_every=40, samples=3)
    model = restorer("fade")
    model.recipe["std"] = 1.0  # a spot of 8 pixels
    x_0 = torch.stack([Colours()[i]["target"] for i in range(500, 508)]) * 2 - 1

    def loss_of(of: ColdRestorer) -> float:
        return float(losses_of(of, 0.5)(x_0, None, None, draws=Draws(seeded(1), 0, 0, (0, 1)))[0].detach())

    before = loss_of(model)
    run = Trainer(model, Colours(), tmp_path, settings)
    folder = run.train()
    log = read_log(tmp_path / "log.jsonl")
    assert len(log) == 4 and all(line["loss_x_0"] == line["loss"] for line in log)
    assert read_image(tmp_path / "samples" / "step-00000040.png").pixels.shape == (3, 18 * 3 - 2, 18 * 3 - 2)

    loaded = load_cold_restorer(folder)
    averaged = run.ema.module
    assert isinstance(averaged, ColdRestorer) and loaded.recipe == averaged.recipe and loaded.loss_type == "l1"
    averaged.load_state_dict({name: value.half().float() for name, value in averaged.state_dict().items()})
    degradation = cold.Recipe.of(loaded.recipe).made((16, 16))
    x_T = degradation.start(x_0)
    ours, expected = (cold.sample(R, degradation, x_T) for R in (loaded, averaged))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)  # training's modules round otherwise
    assert loss_of(loaded) < 0.6 * before
    assert (ours - x_0).abs().mean() < 0.7 * (x_T - x_0).abs().mean()


def settings_of(**sections: Any) -> RunSettings:
    small = {"model": {"dim": 8, "mults": [1, 2]}, "train": {"steps": 1, "batch_size": 2, "plot": False}}
    return RunSettings.of(small, sections)


@pytest.mark.parametrize(
    ("data", "channels"),
    [
        ({"photos": PHOTOS, "degradation": "cold:fade:3", "patch": 16}, 3),
        ({"target": PHOTOS, "degradation": "cold:decolour", "patch": 16}, 3),
        ({"target": PHOTOS, "degradation": "cold:blur", "patch": None, "size": 16}, 3),
        ({"digits": True, "degradation": "cold:snow:3", "patch": 16}, 1),
    ],
    ids=["photos", "patches of targets", "whole targets", "digits"],
)
def test_every_source_of_clean_images_is_trained_on(data: dict[str, Any], channels: int, tmp_path: Path) -> None:
    run = trainer_of(settings_of(data=data, model={"channels": channels}), tmp_path)
    model = load_cold_restorer(run.train())
    name, _, T = data["degradation"].removeprefix("cold:").partition(":")
    assert (model.recipe["name"], model.channels) == (name, channels) and int(T or 20) == model.T
    info = json.loads((tmp_path / "model" / "config.json").read_text())["info"]
    assert info["task"] == data["degradation"] and info["training"]["trained_steps"] == 1


@pytest.mark.parametrize(
    ("data", "model", "sentence"),
    [
        ({"degradation": "cold:rain"}, {}, "unknown cold degradation 'rain': choose one of blur, resolution, fade"),
        ({"degradation": "cold:blur", "target": PHOTOS}, {}, "cold:blur degrades clean images itself: pass one of"),
        ({"degradation": "cold:blur", "input": PHOTOS}, {}, "cold:blur degrades clean images itself: pass one of"),
        ({"degradation": "cold:resolution:5", "patch": 16}, {}, "T may be 4 at most"),
        ({"degradation": "cold:blur", "patch": None}, {}, "cold:blur is made for one size: pass --patch or --size"),
        (
            {"degradation": "cold:blur"},
            {"networks": "two"},
            "Cold Diffusion, which has no model.networks: leave it out",
        ),
        ({"degradation": "cold:blur"}, {"kind": "generate"}, "Cold Diffusion, which has no model.kind: leave it out"),
        ({"degradation": "cold:decolour"}, {"channels": 1}, "it needs images of more than one channel"),
    ],
)
def test_what_does_not_go_together_is_one_sentence(
    data: dict[str, Any], model: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        trainer_of(settings_of(data={"photos": PHOTOS, **data}, model=model), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_networks_that_are_no_restorer_are_refused() -> None:
    recipe = cold.Recipe.parsed("blur").values()
    with pytest.raises(ValueError, match="a cold restorer is one network, not two"):
        ColdRestorer(ResidualUnets(8, dim_mults=[1], networks="two"), recipe)
    with pytest.raises(ValueError, match="sees the degraded image alone"):
        ColdRestorer(ResidualUnets(8, dim_mults=[1], networks="one", condition=True), recipe)
    with pytest.raises(ValueError, match="loss_type is 'huber': choose l1 or l2"):
        restorer(loss_type="huber")
    for s in (0, 5):
        with pytest.raises(ValueError, match=f"s is {s}: this restorer was trained on the levels 1 to 4"):
            restorer()(truth(), s)
    with pytest.raises(SettingsError, match=r"train\.optimizers 'each' is for two networks"):
        Trainer(restorer(), Pairs(), "unused", replace(SETTINGS, optimizers="each"))
