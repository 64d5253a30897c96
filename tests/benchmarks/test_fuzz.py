"""Random files and settings: a result, or one sentence of the package's own errors; and the judge that says so."""

from __future__ import annotations

import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rddm_fast.benchmarks import fuzz
from rddm_fast.benchmarks.fuzzing import contract
from rddm_fast.benchmarks.fuzzing.contract import Found, kept
from rddm_fast.images.picture import ImageError
from rddm_fast.theory.objective import Objective

CALLS = {"images": 400, "pairs": 250, "settings": 300, "config": 150, "checkpoints": 150}
"""How many of each target; `rddm-fast bench fuzz` makes as many as one likes."""


@pytest.mark.parametrize("target", CALLS)
def test_files_are_read_or_refused_well(target: str) -> None:
    answers = set()

    @settings(max_examples=CALLS[target], deadline=None, derandomize=True)
    @given(st.integers(0, 2**32))
    def one(seed: int) -> None:
        found = fuzz.tried(target, seed)
        answers.add(found.answer)
        assert found.answer != "wrong", f"--target {target} --calls 1 --seed {seed}: {found.says}"

    one()
    assert answers == {"right", "refused"}


# -- the judge ------------------------------------------------------------------------------------------------


def _raises(error: BaseException) -> Callable[[], object]:
    def call() -> None:
        raise error

    return call


def _warns() -> None:
    warnings.warn("look here", stacklevel=1)


def _prints() -> None:
    print("a library's words", file=sys.__stderr__, flush=True)


def test_a_result_and_a_sentence_keep_the_contract() -> None:
    assert kept("a", lambda: None, ()) == Found("a", "right")
    assert kept("a", _raises(ImageError("p.png is empty")), (ImageError,)) == Found("a", "refused", "p.png is empty")
    # A ValueError of the package's own lines, where a target takes them.
    assert kept("a", lambda: Objective.parse("x"), (ValueError,)).answer == "refused"
    assert kept("a", lambda: Objective.parse("x"), (ImageError,)).answer == "wrong"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (_raises(KeyError("dim")), "KeyError: 'dim'"),
        (_raises(ValueError("month must be in 1..12")), "ValueError: month"),
        (_raises(AssertionError("values outside of [0, 1]")), "values outside"),
        (_raises(ImageError("two\nlines")), "no sentence: 'two\\nlines'"),
        (_raises(ImageError("\x1b[1mbold")), "no sentence"),
        (_raises(ImageError("")), "no sentence"),
        (_raises(ImageError("x" * 2000)), "2000 characters"),
        (_warns, "warned: look here"),
        (_prints, "printed \"a library's words"),
    ],
)
def test_all_else_breaks_it(call: Callable[[], object], says: str) -> None:
    found = kept("a", call, (ImageError, ValueError))
    assert found.answer == "wrong" and says in found.says


def test_a_call_that_hangs_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "SECONDS", 0.2)
    found = kept("a", lambda: time.sleep(30), (ImageError,))
    assert found.answer == "wrong" and "no answer after" in found.says


def test_a_call_that_takes_all_memory_is_stopped() -> None:
    assert "MemoryError" in kept("a", lambda: bytearray(2 * contract.MEMORY), (ImageError,)).says


# -- the command ----------------------------------------------------------------------------------------------


def test_a_wrong_call_is_repeated_by_its_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def call(rng: random.Random, folder: Path) -> Found:
        (folder / "file").write_text("content")
        return Found("made up", rng.choice(("right", "refused", "wrong")), "it is so")

    monkeypatch.setitem(fuzz.TARGETS, "images", call)
    monkeypatch.setattr(fuzz, "EVERY", 0.0)
    with pytest.raises(SystemExit) as ended:
        fuzz.main(["--target", "images", "--calls", "20", "--seed", "7", "--keep", str(tmp_path)])
    out = capsys.readouterr().out
    assert ended.value.code == 1 and "19 of 20 calls: " in out and "20 calls from seed 7: " in out
    again = out.split("repeat it with ")[1].splitlines()[0].split()
    with pytest.raises(SystemExit):
        fuzz.main(again)
    assert "1 calls from seed" in capsys.readouterr().out
    assert (tmp_path / f"images-{again[-1]}" / "file").read_text() == "content"


def test_every_target_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        fuzz.main(["--calls", str(len(fuzz.TARGETS))])
    out = capsys.readouterr().out
    assert all(f"  {target} " in out for target in fuzz.TARGETS)
