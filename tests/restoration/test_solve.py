"""`Solver` and `solve_files` from Python: the solver's own numbers, progress, and what becomes of a picture's file."""

from pathlib import Path

import pytest
import torch
from small_models import images, seeded, small_model
from small_priors import small_prior

from rddm_fast.fast.prior import FastPrior
from rddm_fast.images.picture import ImageError, Picture, write_image
from rddm_fast.inverse.operators import named
from rddm_fast.inverse.restore import restore
from rddm_fast.inverse.windows import WINDOWED as OPERATORS
from rddm_fast.restoration.measurement import WINDOWED
from rddm_fast.restoration.solve import Solver, degraded_path, solve_files


def test_a_result_is_restores_with_the_noise_doubled() -> None:
    picture = Picture(images(3, 5, 7))
    options = {"method": "ddrm", "steps": 4, "eta": 0.6, "eta_b": 0.9, "official": True}
    ours = Solver(small_prior(), "sr:2", sigma_y=0.1, seed=3, **options)(picture)
    y = 2 * picture.pixels[None] - 1
    prior = FastPrior(small_prior())
    theirs = restore(y, named("sr:2", (3, 10, 14)), prior, sigma_y=0.2, generator=seeded(3), **options)
    assert torch.equal(ours.pixels, ((theirs[0] + 1) / 2).clamp(0, 1))


def test_a_trial_is_the_restoration_of_its_measurement() -> None:
    """One generator draws the measurement's noise and then the solver's."""
    clean, generator = Picture(images(3, 12, 16)), seeded(5)
    trial = Solver(small_prior(), "denoising", sigma_y=0.1, steps=3, seed=5).trial(clean)
    y = 2 * clean.pixels[None] - 1
    y = y + 0.2 * torch.randn(y.shape, generator=generator)
    operator, prior = named("denoising", (3, 12, 16)), FastPrior(small_prior())
    theirs = restore(y, operator, prior, "ddnm", 0.2, 3, generator=generator, clip_0=1.0)
    assert torch.equal(trial.restored.pixels, ((theirs[0] + 1) / 2).clamp(0, 1))
    assert torch.equal(trial.degraded.pixels, ((y[0] + 1) / 2).clamp(0, 1))
    assert trial.scores["input"] == trial.scores["A⁺y"] and trial.scores["input"][0] == pytest.approx(20, abs=1)


def test_progress_counts_the_steps_of_all_windows() -> None:
    seen: list[tuple[int, int]] = []
    solver = Solver(small_prior(), "sr:2", steps=3, travel=(1, 2), tile=8)
    solver(Picture(images(3, 4, 6)), advance=lambda done, count: seen.append((done, count)))
    steps = len(solver.walk)
    assert steps > 3 and seen == [(done, 2 * steps) for done in range(1, 2 * steps + 1)]  # 8 x 12: two windows


def test_the_profile_of_a_grey_picture_is_dropped_with_its_greyness() -> None:
    grey = Picture(images(1, 4, 6).expand(3, -1, -1), grey=True, icc=b"grey")
    coloured = Solver(small_prior(), "color", steps=1)(grey)
    larger = Solver(small_prior(), "sr:2", steps=1)(grey)
    assert (coloured.grey, coloured.icc) == (False, None) and (larger.grey, larger.icc) == (True, b"grey")


def test_the_names_that_have_windows_are_the_operators_that_have() -> None:
    specs = {"sr": "sr:2", "old": "old:2"}
    assert {type(named(specs.get(name, name), (3, 4, 4))) for name in WINDOWED} == set(OPERATORS)


def test_what_a_solver_refuses() -> None:
    with pytest.raises(ValueError, match="this model's objective is pred_res"):
        Solver(small_model("pred_res"), "sr:2")
    with pytest.raises(ValueError, match="this prior makes images of 2 channels, and a picture has 1 or 3"):
        Solver(small_prior(2), "sr:2")
    with pytest.raises(ValueError, match="this prior makes grey pictures and knows no colours"):
        Solver(small_prior(1), "color")
    with pytest.raises(ValueError, match="inpaint needs a mask"):
        Solver(small_prior(), "inpaint")(Picture(images(3, 4, 4)))
    with pytest.raises(ValueError, match=r"a picture cannot be a measurement by cs:0\.5"):
        Solver(small_prior(), "cs:0.5")(Picture(images(3, 4, 4)))
    with pytest.raises(ImageError, match=r"small\.png is 12x10: SSIM needs at least 11x11 pixels"):
        Solver(small_prior(), "sr:2").trial(Picture(images(3, 10, 12), path=Path("small.png")))


def test_files_get_their_degraded_pictures_and_scores(tmp_path: Path) -> None:
    write_image(tmp_path / "in" / "a.jpg", Picture(images(3, 12, 16)))
    solver = Solver(small_prior(), "old:2", steps=2)
    outcomes = list(solve_files(solver, [tmp_path / "in", "nothing"], tmp_path / "out", degrade=True))
    assert [outcome.error for outcome in outcomes] == ["nothing does not exist", None]
    assert (
        outcomes[1].target == tmp_path / "out" / "a.jpg" and degraded_path(outcomes[1].target).name == "a.degraded.jpg"
    )
    assert degraded_path(outcomes[1].target).exists() and list(outcomes[1].scores or {}) == ["A⁺y", "result"]
    (again,) = solve_files(solver, [tmp_path / "in"], tmp_path / "out", degrade=True)
    assert again.skipped
