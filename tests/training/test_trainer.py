"""Training: it learns, it can be interrupted, and what it writes loads."""

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import train_worker
from commands import launched
from small_models import assert_same_bits, published_model, small_model
from train_worker import SETTINGS, Pairs, trained, trainer, weights

from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model
from rddm_fast.theory.schedule import Schedule
from rddm_fast.training.batches import batches
from rddm_fast.training.log import read_log
from rddm_fast.training.settings import SettingsError, TrainSettings
from rddm_fast.training.trainer import Interrupted, Progress, Trainer


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_ends_at_the_same_bits(received: signal.Signals, tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole")

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            os.kill(os.getpid(), received)

    with pytest.raises(Interrupted, match="stopped at step 3 of 8: run the same command again to resume"):
        trainer(tmp_path / "cut").train(interrupt)
    again = trainer(tmp_path / "cut")
    assert again.step == 3
    again.train()
    assert_same_bits(weights(again), weights(whole))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.mark.parametrize("received", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_to_the_workers_too_stops_a_run_as_well(received: signal.Signals, tmp_path: Path) -> None:
    """As Ctrl-C, `timeout` and batch systems send it. A worker that died of it would fail the run."""
    others = set(multiprocessing.active_children())  # of tests before this one

    def interrupt(progress: Progress) -> None:
        if progress.step == 3:
            workers = set(multiprocessing.active_children()) - others
            assert len(workers) == 2
            for pid in (*(worker.pid for worker in workers), os.getpid()):
                os.kill(pid, received)

    with pytest.raises(Interrupted, match="stopped at step 3 of 8"):
        trainer(tmp_path, replace(SETTINGS, workers=2)).train(interrupt)
    assert trainer(tmp_path).step == 3


def test_a_run_that_dies_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    """`save_every` seconds apart: with 0, after every step."""
    settings = replace(SETTINGS, steps=4)
    whole = trained(tmp_path / "whole", settings)

    def die(progress: Progress) -> None:
        if progress.step == 3:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        trainer(tmp_path / "cut", replace(settings, save_every=0.0)).train(die)
    again = trainer(tmp_path / "cut", settings)
    assert again.step == 2
    again.train()
    assert_same_bits(weights(again), weights(whole))


def test_a_self_conditioned_run_is_the_same_again(tmp_path: Path) -> None:
    """Half of its steps are conditioned on an own estimate: which ones follows from the seed and the step."""
    settings = replace(SETTINGS, steps=2)
    runs = []
    for seed in (1, 2):  # Python's generator, on which training must not depend
        random.seed(seed)
        runs.append(weights(trained(tmp_path / str(seed), settings, small_model("pred_res", self_condition=True))))
    assert_same_bits(*runs)


@pytest.mark.parametrize(
    ("objective", "options"),
    [("pred_res", {"input_condition": True}), ("pred_noise", {"condition": False, "image_size": 16})],
    ids=["mask", "generation"],
)
def test_other_kinds_of_models_are_trained(objective: str, options: dict[str, Any], tmp_path: Path) -> None:
    diffusion = small_model(objective, **options)
    before = {name: value.clone() for name, value in diffusion.model.state_dict().items()}
    dataset = Pairs(masks="input_condition" in options)
    Trainer(diffusion, dataset, tmp_path, replace(SETTINGS, steps=2, sample_every=2, samples=3)).train()
    rows = 3 if diffusion.condition else 1
    assert read_image(tmp_path / "samples" / "step-00000002.png").pixels.shape == (3, 18 * rows - 2, 18 * 3 - 2)
    after = load_model(tmp_path / "model")
    assert after.input_condition == diffusion.input_condition and after.condition == diffusion.condition
    assert all(not torch.equal(value, before[name]) for name, value in diffusion.model.state_dict().items())


def test_a_model_of_the_published_class_is_trained_too(tmp_path: Path) -> None:
    run = trained(tmp_path, replace(SETTINGS, steps=2), published_model({"share_encoder": -1}, objective="pred_res"))
    assert run.step == 2 and load_model(tmp_path / "model").objective.name == "pred_res"


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    trained(tmp_path)
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
        assert not torch.equal(averaged[name], run.diffusion.model.state_dict()[name]), name
    assert (model.clip_res, model.sampling_timesteps, model.objective.name) == (2.0, 3, "pred_res")


def test_another_run_s_folder_is_refused(tmp_path: Path) -> None:
    trained(tmp_path)
    with pytest.raises(ValueError, match=r"was trained with lr=0\.001, not 0\.002: use its settings to resume"):
        trainer(tmp_path, replace(SETTINGS, lr=2e-3))
    harmless = replace(SETTINGS, save_every=1.0, log_every=3, keep=5)  # no weight depends on it
    assert trainer(tmp_path, harmless).step == 8


@pytest.fixture(scope="module")
def one_step(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of one step."""
    folder = tmp_path_factory.mktemp("one_step")
    trained(folder, replace(SETTINGS, steps=1))
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
    with pytest.raises(ValueError, match=r"checkpoint-00000001\.pt is of another model") as raised:
        trainer(one_step, replace(SETTINGS, steps=1), diffusion)
    assert "\n" not in str(raised.value)


def test_the_reported_loss_is_the_mean_of_the_steps_so_far(tmp_path: Path) -> None:
    reports: list[Progress] = []
    trainer(tmp_path / "a", replace(SETTINGS, steps=3)).train(reports.append)
    again = trainer(tmp_path / "b", replace(SETTINGS, steps=3))
    losses = [again.phase.advance(b)[0] for b in batches(Pairs(), replace(SETTINGS, steps=3), 0, (0, 1))]
    assert [r.step for r in reports] == [1, 2, 3] and all(r.images_per_second > 0 for r in reports)
    means = [sum(losses[: n + 1]) / (n + 1) for n in range(3)]
    assert [r.loss for r in reports] == pytest.approx(means, rel=1e-6)


def test_it_learns(tmp_path: Path) -> None:
    losses: list[float] = []
    settings = TrainSettings(steps=60, batch_size=4, warmup=5, lr=3e-3, plot=False)
    run = trainer(tmp_path, settings)
    run.train(lambda progress: losses.append(progress.loss))
    recent = 60 * losses[59] - 50 * losses[49]  # a loss is the mean so far: this is the sum of the last ten
    assert recent / 10 < 0.5 * losses[0]

    x = Pairs()[999]
    restored = load_model(tmp_path / "model").sample(x["input"][None])[-1][0]
    assert (restored - x["target"]).abs().mean() < 0.5 * (x["input"] - x["target"]).abs().mean()


def test_what_does_not_go_together_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"train\.optimizers 'each' is for two networks"):
        trainer(tmp_path, replace(SETTINGS, optimizers="each"))
    if not torch.cuda.is_available():
        with pytest.raises(SettingsError, match=r"train\.precision float16 needs a GPU"):
            trainer(tmp_path, replace(SETTINGS, precision="float16"))
    with pytest.raises(SettingsError, match=r"train\.batch_size is 2, which 3 processes cannot share evenly"):
        next(batches(Pairs(), SETTINGS, 0, (0, 3)))


def test_two_processes_resume(tmp_path: Path) -> None:
    """accelerate calls their device cpu:0, to which torch cannot load."""
    settings = {"steps": 3, "batch_size": 2, "save_every": 0.0, "keep": 3, "plot": False}
    command = (train_worker.__file__, tmp_path, "pred_res", "--settings", json.dumps(settings))
    launched(2, *command)
    whole = torch.load(tmp_path / "pred_res" / "weights.pt", weights_only=True)
    (tmp_path / "pred_res" / "checkpoint-00000003.pt").unlink()
    launched(2, *command)
    assert_same_bits(torch.load(tmp_path / "pred_res" / "weights.pt", weights_only=True), whole)


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    objectives = ("pred_res", "pred_res_noise")
    settings = {"steps": 3, "batch_size": 4, "accumulate": 2, "warmup": 0, "lr": 1e-4, "plot": False}
    launched(2, train_worker.__file__, tmp_path, *objectives, "--settings", json.dumps(settings))
    for objective in objectives:
        run = trained(tmp_path / "one" / objective, TrainSettings(**settings), small_model(objective))
        two = torch.load(tmp_path / objective / "weights.pt", weights_only=True)
        one, start = weights(run), small_model(objective).state_dict()
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert max(float((one[name] - value).abs().max()) for name, value in start.items()) > 10 * 1e-5
        ours, theirs = (read_log(folder / objective / "log.jsonl") for folder in (tmp_path, tmp_path / "one"))
        assert len(ours) == len(theirs) == 1  # one process writes the log for both
        assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)
