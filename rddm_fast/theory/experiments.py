"""The published experiments, and DiffUIR: what each has in its source, as one row of a table.

The authors' repository has one folder per experiment. The folders are copies of one source with edits: schedule, time
input, sampling loop and `init()` differ, and no constructor argument says so. A checkpoint does not say so either.
Naming the experiment does: `compat.ResidualDiffusion(..., experiment="translation")`, or 5, or the folder's name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .schedule import Schedule

REBUILT_STEPS = 1000
"""T of the schedule that every published `init()` makes, whatever T the model has."""


def _ddim(timesteps: int, sum_scale: float) -> Schedule:
    return replace(Schedule.from_ddim(timesteps), sum_scale=sum_scale)


def _diffuir(timesteps: int, sum_scale: float) -> Schedule:
    return Schedule.diffuir(timesteps, sum_scale=sum_scale)


def _rebuilt_ddim(trained: Schedule) -> Schedule:
    return replace(Schedule.from_ddim(REBUILT_STEPS, boundary="test"), sum_scale=trained.sum_scale)


def _rebuilt_generation(trained: Schedule) -> Schedule:
    return Schedule.power(REBUILT_STEPS, trained.sum_scale, ("decreased", 2.0), ("average", 1.0))


def _rebuilt_diffuir(trained: Schedule) -> Schedule:
    if "delta_end" not in trained.recipe:
        raise ValueError("init() rebuilds DiffUIR's schedule from its delta_end, which a schedule of tables lacks")
    return Schedule.from_recipe({**trained.recipe, "timesteps": REBUILT_STEPS, "boundary": "test"})


@dataclass(frozen=True)
class Experiment:
    """One published experiment, as its source runs.

    Attributes:
        name: the word that names it.
        folder: its folder in the published repository; "" for DiffUIR, which has a repository of its own.
        what: what its networks do, in a few words.
        schedule: makes the schedule that it trains with, from T and sum_scale.
        rebuilt: makes the schedule of its `init()` from the trained one, always of 1000 steps; None without `init()`.
        test_init: whether the published `Trainer.test()` calls `init()`.
        objective: what the networks of its train.py predict.
        condition: whether its train.py restores or translates.
        num_unet: whether its networks are chosen by `num_unet`, the later generation, instead of `share_encoder`.
        path_independent: whether the networks see alpha_bar_t T and beta_bar_t T as their times instead of t.
        two_pass: whether few-step sampling takes a pass for the residual and then a pass for the noise.
        eta_is_0: whether the few-step loop sets eta to 0, whatever the constructor was given.
        adam: whether one network is trained by Adam; the other experiments of the later generation take RAdam.
    """

    name: str
    folder: str
    what: str
    schedule: Callable[[int, float], Schedule]
    rebuilt: Callable[[Schedule], Schedule] | None
    test_init: bool
    objective: str
    condition: bool
    num_unet: bool
    path_independent: bool = False
    two_pass: bool = False
    eta_is_0: bool = False
    adam: bool = False

    @property
    def number(self) -> int | None:
        """The number of its folder; None for DiffUIR."""
        return int(self.folder[0]) if self.folder else None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name} (folder {self.number})"

    @classmethod
    def parse(cls, named: str | int | Experiment) -> Experiment:
        """Return the experiment of a name, a folder's number or a folder's name.

        Raises:
            ValueError: there is no such experiment; the message lists them.
        """
        if isinstance(named, Experiment):
            return named
        for experiment in EXPERIMENTS.values():
            names = (experiment.name, experiment.folder, "" if experiment.number is None else str(experiment.number))
            if named != "" and str(named) in names:
                return experiment
        raise ValueError(f"there is no experiment {named!r}: choose one of {CHOICES}, or a published folder's number")


_LATER: dict[str, Any] = {"objective": "pred_res_noise", "num_unet": True}

_ALL = (
    Experiment(
        "path-independent",
        "0_Partially_path-independent_generation",
        "generates, the residual first and then the noise",
        _ddim,
        _rebuilt_ddim,
        test_init=True,
        condition=False,
        path_independent=True,
        two_pass=True,
        **_LATER,
    ),
    Experiment(
        "ddim-conversion",
        "1_Image_Generation_convert_pretrained_DDIM_to_RDDM",
        "samples a pretrained DDIM pipeline of diffusers",
        _ddim,
        None,
        test_init=False,
        objective="pred_noise",
        condition=False,
        num_unet=False,
    ),
    Experiment(
        "restoration",
        "2_Image_Restoration_deraing_raindrop_noise1",
        "restores: rain, shadows, low light, blur",
        Schedule.triangular,
        None,
        test_init=False,
        objective="pred_res_noise",
        condition=True,
        num_unet=False,
    ),
    Experiment(
        "aosa",
        "3_AOSA_test_lol_timestep5_1e-2_reinit_weight",
        "restores with an objective that it selects itself",
        _ddim,
        _rebuilt_ddim,
        test_init=True,
        objective="auto_res_noise",
        condition=True,
        num_unet=True,
        eta_is_0=True,
        adam=True,
    ),
    Experiment(
        "inpainting",
        "4_Image_Inpainting_imgsize64_batch64_pred_res_noise_centermask_wo_mask_wo_input",
        "fills the middle of an image",
        Schedule.power,
        _rebuilt_ddim,
        test_init=False,
        condition=True,
        path_independent=True,
        eta_is_0=True,
        **_LATER,
    ),
    Experiment(
        "translation",
        "5_Image_translation_dog_to_cat_wo_input_imgsize64_batch64_pred_res_noise",
        "translates one kind of image into another",
        _ddim,
        _rebuilt_ddim,
        test_init=True,
        condition=True,
        path_independent=True,
        eta_is_0=True,
        **_LATER,
    ),
    Experiment(
        "generation",
        "6_Image_Generation_table2_decreased_alpha_increased_beta",
        "generates",
        Schedule.power,
        _rebuilt_generation,
        test_init=False,
        condition=False,
        **_LATER,
    ),
    Experiment(
        "diffuir",
        "",
        "restores five kinds of damage with one network (Zheng et al., CVPR 2024)",
        _diffuir,
        _rebuilt_diffuir,
        test_init=True,
        objective="pred_res",
        condition=True,
        num_unet=True,
        path_independent=True,
        adam=True,
    ),
)

EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}
"""The experiments by name, in the order of their folders, and DiffUIR."""

CHOICES = ", ".join(f"'{name}'" for name in EXPERIMENTS)
"""The names, for messages."""

AOSA, DDIM_CONVERSION, DIFFUIR = (EXPERIMENTS[name] for name in ("aosa", "ddim-conversion", "diffuir"))
