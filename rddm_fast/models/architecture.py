"""The networks of a published state dict: their arguments read from keys and shapes, their weights put in place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from .errors import MissingArgument, ModelError


def networks_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the networks' part of a diffusion object's state dict, without the prefix."""
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


def architecture(
    state: Mapping[str, Tensor],
    condition: bool | None,
    input_condition: bool | None,
    self_condition: bool | None,
    groups: int,
) -> tuple[dict[str, Any], bool]:
    """Read the arguments of `ResidualUnets` from the keys and shapes, and whether the model restores.

    Args:
        state: a published state dict; the networks' keys start with "model.".
        condition, input_condition, self_condition: what the caller knows; None asks for what the file cannot tell.
        groups: groups of the group norms, which no shape tells.

    Raises:
        ModelError: the networks are not RDDM's, or see another number of images than the arguments say.
        MissingArgument: an argument is needed.
    """
    keys = networks_of(state)
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


def load_networks(diffusion: ResidualDiffusion | ColdRestorer, state: Mapping[str, Tensor], source: str) -> None:
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
