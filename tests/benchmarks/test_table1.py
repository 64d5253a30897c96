"""Table 1's command: complete files from a tiny run, which is not repeated, and an honest verdict."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest
import torch

from rddm_fast.benchmarks.paper import table1
from rddm_fast.benchmarks.paper.table1_digits import Judge
from rddm_fast.images.digits import Digits
from rddm_fast.restoration.demo import PHOTOS

RECORDED = Path(__file__).parents[2] / "benchmarks" / "results" / "paper"


def command(folder: Path, *more: str) -> list[str]:
    tiny = {"tasks": "digits,derain", "steps": 2, "digits-steps": 2, "seeds": 1, "dim": 8, "crop": 32, "samples": 20}
    folders = {"photos": folder / "photos", "work": folder / "work", "output": folder / "results"}
    return [text for name, value in {**tiny, **folders}.items() for text in (f"--{name}", str(value))] + list(more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table1")
    (folder / "photos").mkdir()
    shutil.copy(PHOTOS / "coffee.png", folder / "photos")
    table1.main(command(folder))
    return folder


def test_the_files_hold_every_row(finished: Path) -> None:
    tasks = json.loads((finished / "results" / "table1.json").read_text())["tasks"]
    text = (finished / "results" / "table1.md").read_text()
    lines = list(csv.DictReader((finished / "results" / "table1.csv").open()))
    for task, metric, baseline in (("digits", "frechet", "real digits"), ("derain", "psnr", "degraded input")):
        rows = tasks[task]["rows"]
        assert list(rows) == [baseline, *table1.METHODS, *table1.READINGS]
        assert rows["SM-Res-N"]["parameters"] == 2 * rows["SM-Res"]["parameters"] == 2 * rows["SM-N"]["parameters"]
        # Another network, or one of the two instead of both, gives another image.
        assert len({row["mean"][metric] for row in rows.values()}) == 6
        of_task = {line["row"]: line for line in lines if line["task"] == task}
        assert {name: float(line[metric]) for name, line in of_task.items()} == {
            name: row["mean"][metric] for name, row in rows.items()
        }
        assert f"{rows['SM-N']['mean'][metric]:.2f} |" in text and " ".join(tasks[task]["ordering"]) in text


def test_the_recorded_results_give_the_recorded_table() -> None:
    tasks, text = json.loads((RECORDED / "table1.json").read_text())["tasks"], (RECORDED / "table1.md").read_text()
    assert table1.table(tasks) in text
    assert all(table1.ordering(task["title"], task["rows"]) == task["ordering"] for task in tasks.values())


def test_a_second_command_measures_what_is_missing_and_trains_nothing(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result, record = finished / "results" / "table1.json", finished / "work" / "derain-sm-n-0" / "run.json"
    before, whole = result.read_bytes(), record.read_text()
    record.write_text(json.dumps({name: value for name, value in json.loads(whole).items() if name != "scores"}))
    monkeypatch.setattr(table1, "trainer_of", None)
    table1.main(command(finished))
    assert record.read_text() == whole and result.read_bytes() == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--digits-steps", "3"], "error: .*digits-sm-res-0 holds a run of other settings: name another --work folder"),
        (["--crop", "500"], "error: crop is 500: the smallest photograph is"),
        (["--photos", "/nowhere"], "error: /nowhere does not exist"),
        (["--tasks", "derain,dehaze"], "there is no task 'dehaze': choose from digits,derain,lowlight"),
        (["--dim", "12"], "12 is not a multiple of 8"),
        (["--seeds", "0"], "'0' is not a whole number of at least 1"),
    ],
)
def test_bad_input_is_one_sentence(
    finished: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        table1.main(command(finished, *more))
    assert re.search(message, f"{ended.value}{capsys.readouterr().err}")


def test_restoring_needs_photographs() -> None:
    with pytest.raises(SystemExit, match="error: derain needs photographs to train on: pass --photos FOLDER"):
        table1.main(["--tasks", "derain"])


def test_the_judge_tells_digits_from_noise() -> None:
    judge = Judge.trained()
    digits = judge.scores(Digits(8).images)
    noise = judge.scores(torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert judge.accuracy > 0.95 and 0 < judge.floor < 1
    assert digits["frechet"] == pytest.approx(0, abs=1e-3) and noise["frechet"] > 20 * judge.floor
    assert noise["confidence"] < digits["confidence"]


RESTORED = {"SM-Res": [25.0, 26.0], "SM-N": [14.0, 15.0], "SM-Res-N": [25.5, 25.0]}
GENERATED = {"SM-Res": [9.0, 8.0], "SM-N": [2.0, 3.0], "SM-Res-N": [3.0, 2.0]}


@pytest.mark.parametrize(
    ("metric", "scores", "verdict"),
    [
        ("psnr", RESTORED, "is reproduced, in each of 2 seeds"),
        ("psnr", RESTORED | {"SM-N": [14.0, 25.2]}, "is reproduced on average, but not in every seed"),
        ("psnr", RESTORED | {"SM-N": [30.0, 30.0]}, "is reproduced in part"),
        (
            "psnr",
            RESTORED | {"SM-Res": [23.0, 23.0]},
            "is reproduced in part (SM-N is the worst: yes; SM-Res is the best or within 1 dB of SM-Res-N: no).",
        ),
        ("psnr", {"SM-Res": [14.0], "SM-N": [25.0], "SM-Res-N": [20.0]}, "is not reproduced"),
        ("frechet", GENERATED, "is reproduced, in each of 2 seeds"),
        ("frechet", GENERATED | {"SM-Res": [9.0, 2.5]}, "is reproduced on average, but not in every seed"),
        ("frechet", GENERATED | {"SM-Res": [2.0, 2.0]}, "is not reproduced"),
        ("frechet", {name: of[:1] for name, of in GENERATED.items()}, "is reproduced, in 1 seed"),
    ],
)
def test_the_verdict_follows_from_the_numbers(metric: str, scores: dict[str, list[float]], verdict: str) -> None:
    rows = {name: table1.row([{metric: score} for score in of], 1, [0.1] * len(of)) for name, of in scores.items()}
    first, second = table1.ordering("Some task", {"degraded input": table1.row([{metric: 17.0}]), **rows})
    assert first.startswith(f"Some task: the paper's ordering {verdict}")
    assert all(f"{name} {row['mean'][metric]:.2f}" in second for name, row in rows.items())
    assert "degraded input 17.00" in second
