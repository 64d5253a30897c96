"""Table 1's command: complete files from a tiny run, runs that are not done twice, and an honest verdict."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio
from sklearn.datasets import load_digits

from rddm_fast.benchmarks.paper import table1, table1_runs
from rddm_fast.benchmarks.paper.table1_digits import Judge
from rddm_fast.benchmarks.paper.table1_report import ordering
from rddm_fast.restoration.demo import PHOTOS

METHODS = ["SM-Res", "SM-N", "SM-Res-N"]
ALONE = ["SM-Res-N, residual network alone", "SM-Res-N, noise network alone"]


def command(folder: Path, *more: str) -> list[str]:
    tiny = {"tasks": "digits,derain", "steps": 2, "digits-steps": 2, "seeds": 1, "dim": 8, "crop": 32, "samples": 20}
    folders = {"photos": folder / "photos", "work": folder / "work", "output": folder / "results"}
    return [text for name, value in {**tiny, **folders}.items() for text in (f"--{name}", str(value))] + list(more)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("table1")
    (folder / "photos").mkdir()
    for name in ("astronaut.png", "coffee.png"):
        shutil.copy(PHOTOS / name, folder / "photos")
    table1.main(command(folder))
    return folder


def test_the_files_are_complete(finished: Path) -> None:
    found = json.loads((finished / "results" / "table1.json").read_text())
    assert found["torch"] == torch.__version__ and found["seeds"] == 1
    assert found["command"].startswith("rddm-fast bench table1 --tasks digits,derain --steps 2")
    metrics = {"digits": ["frechet", "confidence"], "derain": ["psnr", "ssim"]}
    baseline = {"digits": "real digits", "derain": "degraded input"}
    for task, of in metrics.items():
        rows = found["tasks"][task]["rows"]
        assert sorted(rows) == sorted([*METHODS, *ALONE, baseline[task]])
        for row in rows.values():
            (scores,) = row["scores"]
            assert list(scores) == of and row["mean"] == scores and set(row["spread"].values()) == {None}
            assert np.isfinite(list(scores.values())).all()
        assert rows["SM-Res-N"]["parameters"] == 2 * rows["SM-Res"]["parameters"] == 2 * rows["SM-N"]["parameters"]
        assert all(rows[name]["cpu_s_per_step"][0] > 0 for name in METHODS)
        # Another network, or one of the two instead of both, is another image.
        assert len({rows[name]["mean"][of[0]] for name in rows}) == 6
    assert found["tasks"]["derain"]["settings"]["training_photographs"] == ["astronaut.png", "coffee.png"]

    lines = list(csv.DictReader((finished / "results" / "table1.csv").open()))
    assert [(line["task"], line["row"]) for line in lines] == [
        (task, name) for task in metrics for name in [baseline[task], *METHODS, *ALONE]
    ]
    assert float(lines[7]["psnr"]) == found["tasks"]["derain"]["rows"]["SM-Res"]["mean"]["psnr"]


def test_the_table_has_the_papers_shape(finished: Path) -> None:
    text = (finished / "results" / "table1.md").read_text()
    table = [line.strip("|").split("|") for line in text.split("\n\n")[1].splitlines()]
    header, _, *rows = [[cell.strip() for cell in line] for line in table]
    assert header[1:] == [
        "Generation of digits: Fréchet ↓",
        "Generation of digits: confidence ↑",
        "Deraining: PSNR ↑",
        "Deraining: SSIM ↑",
    ]
    assert [row[0] for row in rows] == [*METHODS, *ALONE, "real digits", "degraded input"]
    assert all(all(row) for row in rows[:5]) and rows[5][3:] == ["", ""] and rows[6][1:3] == ["", ""]
    for sentences in (
        of["ordering"] for of in json.loads((finished / "results" / "table1.json").read_text())["tasks"].values()
    ):
        assert len(sentences) == 2 and " ".join(sentences) in text


def test_a_second_command_trains_nothing_and_writes_the_same(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results" / "table1.json").read_bytes()

    def never(*_args: object, **_options: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(table1_runs, "Trainer", never)
    table1.main(command(finished))
    assert (finished / "results" / "table1.json").read_bytes() == before
    assert "the paper's ordering is" in capsys.readouterr().out
    with pytest.raises(AssertionError, match="trained again"):
        table1.main(command(finished, "--seeds", "2"))


def test_a_training_that_was_measured_no_more_is_measured(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = finished / "work" / "derain-sm-n-0" / "run.json"
    whole = file.read_text()
    cut = {name: value for name, value in json.loads(whole).items() if name != "scores"}
    file.write_text(json.dumps(cut))
    monkeypatch.setattr(table1_runs, "Trainer", None)
    table1.main(command(finished))
    assert file.read_text() == whole


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--digits-steps", "3"], "digits-sm-res-0 holds a run of other settings: name another --work folder"),
        (["--crop", "500"], "crop is 500: the smallest photograph is"),
        (["--photos", "/nowhere"], "/nowhere does not exist"),
    ],
)
def test_bad_input_is_one_sentence(finished: Path, more: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        table1.main(command(finished, *more))
    assert str(ended.value).startswith("error: ") and message in str(ended.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks", "derain,dehaze"], "there is no task 'dehaze': choose of digits,derain,lowlight"),
        (["--dim", "12"], "12 is no multiple of 8"),
        (["--seeds", "0"], "'0' is no whole number of at least 1"),
    ],
)
def test_a_bad_option_is_named(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        table1.main(arguments)
    assert message in capsys.readouterr().err


def test_restoring_needs_photographs() -> None:
    with pytest.raises(SystemExit, match="error: derain needs photographs to train on: pass --photos FOLDER"):
        table1.main(["--tasks", "derain"])


def test_the_degraded_inputs_psnr_is_scikit_images(finished: Path) -> None:
    photos = sorted((finished / "photos").iterdir())
    task = table1_runs.Restoration("derain", "rain", table1_runs.RESTORING, photos)
    assert task.given.shape == task.truth.shape == (8, 3, 128, 128)
    pairs = zip(task.truth.numpy(), task.given.numpy(), strict=True)
    expected = np.mean([peak_signal_noise_ratio(truth, given, data_range=1) for truth, given in pairs])
    assert task.baseline["degraded input"]["psnr"] == pytest.approx(expected, abs=1e-4)


def test_the_judge_knows_digits_from_what_is_none() -> None:
    judge, found = Judge.trained(), load_digits()
    images = torch.from_numpy(found.images).float()[:, None] / 16
    assert judge.accuracy > 0.95
    right = judge.classifier.predict(images.flatten(1).numpy()) == found.target
    assert right.mean() > 0.95
    same = judge.scores(images)
    assert same["frechet"] == pytest.approx(0, abs=1e-3) and 0 < judge.floor < 1
    noise = judge.scores(torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert noise["frechet"] > 20 * judge.floor and noise["confidence"] < same["confidence"]


RESTORED = {"SM-Res": [25.0, 26.0], "SM-N": [14.0, 15.0], "SM-Res-N": [25.5, 25.0]}
GENERATED = {"SM-Res": [9.0, 8.0], "SM-N": [2.0, 3.0], "SM-Res-N": [3.0, 2.0]}


@pytest.mark.parametrize(
    ("metric", "scores", "verdict"),
    [
        ("psnr", RESTORED, "is reproduced, in each of 2 seeds"),
        ("psnr", RESTORED | {"SM-N": [14.0, 25.2]}, "is reproduced on average, but not in every seed"),
        ("psnr", RESTORED | {"SM-N": [30.0, 30.0]}, "is reproduced in part"),
        ("psnr", RESTORED | {"SM-Res": [23.0, 23.0]}, "is reproduced in part"),
        ("psnr", {"SM-Res": [14.0], "SM-N": [25.0], "SM-Res-N": [20.0]}, "is not reproduced"),
        ("frechet", GENERATED, "is reproduced, in each of 2 seeds"),
        ("frechet", GENERATED | {"SM-Res": [9.0, 2.5]}, "is reproduced on average, but not in every seed"),
        ("frechet", GENERATED | {"SM-Res": [2.0, 2.0]}, "is not reproduced"),
        ("frechet", {name: of[:1] for name, of in GENERATED.items()}, "is reproduced, in 1 seed"),
    ],
)
def test_the_verdict_follows_from_the_numbers(metric: str, scores: dict[str, list[float]], verdict: str) -> None:
    first, second = ordering("Some task", metric, scores, {"degraded input": 17.0})
    assert first.startswith(f"Some task: the paper's ordering {verdict} (SM-")
    numbers = [f"{name} {np.mean(values):.2f}" for name, values in scores.items()]
    assert all(number in second for number in numbers) and "degraded input 17.00" in second


def test_the_sentence_says_which_claim_fails() -> None:
    first, _ = ordering("Deraining", "psnr", RESTORED | {"SM-Res": [23.0, 23.0]}, {})
    assert first.endswith("(SM-N is the worst: yes; SM-Res is the best or within 1 dB of SM-Res-N: no).")
