"""The log, its plot and TensorBoard's copy of it."""

import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
from train_worker import SETTINGS, trained

from rddm_fast.images.picture import read_image
from rddm_fast.training.log import read_log


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


def test_tensorboard_gets_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[str, float, int]] = []

    class SummaryWriter:
        def __init__(self, folder: str) -> None:
            assert folder == str(tmp_path / "tensorboard")

        def add_scalar(self, name: str, value: float, step: int) -> None:
            written.append((name, value, step))

        def close(self) -> None:
            written.append(("closed", 0.0, -1))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    trained(tmp_path, replace(SETTINGS, steps=2, log_every=1, tensorboard=True))
    losses = [(name, value, step) for name, value, step in written if name == "loss"]
    assert losses == [("loss", r["loss"], r["step"]) for r in read_log(tmp_path / "log.jsonl")]
    assert written[-1][0] == "closed"


def test_without_tensorboard_one_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install tensorboard, or leave train\.tensorboard false"):
        trained(tmp_path, replace(SETTINGS, tensorboard=True))
