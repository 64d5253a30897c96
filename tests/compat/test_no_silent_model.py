"""No published experiment is trained, loaded or wrapped as another one without a sentence that names `experiment=`.

The seven sources differ in what no argument and no file says. The plain names mean folder 2. Folder 1 has no checkpoint
of its own.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from published_scripts import RUNS, raindrops
from torch import Tensor, nn

from rddm_fast import compat
from rddm_fast.compat import diffuir
from rddm_fast.fast import FastSampler
from rddm_fast.models.errors import MissingArgument, ModelError
from rddm_fast.models.published import load_published
from rddm_fast.theory.experiments import EXPERIMENTS, Experiment

LATER = [0, 3, 4, 5, 6]
FOLDERS = [0, 2, 3, 4, 5, 6]
TWINS = {("path-independent", "translation"), ("inpainting", "generation")}
"""Experiments whose files hold the same: keys, tables and channels. Their sources alone tell them apart."""
CHOICES = [experiment for experiment in EXPERIMENTS.values() if experiment.name != "ddim-conversion"]


def built(number: int, **named: Any) -> Any:
    """The model of a folder's train.py, by the plain names and its published arguments."""
    settings = next(run.settings for run in RUNS if run.number == number)
    taken = {
        name: settings[name]
        for name in ("condition", "input_condition", "test_res_or_noise", "img_to_img_translation")
        if name in settings
    }
    which = {"share_encoder": 0} if number == 2 else {"num_unet": settings["num_unet"]}
    objective = {} if number == 2 else {"objective": settings["objective"]}
    torch.manual_seed(0)
    network = compat.UnetRes(8, dim_mults=(1,), **taken, **which, **objective)
    return compat.ResidualDiffusion(
        network,
        image_size=16,
        sampling_timesteps=2,
        sum_scale=1,
        objective=settings["objective"],
        loss_type=settings["loss_type"],
        **taken,
        **named,
    )


def of_diffuir() -> Any:
    torch.manual_seed(0)
    network = diffuir.UnetRes(8, dim_mults=(1,), num_unet=1, condition=True, objective="pred_res")
    settings: dict[str, Any] = {"condition": True, "objective": "pred_res", "sum_scale": 0.01, "delta_end": 1.8e-3}
    return diffuir.ResidualDiffusion(network, image_size=16, sampling_timesteps=2, **settings)


def of(experiment: Experiment) -> Any:
    return of_diffuir() if experiment.number is None else built(experiment.number, experiment=experiment.name)


def checkpoint(path: Path, model: Any) -> Path:
    """What the published trainers write, without the optimisers' states."""
    state = model.state_dict()
    later = getattr(model, "later_generation", False)
    optimizers: dict[str, Any] = {
        "opt0" if later else "opt": {},
        **({"opt1": {}} if later and model.objective.outputs == 2 else {}),
    }
    ema = {f"ema_model.{name}": value for name, value in state.items()}
    torch.save({"step": 20, "model": state, **optimizers, "ema": ema, "scaler": None}, path)
    return path


class Foreign(nn.Module):
    """An object with the published class's attributes, which is none of ours."""

    def __init__(self, ours: Any) -> None:
        super().__init__()
        self.model = ours.model
        for name in ("condition", "input_condition", "test_res_or_noise", "image_size", "sampling_timesteps"):
            setattr(self, name, getattr(ours, name))
        self.objective = "auto_res_noise" if ours.automatic else ours.objective.name
        self.num_timesteps, self.sum_scale, self.times = ours.num_timesteps, 1.0, ours.network_times
        if ours.automatic:
            self.alpha_res = nn.Parameter(ours.alpha_res.detach().clone())
        for name, table in ours.schedule.buffers().items():
            self.register_buffer(name, table)

    def model_predictions(self, x_input: Any, x: Tensor, t: Tensor, x_input_condition: Any = 0) -> Any:
        given = [image for image in (x, x_input) if isinstance(image, Tensor)]
        times = self.times(t)
        return self.model(torch.cat(given, dim=1), times if isinstance(times, list) else [times, times])


# -- construction and training -------------------------------------------------------------------------------


@pytest.mark.parametrize("number", LATER)
def test_the_plain_names_warn_once_and_name_the_keyword(number: int) -> None:
    with pytest.warns(UserWarning) as caught:
        built(number)
    (warning,) = [each for each in caught if each.category is UserWarning]
    sentence = str(warning.message)
    assert "pass experiment=" in sentence and f"'{Experiment.parse(number).name}'" in sentence
    assert warning.filename == __file__  # The line that builds it, not one of ours.


@pytest.mark.parametrize("number", FOLDERS)
def test_a_named_experiment_is_built_without_a_word(number: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = built(number, experiment=number)
        assert model.experiment is Experiment.parse(number)
        if number == 2:  # The plain names mean it.
            assert built(2).schedule.recipe == model.schedule.recipe


def test_folder_1_is_a_command() -> None:
    with pytest.raises(
        ValueError, match=r"experiment ddim-conversion \(folder 1\) samples .*: run rddm-fast ddim FOLDER"
    ):
        built(6, experiment=1)


@pytest.mark.parametrize(("number", "other"), [(2, n) for n in LATER] + [(n, 2) for n in LATER])
def test_networks_of_the_other_generation_are_refused(number: int, other: int) -> None:
    wanted = "share_encoder" if other == 2 else "num_unet"
    with pytest.raises(ValueError, match=rf"experiment {Experiment.parse(other).name} .*build UnetRes with {wanted}="):
        built(number, experiment=other)


def test_a_trainer_trains_no_model_of_another_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lists = raindrops(tmp_path)
    options: dict[str, Any] = {"condition": True, "train_num_steps": 1, "num_samples": 1, "experiment": "translation"}
    with pytest.raises(ValueError, match=r"two experiments are named, inpainting .* and translation .*: name one"):
        compat.Trainer(built(4, experiment=4), lists, **options)
    with pytest.warns(UserWarning, match="pass experiment="):
        unnamed = built(5)
    sentence = "is of experiment translation .*, and its model was built without one: pass experiment='translation' to"
    with pytest.raises(ValueError, match=sentence):
        compat.Trainer(unnamed, lists, **options)
    named = compat.Trainer(built(5, experiment=5), lists, **options)
    assert named.experiment is Experiment.parse("translation")


# -- checkpoints ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", CHOICES, ids=str)
def test_a_checkpoint_is_asked_for_its_experiment(experiment: Experiment, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pt", of(experiment))
    with pytest.raises(ModelError, match="pass experiment=") as raised:
        load_published(path)
    if experiment.name in ("aosa", "diffuir"):  # Their files hold what the others lack.
        assert f"pass experiment={experiment.name!r}" in str(raised.value)
    else:
        assert isinstance(raised.value, MissingArgument) and raised.value.name == "experiment"
        assert f"'{experiment.name}'" in str(raised.value)


def twins(one: Experiment, other: Experiment) -> bool:
    return (one.name, other.name) in TWINS or (other.name, one.name) in TWINS


@pytest.mark.parametrize("experiment", CHOICES, ids=str)
def test_a_wrong_name_is_refused_where_the_file_tells(experiment: Experiment, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pt", of(experiment))
    accepted = []
    for other in CHOICES:
        try:
            loaded = load_published(path, experiment=other.name)
        except ModelError as error:
            assert "experiment" in str(error) and "\n" not in str(error)
        else:
            accepted.append(other.name)
            assert loaded.path_independent == other.path_independent and loaded.official_two_pass == other.two_pass
    assert accepted == [other.name for other in CHOICES if other is experiment or twins(experiment, other)]


@pytest.mark.parametrize(
    ("file", "named", "sentence"),
    [
        (
            "generation",
            "path-independent",
            "has the power schedule, and experiment path-independent .* has the ddim one",
        ),
        ("translation", "inpainting", "has the ddim schedule, and experiment inpainting .* has the power one"),
        ("restoration", "generation", r"is of the earlier generation \(share_encoder\), which experiment generation"),
        ("inpainting", "restoration", r"is of the later generation \(num_unet\), which experiment restoration"),
        ("aosa", "translation", "holds 'alpha_res', the weight by which AOSA selects .*: pass experiment='aosa'"),
        ("translation", "aosa", "holds no 'alpha_res', which experiment aosa .* has: name another experiment"),
        ("diffuir", "restoration", "holds 'delta', the share .* that DiffUIR .*: pass experiment='diffuir'"),
        ("restoration", "diffuir", "holds no 'delta', which experiment diffuir has: name another experiment"),
        ("generation", "ddim-conversion", "samples pipelines of diffusers: run rddm-fast ddim FOLDER"),
    ],
)
def test_the_sentence_says_what_the_file_tells(file: str, named: str, sentence: str, tmp_path: Path) -> None:
    path = checkpoint(tmp_path / "m.pt", of(EXPERIMENTS[file]))
    with pytest.raises(ModelError, match=sentence):
        load_published(path, experiment=named)


# -- objects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", LATER)
def test_an_object_is_asked_for_its_experiment(number: int) -> None:
    theirs = Foreign(built(number, experiment=number))
    sentence = "Foreign is of the later published generation, .*: pass experiment="
    with pytest.raises(MissingArgument, match=sentence) as raised:
        FastSampler(theirs)
    assert raised.value.name == "experiment" and re.search(f"'{Experiment.parse(number).name}'", str(raised.value))
    sampler = FastSampler(theirs, experiment=number)
    assert len(sampler.steps) == (4 if number == 0 else 2)


def test_a_trained_model_of_ours_is_known_by_itself() -> None:
    """`FastSampler` of a compat model needs no name: its construction took one, or warned."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(FastSampler(built(0, experiment=0)).steps) == 4
