"""`rddm-fast ddim` against diffusers' own pipeline, and against the published step written out in float64."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from typer.testing import CliRunner

from rddm_fast.cli import app
from rddm_fast.cli.ddim import generator_of_batch, images_of_batch, steps_of
from rddm_fast.images import picture
from rddm_fast.models.from_diffusers import from_diffusers

diffusers = pytest.importorskip("diffusers")

T, STEPS, BATCH, SEED, SIDE = 50, 5, 3, 10, 16
CHANNELS = 3


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small lose more time to threads that wait for each other than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def save(folder: Path, channels: int = CHANNELS, seed: int = 0, **scheduler: Any) -> Path:
    torch.manual_seed(seed)
    unet = diffusers.UNet2DModel(
        sample_size=SIDE,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        attention_head_dim=8,
    )
    scheduler = {"num_train_timesteps": T, "beta_end": 0.2, "clip_sample_range": 0.8, **scheduler}
    diffusers.DDIMPipeline(unet=unet.eval(), scheduler=diffusers.DDIMScheduler(**scheduler)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("diffusers") / "pipeline")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "images"


def common(folder: Path, output: Path) -> list[object]:
    return ["ddim", folder, "-o", output, "--steps", STEPS, "--batch", BATCH, "--device", "cpu"]


def levels(output: Path) -> npt.NDArray[np.float64]:
    """The images of a folder in the order of their numbers, (N, H, W, 3) in 0 .. 255."""
    files = sorted(output.iterdir(), key=lambda file: int(file.stem))
    assert [file.name for file in files] == [f"{i}.png" for i in range(len(files))]
    return np.stack([picture.read_image(file).pixels.permute(1, 2, 0).double().numpy() * 255 for file in files])


def floats(folder: Path, number: int, **settings: Any) -> npt.NDArray[np.float64]:
    """The command's images of a batch before they are rounded, (B, H, W, C)."""
    model = from_diffusers(folder, "ddim")
    given = {"steps": STEPS, "to_rddm": True, "adjust_alpha": False, "eta": 0.0, **settings}
    images = images_of_batch(model, steps_of(model, given), number, BATCH, SEED, BATCH)
    return images.clamp(0, 1).permute(0, 2, 3, 1).double().numpy()


# -- DDIM's own steps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_without_to_rddm_the_images_are_those_of_diffusers(folder: Path, output: Path, eta: float) -> None:
    result = run(*common(folder, output), "--no-to-rddm", "--eta", eta, "--images", 2 * BATCH)
    assert result.exit_code == 0, result.output
    pipeline = diffusers.DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    written = levels(output)
    for number in range(2):
        generator = generator_of_batch(SEED, number)
        expected = pipeline(BATCH, generator, eta, STEPS, output_type="np").images
        assert np.abs(floats(folder, number, to_rddm=False, eta=eta) - expected).max() < 1e-4
        assert np.abs(written[number * BATCH :][:BATCH] - (expected * 255).round()).max() < 1.01
    assert np.abs(written[:BATCH] - written[BATCH:]).max() > 10


# -- RDDM's steps -------------------------------------------------------------------------------------------


def alpha_bars(schedule: str, ratio: float) -> list[float]:
    """The cumulative sum of the published P, in [0, 1]."""
    line = [i / (T - 1) for i in range(T)]
    weights = {
        "increased": [x**ratio for x in line],
        "decreased": [x**ratio for x in reversed(line)],
        "average": [1.0] * T,
        "normal": [math.exp(-((6 * x - 3) ** 2) / 2) for x in line],
    }[schedule]
    return [min(sum(weights[: i + 1]) / sum(weights), 1.0) for i in range(T)]


def published(folder: Path, number: int, eta: float, readjusted: list[float] | None) -> npt.NDArray[np.float64]:
    """The images of the published step (rddm.md C8, Exp 1), in float64 but for the network."""
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet").eval()
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    a = np.cumprod(1 - np.linspace(config["beta_start"], config["beta_end"], T))
    trained, beta_bar, limit = 1 - np.sqrt(a), np.sqrt(1 - a), config["clip_sample_range"]
    alpha_bar = trained if readjusted is None else np.array(readjusted)
    generator = generator_of_batch(SEED, number)

    def draw() -> npt.NDArray[np.float64]:
        return torch.randn(BATCH, CHANNELS, SIDE, SIDE, generator=generator).double().numpy()

    x = draw()
    for t in range((STEPS - 1) * (T // STEPS), -1, -(T // STEPS)):
        s = t - T // STEPS
        a_s, alpha_s, beta_s = (a[s], alpha_bar[s], beta_bar[s]) if s >= 0 else (1.0, 0.0, 0.0)
        with torch.no_grad():
            epsilon = unet(torch.from_numpy(x).float(), t).sample.double().numpy()
        I_res = np.clip((x - beta_bar[t] * epsilon) / (trained[t] - 1), -limit, limit)
        deviation = eta * np.sqrt((1 - a_s) / (1 - a[t]) * (1 - a[t] / a_s))
        x = x - (alpha_bar[t] - alpha_s) * I_res - (beta_bar[t] - np.sqrt(beta_s**2 - deviation**2)) * epsilon
        x = x + (deviation * draw() if eta else 0)
    return (x.transpose(0, 2, 3, 1) / 2 + 0.5).clip(0, 1)


@pytest.mark.parametrize("eta", [0.0, 0.6])
def test_rddms_steps_are_the_published_ones(folder: Path, output: Path, eta: float) -> None:
    result = run(*common(folder, output), "--eta", eta, "--images", BATCH)
    assert result.exit_code == 0, result.output
    expected = published(folder, 0, eta, None)
    assert np.abs(floats(folder, 0, eta=eta) - expected).max() < 1e-4
    assert np.abs(levels(output) - (expected * 255).round()).max() < 1.01
    # The clamps are active, so DDIM's own step makes other images.
    assert np.abs(floats(folder, 0, eta=eta, to_rddm=False) - expected).max() > 1e-3


@pytest.mark.parametrize(
    ("schedule", "ratio"), [("decreased", 0.3), ("increased", 2.0), ("average", 1.0), ("normal", 1.0)]
)
def test_with_alpha_adjusted_they_are_the_published_ones(
    folder: Path, output: Path, schedule: str, ratio: float
) -> None:
    options = ["--adjust-alpha", "--schedule", schedule, "--ratio", ratio, "--images", BATCH]
    result = run(*common(folder, output), *options)
    assert result.exit_code == 0, result.output
    expected = published(folder, 0, 0.0, alpha_bars(schedule, ratio))
    settings = {"adjust_alpha": True, "schedule": schedule, "ratio": ratio}
    assert np.abs(floats(folder, 0, **settings) - expected).max() < 1e-4
    assert np.abs(levels(output) - (expected * 255).round()).max() < 1.01
    assert np.abs(published(folder, 0, 0.0, None) - expected).max() > 1e-2


def test_as_published_rddms_last_step_leads_to_the_clean_image(tmp_path: Path) -> None:
    folder = save(tmp_path / "pipeline", set_alpha_to_one=False)
    assert np.abs(floats(folder, 0) - published(folder, 0, 0.0, None)).max() < 1e-4


# -- files --------------------------------------------------------------------------------------------------


def contents(output: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in output.iterdir()}


def test_an_interrupted_run_resumes_to_the_same_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--eta", 0.5, "--images", 8]  # the third batch has two of its three images
    assert run(*common(folder, tmp_path / "whole"), *options).exit_code == 0
    left, write = [4], picture.write_image

    def write_four(*args: Any, **kwargs: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(*args, **kwargs)

    monkeypatch.setattr(picture, "write_image", write_four)
    assert run(*common(folder, tmp_path / "resumed"), *options).exit_code != 0
    assert sorted(contents(tmp_path / "resumed")) == ["0.png", "1.png", "2.png", "3.png"]
    monkeypatch.undo()
    (tmp_path / "resumed" / "1.png").unlink()
    result = run(*common(folder, tmp_path / "resumed"), *options)
    assert result.exit_code == 0 and "5 written, 3 already in" in result.stdout
    assert contents(tmp_path / "resumed") == contents(tmp_path / "whole")
    assert len(contents(tmp_path / "whole")) == 8
    assert run(*common(folder, tmp_path / "resumed"), *options).stdout.startswith("0 written, 8 already")


def test_more_images_of_the_same_settings(folder: Path, output: Path) -> None:
    run(*common(folder, output), "--images", 1)
    first = contents(output)
    result = run(*common(folder, output), "--images", 4)
    assert result.exit_code == 0 and "3 written, 1 already in" in result.stdout
    assert len(contents(output)) == 4 and contents(output)["0.png"] == first["0.png"]
    settings = json.loads((output.parent / "images.json").read_text())
    assert settings["images"] == 4 and settings["model"] == str(folder)
    assert (settings["steps"], settings["to_rddm"], settings["schedule"], settings["seed"]) == (STEPS, True, None, SEED)


def test_evaluate_takes_the_folder(folder: Path, output: Path) -> None:
    assert run(*common(folder, output), "--images", 2).exit_code == 0
    real = output.parent / "real"
    for i in range(2):
        picture.write_image(real / f"{i}.png", picture.Picture(torch.rand(3, SIDE, SIDE)))
    result = run("evaluate", output, real, "--device", "cpu")
    assert result.exit_code == 0 and "2 images, rgb" in result.stdout


def test_one_channel_makes_grey_files(tmp_path: Path, output: Path) -> None:
    result = run(*common(save(tmp_path / "grey", channels=1), output), "--images", 1)
    assert result.exit_code == 0, result.output
    read = picture.read_image(output / "0.png")
    assert read.grey and read.pixels.shape == (3, SIDE, SIDE) and read.pixels.std() > 0.05


# -- refusals -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--no-to-rddm", "--adjust-alpha"], "--adjust-alpha changes RDDM's step: leave it out, or leave --no-to-rddm"),
        (["--schedule", "decreased"], "--schedule is for --adjust-alpha: add --adjust-alpha, or leave --schedule out"),
        (["--ratio", "0.3"], "--ratio is for --adjust-alpha"),
        (["--adjust-alpha", "--schedule", "cosine"], "--schedule is 'cosine': choose one of increased, decreased"),
        (["--adjust-alpha", "--ratio", "-1"], "--ratio must be a number of at least 0, not -1"),
        (["--adjust-alpha", "--ratio", "nan"], "--ratio must be a number of at least 0, not nan"),
        (["--steps", "0"], "--steps must be at least 1, not 0"),
        (["--steps", "51"], f"--steps must be between 1 and the {T} of"),
        (["--eta", "1.5"], "--eta must be between 0 (no noise) and 1, not 1.5"),
        (["--images", "0"], "--images must be at least 1, not 0"),
        (["--batch", "0"], "--batch must be at least 1, not 0"),
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
    ],
)
def test_a_mistake_is_one_sentence(folder: Path, output: Path, options: list[str], sentence: str) -> None:
    result = run(*common(folder, output), *options)
    assert result.exit_code == 1 and sentence in result.stderr and result.stderr.count("\n") == 1
    assert not output.exists() and not list(output.parent.glob("*.json"))


def test_a_folder_without_a_pipeline(tmp_path: Path, output: Path) -> None:
    result = run(*common(tmp_path, output))
    assert result.exit_code == 1 and "pass a folder that a diffusers pipeline was saved to" in result.stderr
    result = run(*common(save(tmp_path / "latent", channels=4), output))
    assert result.exit_code == 1 and "makes images of 4 channels: only 1 or 3 can be written" in result.stderr


def test_an_output_of_other_settings_is_left_alone(folder: Path, tmp_path: Path, output: Path) -> None:
    arguments = common(folder, output)
    assert run(*arguments, "--images", 1).exit_code == 0
    before = {**contents(output), **contents_of(output.parent / "images.json")}
    for options, was, now in (
        (["--steps", 4], "--steps 5", "--steps 4"),
        (["--no-to-rddm"], "--to-rddm", "--no-to-rddm"),
        (["--adjust-alpha"], "no --adjust-alpha", "--adjust-alpha"),
        (["--eta", 0.5], "--eta 0.0", "--eta 0.5"),
        (["--batch", 2], "--batch 3", "--batch 2"),
        (["--seed", 0], "--seed 10", "--seed 0"),
    ):
        result = run(*arguments, "--images", 2, *options)
        assert result.exit_code == 1
        assert f"images was made with {was}, not with {now}: choose another --output" in result.stderr
    for other in (save(tmp_path / "other", seed=1), save(tmp_path / "wide", clip_sample_range=0.9)):
        result = run(*common(other, output), "--images", 2)
        assert result.exit_code == 1 and "was made with another model than" in result.stderr
    assert {**contents(output), **contents_of(output.parent / "images.json")} == before
    (output.parent / "images.json").write_text("{")
    result = run(*arguments, "--images", 2)
    assert result.exit_code == 1 and "holds files, but" in result.stderr and "no settings of theirs" in result.stderr
    result = run(*common(folder, output.parent / "images.json"))
    assert result.exit_code == 1 and "images.json is a file: --output is a folder" in result.stderr


def contents_of(file: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes()}
