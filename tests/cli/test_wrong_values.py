"""Wrong values of options: every error names the option as it was typed, in one sentence."""

import inspect
import re
from pathlib import Path
from typing import Annotated

import numpy as np
import pytest
import torch
import typer
from commands import error_of, run
from PIL import Image
from small_models import small_model

from rddm_fast.cli.common.wording import as_typed, options_of
from rddm_fast.diffusion.cold_restorer import ColdRestorer
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.inverse.cold import Recipe
from rddm_fast.models.folder import save_model
from rddm_fast.theory.schedule import Schedule

HUGE = str(2**64)


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small models, a published checkpoint and pictures."""
    folder = tmp_path_factory.mktemp("here")
    restoring = small_model("pred_res", dim=8)
    save_model(folder / "m", restoring)
    save_model(folder / "prior", small_model("pred_noise", dim=8, condition=False, schedule=Schedule.from_ddim(1000)))
    save_model(folder / "free", small_model("pred_res_noise", dim=8, condition=False, path_independent=True))
    recipe = Recipe.parsed("cold:blur:3").values()
    save_model(folder / "cold", ColdRestorer(ResidualUnets(8, networks="one", dim_mults=[1, 2]), recipe))
    state = {f"ema_model.{name}": value for name, value in restoring.state_dict().items()}
    torch.save({"ema": state, "opt": {}}, folder / "p.pt")
    for name in ("in", "gt"):
        (folder / name).mkdir()
        Image.fromarray(np.full((16, 16, 3), 99, np.uint8)).save(folder / name / "a.png")
    return folder


COMMANDS = {
    "restore": ["restore", "in/a.png", "-o", "out", "-m", "m"],
    "published": ["restore", "in/a.png", "-o", "out", "-m", "p.pt", "--experiment", "restoration"],
    "method": ["restore", "in/a.png", "-o", "out", "--method", "ddnm", "--operator", "sr:2", "--prior", "prior"],
    "ddrm": ["restore", "in/a.png", "-o", "out", "--method", "ddrm", "--operator", "sr:2", "--prior", "prior"],
    "cold": ["cold", "in/a.png", "-o", "out", "-m", "cold"],
    "demo": ["demo", "-m", "m", "--degradation", "rain", "-o", "demo.png"],
    "compile": ["compile", "-m", "m", "--size", "16x16"],
    "tune": ["tune", "-m", "m", "--size", "16x16"],
    "export": ["export", "-m", "m", "--size", "16x16", "-o", "x.pt2"],
    "evaluate": ["evaluate", "in", "gt"],
    "paths": ["paths", "-m", "free", "-o", "p.png"],
    "convert": ["convert", "p.pt", "-o", "converted", "--experiment", "restoration", "--objective", "pred_res"],
    "train": ["train", "--photos", "in", "--patch", "8", "--dim", "8", "--mults", "1,2", "-o", "run", "--steps", "1"],
}
WRONG: list[tuple[str, str, list[str | None]]] = [
    ("restore", "--steps", ["0", "1001", HUGE, ""]),
    ("restore", "--seed", ["-1", HUGE]),
    ("restore", "--tile", ["7"]),
    ("restore", "--overlap", ["512"]),
    ("restore", "--mask", ["in", ""]),
    ("restore", "--model", [""]),
    ("restore", "--output", ["", "in/a.png"]),
    ("published", "--objective", ["x", "pred_res_noise", ""]),
    ("published", "--schedule", ["x"]),
    ("published", "--experiment", ["x", "", "None"]),
    ("published", "--no-condition", [None]),
    ("published", "--path-independent", [None]),
    ("published", "--official-two-pass", [None]),
    ("method", "--steps", ["0", "1001"]),
    ("method", "--eta", ["2", "nan"]),
    ("method", "--eta-b", ["1"]),
    ("method", "--sigma-y", ["-1", "inf"]),
    ("method", "--travel", ["0,0", "1", "1," + HUGE]),
    ("method", "--method", ["x"]),
    ("method", "--operator", ["x"]),
    ("method", "--prior", [""]),
    ("ddrm", "--eta-b", ["2"]),
    ("ddrm", "--travel", ["2,2"]),
    ("cold", "--seed", ["-1", HUGE]),
    ("cold", "--output", ["in/a.png"]),
    ("demo", "--steps", ["1001"]),
    ("demo", "--seed", ["-1", HUGE]),
    ("demo", "--degradation", ["x"]),
    ("demo", "--output", ["in"]),
    ("compile", "--size", ["x", "0x0", "99999999x99999999"]),
    ("compile", "--steps", ["0", "1001"]),
    ("tune", "--size", ["x", "0x0"]),
    ("tune", "--output", ["in", "in/a.png", ""]),
    ("export", "--size", ["16", "99999999x99999999"]),
    ("export", "--steps", ["1001"]),
    ("evaluate", "--resize", ["x", "99999999x99999999", HUGE + "x1"]),
    ("evaluate", "--output", ["in/a.png"]),
    ("paths", "--under", ["x"]),
    ("paths", "--order", ["x"]),
    ("paths", "--steps", ["1001"]),
    ("paths", "--seed", [HUGE]),
    ("convert", "--objective", ["x"]),
    ("convert", "--test-res-or-noise", ["x"]),
    ("convert", "--output", ["in/a.png"]),
    ("train", "--lr", ["-1", "inf"]),
    ("train", "--kind", ["x"]),
    ("train", "--mults", ["-1"]),
    ("train", "--seed", ["-1", HUGE]),
    ("train", "--steps", ["0", HUGE]),
    ("train", "--size", [HUGE]),
    ("train", "--dim", [HUGE]),
    ("train", "--output", ["in/a.png"]),
]


@pytest.mark.parametrize(
    ("of", "option", "value"), [(of, option, value) for of, option, values in WRONG for value in values]
)
def test_the_option_is_named(
    of: str, option: str, value: str | None, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(here)
    told = run(*COMMANDS[of], option, *([] if value is None else [value]))
    assert isinstance(told.exception, SystemExit), told.exception
    # typer's own sentences, in a box, are of exit code 2.
    assert told.exit_code in (1, 2) and re.search(rf"(?<!\w){option}(?![\w-])", told.stderr), told.stderr
    if told.exit_code == 1:
        error_of(told)


def test_a_name_is_printed_as_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """rich would print sr:-1: with a thumb."""
    monkeypatch.chdir(here)
    assert error_of(run(*COMMANDS["method"], "--operator", "sr:-1")).startswith("error: sr:-1: '-1' is not a whole")


@pytest.mark.parametrize(
    ("sentence", "typed"),
    [
        ("sampling_timesteps must be 1", "--steps must be 1"),
        ("m: eta must be 1; sigma_y too", "m: --eta must be 1; --sigma-y too"),
        ("unknown objective 'x'", "unknown --objective 'x'"),
        ("pass condition= or condition=False", "pass --condition or --no-condition"),
        ("leave objective='a' out", "leave --objective a out"),
        ("the objective is x, and beta is not", "the objective is x, and beta is not"),
        ("'sigma_y' of x.sigma_y", "'sigma_y' of x.sigma_y"),
    ],
)
def test_python_s_arguments_are_written_as_options(sentence: str, typed: str) -> None:
    options = options_of(
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=Annotated[str, typer.Option()])
        for name in ("steps", "eta", "sigma_y", "objective", "condition")
    )
    assert as_typed(sentence, options) == typed
