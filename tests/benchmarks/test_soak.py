"""The soak does its rounds, and its rule tells a leak from a cache that fills and from noise."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from rddm_fast.benchmarks import soak

MIB = soak.MIB


@pytest.mark.parametrize(
    ("value", "leaks"),
    [
        (lambda i, noise: 400 + noise, False),
        (lambda i, noise: 400 + 100 * (1 - 0.8**i) + noise, False),  # a cache that fills
        (lambda i, noise: 400 + 100 * (i > 10) + noise, False),  # a buffer that is made once
        (lambda i, noise: 400 + 3 * noise, False),
        (lambda i, noise: 400 + 0.5 * i + noise, True),
        (lambda i, noise: 400 + 25 * (i // 10) + noise, True),
        (lambda i, noise: 400 - 0.5 * i + noise, False),
    ],
)
def test_the_rule_sees_a_leak(value: Callable[[int, float], float], leaks: bool) -> None:
    noise = random.Random(0)
    memory = [MIB * value(i, noise.uniform(-4, 4)) for i in range(100)]
    assert soak.grows(memory, soak.ALLOWED["rss"]) == leaks


def test_one_file_that_stays_open_is_seen() -> None:
    assert soak.grows([5.0 + (i > 75) for i in range(100)], soak.ALLOWED["files"])
    assert not soak.grows([6.0] * 100, soak.ALLOWED["files"])


def test_a_leak_of_files_ends_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = []
    monkeypatch.setattr(soak, "Round", lambda: lambda folder: opened.append((folder / "log").open("w")))
    with pytest.raises(SystemExit) as ended:
        soak.main(["--minutes", "0"])
    for file in opened:
        file.close()
    assert len(opened) == soak.ROUNDS and ended.value.code == "error: files grows, over 12 rounds"
    assert "files        rises by 5.0 ± 0.0 over the second half" in capsys.readouterr().out


def test_a_round_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "ROUNDS", 8)
    history = soak.soaked(0, soak.Round(), lambda text: None)
    assert len(history) == soak.ROUNDS + 1 and min(quantities["rss"] for quantities in history) > 50 * MIB
    growing = [
        name for name in ("objects", "files", "threads") if soak.grows([q[name] for q in history], soak.ALLOWED[name])
    ]
    assert growing == []


def test_a_round_that_goes_wrong_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soak, "restore_files", lambda *arguments: [])
    with pytest.raises(RuntimeError, match=r"the files that failed are \[\]"):
        soak.Round()(tmp_path)
