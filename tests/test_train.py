"""Training: it learns, it can be interrupted, and what it writes loads."""

from __future__ import annotations

import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import images, small_model
from torch.utils.data import Dataset

from rddm_fast import compat
from rddm_fast.checkpoint import load_model
from rddm_fast.schedule import Schedule
from rddm_fast.train import Interrupted, Progress, Trainer, TrainSettings

SETTINGS = TrainSettings(steps=8, batch_size=2, warmup=2, lr=1e-3, ema_decay=0.9)


class Pairs(Dataset[dict[str, Any]]):
    """Darkened images beside the images, item i from the seed i."""

    def __init__(self, length: int = 1000) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        target = images(3, 16, 16, seed=index)
        return {"target": target, "input": target * 0.3, "name": str(index)}


def trainer(folder: Path, settings: TrainSettings = SETTINGS) -> Trainer:
    return Trainer(small_model("pred_res", clip_res=2.0), Pairs(), folder, settings, info={"task": "test"})


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {**of.diffusion.state_dict(), **{f"ema.{k}": v for k, v in of.ema.state_dict().items()}}


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_the_same_bits(received: signal.Signals, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole")
    whole.train()

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), received)

    with pytest.raises(Interrupted, match="stopped at step 3 of 8: the same command goes on from it"):
        trainer(tmp_path / "cut").train(interrupt)
    again = trainer(tmp_path / "cut")
    assert again.step == 3
    again.train()
    ours, theirs = weights(again), weights(whole)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert signal.getsignal(received) is not None and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """`save_every` seconds apart: with 0, after every step."""
    settings = replace(SETTINGS, steps=4)
    whole = trainer(tmp_path / "whole", settings)
    whole.train()

    def die(progress: Progress) -> None:
        if progress.step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path / "cut", replace(settings, save_every=0.0)).train(die)
    again = trainer(tmp_path / "cut", settings)
    assert again.step == 2
    again.train()
    ours, theirs = weights(again), weights(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_self_conditioned_run_is_the_same_again(tmp_path: Path) -> None:
    """Half of its steps are conditioned on an own estimate: which ones follows from the seed and the step."""
    settings = replace(SETTINGS, steps=2)
    runs = []
    for seed in (1, 2):  # of Python's generator, which training does not own
        random.seed(seed)
        run = Trainer(small_model("pred_res", self_condition=True), Pairs(), tmp_path / str(seed), settings)
        run.train()
        runs.append(weights(run))
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


@pytest.mark.parametrize(
    ("objective", "options"),
    [("pred_res", {"input_condition": True}), ("pred_noise", {"condition": False, "image_size": 16})],
    ids=["mask", "generation"],
)
def test_other_kinds_of_models_are_trained(objective: str, options: dict[str, Any], tmp_path: Path) -> None:
    class WithMask(Pairs):
        def __getitem__(self, index: int) -> dict[str, Any]:
            item = super().__getitem__(index)
            mask = (item["target"][:1] > 0.5).float()  # one channel serves all three
            return {**item, "mask": mask} if options.get("condition", True) else {"target": item["target"]}

    diffusion = small_model(objective, **options)
    before = {name: value.clone() for name, value in diffusion.model.state_dict().items()}
    Trainer(diffusion, WithMask(), tmp_path, replace(SETTINGS, steps=2)).train()
    after = load_model(tmp_path / "model")
    assert after.input_condition == diffusion.input_condition and after.condition == diffusion.condition
    assert all(not torch.equal(value, before[name]) for name, value in diffusion.model.state_dict().items())


def test_a_model_of_the_published_class_is_trained_too(tmp_path: Path) -> None:
    network = compat.UnetRes(16, dim_mults=(1, 2), share_encoder=-1, condition=True)
    diffusion = compat.ResidualDiffusion(network, image_size=16, objective="pred_res", condition=True)
    run = Trainer(diffusion, Pairs(), tmp_path, replace(SETTINGS, steps=2))
    run.train()
    assert run.step == 2 and load_model(tmp_path / "model").objective.name == "pred_res"


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    seen: list[Progress] = []
    again = trainer(tmp_path)
    again.train(seen.append)
    assert not seen and again.step == 8


def test_what_is_exported_is_the_average_in_float16(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    folder = run.train()
    model = load_model(folder)
    averaged = run.ema.module.model.state_dict()
    for name, value in model.model.state_dict().items():
        assert torch.equal(value, averaged[name].half().float()), name
    changed = [not torch.equal(value, run.diffusion.model.state_dict()[name]) for name, value in averaged.items()]
    assert all(changed)
    assert (model.clip_res, model.sampling_timesteps, model.objective.name) == (2.0, 3, "pred_res")


def test_the_average_follows_its_definition(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    name = "model.unet0.final_conv.weight"
    average = run.diffusion.state_dict()[name].double()  # n = 0 copies
    expected = None
    batches = iter(run._batches())
    for n in range(4):
        run._step(next(batches))
        now = run.diffusion.state_dict()[name].double()
        decay = min(0.9, (1 + n) / (10 + n))
        expected = now if n == 0 else decay * average + (1 - decay) * now
        average = expected
    assert expected is not None
    torch.testing.assert_close(run.ema.module.state_dict()[name].double(), expected, rtol=1e-5, atol=1e-7)


def test_another_run_s_folder_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path).train()
    with pytest.raises(ValueError, match=r"was trained with lr=0\.001, not 0\.002: use its settings to go on"):
        trainer(tmp_path, TrainSettings(steps=8, batch_size=2, warmup=2, lr=2e-3, ema_decay=0.9))


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("one_step")
    trainer(folder, replace(SETTINGS, steps=1)).train()
    return folder


@pytest.mark.parametrize(
    "other",
    [
        {"objective": "pred_x0"},
        {"objective": "pred_res_noise"},
        {"schedule": Schedule.power(1000, 1.0)},
        {"path_independent": True},
        {"loss_type": "l2"},
    ],
    ids=["objective", "networks", "schedule", "times", "loss"],
)
def test_another_model_s_folder_is_refused(other: dict[str, Any], one_step: Path) -> None:
    diffusion = small_model(**{"objective": "pred_res", "clip_res": 2.0, **other})
    with pytest.raises(ValueError, match=r"checkpoint\.pt") as raised:
        Trainer(diffusion, Pairs(), one_step, replace(SETTINGS, steps=1))
    assert "\n" not in str(raised.value)


def test_a_damaged_checkpoint_is_named_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"checkpoint\.pt") as raised:
        trainer(tmp_path)
    assert "\n" not in str(raised.value)


def test_the_rate_without_a_warmup_and_after_the_end() -> None:
    assert TrainSettings(steps=10, warmup=0).lr_at(0) == 1.0
    assert TrainSettings(steps=10, warmup=0).lr_at(5) == pytest.approx(0.5)
    assert TrainSettings(steps=10, warmup=2).lr_at(25) == pytest.approx(0.0)
    assert TrainSettings(steps=10, warmup=10).lr_at(9) == 1.0


def test_the_reported_loss_is_the_mean_of_the_steps_so_far(tmp_path: Path) -> None:
    reports: list[Progress] = []
    trainer(tmp_path / "a", replace(SETTINGS, steps=3)).train(reports.append)
    again = trainer(tmp_path / "b", replace(SETTINGS, steps=3))
    losses = [again._step(batch) for batch in again._batches()]
    assert [r.step for r in reports] == [1, 2, 3] and all(r.images_per_second > 0 for r in reports)
    means = [sum(losses[: n + 1]) / (n + 1) for n in range(3)]
    assert [r.loss for r in reports] == pytest.approx(means, rel=1e-6)


def test_the_rate_rises_and_falls_as_a_cosine() -> None:
    settings = TrainSettings(steps=1100, warmup=100)
    at = [settings.lr_at(step) for step in (0, 49, 99, 100, 600, 1100)]
    assert at == pytest.approx([0.01, 0.5, 1.0, 1.0, 0.5, 0.0])


def test_it_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    settings = TrainSettings(steps=60, batch_size=4, warmup=5, lr=3e-3)
    run = trainer(tmp_path, settings)
    run.train(lambda progress: losses.append(progress.loss))
    first = losses[0]
    recent = 60 * losses[59] - 50 * losses[49]  # the mean so far, of fewer than 100, undone
    assert recent / 10 < 0.5 * first

    x = Pairs()[999]
    restored = load_model(tmp_path / "model").sample(x["input"][None])[-1][0]
    assert (restored - x["target"]).abs().mean() < 0.5 * (x["input"] - x["target"]).abs().mean()
