"""Which published experiment a state dict is of, and with it what the file or the object does not store.

A state dict holds weights and coefficients. Objective, time input and sampling loop stand in the experiment's source
(`theory.experiments`). Naming the experiment gives all of them; what the state dict does tell is held against it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..theory.experiments import AOSA, CHOICES, DDIM_CONVERSION, DIFFUIR, Experiment
from ..theory.schedule import BUFFER_NAMES, DELTA_NAMES, Schedule
from .errors import MissingArgument, ModelError


def named(experiment: str | int | Experiment | None) -> Experiment | None:
    """Return the experiment of a name; raises ModelError for an unknown one, and for one that has no checkpoints."""
    if experiment is None:
        return None
    try:
        found = Experiment.parse(experiment)
    except ValueError as error:
        raise ModelError(str(error)) from None
    if found is DDIM_CONVERSION:
        raise ModelError(
            f"experiment {found} samples pipelines of diffusers: run rddm-fast ddim FOLDER, or call "
            "rddm_fast.models.from_diffusers.from_diffusers"
        )
    return found


def settings_of(
    state: Mapping[str, Tensor],
    source: str,
    experiment: Experiment | None,
    *,
    later: bool | None,
    path_independent: bool | None = None,
    official_two_pass: bool | None = None,
) -> dict[str, bool]:
    """Return `path_independent` and `official_two_pass` of a published model, from its experiment or as given.

    Args:
        state: the diffusion object's state dict.
        source: names it in errors.
        experiment: which it is; None if the caller did not say.
        later: whether it is of the later generation (`num_unet`); None if nothing tells.
        path_independent, official_two_pass: what the caller says instead of an experiment.

    Raises:
        MissingArgument: nothing says which experiment it is.
        ModelError: the state dict holds what the experiment does not have, or lacks what it has.
    """
    check_keys(state, source, experiment)
    given = {"path_independent": path_independent, "official_two_pass": official_two_pass}
    if experiment is None:
        # The earlier generation has one loop; only the time input is open.
        missing = [name for name in (given if later is not False else ("path_independent",)) if given[name] is None]
        if missing:
            raise MissingArgument(
                "experiment",
                f"{source} does not store which published experiment it is of, and so not its time input and its "
                "sampling loop",
                CHOICES,
            )
        return {name: bool(value) for name, value in given.items()}
    if later is not None and later != experiment.num_unet:
        generation = "later generation (num_unet)" if later else "earlier generation (share_encoder)"
        raise ModelError(f"{source} is of the {generation}, which experiment {experiment} is not: name another one")
    known = {"path_independent": experiment.path_independent, "official_two_pass": experiment.two_pass}
    for name, value in given.items():
        if value not in (None, known[name]):
            raise ModelError(f"{name}={value} contradicts experiment {experiment}: leave one of them out")
    return known


def check_keys(state: Mapping[str, Tensor], source: str, experiment: Experiment | None) -> None:
    """Raise ModelError for keys that change the images and that `experiment` does not have."""
    keys = {key for key in state if not key.startswith("model.")}
    for names, owner, meaning in (
        (DELTA_NAMES, DIFFUIR, "the share of the degraded image that DiffUIR takes away at each step"),
        (("alpha_res",), AOSA, "the weight by which AOSA selects its objective"),
    ):
        found = sorted(keys & set(names))
        if found and experiment is not owner:
            raise ModelError(f"{source} holds {found[0]!r}, {meaning}: pass experiment={owner.name!r}")
        if experiment is owner and len(found) < len(names):
            absent = min(set(names) - keys)
            raise ModelError(f"{source} holds no {absent!r}, which experiment {owner} has: name another experiment")
        keys -= set(names)
    if unknown := sorted(keys - set(BUFFER_NAMES)):
        raise ModelError(
            f"{source} holds {unknown[0]!r}, which no published RDDM model has, so its sampling may differ: load its "
            "networks into a rddm_fast.ResidualDiffusion, and sample as its own code does"
        )


def check_schedule(schedule: Schedule, source: str, experiment: Experiment | None) -> None:
    """Raise ModelError if the coefficients are those of another experiment. Coefficients of no recipe are accepted."""
    if experiment is None or "family" not in schedule.recipe or schedule.recipe["family"] == "tables":
        return
    wanted = experiment.schedule(schedule.timesteps, schedule.sum_scale).recipe["family"]
    if schedule.recipe["family"] != wanted:
        raise ModelError(
            f"{source} has the {schedule.recipe['family']} schedule, and experiment {experiment} has the {wanted} one: "
            "name another experiment"
        )


def default_objective(experiment: Experiment | None, state: Mapping[str, Tensor], networks: str) -> str | None:
    """Return the objective that the experiment's train.py has, if the state dict's networks can have it."""
    if experiment is None:
        return None
    if experiment is AOSA:  # As published, 1/2 itself reads the noise.
        return "pred_res" if float(state["alpha_res"]) > 0.5 else "pred_noise"
    fits: dict[str, Any] = {"pred_res_noise": networks != "one", "pred_res": networks == "one"}
    return experiment.objective if fits[experiment.objective] else None
