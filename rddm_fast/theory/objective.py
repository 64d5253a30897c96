"""Objectives: what a network predicts, and how residual, noise and clean image follow from its outputs.

RDDM (Liu et al., CVPR 2024) splits diffusion in two: with I_res = I_in - I_0,

    I_t = I_0 + alpha_bar_t * I_res + beta_bar_t * epsilon                      (paper, eq. 7)

so one or two of (I_res, epsilon, I_0) determine the rest. An `Objective` names the ones that the network predicts. In
the published code this table is a chain of ifs; here it is data.

| objective            | out0  | out1             | residual            | noise               | clean image            |
|----------------------|-------|------------------|---------------------|---------------------|------------------------|
| pred_res_noise       | I_res | epsilon          | out0                | out1                | from both              |
| pred_res_add_noise   | I_res | I_res + epsilon  | out0                | out1 - out0         | from both              |
| pred_x0_noise        | I_0   | epsilon          | I_in - out0         | out1                | out0                   |
| pred_x0_add_noise    | I_0   | I_0 + epsilon    | I_in - out0         | out1 - out0         | out0                   |
| pred_res   (SM-Res)  | I_res | -                | out0                | from the residual   | I_in - residual        |
| pred_noise (SM-N)    | eps.  | -                | I_in - clean image  | out0                | from the noise         |
| pred_x0              | I_0   | -                | I_in - out0         | from the residual   | I_in - residual        |

The residual and the clean image are clamped as soon as they are known; the noise never is. Later quantities are
computed from the clamped ones. This order is part of the published behaviour.
"""

from __future__ import annotations

import reprlib
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Objective(IntEnum):
    """The meaning of the network's outputs. The compiled kernels branch on the integers."""

    pred_res_noise = 0
    pred_res_add_noise = 1
    pred_x0_noise = 2
    pred_x0_add_noise = 3
    pred_res = 4
    pred_noise = 5
    pred_x0 = 6

    @classmethod
    def parse(cls, name: Objective | str | int) -> Objective:
        """Return the objective of this name or code. Raises ValueError, with the choices, for an unknown name."""
        if isinstance(name, str):
            if name not in _NAMED:
                raise ValueError(f"unknown objective {reprlib.repr(name)}: choose one of {', '.join(_NAMED)}")
            return _NAMED[name]
        return cls(name)

    @property
    def outputs(self) -> int:
        """Number of images that the network returns: 1 or 2."""
        return 2 if self <= Objective.pred_x0_add_noise else 1

    @property
    def needs_input(self) -> bool:
        """Whether the read-out needs I_in. An absent I_in means I_in = 0, as in generation."""
        return self not in (Objective.pred_res_noise, Objective.pred_res_add_noise)

    @property
    def x0_known(self) -> bool:
        """Whether the first output, or the only one, is the clean image."""
        return self in (Objective.pred_x0_noise, Objective.pred_x0_add_noise, Objective.pred_x0)

    @property
    def added(self) -> bool:
        """Whether the second output is the first plus the noise."""
        return self in (Objective.pred_res_add_noise, Objective.pred_x0_add_noise)


_NAMED = {objective.name: objective for objective in Objective}  # torch 2.11 cannot compile an Enum's __members__


class Prediction(NamedTuple):
    """The three images that an objective yields; the field names are the published ones."""

    pred_res: Tensor
    pred_noise: Tensor
    pred_x_start: Tensor


MODES = ("res_noise", "res", "noise", "x0_noise", "x0")
"""The values of the published `test_res_or_noise`; an objective without modes takes and ignores them all."""


def at_test(objective: Objective | str, test_res_or_noise: str | None) -> tuple[Objective, tuple[int, ...]]:
    """Apply the published `test_res_or_noise`, which changes the read-out of a two-network model.

    Returns:
        The objective to read out with, and the numbers of the outputs that it takes, in order.

    Raises:
        ValueError: a mode that the objective does not have.
    """
    objective = Objective.parse(objective)
    both = tuple(range(objective.outputs))
    modes: dict[str, tuple[Objective, tuple[int, ...]]]
    if objective is Objective.pred_res_noise:
        modes = {
            "res_noise": (objective, both),
            "res": (Objective.pred_res, (0,)),
            "noise": (Objective.pred_noise, (1,)),
        }
    elif objective is Objective.pred_x0_noise:
        modes = {
            "x0_noise": (objective, both),
            "res_noise": (objective, both),
            "x0": (Objective.pred_x0, (0,)),
            "res": (Objective.pred_x0, (0,)),
            "noise": (Objective.pred_noise, (1,)),
        }
    else:
        modes = {}
    if test_res_or_noise in (None, "None") or (not modes and test_res_or_noise in MODES):
        return objective, both
    if test_res_or_noise not in modes:
        raise ValueError(
            f"test_res_or_noise={test_res_or_noise!r} is no mode of {objective.name}: choose one of "
            f"{', '.join(modes or MODES)}"
        )
    return modes[test_res_or_noise]


def residual_to_noise(I_t: Tensor, I_in: Tensor | float, I_res: Tensor, alpha_bar, beta_bar) -> Tensor:
    """epsilon = (I_t - I_in - (alpha_bar - 1) I_res) / beta_bar."""
    return (I_t - I_in - (alpha_bar - 1) * I_res) / beta_bar


def noise_to_clean(
    I_t: Tensor, I_in: Tensor | float, epsilon: Tensor, alpha_bar, beta_bar, one_minus_alpha_bar
) -> Tensor:
    """I_0 = (I_t - alpha_bar I_in - beta_bar epsilon) / (1 - alpha_bar)."""
    return (I_t - alpha_bar * I_in - beta_bar * epsilon) / one_minus_alpha_bar


def residual_and_noise_to_clean(I_t: Tensor, I_res: Tensor, epsilon: Tensor, alpha_bar, beta_bar) -> Tensor:
    """I_0 = I_t - alpha_bar I_res - beta_bar epsilon."""
    return I_t - alpha_bar * I_res - beta_bar * epsilon


def read_out(
    objective: Objective,
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | float,
    alpha_bar,
    beta_bar,
    one_minus_alpha_bar,
    clip_res: float = 1.0,
    clip_0: float = 1.0,
) -> Prediction:
    """Read residual, noise and clean image out of the network's outputs, in the published order and clamps.

    Args:
        I_t, out0, out1, I_in: images in [-1, 1] of one shape; `out1` is None for objectives with one output.
        alpha_bar, beta_bar, one_minus_alpha_bar: floats, or tensors that broadcast against the images.
        clip_res, clip_0: half-widths of the clamps; `math.inf` for none. The residual ranges over [-2, 2], yet the
            published code clamps it to 1. So 1 is the default; 2 loses nothing.
    """

    def clamp(x: Tensor, limit: float) -> Tensor:
        return x.clamp(-limit, limit)

    if objective is Objective.pred_noise:
        epsilon = out0
        I_0 = clamp(noise_to_clean(I_t, I_in, epsilon, alpha_bar, beta_bar, one_minus_alpha_bar), clip_0)
        return Prediction(clamp(I_in - I_0, clip_res), epsilon, I_0)

    I_res = clamp(I_in - out0 if objective.x0_known else out0, clip_res)

    if objective.outputs == 1:
        epsilon = residual_to_noise(I_t, I_in, I_res, alpha_bar, beta_bar)
        return Prediction(I_res, epsilon, clamp(I_in - I_res, clip_0))

    assert out1 is not None
    epsilon = out1 - out0 if objective.added else out1
    if objective.x0_known:
        return Prediction(I_res, epsilon, clamp(out0, clip_0))
    I_0 = residual_and_noise_to_clean(I_t, I_res, epsilon, alpha_bar, beta_bar)
    return Prediction(I_res, epsilon, clamp(I_0, clip_0))


def targets(objective: Objective, I_0: Tensor, I_res: Tensor, epsilon: Tensor) -> tuple[Tensor, ...]:
    """Return the training targets of the outputs, unclamped: one tensor per output."""
    if objective is Objective.pred_noise:
        return (epsilon,)
    first = I_0 if objective.x0_known else I_res
    if objective.outputs == 1:
        return (first,)
    return first, (first + epsilon if objective.added else epsilon)


def stacked(outputs: Tensor | list[Tensor] | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return a network's outputs as a tuple, whether it returned one tensor or several."""
    return (outputs,) if isinstance(outputs, torch.Tensor) else tuple(outputs)


AUTO = "auto"
"""The name of an objective that AOSA has not chosen yet."""

THRESHOLD = 0.01
"""The distance of alpha_res from 1/2 at which AOSA decides."""


def decision(alpha_res: Tensor | float) -> Objective | None:
    """Return the objective that `alpha_res` stands for: pred_res, pred_noise, or None within THRESHOLD of 1/2."""
    w = float(alpha_res.detach()) if isinstance(alpha_res, Tensor) else alpha_res
    if abs(w - 0.5) < THRESHOLD:
        return None
    return Objective.pred_res if w > 0.5 else Objective.pred_noise
