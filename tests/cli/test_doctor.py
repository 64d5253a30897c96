"""`rddm-fast doctor`: a source, a folder, a checkpoint, and files of another kind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from minimal_sources import minimal_source
from small_models import small_model
from typer.testing import CliRunner

from rddm_fast.cli import app
from rddm_fast.theory.schedule import Schedule


def run(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["doctor", *map(str, arguments)])


def checkpoint(path: Path, *, opt: str = "opt0", extra: dict[str, Any] | None = None, **options: Any) -> Path:
    """A training checkpoint in the published layout."""
    state = {**small_model(**options).state_dict(), **(extra or {})}
    ema = {"initted": torch.tensor(True), "step": torch.tensor(8), **{f"ema_model.{k}": v for k, v in state.items()}}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"step": 8, "model": state, opt: {"state": {}}, "ema": ema, "scaler": None}, path)
    return path


def test_a_source_is_named_with_its_import_and_its_conversion(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(minimal_source("translation"))
    result = run(source)
    assert result.exit_code == 0, result.output
    lines = [line.strip() for line in result.output.splitlines()]
    assert "experiment: translation (folder 5)" in lines and "edited: none" in lines
    assert "keywords: experiment='translation'" in lines
    imported = "from rddm_fast.compat.experiment5 import ResidualDiffusion, Trainer, Unet, UnetRes, set_seed"
    assert f"import: {imported}" in lines
    assert "convert: rddm-fast convert model-N.pt -o MODEL --experiment translation" in lines
    namespace: dict[str, Any] = {}
    exec(imported, namespace)
    assert namespace["ResidualDiffusion"].published.name == "translation"


def test_the_edits_of_a_source_are_printed(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    source.write_text(minimal_source("generation").replace("ratio=2", "ratio=5").replace("- da *", "- 0.9 * da *"))
    report = json.loads(run(source, "--json").output)["source"]
    assert report["experiment"] == "nearest to generation (folder 6), edited"
    said = [edit.split(": ", 1)[1] for edit in report["edited"]]
    assert "in init(), the ratio of alpha is 5, published 2" in said
    assert "the step takes 0.9 times the published part of the residual" in said
    assert report["keywords"] is None
    assert report["not reproduced"].startswith("no keyword of ResidualDiffusion expresses this edit: line ")
    text = run(source).output
    assert all(edit in text for edit in report["edited"]) and "import:" not in text


def test_a_schedule_is_printed_as_python(tmp_path: Path) -> None:
    source = tmp_path / "source.py"
    text = minimal_source("generation")
    source.write_text(
        text.replace('schedule="increased", sum_scale=self.sum_scale)', 'schedule="average", sum_scale=self.sum_scale)')
    )
    keywords = json.loads(run(source, "--json").output)["source"]["keywords"]
    assert keywords["experiment"] == "'generation'"
    made = eval(keywords["schedule"], {"Schedule": Schedule})
    assert made.recipe == Schedule.power(1000, 1.0, ("decreased", 1.0), ("average", 1.0)).recipe


def test_a_folder_gives_its_source_its_settings_and_its_newest_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "residual_denoising_diffusion_pytorch.py").write_text(minimal_source("inpainting"))
    (tmp_path / "train.py").write_text(
        "objective = 'pred_res_noise'\nnum_unet = 2\nm = D(model, sum_scale=1, image_size=n)\n"
    )
    for n in (2, 10):
        checkpoint(tmp_path / "results" / "sample" / f"model-{n}.pt", schedule=Schedule.power(1000, 1.0))
    report = json.loads(run(tmp_path, "--json").output)
    assert report["source"]["experiment"] == "inpainting (folder 4)"
    assert report["settings"]["objective"] == "'pred_res_noise'" and report["settings"]["num_unet"] == "2"
    assert report["settings"]["sum_scale"] == "1" and "image_size" not in report["settings"]
    assert report["checkpoint"]["file"].endswith("model-10.pt")
    assert report["checkpoint"]["fits"] == ["inpainting", "generation"]


@pytest.mark.parametrize(
    ("options", "extra", "opt", "fits", "networks"),
    [
        ({"schedule": Schedule.triangular(1000, 1.0)}, {}, "opt", ["restoration"], "two U-Nets"),
        ({"schedule": Schedule.from_ddim(1000)}, {}, "opt0", ["path-independent", "translation"], "two U-Nets"),
        (
            {"schedule": Schedule.from_ddim(1000), "objective": "pred_res"},
            {"alpha_res": torch.tensor([0.52])},
            "opt0",
            ["aosa"],
            "one U-Net",
        ),
        ({"schedule": Schedule.diffuir(1000), "objective": "pred_res"}, {}, "opt0", ["diffuir"], "one U-Net"),
    ],
)
def test_a_checkpoint_fits_the_experiments_it_can_be_of(
    options: dict[str, Any], extra: dict[str, Any], opt: str, fits: list[str], networks: str, tmp_path: Path
) -> None:
    path = checkpoint(tmp_path / "model-8.pt", opt=opt, extra=extra, **options)
    report = json.loads(run(path, "--json").output)["checkpoint"]
    assert report["fits"] == fits
    assert report["networks"] == f"{networks} of 16 channels, stages [1, 2]"
    assert report["schedule"] == f"{options['schedule'].recipe['family']}, 1000 steps"
    assert report["convert"] == [f"rddm-fast convert {path} -o MODEL --experiment {name}" for name in fits]
    assert report["alpha_res"] == ("0.52" if extra else None)
    assert report["delta"] == ("ends at 0.0015" if fits == ["diffuir"] else None)
    text = run(path).output
    assert "time input" in text and f"--experiment {fits[0]}" in text.replace("\n", "")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("run",))


def test_files_of_another_kind_are_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "not.py").write_text("this is not Python (")
    (tmp_path / "empty").mkdir()
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "notes.py").write_text("x = 1\n")
    torch.save({"ema": Trap()}, tmp_path / "trap.pt")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    for name, sentence in (
        ("not.py", "is not Python source"),
        ("empty", "holds no published source"),
        ("others", "holds no published source"),
        ("others/notes.py", "has no class ResidualDiffusion"),
        ("trap.pt", "holds more than tensors (print) and is not loaded"),
        ("other.pt", "is not a published training checkpoint"),
        ("absent.py", "there is no file"),
        ("absent.pt", "there is no file"),
    ):
        result = run(tmp_path / name)
        assert result.exit_code == 1, result.output
        assert sentence in result.output and result.output.startswith("error:")
        assert len(result.output.strip().splitlines()) == 1 and result.output.strip() != "run"
