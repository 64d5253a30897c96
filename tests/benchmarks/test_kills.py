"""A training of two processes that is killed resumes to the same bits, and leaves no process behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from train_worker import SETTINGS, trained

from rddm_fast.benchmarks import kills


def test_three_kills_change_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One while a checkpoint is written, then the launcher, whose processes must stop too, then all."""
    monkeypatch.setattr(kills, "STEPS_PER_KILL", 30)
    kills.main(["--kills", "3", "--seed", "85"])
    out = capsys.readouterr().out
    assert "1 all, between" in out and "1 one, saving" in out and "1 launcher, between" in out
    assert "after 3 kills the run ends at the same bits, step 90" in out


def test_another_end_is_seen(tmp_path: Path) -> None:
    trained(tmp_path / "whole", SETTINGS)
    assert kills.differences(shutil.copytree(tmp_path / "whole", tmp_path / "copy"), tmp_path / "whole") == []
    path = tmp_path / "copy" / "model" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    (tmp_path / "copy" / ".checkpoint-00000001.pt.abcdefgh.pt").touch()
    trained(tmp_path / "other", SETTINGS, "pred_noise")
    assert kills.differences(tmp_path / "copy", tmp_path / "whole") == [
        "model.safetensors",
        ".checkpoint-00000001.pt.abcdefgh.pt is left",
    ]
    assert "model of the last checkpoint" in kills.differences(tmp_path / "other", tmp_path / "whole")
