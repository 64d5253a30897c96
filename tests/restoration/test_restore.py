"""`rddm-fast restore`, as a user runs it: on good files, on bad ones, interrupted, and on large ones."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import error_of, launched, python, run, succeeded
from PIL import Image
from safetensors.torch import load_file, save_file
from small_models import images, seeded, small_model
from typer.testing import Result

from rddm_fast.images.picture import Picture, read_image, write_image
from rddm_fast.models.folder import load_model, save_model
from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.restoration.restore import Restorer, restore_files


def restore(model: Path, output: Path, *arguments: object) -> Result:
    return run("restore", *arguments, "--model", model, "--output", output)


def photo(path: Path, size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(PHOTOS / "coffee.png") as image:
        image.resize(size).convert(mode).save(path)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) if folder.exists() else []


def refused(model: Path, folder: Path, *arguments: object) -> str:
    """The error of a `restore` to out/ that writes nothing."""
    line = error_of(restore(model, folder / "out", *arguments))
    assert files(folder / "out") == []
    return line


def test_a_truncated_jpeg(model: Path, tmp_path: Path) -> None:
    bad = photo(tmp_path / "cut.jpg", (64, 64))
    bad.write_bytes(bad.read_bytes()[:-200])
    assert "cut.jpg is damaged and cannot be read" in refused(model, tmp_path, bad)


@pytest.mark.parametrize("size", [(1, 1), (5000, 37)])
def test_a_dot_and_a_strip(size: tuple[int, int], model: Path, tmp_path: Path) -> None:
    succeeded(restore(model, tmp_path / "out", photo(tmp_path / "a.png", size)))
    assert Image.open(tmp_path / "out" / "a.png").size == size


def test_a_16_bit_png(model: Path, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (18, 22, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "deep.png"), pixels)
    succeeded(restore(model, tmp_path / "out", tmp_path / "deep.png"))
    written = cv2.imread(str(tmp_path / "out" / "deep.png"), cv2.IMREAD_UNCHANGED)
    assert written.dtype == np.uint16 and written.shape == (18, 22, 3)
    assert len(np.unique(written % 257)) > 100  # 16 bits are used, not 8 stretched


def test_a_palette_gif(model: Path, tmp_path: Path) -> None:
    succeeded(restore(model, tmp_path / "out", photo(tmp_path / "few.gif", mode="P")))
    with Image.open(tmp_path / "out" / "few.png") as written:
        assert written.size == (24, 20) and written.mode == "RGB"


def test_a_text_file_called_png(model: Path, tmp_path: Path) -> None:
    (tmp_path / "note.png").write_text("I am not a picture.")
    line = refused(model, tmp_path, tmp_path / "note.png")
    assert "note.png is not a readable JPEG, PNG, TIFF, BMP, WebP or GIF image" in line


def test_an_empty_folder(model: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds no image" in refused(model, tmp_path, tmp_path / "empty")


def test_a_missing_model(tmp_path: Path) -> None:
    line = refused(tmp_path / "nowhere", tmp_path, photo(tmp_path / "a.png"))
    assert f"there is no model folder {tmp_path}/nowhere" in line and "derain" in line
    assert f"there is no file {tmp_path}/nowhere.pt" in refused(tmp_path / "nowhere.pt", tmp_path, tmp_path / "a.png")


def test_a_model_with_a_tensor_missing(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["unet0.mid_block1.block1.proj.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors")
    line = refused(tmp_path / "model", tmp_path, photo(tmp_path / "a.png"))
    assert "does not fit its network: unet0.mid_block1.block1.proj.weight is missing" in line


def test_bad_files_are_named_and_the_rest_is_done(model: Path, tmp_path: Path) -> None:
    for name in ("a.png", "c.jpg"):
        photo(tmp_path / "in" / name)
    (tmp_path / "in" / "b.png").write_text("no picture")
    result = restore(model, tmp_path / "out", tmp_path / "in", tmp_path / "missing.png")
    errors = [line for line in result.stderr.splitlines() if line]
    assert len(errors) == 2 and "missing.png does not exist" in errors[0] and "b.png is not a readable" in errors[1]
    assert result.exit_code == 1 and "2 restored, 2 failed" in result.stdout
    assert files(tmp_path / "out") == ["a.png", "c.jpg"]


def test_a_failed_write_leaves_nothing(model: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.write_text("a file where the folder should be")
    line = error_of(restore(model, output, photo(tmp_path / "a.png")))
    assert f"--output is {output}, a file: name a folder for the results, or one result, such as restored.png" in line
    assert output.read_text().startswith("a file")


def test_two_results_of_one_name_are_refused_before_any_work(model: Path, tmp_path: Path) -> None:
    for folder in ("x", "y"):
        photo(tmp_path / folder / "a.png")
    line = refused(model, tmp_path, tmp_path / "x", tmp_path / "y")
    assert "would both be written to" in line


def test_inputs_are_never_overwritten(model: Path, tmp_path: Path) -> None:
    before = photo(tmp_path / "a.png").read_bytes()
    assert "would overwrite" in error_of(restore(model, tmp_path, tmp_path / "a.png"))
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_real_process_prints_no_traceback(model: Path, tmp_path: Path) -> None:
    command = ("-m", "rddm_fast.cli", "restore", "nothing.png", "-o", "out", "-m", model)
    done = python(*command, cwd=tmp_path, env={**os.environ, "COLUMNS": "200"})
    assert (done.returncode, done.stderr) == (1, "error: nothing.png does not exist\n")
    assert "1 failed" in done.stdout


def test_names_folders_and_formats_are_kept(model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.PNG")
    photo(tmp_path / "in" / "trip" / "b.jpeg")
    photo(tmp_path / "in" / "trip" / "grey.tiff", mode="L")
    with Image.open(photo(tmp_path / "in" / "glass.png", mode="RGBA")) as image:
        image.putalpha(77)
        image.save(tmp_path / "in" / "glass.png")
    succeeded(restore(model, tmp_path / "out", tmp_path / "in"))
    assert files(tmp_path / "out") == ["a.PNG", "glass.png", "trip/b.jpeg", "trip/grey.tiff"]
    assert Image.open(tmp_path / "out" / "trip" / "grey.tiff").mode == "L"
    glass = Image.open(tmp_path / "out" / "glass.png")
    assert glass.mode == "RGBA" and glass.getchannel("A").getextrema() == (77, 77)


def test_an_interrupted_run_goes_on(model: Path, tmp_path: Path) -> None:
    for name in "abc":
        photo(tmp_path / "in" / f"{name}.png")
    succeeded(restore(model, tmp_path / "out", tmp_path / "in" / "a.png"))
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
    succeeded(restore(model, alone, tmp_path / "b.png", "--steps", "3", "--seed", "5"))
    both = [tmp_path / "a.png", tmp_path / "b.png"]
    succeeded(restore(model, together, *both, "--steps", "3", "--seed", "5"))
    assert (alone / "b.png").read_bytes() == (together / "b.png").read_bytes()

    generator = seeded(5)
    image = read_image(tmp_path / "b.png").pixels[None]
    expected = load_model(model).sample(image, sampling_timesteps=3, generator=generator)[-1].clamp(0, 1)
    written = read_image(alone / "b.png").pixels
    assert (written - expected[0]).abs().max() <= 0.5 / 255 + 1e-4


def test_tiles_are_close_to_the_whole(tmp_path: Path) -> None:
    # The built-in model, because with random weights the tiles and the whole image differ.
    photo(tmp_path / "a.png", (200, 150))
    picture = read_image(tmp_path / "a.png")
    diffusion, seen = load_model("derain"), []
    whole = Restorer(diffusion, steps=2, tile=None)(picture).pixels
    tiles = Restorer(diffusion, steps=2, tile=128, overlap=32)(picture, advance=lambda *x: seen.append(x)).pixels
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (whole - tiles).abs().mean() < 0.01
    assert (whole - picture.pixels).abs().mean() < 0.05  # a clean photograph stays as it is


def test_a_model_that_takes_a_mask(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_model("pred_res", clip_res=2.0, input_condition=True))
    photo(tmp_path / "in" / "a.png")
    assert "was trained with a mask" in refused(tmp_path / "model", tmp_path, tmp_path / "in")
    photo(tmp_path / "masks" / "a.png", (5, 5), "L")
    line = refused(tmp_path / "model", tmp_path, tmp_path / "in", "--mask", tmp_path / "masks")
    assert "a.png is 5x5 and" in line
    photo(tmp_path / "masks" / "a.png", (24, 20), "L")
    result = restore(tmp_path / "model", tmp_path / "out", tmp_path / "in", "--mask", tmp_path / "masks")
    assert result.exit_code == 0 and files(tmp_path / "out") == ["a.png"]


def test_from_python(model: Path, tmp_path: Path) -> None:
    photo(tmp_path / "a.png")
    outcomes = list(restore_files(Restorer(load_model(model)), [tmp_path / "a.png", "nothing"], tmp_path / "out"))
    assert [outcome.error for outcome in outcomes] == ["nothing does not exist", None]
    assert outcomes[1].target == tmp_path / "out" / "a.png" and outcomes[1].seconds > 0


def test_a_published_checkpoint(tmp_path: Path) -> None:
    diffusion = small_model("pred_res", clip_res=2.0)
    state = {f"ema_model.{name}": value for name, value in diffusion.state_dict().items()}
    torch.save({"step": 1, "model": diffusion.state_dict(), "ema": state}, tmp_path / "model-1.pt")
    picture = photo(tmp_path / "a.png")
    line = refused(tmp_path / "model-1.pt", tmp_path, picture, "--objective", "pred_res")
    assert "does not store which published experiment it is of" in line and ": pass --experiment ('path-inde" in line
    line = refused(tmp_path / "model-1.pt", tmp_path, picture, "--experiment", "restoration")
    assert "does not store objective: pass --objective (" in line
    options = ["--objective", "pred_res", "--experiment", "restoration"]
    succeeded(restore(tmp_path / "model-1.pt", tmp_path / "out", picture, "--steps", "2", *options))

    succeeded(run("convert", tmp_path / "model-1.pt", "--output", tmp_path / "ours", *options))
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["objective"] == "pred_res"
    succeeded(restore(tmp_path / "ours", tmp_path / "again", picture, "--steps", "2"))
    assert (tmp_path / "again" / "a.png").read_bytes() == (tmp_path / "out" / "a.png").read_bytes()
    assert "--objective is for published .pt checkpoints" in error_of(
        restore(tmp_path / "ours", tmp_path / "x", picture, "--objective", "pred_res")
    )


def test_two_processes_share_a_folder(tmp_path: Path) -> None:
    """Five files for two processes: none is restored twice, none is lost, and a bad one is named once."""
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

    alone = run(*arguments, "-o", tmp_path / "one")
    assert alone.exit_code == 1 and "5 restored, 1 failed" in alone.stdout
    for i in range(5):
        one, two = (read_image(tmp_path / name / f"{i}.png").pixels for name in ("one", "two"))
        assert torch.equal(one, two)
