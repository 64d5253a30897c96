"""`rddm-fast restore`, as a user runs it: on good files, on bad ones, interrupted, and on large ones."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from rddm_fast.cli import app
from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.images.picture import read_image
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.restoration.restore import Restorer, restore_files
from rddm_fast.theory.schedule import Schedule

PHOTOS = Path(__file__).parents[2] / "rddm_fast" / "restoration" / "photos"


def tiny(**kwargs: bool) -> ResidualDiffusion:
    torch.manual_seed(0)
    network = ResidualUnets(16, networks="one", condition=True, dim_mults=[1, 2], **kwargs)
    return ResidualDiffusion(
        network,
        Schedule.triangular(1000, 0.01),
        objective="pred_res",
        condition=True,
        sampling_timesteps=2,
        clip_res=2.0,
        **kwargs,
    ).eval()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny())
    return folder


def restore(model: Path, output: Path, *arguments: str | Path) -> Result:
    given = ["restore", *map(str, arguments), "--model", str(model), "--output", str(output)]
    return CliRunner().invoke(app, given)


def sentence(result: Result) -> str:
    """The one line of error, once it is known to be that: no traceback, exit code 1."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.output
    return lines[0]


def photo(path: Path, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Path:
    with Image.open(PHOTOS / "coffee.png") as image:
        image.resize(size).convert(mode).save(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


# -- what goes wrong ----------------------------------------------------------------------------------------


def test_a_truncated_jpeg(model: Path, tmp_path: Path) -> None:
    good = photo(tmp_path / "whole.jpg", (64, 64))
    bad = tmp_path / "cut.jpg"
    bad.write_bytes(good.read_bytes()[:-200])
    assert re.search(r"cut\.jpg is damaged and cannot be read", sentence(restore(model, tmp_path / "out", bad)))
    assert files(tmp_path / "out") == []


def test_a_1x1_png(model: Path, tmp_path: Path) -> None:
    result = restore(model, tmp_path / "out", photo(tmp_path / "dot.png", (1, 1)))
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out" / "dot.png").size == (1, 1)


def test_a_16_bit_png(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (18, 22, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    assert restore(model, tmp_path / "out", tmp_path / "deep.png").exit_code == 0
    written = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16 and written.shape == (18, 22, 3)
    assert len(np.unique(written % 257)) > 100  # 16 bits are used, not 8 stretched


def test_a_palette_gif(model: Path, tmp_path: Path) -> None:
    assert restore(model, tmp_path / "out", photo(tmp_path / "few.gif", mode="P")).exit_code == 0
    with Image.open(tmp_path / "out" / "few.png") as written:
        assert written.size == (24, 20) and written.mode == "RGB"


def test_a_5000x37_strip(model: Path, tmp_path: Path) -> None:
    result = restore(model, tmp_path / "out", photo(tmp_path / "strip.png", (5000, 37)))
    assert result.exit_code == 0, result.output
    assert Image.open(tmp_path / "out" / "strip.png").size == (5000, 37)


def test_a_text_file_called_png(model: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("I am not a picture.")
    line = sentence(restore(model, tmp_path / "out", tmp_path / "note.png"))
    assert "note.png is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image" in line
    assert files(tmp_path / "out") == []


def test_an_empty_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in sentence(restore(model, tmp_path / "out", tmp_path / "empty"))


def test_a_missing_model(tmp_path: Path) -> None:
    line = sentence(restore(tmp_path / "nowhere", tmp_path / "out", photo(tmp_path / "a.png")))
    assert f"there is no model folder {tmp_path}/nowhere" in line and "derain" in line
    line = sentence(restore(tmp_path / "nowhere.pt", tmp_path / "out", tmp_path / "a.png"))
    assert f"there is no file {tmp_path}/nowhere.pt" in line
    assert files(tmp_path / "out") == []


def test_a_model_with_a_tensor_missing(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["unet0.mid_block1.block1.proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    line = sentence(restore(tmp_path / "model", tmp_path / "out", photo(tmp_path / "a.png")))
    assert "does not fit its network: unet0.mid_block1.block1.proj.weight is missing" in line
    assert files(tmp_path / "out") == []


def test_bad_files_are_named_and_the_rest_is_done(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    photo(folder / "a.png")
    (folder / "b.png").write_text("no picture")
    photo(folder / "c.jpg")
    result = restore(model, tmp_path / "out", folder, tmp_path / "missing.png")
    assert result.exit_code == 1
    errors = [line for line in result.stderr.splitlines() if line]
    assert len(errors) == 2 and "missing.png does not exist" in errors[0] and "b.png is not a readable" in errors[1]
    assert files(tmp_path / "out") == ["a.png", "c.jpg"]
    assert "2 restored, 2 failed" in result.stdout


def test_a_failed_write_leaves_nothing(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("a file where the folder should be")
    assert "cannot be written" in sentence(restore(model, output, photo(tmp_path / "a.png")))
    assert output.read_text().startswith("a file")


def test_two_results_of_one_name_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        photo(tmp_path / folder / "a.png")
    line = sentence(restore(model, tmp_path / "out", tmp_path / "x", tmp_path / "y"))
    assert "would both be written to" in line and files(tmp_path / "out") == []


def test_inputs_are_never_overwritten(model: Path, tmp_path: Path) -> None:
    before = photo(tmp_path / "a.png").read_bytes()
    assert "would overwrite" in sentence(restore(model, tmp_path, tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_real_process_prints_no_traceback(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rddm_fast.cli", "restore", "nothing.png", "-o", "out", "-m", str(model)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (1, "error: nothing.png does not exist\n")
    assert "1 failed" in done.stdout


# -- what goes right ----------------------------------------------------------------------------------------


def test_names_folders_and_formats_are_kept(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "trip").mkdir(parents=True)
    photo(tmp_path / "in" / "a.PNG")
    photo(tmp_path / "in" / "trip" / "b.jpeg")
    photo(tmp_path / "in" / "trip" / "grey.tiff", mode="L")
    with Image.open(PHOTOS / "coffee.png") as image:
        cut = image.resize((16, 12)).convert("RGBA")
        cut.putalpha(77)
        cut.save(tmp_path / "in" / "glass.png")
    assert restore(model, tmp_path / "out", tmp_path / "in").exit_code == 0
    assert files(tmp_path / "out") == ["a.PNG", "glass.png", "trip/b.jpeg", "trip/grey.tiff"]
    assert Image.open(tmp_path / "out" / "trip" / "grey.tiff").mode == "L"
    glass = Image.open(tmp_path / "out" / "glass.png")
    assert glass.mode == "RGBA" and glass.getchannel("A").getextrema() == (77, 77)


def test_an_interrupted_run_goes_on(model: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    assert restore(model, tmp_path / "out", tmp_path / "in" / "a.png").exit_code == 0
    first = (tmp_path / "out" / "a.png").stat().st_mtime_ns
    result = restore(model, tmp_path / "out", tmp_path / "in")
    assert result.exit_code == 0 and "2 restored, 1 already in" in result.stdout
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns == first
    assert "3 restored" in restore(model, tmp_path / "out", tmp_path / "in", "--overwrite").stdout
    assert (tmp_path / "out" / "a.png").stat().st_mtime_ns != first


def test_a_result_is_the_samplers_and_does_not_depend_on_the_others(model: Path, tmp_path: Path) -> None:
    for name, size in (("a", (24, 20)), ("b", (15, 33))):
        photo(tmp_path / f"{name}.png", size)
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert restore(model, alone, tmp_path / "b.png", "--steps", "3", "--seed", "5").exit_code == 0
    both = [tmp_path / "a.png", tmp_path / "b.png"]
    assert restore(model, together, *both, "--steps", "3", "--seed", "5").exit_code == 0
    assert (alone / "b.png").read_bytes() == (together / "b.png").read_bytes()

    generator = torch.Generator().manual_seed(5)
    image = read_image(tmp_path / "b.png").pixels[None]
    expected = load_model(model).sample(image, sampling_timesteps=3, generator=generator)[-1].clamp(0, 1)
    written = read_image(alone / "b.png").pixels
    assert (written - expected[0]).abs().max() <= 0.5 / 255 + 1e-4


def test_tiles_are_close_to_the_whole(tmp_path: Path) -> None:
    # Random weights know no picture; the built-in model does.
    photo(tmp_path / "a.png", (200, 150))
    picture = read_image(tmp_path / "a.png")
    diffusion, seen = load_model("derain"), []
    whole = Restorer(diffusion, steps=2, tile=None)(picture).pixels
    tiles = Restorer(diffusion, steps=2, tile=128, overlap=32)(picture, advance=lambda *x: seen.append(x)).pixels
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (whole - tiles).abs().mean() < 0.01
    assert (whole - picture.pixels).abs().mean() < 0.05  # a clean photograph stays as it is


def test_a_model_that_takes_a_mask(tmp_path: Path) -> None:
    save_model(tmp_path / "model", tiny(input_condition=True))
    (tmp_path / "masks").mkdir()
    (tmp_path / "in").mkdir()
    photo(tmp_path / "in" / "a.png")
    line = sentence(restore(tmp_path / "model", tmp_path / "out", tmp_path / "in"))
    assert "was trained with a mask" in line
    photo(tmp_path / "masks" / "a.png", (5, 5), "L")
    line = sentence(restore(tmp_path / "model", tmp_path / "out", tmp_path / "in", "--mask", tmp_path / "masks"))
    assert "a.png is 5x5 and" in line and files(tmp_path / "out") == []
    photo(tmp_path / "masks" / "a.png", (24, 20), "L")
    result = restore(tmp_path / "model", tmp_path / "out", tmp_path / "in", "--mask", tmp_path / "masks")
    assert result.exit_code == 0 and files(tmp_path / "out") == ["a.png"]


def test_from_python(model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    outcomes = list(restore_files(Restorer(load_model(model)), [tmp_path / "a.png", "nothing"], tmp_path / "out"))
    assert [outcome.error for outcome in outcomes] == ["nothing does not exist", None]
    assert outcomes[1].target == tmp_path / "out" / "a.png" and outcomes[1].seconds > 0


def test_a_published_checkpoint(tmp_path: Path) -> None:
    diffusion = tiny()
    state = {f"ema_model.{name}": value for name, value in diffusion.state_dict().items()}
    torch.save({"step": 1, "model": diffusion.state_dict(), "ema": state}, tmp_path / "model-1.pt")
    picture = photo(tmp_path / "a.png")
    line = sentence(restore(tmp_path / "model-1.pt", tmp_path / "out", picture))
    assert "does not store objective: pass --objective (" in line
    line = sentence(restore(tmp_path / "model-1.pt", tmp_path / "out", picture, "--objective", "pred_res"))
    assert "pass --path-independent or --no-path-independent" in line
    options = ["--objective", "pred_res", "--no-path-independent"]
    assert restore(tmp_path / "model-1.pt", tmp_path / "out", picture, "--steps", "2", *options).exit_code == 0

    converted = ["convert", str(tmp_path / "model-1.pt"), "--output", str(tmp_path / "ours"), *options]
    assert CliRunner().invoke(app, converted).exit_code == 0
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["objective"] == "pred_res"
    assert restore(tmp_path / "ours", tmp_path / "again", picture, "--steps", "2").exit_code == 0
    assert (tmp_path / "again" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()
    line = sentence(restore(tmp_path / "ours", tmp_path / "x", picture, "--objective", "pred_res"))
    assert "--objective is for published .pt checkpoints" in line
