"""Models from the published classes: from a live object (`from_published`) or a checkpoint (`load_published`).

The architecture is read from the keys of the state dict, the schedule from its coefficients. The state dict holds
neither objective nor time input. `from_published` finds them in the object; `load_published` takes them as arguments.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..system.errors import one_line
from ..theory.objective import decision
from ..theory.schedule import Schedule


class ModelError(ValueError):
    """A model cannot be read; the message is one sentence that says what to do."""


class MissingArgument(ModelError):
    """A published checkpoint does not store something that is needed; `name` is the argument to pass."""

    def __init__(self, name: str, reason: str, choices: str) -> None:
        super().__init__(f"{reason}: pass {name}= ({choices})")
        self.name, self.reason, self.choices = name, reason, choices


def assembled(
    state: Mapping[str, Tensor],
    source: str,
    *,
    objective: str,
    path_independent: bool,
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
    network, restoring = _architecture(state, condition, input_condition, self_condition, resnet_block_groups)
    missing = [name for name in ("alphas_cumsum", "betas_cumsum") if name not in state]
    if schedule is None and missing:
        raise ModelError(f"{source} holds no coefficients ({missing[0]}): pass schedule=")
    if schedule is None:
        schedule = recognised(state["alphas_cumsum"], state["betas_cumsum"])
    if sum_scale is None:
        sum_scale = round(float(schedule.beta_bar[-1]) ** 2, 4)
    diffusion = ResidualDiffusion(
        ResidualUnets(**network),
        replace(schedule, sum_scale=sum_scale),
        objective=objective,
        condition=restoring,
        input_condition=network["input_condition"],
        img_to_img_translation=network["img_to_img_translation"],
        path_independent=path_independent,
        sampling_timesteps=min(sampling_timesteps, schedule.timesteps),
        **diffusion_options,
    )
    load_networks(diffusion, _networks_of(state), source)
    return diffusion.eval()


def load_networks(diffusion: ResidualDiffusion, state: Mapping[str, Tensor], source: str) -> None:
    expected = {name: t.shape for name, t in diffusion.model.state_dict().items()}
    problems = [
        *(f"{name} is missing" for name in expected.keys() - state.keys()),
        *(f"{name} is not part of this network" for name in state.keys() - expected.keys()),
        *(
            f"{name} has shape {tuple(state[name].shape)} instead of {tuple(shape)}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ModelError(f"{source} does not fit its network: {min(problems)}{more}")
    diffusion.model.load_state_dict(state)


def _networks_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


def _architecture(
    state: Mapping[str, Tensor],
    condition: bool | None,
    input_condition: bool | None,
    self_condition: bool | None,
    groups: int,
) -> tuple[dict[str, Any], bool]:
    """Read the arguments of `ResidualUnets` from the keys and shapes, and whether the model restores."""
    keys = _networks_of(state)
    # How many networks: only the shared encoder has a second decoder "ups_no_skip".
    if any(key.startswith("ups_no_skip.") for key in keys):
        networks, prefix, last = "shared", "", "final_conv_1.weight"
    else:
        networks, prefix, last = (
            ("two" if any(k.startswith("unet1.") for k in keys) else "one"),
            "unet0.",
            "final_conv.weight",
        )
    try:
        stem, time = keys[prefix + "init_conv.weight"], keys[prefix + "time_mlp.1.weight"]
        channels = keys[prefix + last].shape[0]
    except KeyError as error:
        raise ModelError(f"the checkpoint's network is not an RDDM U-Net: it has no {error}") from error
    # Widths: the time embedding's input gives dim, each level's last convolution its multiple of dim.
    dim = time.shape[1]
    downs = [key for key in keys if re.fullmatch(re.escape(prefix) + r"downs\.\d+\.3\.weight", key)]
    widths = [keys[f"{prefix}downs.{i}.3.weight"].shape[0] for i in range(len(downs))]
    inputs = stem.shape[1] // channels

    # Inputs: the stem's channels say how many images are concatenated, but not which. Ask if it is ambiguous.
    if inputs == 1 + bool(input_condition) + bool(self_condition) and condition is None:
        raise MissingArgument(
            "condition",
            "the network sees one image, and a published checkpoint does not store whether it generates or translates",
            "False to generate, True to translate",
        )
    if inputs == 3 and input_condition is None and self_condition is None:
        raise MissingArgument(
            "input_condition",
            "the network sees three images, and a published checkpoint does not store what the third is",
            "True for a mask; for the previous estimate, self_condition=True instead",
        )
    restoring = inputs > 1 if condition is None else condition
    translation = restoring and inputs == 1 + bool(input_condition) + bool(self_condition)
    if inputs != 1 + (restoring and not translation) + bool(input_condition) + bool(self_condition):
        raise ModelError(
            f"the network sees {inputs} images, which condition={restoring}, input_condition={bool(input_condition)}, "
            f"self_condition={bool(self_condition)} do not add up to: correct these arguments"
        )
    arguments = {
        "dim": dim,
        "networks": networks,
        "init_dim": stem.shape[0],
        "dim_mults": [width // dim for width in widths],
        "channels": channels,
        "self_condition": bool(self_condition),
        "resnet_block_groups": groups,
        "condition": restoring,
        "input_condition": bool(input_condition),
        "img_to_img_translation": translation,
    }
    return arguments, restoring


def recognised(alphas_cumsum: Tensor, betas_cumsum: Tensor) -> Schedule:
    """Return the published recipe that gives these coefficients; if there is none, a schedule of the tables."""
    T, scale = len(alphas_cumsum), round(float(betas_cumsum[-1]) ** 2, 4)
    for candidate in (Schedule.triangular(T, scale), Schedule.power(T, scale), Schedule.from_ddim(T)):
        a, b = torch.from_numpy(candidate.alpha_bar), torch.from_numpy(candidate.beta_bar)
        # Compare beta_bar squared: near 0 the root turns float32's rounding of 1e-7 into an error of 3e-4.
        if torch.allclose(a, alphas_cumsum.double(), rtol=0, atol=3e-6) and torch.allclose(
            b**2, betas_cumsum.double() ** 2, rtol=0, atol=3e-6
        ):
            return candidate
    return Schedule.from_tables(alphas_cumsum, betas_cumsum, scale)


# -- a live object of the published class -------------------------------------------------------------------


class _Seen(Exception):
    """Carries the times that the networks were given out of the published object's call, and so ends it."""

    def __init__(self, times: Any) -> None:
        self.times = times


def from_published(diffusion: Any) -> ResidualDiffusion:
    """Build our model with the weights and settings of `diffusion`, an object of the published ResidualDiffusion.

    Any class will do that has the published attributes and state-dict keys. Weights are copied, to the same device.
    The class does not record whether its networks see t or the coefficients. We run one prediction and look. If the
    published source was edited to sample in another loop (the two passes of the path-independent experiment), the
    model still samples in the simultaneous loop of the paper.

    Raises:
        ModelError: an attribute is missing, or the networks or their times are not RDDM's.
    """
    name = type(diffusion).__name__
    wanted = ("model", "objective", "num_timesteps", "sampling_timesteps", "alphas_cumsum", "betas_cumsum")
    if absent := [attribute for attribute in wanted if not hasattr(diffusion, attribute)]:
        raise ModelError(
            f"{name} is not an RDDM diffusion object, it has no attribute {absent[0]!r}: pass a ResidualDiffusion, "
            "a built-in model's name or a model folder"
        )
    condition = bool(getattr(diffusion, "condition", False))
    groups = {module.num_groups for module in diffusion.model.modules() if isinstance(module, nn.GroupNorm)}
    ours = assembled(
        {key: value.detach().float().cpu() for key, value in diffusion.state_dict().items()},
        name,
        objective=str(diffusion.objective),
        path_independent=_sees_coefficients(diffusion),
        condition=condition,
        input_condition=bool(getattr(diffusion, "input_condition", False)),
        self_condition=bool(getattr(diffusion, "self_condition", False)),
        resnet_block_groups=groups.pop() if len(groups) == 1 else 8,
        sum_scale=getattr(diffusion, "sum_scale", None) or (0.01 if condition else 1.0),
        sampling_timesteps=int(diffusion.sampling_timesteps),
        # The published code restores with eta = 0, whatever it was given.
        eta=0.0 if condition else float(getattr(diffusion, "ddim_sampling_eta", 0.0)),
        test_res_or_noise=getattr(diffusion, "test_res_or_noise", None),
        input_condition_mask=bool(getattr(diffusion, "input_condition_mask", False)),
        loss_type=getattr(diffusion, "loss_type", "l1"),
        image_size=getattr(diffusion, "image_size", None),
    )
    return ours.to(diffusion.alphas_cumsum.device)


def _sees_coefficients(diffusion: Any) -> bool:
    """Return True if the networks are given alpha_bar_t T and beta_bar_t T as their times, False if t.

    One prediction is started, and ended as soon as the networks are called.
    """
    T = int(diffusion.num_timesteps)
    t = torch.full((1,), T // 2, dtype=torch.long, device=diffusion.alphas_cumsum.device)
    image = torch.zeros(1, int(getattr(diffusion, "channels", 3)), 64, 64, device=t.device)
    given = image if getattr(diffusion, "condition", False) else 0
    mask = image if getattr(diffusion, "input_condition", False) else 0

    def look(_module: nn.Module, arguments: tuple[Any, ...]) -> None:
        raise _Seen(arguments[1] if len(arguments) > 1 else None)

    handle = diffusion.model.register_forward_pre_hook(look)
    try:
        with torch.no_grad():
            diffusion.model_predictions(given, image, t, mask)
        times = None
    except _Seen as seen:
        times = seen.times
    finally:
        handle.remove()
    first = times[0] if isinstance(times, list | tuple) else times
    if isinstance(first, Tensor):
        value = float(first.flatten()[0])
        if abs(value - float(diffusion.alphas_cumsum[t]) * T) < 1e-3:
            return True
        if value == float(t):
            return False
    raise ModelError(
        f"{type(diffusion).__name__} gives its networks the time {first!r} at t = {int(t)}, which is neither t nor "
        "alpha_bar_t T: build a rddm_fast.ResidualDiffusion of its networks instead"
    )


def load_published(
    path: str | PathLike[str],
    *,
    objective: str | None = None,
    path_independent: bool | None = None,
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
        objective: what the networks predict, for example "pred_res_noise". The file does not store it, unless AOSA
            selected it: then None takes what `alpha_res` has decided.
        path_independent: the time input: False for t, True for alpha_bar_t T and beta_bar_t T. The file does not
            store it.
        condition, input_condition, self_condition: needed only if the number of input channels leaves more than one
            possibility; the error says so.
        schedule: the schedule it was trained with. By default the file's own coefficients, or the published recipe
            that gives them.
        sum_scale: variance of the starting noise; None takes beta_bar_T^2 of the schedule, to four digits.
        weights: "ema", which published evaluation uses, or "model" for the raw weights.

    Raises:
        ModelError: the file cannot be read, an argument is missing (the message names it), or the network is not
            RDDM's. The message is one sentence.
    """
    state = _published_state(Path(path), weights)
    if objective is None and "alpha_res" in state and (decided := decision(state["alpha_res"])) is not None:
        objective = decided.name
    for name, value, choices in (
        ("objective", objective, "what the networks predict, such as 'pred_res_noise' or 'pred_res'"),
        ("path_independent", path_independent, "False if the networks see t, True if alpha_bar_t T and beta_bar_t T"),
    ):
        if value is None:
            raise MissingArgument(name, f"a published checkpoint does not store {name}", choices)
    return assembled(
        state,
        str(path),
        objective=objective or "",
        path_independent=bool(path_independent),
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
    )


def _published_state(path: Path, weights: str) -> dict[str, Tensor]:
    """Return the diffusion object's state dict from a published file, without the prefixes of wrappers."""
    if weights not in ("ema", "model"):
        raise ModelError(f"weights is 'ema' or 'model', not {weights!r}")
    if not path.is_file():
        raise ModelError(f"there is no file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors and plain values and is not loaded: {one_line(error)}"
        ) from error
    except Exception as error:
        raise ModelError(f"{path} cannot be read as a checkpoint: {one_line(error)}") from error
    if not isinstance(content, dict) or weights not in content:
        raise ModelError(f"{path} is not a published training checkpoint: it has no entry {weights!r}")
    entries = content[weights] or {}
    wrapper = "ema_model." if weights == "ema" else ""
    state = {}
    for key, value in entries.items():
        if key.startswith(wrapper) and isinstance(value, Tensor):
            state[re.sub(r"(^|\.)((module|_orig_mod)\.)+", r"\1", key[len(wrapper) :])] = value.float()
    if not state:
        raise ModelError(f"{path} holds no weights under {weights!r}")
    return state
