"""Models from published training checkpoints (`model-N.pt`) of RDDM and DiffUIR.

The architecture is read from the keys of the state dict (`architecture`), the schedule from its coefficients. What the
file does not store comes with the experiment's name (`identity`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..system.errors import one_line
from ..system.saved import NotOnlyTensors, load_saved
from ..theory.experiments import DIFFUIR, Experiment
from ..theory.schedule import Schedule
from .architecture import architecture, built_networks, check_dtypes, networks_of
from .errors import MissingArgument, ModelError, reading
from .identity import check_schedule, default_objective, named, settings_of

DIFFUIR_SUM_SCALE = 0.01
"""The variance of the starting noise of DiffUIR's train.py. Its schedule ends at 1, and the file does not store it."""


def load_published(
    path: str | PathLike[str],
    *,
    experiment: str | int | None = None,
    objective: str | None = None,
    path_independent: bool | None = None,
    official_two_pass: bool | None = None,
    condition: bool | None = None,
    input_condition: bool | None = None,
    self_condition: bool | None = None,
    input_condition_mask: bool = False,
    test_res_or_noise: str | None = None,
    schedule: Schedule | None = None,
    sum_scale: float | None = None,
    sampling_timesteps: int = 5,
    image_size: int | None = None,
    resnet_block_groups: int = 8,
    weights: str = "ema",
) -> ResidualDiffusion:
    """Load a published training checkpoint (`model-N.pt`).

    Args:
        path: the file; it is read with `weights_only=True`, so it cannot run code.
        experiment: which published experiment trained it: its name ("path-independent", "restoration", "aosa",
            "inpainting", "translation", "generation", "diffuir"), the number of its folder, or the folder's name. It
            says what the file does not store: time input, sampling loop, and the objective of its train.py.
        objective: what the networks predict, if it is not the experiment's, for example "pred_res".
        path_independent, official_two_pass: the time input and the loop of a model of no published experiment: whether
            the networks see alpha_bar_t T and beta_bar_t T instead of t, and whether few-step sampling takes a pass for
            the residual and then a pass for the noise.
        condition, input_condition, self_condition: needed only if the number of input channels leaves more than one
            possibility; the error says so.
        schedule: the schedule it was trained with. By default the file's own coefficients, or the published recipe
            that gives them.
        sum_scale: variance of the starting noise; None takes beta_bar_T^2 of the schedule, to four digits (DiffUIR:
            0.01).
        weights: "ema", which published evaluation uses, or "model" for the raw weights.

    Raises:
        ModelError: the file cannot be read, an argument is missing (the message names it), the file contradicts the
            experiment, or the network is not RDDM's. The message is one sentence.
    """
    known = named(experiment)
    state, later = published_state(Path(path), weights)
    with reading(path):
        if later is None and "alphas_cumsum" in state:
            later = recognised(state).recipe["family"] != "triangular"
        settings = settings_of(
            state,
            str(path),
            known,
            later=later,
            path_independent=path_independent,
            official_two_pass=official_two_pass,
        )
        return assembled(
            state,
            str(path),
            known,
            objective=objective,
            condition=condition,
            input_condition=input_condition,
            self_condition=self_condition,
            resnet_block_groups=resnet_block_groups,
            schedule=schedule,
            sum_scale=sum_scale,
            sampling_timesteps=sampling_timesteps,
            input_condition_mask=input_condition_mask,
            test_res_or_noise=test_res_or_noise,
            image_size=image_size,
            **settings,
        )


def assembled(
    state: Mapping[str, Tensor],
    source: str,
    experiment: Experiment | None,
    *,
    objective: str | None = None,
    condition: bool | None = None,
    input_condition: bool | None = None,
    self_condition: bool | None = None,
    resnet_block_groups: int = 8,
    schedule: Schedule | None = None,
    sum_scale: float | None = None,
    sampling_timesteps: int = 5,
    **diffusion_options: Any,
) -> ResidualDiffusion:
    """Build the model of a published state dict (`model.` and the coefficients); `source` names it in errors.

    The other arguments are those of `load_published` and of `ResidualDiffusion`.
    """
    if condition is None and experiment is not None:
        condition = experiment.condition
    network, restoring = architecture(state, source, condition, input_condition, self_condition, resnet_block_groups)
    objective = objective or default_objective(experiment, state, network["networks"])
    if objective is None:
        raise MissingArgument(
            "objective",
            "a published checkpoint does not store objective",
            "what the networks predict, such as 'pred_res_noise' or 'pred_res'",
        )
    if schedule is None:
        missing = [name for name in ("alphas_cumsum", "betas_cumsum") if name not in state]
        if missing:
            raise ModelError(f"{source} holds no coefficients ({missing[0]}): pass schedule=")
        schedule = recognised(state)
        check_schedule(schedule, source, experiment)
    if experiment is DIFFUIR:
        network["padding_factor"] = 2 ** len(network["dim_mults"])
    if sum_scale is None:
        sum_scale = DIFFUIR_SUM_SCALE if experiment is DIFFUIR else round(float(schedule.beta_bar[-1]) ** 2, 4)
    return ResidualDiffusion(
        built_networks(network, networks_of(state), source),
        replace(schedule, sum_scale=sum_scale),
        objective=objective,
        condition=restoring,
        input_condition=network["input_condition"],
        img_to_img_translation=network["img_to_img_translation"],
        sampling_timesteps=min(sampling_timesteps, schedule.timesteps),
        **diffusion_options,
    ).eval()


def recognised(state: Mapping[str, Tensor]) -> Schedule:
    """Return the published recipe that gives a state dict's coefficients; without one, a schedule of its tables."""
    alpha_bar, beta_bar = (state[name].double() for name in ("alphas_cumsum", "betas_cumsum"))
    delta_bar = state["delta_cumsum"].double() if "delta_cumsum" in state else None
    T, scale = len(alpha_bar), round(float(beta_bar[-1]) ** 2, 4)
    if delta_bar is not None:
        candidates = [Schedule.diffuir(T, round(float(state["delta"][-1]), 8), scale)]
    else:
        candidates = [Schedule.triangular(T, scale), Schedule.power(T, scale), Schedule.from_ddim(T)]
    for candidate in candidates:
        a, b = torch.from_numpy(candidate.alpha_bar), torch.from_numpy(candidate.beta_bar)
        d = None if candidate.delta_bar is None else torch.from_numpy(candidate.delta_bar)
        # Compare beta_bar squared: near 0 the root turns float32's rounding of 1e-7 into an error of 3e-4.
        pairs = [(a, alpha_bar), (b**2, beta_bar**2), *([] if d is None or delta_bar is None else [(d, delta_bar)])]
        if all(torch.allclose(ours, theirs, rtol=0, atol=3e-6) for ours, theirs in pairs):
            return candidate
    return Schedule.from_tables(alpha_bar, beta_bar, scale, delta_bar)


def published_state(path: Path, weights: str) -> tuple[dict[str, Tensor], bool | None]:
    """Return the diffusion object's state dict from a published file, without the prefixes of wrappers.

    Also returns whether the file is of the later generation, which numbers its optimisers; None if it has none.
    """
    if weights not in ("ema", "model"):
        raise ModelError(f"weights is 'ema' or 'model', not {weights!r}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        content = load_saved(path)
    except NotOnlyTensors as error:
        raise ModelError(str(error)) from error
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read as a checkpoint: it is damaged, or no file of torch.save ({one_line(error)})"
        ) from error
    if not isinstance(content, dict) or weights not in content:
        raise ModelError(f"{path} is not a published training checkpoint: it has no entry {weights!r}")
    entries = content[weights] if content[weights] is not None else {}
    if not isinstance(entries, dict):
        raise ModelError(
            f"{path} is not a published training checkpoint: its entry {weights!r} is of type "
            f"{type(entries).__name__}, not a dict of weights by name"
        )
    wrapper = "ema_model." if weights == "ema" else ""
    state = {
        re.sub(r"(^|\.)((module|_orig_mod)\.)+", r"\1", key[len(wrapper) :]): value
        for key, value in entries.items()
        if isinstance(key, str) and key.startswith(wrapper) and isinstance(value, Tensor)
    }
    if not state:
        raise ModelError(f"{path} holds no weights under {weights!r}")
    check_dtypes(state, str(path))
    later = True if "opt0" in content else False if "opt" in content else None
    return {key: value.float() for key, value in state.items()}, later
