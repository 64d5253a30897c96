"""More than one process: training that matches one process, and folders restored by several without a gap."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import images, small_model
from train_worker import Pairs, weights
from typer.testing import CliRunner

from rddm_fast.cli import app
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.folder import save_model
from rddm_fast.system.processes import rank, share, world_size
from rddm_fast.training.log import read_log
from rddm_fast.training.settings import TrainSettings
from rddm_fast.training.trainer import Trainer

HERE = Path(__file__).parent
SETTINGS: dict[str, Any] = {"steps": 3, "batch_size": 4, "accumulate": 2, "warmup": 0, "lr": 1e-4, "plot": False}


def launched(processes: int, *command: object) -> subprocess.CompletedProcess[str]:
    """`torchrun` of a command on this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*launcher, *map(str, command)], capture_output=True, text=True, env=environment, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done


def test_two_processes_train_as_one_with_the_whole_batch(tmp_path: Path) -> None:
    objectives = ("pred_res", "pred_res_noise")
    launched(2, HERE.parent / "train_worker.py", tmp_path, *objectives, "--settings", json.dumps(SETTINGS))
    for objective in objectives:
        run = Trainer(small_model(objective), Pairs(), tmp_path / "one" / objective, TrainSettings(**SETTINGS))
        run.train()
        two = torch.load(tmp_path / objective / "weights.pt", weights_only=True)
        one, start = weights(run), small_model(objective).state_dict()
        assert one.keys() == two.keys()
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert max(float((one[name] - value).abs().max()) for name, value in start.items()) > 10 * 1e-5
        ours, theirs = (read_log(folder / objective / "log.jsonl") for folder in (tmp_path, tmp_path / "one"))
        assert len(ours) == len(theirs) == 1  # one process writes the log, of both
        assert ours[0]["loss"] == pytest.approx(theirs[0]["loss"], rel=1e-5)


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Five files: the number does not divide. None is restored twice, none is lost, a bad one is named once."""
    save_model(tmp_path / "model", small_model("pred_res", dim=8))
    for i in range(5):
        write_image(tmp_path / "in" / f"{i}.png", Picture(pixels=images(3, 16, 24, seed=i)))
    arguments = ("restore", tmp_path / "in", tmp_path / "none.png", "--model", tmp_path / "model", "--device", "cpu")
    program = tmp_path / "program.py"
    # The missing file's exit code of 1 would be the end of both processes.
    program.write_text(
        f"import sys; sys.argv = ['rddm-fast', *{list(map(str, arguments))!r}, '-o', {str(tmp_path / 'two')!r}]\n"
        "from rddm_fast.cli import app\n"
        "try:\n    app()\nexcept SystemExit as end:\n    print('exit', end.code)\n"
    )
    done = launched(2, program)
    lines = [line.split()[0] for line in done.stdout.splitlines() if line.endswith(" s")]
    assert sorted(Path(line).name for line in lines) == [f"{i}.png" for i in range(5)]
    assert done.stderr.count("none.png does not exist") == 1
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("exit")) == ["exit 0", "exit 1"]
    assert any("3 restored, 1 failed" in line for line in done.stdout.splitlines())

    alone = CliRunner().invoke(app, [*map(str, arguments), "-o", str(tmp_path / "one")])
    assert alone.exit_code == 1 and "5 restored, 1 failed" in alone.stdout
    for i in range(5):
        one, two = (read_image(tmp_path / name / f"{i}.png").pixels for name in ("one", "two"))
        assert torch.equal(one, two)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_every_item_is_taken_once(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(world))
    for count in (0, 1, 5, 6, 21):
        taken = []
        for number in range(world):
            monkeypatch.setenv("RANK", str(number))
            assert (rank(), world_size()) == (number, world)
            taken.append(share(list(range(count))))
        assert sorted(itertools.chain(*taken)) == list(range(count))
        assert max(map(len, taken)) - min(map(len, taken)) <= 1


def test_without_a_launcher_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert (rank(), world_size(), share("abc")) == (0, 1, ["a", "b", "c"])


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"RANK": "first"}, "RANK is 'first': a launcher such as torchrun sets it to a whole number"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is 0: a job has at least one process"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2: it must be from 0 to WORLD_SIZE - 1, 1"),
    ],
)
def test_a_broken_environment_is_named(values: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.setenv(name, values.get(name, "1"))
    with pytest.raises(ValueError, match=sentence):
        share([1, 2])
