"""The networks of a published state dict: their arguments read from keys and shapes, their weights put in place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..diffusion.residual_unets import ResidualUnets
from ..system.errors import quoted
from .errors import MissingArgument, ModelError

WEIGHTS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
"""The dtypes that weights may have in a file. Those of quantised ones need a scale, which no file has."""


def networks_of(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the networks' part of a diffusion object's state dict, without the prefix."""
    return {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}


def architecture(
    state: Mapping[str, Tensor],
    source: str,
    condition: bool | None,
    input_condition: bool | None,
    self_condition: bool | None,
    groups: int,
) -> tuple[dict[str, Any], bool]:
    """Read the arguments of `ResidualUnets` from the keys and shapes, and whether the model restores.

    Args:
        state: a published state dict; the networks' keys start with "model.".
        source: names it in errors.
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
        raise ModelError(f"{source} is not an RDDM U-Net: its network has no {error}") from error
    if stem.dim() != 4 or time.dim() != 2 or not (channels and stem.numel() and time.numel()):
        raise ModelError(
            f"{source} is not an RDDM U-Net: {prefix}init_conv.weight has shape {tuple(stem.shape)}, "
            f"{prefix}time_mlp.1.weight {tuple(time.shape)}, and {prefix + last} makes {channels} channels"
        )
    # Widths: the time embedding's input gives dim, each level's last convolution its multiple of dim.
    dim = time.shape[1]
    downs = [key for key in keys if re.fullmatch(re.escape(prefix) + r"downs\.\d+\.3\.weight", key)]
    widths = [keys[f"{prefix}downs.{i}.3.weight"].shape[0] for i in range(len(downs))]
    if any(width == 0 or width % dim for width in widths):
        raise ModelError(f"{source} is not an RDDM U-Net: its stages are {widths} wide, not multiples of {dim}")
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
            f"{source}: the network sees {inputs} images, which condition={restoring}, "
            f"input_condition={bool(input_condition)}, self_condition={bool(self_condition)} do not add up to: "
            "correct these arguments"
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


def built_networks(arguments: Mapping[str, Any], state: Mapping[str, Tensor], source: str) -> ResidualUnets:
    """Build `ResidualUnets` of these arguments with the weights of a state dict; `source` names it in errors.

    Names and shapes are compared before any memory is taken, which a wrong width could need without end.

    Raises:
        ModelError: the weights are not those of this network.
    """
    with torch.device("meta"):
        expected = {name: t.shape for name, t in ResidualUnets(**arguments).state_dict().items()}
    problems = [
        *(f"{quoted(name)} is missing" for name in expected.keys() - state.keys()),
        *(f"{quoted(name)} is not part of this network" for name in state.keys() - expected.keys()),
        *(
            f"{name} has shape {tuple(state[name].shape)} instead of {tuple(shape)}"
            for name, shape in expected.items()
            if name in state and state[name].shape != shape
        ),
    ]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ModelError(f"{source} does not fit its network: {min(problems)}{more}")
    networks = ResidualUnets(**arguments)
    networks.load_state_dict(state)
    return networks


def check_dtypes(state: Mapping[str, Tensor], source: str) -> None:
    """Raise ModelError for a tensor that weights cannot be read from."""
    for name, value in state.items():
        empty = value.is_meta or value.numel() == 0
        if value.dtype not in WEIGHTS or value.layout != torch.strided or empty:
            kind = value.dtype if value.dtype not in WEIGHTS else value.layout
            how = "without values" if empty else f"as {str(kind).removeprefix('torch.')}"
            names = ", ".join(str(dtype).removeprefix("torch.") for dtype in WEIGHTS[:-1])
            raise ModelError(
                f"{source} holds {quoted(name)} {how}: save its weights as dense {names} or "
                f"{str(WEIGHTS[-1]).removeprefix('torch.')}"
            )
