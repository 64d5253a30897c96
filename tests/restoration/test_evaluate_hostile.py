"""Evaluations that ask for too much, write into their own input, or meet names that are no text."""

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from commands import error_of, run, succeeded
from PIL import Image

from rddm_fast.images.pairs import find_pairs
from rddm_fast.restoration.evaluate import Evaluator, evaluate


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with pred and gt, of one picture each, which is the working folder."""
    for name in ("pred", "gt", "mask"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(tmp_path / name / "a.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_size_without_end_is_the_pair_s_error(folders: Path) -> None:
    told = run("evaluate", "pred", "gt", "--resize", "1000000x1000000")
    assert told.exit_code == 1 and isinstance(told.exception, SystemExit), told.exception
    lines = told.stderr.splitlines()
    assert lines == [
        "error: pred/a.png needs more memory than there is: resize it to a smaller size",
        "1 of 1 failed",
    ]


@pytest.mark.parametrize(
    ("pred", "output", "source"),
    [
        ("pred", "pred", "pred"),
        ("pred", "pred/eval/new", "pred"),
        ("pred", "gt", "gt"),
        ("pred", "mask/eval", "mask"),
        ("pred/*.png", "pred", "pred/*.png"),
    ],
)
def test_results_are_not_written_among_the_images(pred: str, output: str, source: str, folders: Path) -> None:
    before = sorted(folders.rglob("*"))
    assert error_of(run("evaluate", pred, "gt", "--mask", "mask", "-o", output)) == (
        f"error: --output is {output}, where worst.png would be taken for an image of {source} the next time: "
        "choose another folder"
    )
    assert sorted(folders.rglob("*")) == before


def test_a_name_that_is_no_text_is_measured_and_written(folders: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    for folder in ("pred", "gt"):
        os.rename(folders / folder / "a.png", folders / folder / name)
    report = evaluate(find_pairs("pred", "gt"), Evaluator())
    assert report is not None and not report.errors
    report.write(folders / "eval")
    rows = list(csv.DictReader((folders / "eval" / "metrics.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == ["caf\\udce9"]
    assert json.loads((folders / "eval" / "summary.json").read_text())["images"] == 1
    assert r"worst: caf\udce9" in succeeded(run("evaluate", "pred", "gt", "-o", "eval")).stdout
