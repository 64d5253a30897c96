"""`rddm-fast bench models` measures what it says, and the cases are what their names say."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import run, succeeded
from small_models import small_model

from rddm_fast.benchmarks.models import cases, curve, measure, table
from rddm_fast.benchmarks.models.classics import best_gain
from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.images.degrade import Degraded
from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.folder import save_model
from rddm_fast.restoration.demo import photographs
from rddm_fast.theory.schedule import Schedule


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    for path in photographs()[:2]:
        folder.mkdir(exist_ok=True)
        write_image(folder / path.name, Picture(read_image(path).pixels[:, 40:104, 60:124].contiguous()))
    return folder


def identity(**options: Any) -> ResidualDiffusion:
    """A model that changes nothing: its last convolution answers a residual of 0, and there is no noise."""
    model = small_model("pred_res", schedule=Schedule.triangular(1000, 1e-8), **options)
    for parameter in model.model.members[0].final_conv.parameters():
        torch.nn.init.zeros_(parameter)
    return model


def test_a_model_that_changes_nothing_gains_nothing(photos: Path, tmp_path: Path) -> None:
    save_model(tmp_path / "model", identity())
    output = tmp_path / "out"
    table.main(
        ["--photos", str(photos), "--models", "dejpeg", "--model-folder", str(tmp_path / "model"), "-o", str(output)]
    )
    found = json.loads((output / "dejpeg.json").read_text())
    for case, scores in found["cases"].items():
        assert scores["model"]["psnr"] == pytest.approx(scores["input"]["psnr"], abs=0.05), case
    assert found["clean"] == [None, None]
    assert set(found["by_steps"]["our jpeg"]) == {"1", "2", "3", "5", "10"}
    written = (output / "README.md").read_text()
    assert "| a clean picture | model | 2 of 2 equal to the bit |" in written and "![dejpeg](dejpeg.jpg)" in written
    assert (output / "dejpeg.jpg").stat().st_size > 1000


def test_classics_are_measured_beside_a_model_that_takes_a_mask(photos: Path) -> None:
    pictures = {path.stem: read_image(path).pixels for path in sorted(photos.iterdir())}
    model = identity(input_condition=True, input_condition_mask=True, mask_marks="filled hole")
    found = measure.measure("inpaint", model, pictures)
    scores = found["cases"]["thin strokes"]
    assert set(scores) == {"input", "model", "Telea", "Navier-Stokes"}
    # The model leaves the smooth filling, which is about as good as Telea's; the input has white holes.
    assert np.mean(scores["model"]["psnr"]) > np.mean(scores["Telea"]["psnr"]) - 1
    assert np.mean(scores["model"]["psnr"]) > np.mean(scores["input"]["psnr"]) + 10


def test_a_curve_leads_from_the_start_to_the_trained_model(photos: Path, tmp_path: Path) -> None:
    trained, output = tmp_path / "run", tmp_path / "out"
    save_model(tmp_path / "start", small_model("pred_res", schedule=Schedule.triangular(1000, 0.01)))
    model = [
        "model.dim=16",
        "model.mults=[1, 2]",
        "model.sampling_timesteps=1",
        f"model.start_from={tmp_path / 'start'}",
    ]
    train = ["train.batch_size=1", "train.keep=9", "train.steps=3", "train.save_every=0", "train.plot=false"]
    settings = [part for setting in [*model, *train] for part in ("--set", setting)]
    preset = ["--preset", "photos-dejpeg", "--photos", photos, "--patch", 16]
    succeeded(run("train", *preset, *settings, "--output", trained))

    curve.main(["dejpeg", str(trained), "--photos", str(photos), "-o", str(output)])
    found = json.loads((output / "curves" / "dejpeg.json").read_text())
    assert found["steps"] == [0, 1, 2, 3]
    measuring = ["--photos", str(photos), "--models", "dejpeg", "--model-folder", str(trained / "model")]
    table.main([*measuring, "-o", str(output)])
    measured = json.loads((output / "dejpeg.json").read_text())
    for case, scores in measured["cases"].items():
        values = found["psnr"][case]  # of every third photograph, the first of two
        assert values["input"] == pytest.approx(scores["input"]["psnr"][0], abs=0.01)
        assert values["model"][-1] == pytest.approx(scores["model"]["psnr"][0], abs=0.05)  # stored in half precision
        assert len(set(values["model"])) == 4
    assert "In its last training, after 0, 1, 2, 3 steps" in (output / "README.md").read_text()


@pytest.mark.parametrize("name", cases.CASES)
def test_cases_are_the_same_at_every_call_and_in_range(name: str) -> None:
    truth = read_image(photographs()[0]).pixels[:, :96, :96].contiguous()
    for case in cases.CASES[name]:
        first, again = (measure.degraded_by(case, truth, "a") for _ in range(2))
        assert np.array_equal(first.image, again.image) and first.image.dtype == np.float32
        assert first.image.min() >= 0 and first.image.max() <= 1
        assert not np.array_equal(first.image, truth.permute(1, 2, 0).numpy())
        if first.mask is not None and case.foreign:
            outside = first.mask == 0
            assert np.abs(first.image - truth.permute(1, 2, 0).numpy())[outside].max() < 1 / 255


def test_the_noise_has_the_deviation_of_its_name() -> None:
    grey = torch.full((3, 128, 128), 0.5)
    for case in cases.CASES["denoise"][1:]:
        deviation = 255 * float(np.std(measure.degraded_by(case, grey, "a").image))
        assert deviation == pytest.approx(float(case.name.split()[-1]), rel=0.03)


def test_the_best_gain_undoes_a_shadow_of_one_factor() -> None:
    truth = np.random.default_rng(0).uniform(0.2, 0.9, (16, 16, 3)).astype(np.float32)
    mask = np.zeros((16, 16), np.float32)
    mask[4:12] = 1
    shadowed = np.where(mask[..., None] > 0, truth * np.array([0.4, 0.5, 0.6], np.float32), truth)
    assert np.allclose(best_gain(Degraded(shadowed, mask), truth), truth, atol=1e-5)
