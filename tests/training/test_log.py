"""The log, its plot, and the trackers that are told the same."""

from dataclasses import replace
from pathlib import Path

import pytest
from commands import error_of, run
from train_worker import SETTINGS, trained

from rddm_fast.images.picture import read_image
from rddm_fast.training.log import read_log
from rddm_fast.training.settings import SettingsError

tracking = pytest.importorskip("accelerate.tracking")


def test_the_log_and_its_plot(tmp_path: Path) -> None:
    trained(tmp_path, replace(SETTINGS, log_every=3, plot=True), "pred_res_noise")
    records = read_log(tmp_path / "log.jsonl")
    assert [r["step"] for r in records] == [3, 6, 8] and all(r["phase"] == "training" for r in records)
    assert all(r["loss"] == pytest.approx(r["loss_res"] + r["loss_noise"], rel=1e-5) for r in records)
    assert records[0]["lr"] == pytest.approx(1e-3 * SETTINGS.lr_at(2))
    assert read_image(tmp_path / "loss.png").pixels.shape[0] == 3


def test_a_killed_run_s_log_has_no_line_twice_and_no_half_line(tmp_path: Path) -> None:
    settings = replace(SETTINGS, log_every=1, steps=4)
    trained(tmp_path, settings)
    first = read_log(tmp_path / "log.jsonl")
    with (tmp_path / "log.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    trained(tmp_path, settings)
    assert read_log(tmp_path / "log.jsonl") == first


def test_tensorboard_gets_the_numbers(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    trained(tmp_path, replace(SETTINGS, steps=2, log_every=1, log_with="tensorboard"))
    written = events.EventAccumulator(str(tmp_path / "trackers" / "rddm_fast")).Reload()
    records = read_log(tmp_path / "log.jsonl")
    for name in ("loss", "lr", "images_per_second"):
        told = [(event.step, event.value) for event in written.Scalars(name)]
        assert told == [(record["step"], pytest.approx(record[name], rel=1e-6)) for record in records]


def test_a_tracker_is_told_the_numbers_and_the_settings_and_is_finished(tmp_path: Path, monkeypatch) -> None:
    """A stand-in for the tracker of wandb, which needs an account, by the methods that accelerate calls."""
    told: list[object] = []

    class Tracker:
        name, requires_logging_directory, main_process_only = "wandb", False, True

        def __init__(self, run_name: str) -> None:
            told.append(run_name)

        def start(self) -> None:
            told.append("started")

        def store_init_configuration(self, values: dict[str, object]) -> None:
            told.append((values["steps"], values["betas"]))

        def log(self, values: dict[str, float], step: int) -> None:
            told.append((step, values["loss"], "phase" in values))

        def finish(self) -> None:
            told.append("finished")

    known(monkeypatch, "wandb", Tracker)
    trained(tmp_path, replace(SETTINGS, steps=2, log_every=1, log_with="wandb"))
    losses = [(record["step"], record["loss"], False) for record in read_log(tmp_path / "log.jsonl")]
    assert told == ["rddm_fast", "started", (2, str(SETTINGS.betas)), *losses, "finished"]


def test_a_tracker_that_does_not_start_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Tracker:
        name, requires_logging_directory, main_process_only = "wandb", False, True

        def __init__(self, run_name: str) -> None:
            raise RuntimeError("no API key:\nlog in first")

    known(monkeypatch, "wandb", Tracker)
    with pytest.raises(SettingsError, match=r"^train\.log_with wandb does not start: no API key: log in first$"):
        trained(tmp_path, replace(SETTINGS, log_with="wandb"))


def test_a_tracker_that_is_missing_or_unknown_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "_available_trackers", [])
    with pytest.raises(
        ImportError, match=r"^mlflow is not installed; pip install mlflow installs it, or leave log_with out$"
    ):
        trained(tmp_path, replace(SETTINGS, log_with="mlflow"))
    refused = run("train", "--digits", "--kind", "generate", "--log-with", "paper", "--output", tmp_path / "run")
    assert error_of(refused).startswith("error: --log-with is 'paper': choose one of aim, ")


def known(monkeypatch: pytest.MonkeyPatch, name: str, tracker: type) -> None:
    """Let accelerate have this class for a tracker whose package need not be installed."""
    monkeypatch.setattr(tracking, "_available_trackers", [tracking.LoggerType(name)])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, tracker)
