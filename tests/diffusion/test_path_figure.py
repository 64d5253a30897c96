"""The figure of the paths, from the command, and the distances between its images."""

import json
from pathlib import Path

import pytest
import torch
from commands import run, succeeded
from PIL import Image
from small_models import small_model

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.path_figure import PathRow, distances, schedule_named
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.models.folder import save_model
from rddm_fast.theory.schedule import Schedule


def test_the_figure_has_a_row_per_path(tmp_path: Path) -> None:
    networks = ResidualUnets(8, dim_mults=[1, 2], channels=1, networks="two")
    options = {"objective": "pred_res_noise", "path_independent": True, "image_size": 8}
    save_model(tmp_path / "model", ResidualDiffusion(networks, Schedule.from_ddim(1000), **options))
    arguments = ["paths", "--model", tmp_path / "model", "-o", tmp_path / "figure.png", "--under", "trained"]
    arguments += ["--under", "readjusted", "--steps", 2, "--count", 3, "--json", tmp_path / "numbers.json"]
    result = succeeded(run(*arguments))
    width, height = Image.open(tmp_path / "figure.png").size
    assert width == round(110 * (2.2 + 0.8 * 3)) and height == round(110 * 0.85 * 6)
    numbers = json.loads((tmp_path / "numbers.json").read_text())
    assert numbers["paths"] > 0 and numbers["seeds"] > 0
    assert f"between paths of one seed {numbers['paths']:.4f}, between seeds {numbers['seeds']:.4f}" in result.stdout


def test_distances_between_paths_and_between_seeds() -> None:
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2) / 4
    rows = [PathRow("trained", "together", images), PathRow("power", "together", images + 0.1)]
    paths, seeds = distances(rows)
    assert paths == pytest.approx(0.1) and seeds == pytest.approx(((2 * 0.25**2 + 0.5**2) / 3) ** 0.5)
    with pytest.raises(ValueError, match="at least two paths and two seeds"):
        distances(rows[:1])
    with pytest.raises(ValueError, match="unknown schedule 'other': choose one of trained, ddim"):
        schedule_named("other", small_model())
