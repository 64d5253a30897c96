"""Progress where stderr is no terminal: a line now and then, with an estimate."""

import re
import time
from pathlib import Path

import pytest
from commands import run, succeeded
from PIL import Image
from small_models import small_model

from rddm_fast.cli.common import progress
from rddm_fast.models.folder import save_model
from rddm_fast.restoration.demo import PHOTOS


def test_a_long_restore_tells_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_model(tmp_path / "model", small_model("pred_res", clip_res=2.0))
    (tmp_path / "in").mkdir()
    with Image.open(PHOTOS / "coffee.png") as image:
        for name in "ab":
            image.resize((100, 90)).save(tmp_path / "in" / f"{name}.png")
    monkeypatch.setattr(progress, "FIRST", 0.05)
    command = ["restore", tmp_path / "in", "-o", tmp_path / "out", "-m", tmp_path / "model"]
    command += ["--tile", 16, "--overlap", 4]
    told = succeeded(run(*command)).stderr.splitlines()
    pattern = r"[ab]\.png: [01] of 2, tiles: \d+ of 64, about \d+ s left"
    assert len(told) > 2 and any(re.fullmatch(pattern, line) for line in told), told
    assert succeeded(run(*command)).stderr == ""  # all is there already


def test_few_lines_however_long_it_takes() -> None:
    lines, elapsed = 0, 0.0
    while elapsed < 3600:
        elapsed += progress.pause(elapsed)
        lines += 1
    assert elapsed > 3600 and lines < 90


def test_what_was_there_before_does_not_count_as_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(progress.err, "get_time", lambda: now)
    bar = progress.progress_bar(quiet=True)
    task = bar.add_task("photo.jpg", total=1000)
    assert bar.line() == "photo.jpg: 0 of 1000, 0 s so far"
    bar.begin_after(task, 900)
    assert bar.line() == "photo.jpg: 900 of 1000, 0 s so far"
    now = 60.0
    bar.update(task, completed=910.5)
    assert bar.line() == "photo.jpg: 910 of 1000, about 9 min left"
    later = bar.add_task("training", total=10, completed=5)
    now = 80.0
    bar.update(later, completed=6)
    assert progress.time_left(bar.tasks[1]) == "about 80 s left"


@pytest.mark.parametrize(
    ("seconds", "text"), [(4, "4 s"), (89, "89 s"), (240, "4 min"), (9000, "2 h"), (3 * 86400, "3 days")]
)
def test_a_duration_is_said_as_a_person_says_it(seconds: float, text: str) -> None:
    assert progress.duration(seconds) == text


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "FIRST", 0.01)
    for options, expected in (({"quiet": True}, False), ({"lines": False}, False), ({}, True)):
        with progress.progress_bar(**options) as bar:
            bar.add_task("restoring", total=3)
            time.sleep(0.1)
        assert ("restoring: 0 of 3" in capsys.readouterr().err) is expected
