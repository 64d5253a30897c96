"""A run stops when it diverges, does not mix two sets of data, and is alone in its folder."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import error_of, run, succeeded
from train_worker import SETTINGS, Pairs, trained, trainer

from rddm_fast.images.picture import ImageError, Picture, write_image
from rddm_fast.training.batches import batches
from rddm_fast.training.guards.finite import SKIPPED_AT_MOST, Diverged, LossWatch
from rddm_fast.training.guards.lock import FolderInUse, alone_in
from rddm_fast.training.trainer import Progress


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three photographs of 24x24."""
    for i in range(3):
        pixels = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(i))
        write_image(tmp_path / "photos" / f"{i}.png", Picture(pixels=pixels))
    return tmp_path / "photos"


def train(photos: Path, output: Path, *more: object) -> Any:
    small = ("--steps", 2, "--batch", 2, "--patch", 16, "--dim", 8, "--mults", "1,2", "--set", "train.plot=false")
    return run("train", *small, "--photos", photos, "--output", output, *more)


# -- diverging -----------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_stops_the_run(photos: Path, tmp_path: Path) -> None:
    options = ("--lr", "1e30", "--steps", 9)
    for name in ("train.grad_clip=0", "train.warmup=0", "train.log_every=1", "train.save_every=0"):
        options += ("--set", name)
    error = error_of(train(photos, tmp_path / "run", *options))
    assert "the loss is nan at step 2 of 9: training has diverged and stops; the last whole checkpoint is" in error
    kept = sorted((tmp_path / "run").glob("*.pt"))
    assert [path.name for path in kept] == ["checkpoint-00000001.pt"] and not (tmp_path / "run" / "model").exists()
    weights = torch.load(kept[0], weights_only=True)["model"]
    assert all(value.isfinite().all() for value in weights.values())
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path: Path) -> None:
    """The last step's gradient may spoil them without a loss that shows it."""

    def spoil(progress: Progress) -> None:
        if progress.step == 3:
            next(run.diffusion.parameters()).data.fill_(math.inf)

    run = trainer(tmp_path, replace(SETTINGS, steps=3, save_every=0.0))
    with pytest.raises(Diverged, match=r"weights are not finite after step 3: .*checkpoint-00000002\.pt"):
        run.train(spoil)
    assert [path.name[-4:-3] for path in run.checkpoints.checkpoints()] == ["1", "2"]


def test_weights_beyond_float16_are_no_model(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    next(run.ema.module.parameters()).data.fill_(7e4)
    with pytest.raises(Diverged, match="leave the range of float16"):
        run.export()
    assert not (tmp_path / "model").exists()


def test_a_loss_scaler_may_skip_some_steps() -> None:
    watch = LossWatch(scaled=True)
    for _ in range(2):
        assert not any(watch.diverged(math.inf) for _ in range(SKIPPED_AT_MOST - 1))
        assert not watch.diverged(0.5)
    assert [watch.diverged(math.nan) for _ in range(SKIPPED_AT_MOST)] == [False] * (SKIPPED_AT_MOST - 1) + [True]


# -- other data ----------------------------------------------------------------------------------------------


def test_other_data_is_refused(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    succeeded(train(photos, output))
    settings = (output / "settings.json").read_bytes()

    # The same files may lie elsewhere.
    succeeded(train(shutil.copytree(photos, tmp_path / "moved"), output))
    settings = (output / "settings.json").read_bytes()
    assert "was trained with data.degradation=rain, not noise: use the" in error_of(
        train(photos, output, "--degradation", "noise")
    )
    write_image(photos / "1.png", Picture(pixels=torch.zeros(3, 24, 24)))
    assert "was trained on other files of data.photos" in error_of(train(photos, output))
    shutil.copy(photos / "0.png", photos / "00.png")
    error = error_of(train(photos, output))
    assert "was trained on 3 files of data.photos, which now has 4" in error and "pass --new-data to resume" in error
    assert (output / "settings.json").read_bytes() == settings
    succeeded(train(photos, output, "--new-data"))


def test_a_checkpoint_without_a_fingerprint_resumes(photos: Path, tmp_path: Path) -> None:
    succeeded(train(photos, tmp_path / "run"))
    path = tmp_path / "run" / "checkpoint-00000002.pt"
    state = torch.load(path, weights_only=True)
    del state["data"]
    torch.save(state, path)
    succeeded(train(photos, tmp_path / "run", "--degradation", "noise"))


# -- two runs in a folder ------------------------------------------------------------------------------------


HOLD = """
import os, sys, time
from pathlib import Path
from rddm_fast.training.guards.lock import alone_in
with alone_in(Path(sys.argv[1])):
    if os.fork() == 0:  # as a loader's worker, which outlives a trainer that is killed
        os.write(1, b"held\\n")  # by the parent; this process has let go
        time.sleep(30)
        os._exit(0)
    time.sleep(600)
"""


def test_a_second_run_says_who_is_in_the_folder(photos: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    output.mkdir()
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, output], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert held.stdout is not None and held.stdout.readline() == "held\n"
        error = error_of(train(photos, output))
        assert f"run is in use by another run (process {held.pid} on " in error
        assert [path.name for path in output.iterdir()] == ["run.lock"]
        held.kill()
        held.wait()
        succeeded(train(photos, output))  # at once
    finally:
        os.killpg(held.pid, signal.SIGKILL)
        held.wait()


def test_a_run_that_ends_leaves_the_folder(tmp_path: Path) -> None:
    trained(tmp_path)
    with alone_in(tmp_path), pytest.raises(FolderInUse), alone_in(tmp_path):
        pass
    with alone_in(tmp_path):
        pass


# -- workers -------------------------------------------------------------------------------------------------


class Broken(Pairs):
    """Item 3 cannot be read."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 3:
            raise ImageError("c.png is damaged")
        return super().__getitem__(index)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_error_is_the_same_with_workers(workers: int) -> None:
    read = batches(Broken(), replace(SETTINGS, workers=workers), 0, (0, 1))
    assert next(read)[0]["name"] == ["0", "1"]
    with pytest.raises(ImageError) as raised:
        next(read)
    assert str(raised.value) == "c.png is damaged" and "__getitem__" in str(raised.value.__cause__)


class Killed(Pairs):
    """A worker that reads item 3 dies, as by the kernel's hand when memory runs out."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        return super().__getitem__(index)


def test_a_worker_that_is_killed_is_one_sentence() -> None:
    read = batches(Killed(), replace(SETTINGS, workers=1), 0, (0, 1))
    with pytest.raises(ChildProcessError, match=r"a process that reads images was killed, .* lower train\.workers"):
        list(read)


def test_a_photograph_that_goes_is_one_sentence_with_workers(photos: Path, tmp_path: Path) -> None:
    pairs = ("--input", photos, "--target", photos, "--set", "train.workers=1")
    small = ("--steps", 2, "--batch", 2, "--patch", 16, "--dim", 8, "--mults", "1,2", "--set", "train.plot=false")
    (photos / "1.png").write_bytes(b"no picture")
    error = error_of(run("train", *small, *pairs, "--output", tmp_path / "run"))
    assert "1.png" in error and "Caught" not in error


# -- warnings ------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_told_in_a_sentence(photos: Path, tmp_path: Path) -> None:
    succeeded(train(photos, tmp_path / "run", "--set", "train.save_every=0"))
    (tmp_path / "run" / "checkpoint-00000002.pt").write_bytes(b"cut")
    told = succeeded(train(photos, tmp_path / "run")).stderr
    assert told.startswith("warning: ") and told.count("\n") == 1 and "UserWarning" not in told
    assert "checkpoint-00000002.pt is damaged (File is not a zip file); resuming from the previous checkpoint" in told
