"""The published experiments' settings, with one changed line: train, save, load, test, and load elsewhere.

Each run is one row of the table in docs/experiments.md. A test that measures another row fails with it; write it there.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from published_scripts import RUNS, SIZE, STEPS, Run, animals
from small_models import seeded

from rddm_fast.images.pairs import DataError
from rddm_fast.images.picture import read_image
from rddm_fast.models.published import load_published
from rddm_fast.theory.experiments import DDIM_CONVERSION, DIFFUIR, EXPERIMENTS, Experiment

DOCUMENT = Path(__file__).parents[2] / "docs" / "experiments.md"
COLUMNS = (
    "| run | folder | schedule | times | passes | optimisers | losses | `init()` in `test()` | written by `test()` |"
)
PASSES = 3


class Expected(NamedTuple):
    """What a run of an experiment is: one row for each folder of `theory.experiments`."""

    name: str
    family: str
    path_independent: bool
    passes: int
    optimizers: list[str]
    losses: int | None
    test_init: bool


EXPECTED = {
    0: Expected("path-independent", "ddim", True, 6, ["RAdam", "RAdam"], 2, True),
    2: Expected("restoration", "triangular", False, 3, ["Adam"], None, False),
    3: Expected("aosa", "ddim", False, 3, ["Adam"], 2, True),
    4: Expected("inpainting", "power", True, 3, ["RAdam", "RAdam"], 2, False),
    5: Expected("translation", "ddim", True, 3, ["RAdam", "RAdam"], 2, True),
    6: Expected("generation", "power", False, 3, ["RAdam", "RAdam"], 2, False),
}
WRITTEN: dict[int | str, list[str]] = {
    0: ["sample-0.png", "sample-1.png"],
    6: ["sample-0.png", "sample-1.png"],
    "raindrops": ["0_input.png", "1_input.png"],
    "shadows, with masks": ["0_shadow.png", "1_shadow.png"],
    "low light": ["0_low.png", "1_low.png"],
    "blur": ["0_blur.png", "1_blur.png"],
    3: ["0_low.png", "1_low.png"],
    4: ["00000.png", "00001.png", "00002.png"],
    5: ["dog_test_000.jpg", "dog_test_001.jpg"],
}
"""The files that `test()` writes: one for each test input, by its name, or sheets of generated images."""


def executed(run: Run, root: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Run the script in its folder, without a warning except AOSA's, and return its names."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["train.py", str(PASSES)])
    folder = run.data(root)
    script, names = run.script(folder), {"__name__": "__main__"}
    assert [line for line in script.splitlines() if "rddm_fast" in line] == [run.import_line]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        exec(script, names)
    sentences = [str(warning.message) for warning in caught if issubclass(warning.category, UserWarning)]
    undecided = [sentence for sentence in sentences if "the script continues undecided, as published" in sentence]
    assert len(undecided) == (run.title == "AOSA, undecided") and sentences == undecided
    return names


def losses_of(model: Any) -> Any:
    """What the model returns as the loss of a training step on its own kind of images."""
    batch = [torch.rand(2, 3, SIZE, SIZE) for _ in range(1 + model.condition + model.input_condition)]
    return model(batch if model.condition else batch[0])


def row(run: Run, trainer: Any, losses: Any, rebuilt: bool, written: list[str]) -> str:
    """The run's line of the table, from what it was seen to do."""
    model = trainer.model
    optimizers = [type(each.optimizer).__name__ for each in trainer._core.phase.optimizers]
    cells = [
        run.title,
        f"{run.number}",
        model.schedule.recipe["family"],
        "ᾱT, β̄T" if model.path_independent else "t",
        f"{len(model.steps())}",
        " + ".join(optimizers),
        f"list of {len(losses)}" if isinstance(losses, list) else "scalar",
        "yes" if rebuilt else "no",
        f"{len(written)} {'images' if model.condition else 'sheets'}",
    ]
    return "| " + " | ".join(cells) + " |"


def assert_selected(names: dict[str, Any], decided: bool) -> None:
    """AOSA's first trainer decided, or took all its steps without; the second trains for the residual, as published."""
    selecting, alpha_res = names["selecting"], float(names["selecting"].model.alpha_res.detach())
    if decided:
        assert abs(alpha_res - 0.5) >= 0.01 and selecting.step < STEPS
        assert names["decided"] == int(alpha_res > 0.5)
    else:
        assert 0 < abs(alpha_res - 0.5) < 0.01 and selecting.step == STEPS and names["decided"] is None
    assert names["trainer"].model.alpha_res_to_0_or_1 == 1


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.number}-{run.title}")
def test_a_published_script_with_one_changed_line(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names, expected = executed(run, tmp_path, monkeypatch), EXPECTED[run.number]
    trainer = names["trainer"]
    if run.number == 3:
        assert_selected(names, decided=run.title == "AOSA, decided")
    model, averaged = trainer.model, trainer.ema_model
    assert model.experiment.name == trainer.experiment.name == expected.name

    # It was trained, saved at each tenth sheet, and loaded.
    assert trainer.step == STEPS and "training complete" in capsys.readouterr().out
    path = Path("results/sample/model-10.pt")
    content = torch.load(path, weights_only=True)
    names_of_optimizers = ["opt"] if expected.losses is None else [f"opt{i}" for i in range(len(expected.optimizers))]
    assert list(content) == ["step", "model", *names_of_optimizers, "ema", "scaler"] and content["step"] == STEPS
    sheets = sorted(int(sheet.stem.removeprefix("sample-")) for sheet in Path("results/sample").glob("sample-*.png"))
    assert sheets == list(range(1, 11))

    assert not torch.equal(model.model.unet0.init_conv.weight, averaged.model.unet0.init_conv.weight)

    # It is the experiment's model, and its trainer.
    losses = losses_of(model)
    assert model.schedule.recipe["family"] == expected.family
    assert (model.path_independent, len(model.steps())) == (expected.path_independent, expected.passes)
    assert [type(each.optimizer).__name__ for each in trainer._core.phase.optimizers] == expected.optimizers
    assert (len(losses) if isinstance(losses, list) else None) == expected.losses
    rebuilt = not torch.equal(averaged.alphas, model.alphas)
    assert rebuilt == expected.test_init
    if rebuilt:
        assert model.alphas[0] == 0 and averaged.alphas[0] == averaged.alphas[1] > 0

    # It wrote one image for each test input, by its name.
    written = sorted(image.name for image in trainer.results_folder.iterdir())
    assert written == (WRITTEN.get(run.title) or WRITTEN[run.number])
    inputs = trainer.sample_dataset
    if model.condition:
        sizes = [read_image(trainer.results_folder / name).pixels.shape for name in written]
        assert sizes == [inputs[i]["input"].shape for i in range(len(written))]
        assert (sizes[0] == (3, SIZE, SIZE)) != run.settings["crop_patch"]

    # Its checkpoint gives the same image elsewhere.
    arguments: dict[str, Any] = {"input_condition": True, "input_condition_mask": True} if model.input_condition else {}
    loaded = load_published(path, experiment=run.number, sampling_timesteps=PASSES, image_size=SIZE, **arguments)
    keys = ["input", "mask"][: model.condition + model.input_condition]
    given = [inputs[0][key].expand(3, -1, -1)[None] for key in keys]
    expected_image = averaged.sample(given or None, batch_size=1, generator=seeded(7))[-1]
    image = loaded.sample(*given, batch_size=1, generator=seeded(7))[-1]
    torch.testing.assert_close(image, expected_image, rtol=0, atol=1e-5)
    assert image.std() > 1e-3

    found = row(run, trainer, losses, rebuilt, written)
    assert found in DOCUMENT.read_text(encoding="utf-8").splitlines(), f"the table has no row\n{found}"


def test_the_table_has_these_rows_and_no_other() -> None:
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    first = lines.index(COLUMNS) + 2
    rows = lines[first : lines.index("", first)]
    assert [line.split(" | ")[0].removeprefix("| ") for line in rows] == [run.title for run in RUNS]


def test_fewer_cats_than_dogs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(run for run in RUNS if run.number == 5)
    fewer = replace(run, data=lambda root: animals(root, dogs=7, cats=6))
    with pytest.raises(DataError, match=r"dog\.flist names 7 images and cat\.flist 6: each input needs a truth of its"):
        executed(fewer, tmp_path, monkeypatch)


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=str)
def test_the_table_of_experiments_is_that_of_the_code(experiment: Experiment) -> None:
    if experiment is DDIM_CONVERSION:
        pytest.skip("it has no model of its own; tests/cli/test_ddim_command.py tests it")
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{experiment.name}` |")]
    _, folder, schedule, times, loop, rebuilt, in_test, optimizers = line.strip("| ").split(" | ")
    assert folder == ("–" if experiment.number is None else str(experiment.number))
    family = experiment.schedule(10, 1.0).recipe["family"]
    assert schedule.split(",")[0].removesuffix("'s").lower() == family and ("δ̄_t" in schedule) == (
        experiment is DIFFUIR
    )
    assert times.startswith("ᾱ_t T") == experiment.path_independent
    assert (loop == "two passes") == experiment.two_pass and ("η = 0" in loop) == experiment.eta_is_0
    assert (rebuilt == "–") == (experiment.rebuilt is None) and in_test == ("yes" if experiment.test_init else "no")
    assert optimizers == ("Adam" if experiment.adam or not experiment.num_unet else "RAdam for each network")
