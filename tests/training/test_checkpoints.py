"""A run that is killed, runs out of disk or finds a damaged file loses nothing but the steps since its last save."""

import errno
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing import forkserver as server
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import assert_same_bits
from train_worker import trained, trainer, weights

from rddm_fast.system.files import write_whole
from rddm_fast.training import checkpoints as run_folder
from rddm_fast.training.checkpoints import CheckpointError, RunFolder
from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Trainer

SETTINGS = TrainSettings(steps=10, batch_size=2, warmup=2, lr=1e-3, save_every=0.0, log_every=1, plot=False)


Whole = tuple[dict[str, torch.Tensor], bytes]
"""An undisturbed run's end: its weights, and the model's file."""


# -- killed --------------------------------------------------------------------------------------------------


def _die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _half_written(path: Path, state: dict[str, Any]) -> None:
    torch.save(state, path)
    os.truncate(path, path.stat().st_size // 2)
    _die()


def _waiting(*_: Any) -> None:
    """Wait to be killed from outside, so that a fast machine does not finish first."""
    time.sleep(600)


def _unrenamed(path: Path, write: Callable[[Path], object]) -> None:
    write(path.with_name(f".{path.name}.abcdefgh.pt"))
    _die()


def _renamed(path: Path, write: Callable[[Path], object]) -> None:
    write_whole(path, write)
    _die()


DEEDS = {
    "writing": ("_write", _half_written),
    "before the rename": ("write_whole", _unrenamed),
    "before the old ones go": ("write_whole", _renamed),
    "at random": ("_write", _waiting),
}


UNDISTURBED = "undisturbed"


def _patched(moment: str, saves: int) -> None:
    """Let this process kill itself at `moment` of its checkpoint number `saves`; or wait there to be killed."""
    if moment == UNDISTURBED:
        return
    count, (name, deed) = [0], DEEDS[moment]
    original = getattr(run_folder, name)

    def call(*arguments: Any) -> Any:
        count[0] += 1
        return (deed if count[0] == saves else original)(*arguments)

    setattr(run_folder, name, call)


def _train(folder: str, moment: str, saves: int) -> None:
    torch.set_num_threads(1)
    _patched(moment, saves)
    trained(Path(folder), SETTINGS)


@pytest.fixture(scope="module", autouse=True)
def forkserver(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Start the server of the runs' processes in an empty folder.

    Python 3.11's server imports from its current folder first: in a checkout, what is not compiled.
    """
    before = Path.cwd()
    os.chdir(tmp_path_factory.mktemp("empty"))
    try:
        server.set_forkserver_preload(["rddm_fast.training.trainer", "accelerate"])
        server.ensure_running()
    finally:
        os.chdir(before)


def _start(folder: Path, moment: str, saves: int) -> Any:
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=_train, args=(str(folder), moment, saves))
    process.start()
    return process


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """In this process too: the same bits are of the same number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """The end of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    run = finished(folder)
    return weights(run), (folder / "model" / "model.safetensors").read_bytes()


def finished(folder: Path) -> Trainer:
    """The end of a run that a process of its own takes there, as a user's command does."""
    process = _start(folder, UNDISTURBED, saves=0)
    process.join(120)
    assert process.exitcode == 0
    return trainer(folder, SETTINGS)


def assert_same_end(folder: Path, whole: Whole) -> None:
    """A run that resumes in `folder` ends where the undisturbed one did, to the bit."""
    assert 0 < trainer(folder, SETTINGS).step < SETTINGS.steps
    again = finished(folder)
    assert again.step == SETTINGS.steps
    assert_same_bits(weights(again), whole[0])
    assert (folder / "model" / "model.safetensors").read_bytes() == whole[1]
    assert len(RunFolder(folder).checkpoints()) == SETTINGS.keep and not list(folder.glob(".*"))


def test_a_run_killed_at_any_moment_ends_at_the_same_bits(tmp_path: Path, whole: Whole) -> None:
    """Killed in each part of saving and at random times (their seed is fixed, where they fall is the machine's)."""
    folder = tmp_path / "killed"
    draw = random.Random(5)
    for moment in [*DEEDS, "at random"]:
        at_random = moment == "at random"
        process = _start(folder, moment, saves=3 if at_random else draw.randint(1, 2))
        if at_random:
            already = RunFolder(folder).checkpoints()
            while process.is_alive() and RunFolder(folder).checkpoints() == already:
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.15))
            process.kill()
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        assert all(torch.load(path, weights_only=True) for path in RunFolder(folder).checkpoints())
    assert_same_end(folder, whole)


# -- damaged -------------------------------------------------------------------------------------------------


THREE = replace(SETTINGS, steps=3, keep=5)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of three steps with a checkpoint of each."""
    folder = tmp_path_factory.mktemp("three")
    trained(folder, THREE)
    assert [p.name for p in RunFolder(folder).checkpoints()] == [f"checkpoint-{n:08d}.pt" for n in (1, 2, 3)]
    return folder


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    """Flip one bit in the middle, which torch itself would not notice."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty], ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_passed_over(damage: Callable[[Path], None], three: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(three, tmp_path / "run")
    damage(folder / "checkpoint-00000003.pt")
    with pytest.warns(UserWarning, match=r"00000003\.pt is damaged .*; resuming from the previous checkpoint"):
        again = trainer(folder, THREE)
    assert again.step == 2
    again.train()
    assert_same_bits(weights(again), weights(trainer(three, THREE)))


def test_all_damaged_is_an_error_in_one_sentence(three: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(three, tmp_path / "run")
    for path in RunFolder(folder).checkpoints():
        path.write_bytes(b"cut")
    with warnings.catch_warnings(), pytest.raises(CheckpointError) as raised:
        warnings.simplefilter("error")  # nothing is said before the one sentence
        trainer(folder, THREE)
    assert "training cannot resume: " in str(raised.value) and "\n" not in str(raised.value)


def test_only_what_is_damaged_is_called_so(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told to remove a whole checkpoint that this torch cannot load."""

    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("unknown\nstorage")

    folder = shutil.copytree(three, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(CheckpointError) as raised:
        patch.setattr(torch, "load", refuse)
        trainer(folder, THREE)
    assert str(raised.value).endswith("checkpoint-00000003.pt is whole but cannot be loaded: unknown storage")


def test_what_a_killed_run_left_unfinished_goes(tmp_path: Path) -> None:
    """A kill while the model or the settings are written leaves their temporary files; others' files stay."""
    left = [".model.safetensors.ab_cd012.safetensors", ".config.json.abcdefgh.json"]
    for name in (*(f"model/{name}" for name in left), ".checkpoint-00000002.pt.abcdefgh.pt", "model/.mine", ".mine.pt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"half")
    trained(tmp_path, replace(SETTINGS, steps=1))
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [".mine", ".mine.pt"]


def test_another_program_s_file_is_refused(tmp_path: Path) -> None:
    torch.save({"step": 3}, tmp_path / "checkpoint-00000003.pt")
    with pytest.raises(CheckpointError, match="it is not a checkpoint of this trainer"):
        trainer(tmp_path, SETTINGS)


def test_the_newest_are_kept(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run", keep=3)
    for step in (1, 2, 30, 4, 100):
        folder.save(step, {"step": step})
    assert [p.name[11:-3] for p in folder.checkpoints()] == ["00000004", "00000030", "00000100"]
    found = folder.latest()
    assert found is not None and found[1] == {"step": 100}
    with pytest.raises(ValueError, match="at least 1 checkpoint is kept"):
        RunFolder(tmp_path, keep=0)


# -- full ----------------------------------------------------------------------------------------------------


def assert_named(folder: Path, error: CheckpointError) -> None:
    """The error says what is left, and that is whole."""
    kept = RunFolder(folder).checkpoints()
    assert f"no space is left for {folder}" in str(error) and f"the last whole checkpoint is {kept[-1]}" in str(error)
    assert not list(folder.glob(".*")) and all(torch.load(path, weights_only=True) for path in kept)


@pytest.mark.parametrize("call", ["fsync", "save"])
def test_a_full_disk_stops_the_run(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Whole) -> None:
    count = [0]
    original: Callable[..., Any] = os.fsync if call == "fsync" else torch.save

    def full(*arguments: Any) -> None:
        count[0] += 1
        if count[0] > 6:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(os if call == "fsync" else torch, call, full)
        with pytest.raises(CheckpointError) as raised:
            trained(tmp_path / "run", SETTINGS)
    assert_named(tmp_path / "run", raised.value)
    assert_same_end(tmp_path / "run", whole)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 16 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = [shutil.which("mount"), "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    if mount[0] is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("a file system of its own cannot be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_disk_that_is_really_full_stops_the_run(small_disk: Path, whole: Whole) -> None:
    ballast, run = small_disk / "ballast", trainer(small_disk / "run", SETTINGS)

    def fill(progress: Any) -> None:
        if progress.step == 4:
            free = shutil.disk_usage(small_disk).free
            ballast.write_bytes(bytes(max(0, free - 200_000)))

    with pytest.raises(CheckpointError) as raised:
        run.train(fill)
    assert_named(small_disk / "run", raised.value)
    ballast.unlink()
    assert_same_end(small_disk / "run", whole)
