"""The restorer of Cold Diffusion (Bansal et al., 2022): R(x_s, s), a network's estimate of x_0 at level s.

The network predicts what the degradation took away, R(x_s, s) = x_s + f(x_s, s), because most of the picture is still
there. How the levels degrade is a recipe of plain values, which `inverse.cold.recipes` turns into the degradation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .residual_unets import ResidualUnets


class ColdRestorer(nn.Module):
    """A network that restores from every level of a degradation; `inverse.cold.sample` takes it as its restorer.

    Args:
        network: one U-Net that sees x_s alone; it is told s itself.
        recipe: the degradation as plain values, with its "name" and "T"; see `inverse.cold.recipes`.
        loss_type: "l1", as published, or "l2".

    Attributes:
        channels: of an image.
        T: the number of levels.
        condition, input_condition: False, as in `ResidualDiffusion`: the network sees no second image and no mask.

    Raises:
        ValueError: more than one network, a network that sees more than x_s, or another loss.
    """

    condition = input_condition = False

    def __init__(self, network: ResidualUnets, recipe: Mapping[str, Any], loss_type: str = "l1") -> None:
        super().__init__()
        first = network.members[0]
        if network.outputs != 1:
            raise ValueError(f"a cold restorer is one network, not {network.networks}: pass networks one")
        if first.input_channels != first.channels:
            raise ValueError("a cold restorer sees the degraded image alone: leave mask and self-conditioning out")
        if loss_type not in ("l1", "l2"):
            raise ValueError(f"loss_type is {loss_type!r}: choose l1 or l2")
        self.model, self.recipe, self.loss_type = network, dict(recipe), loss_type
        self.channels, self.T = network.channels, int(recipe["T"])

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, x_s: Tensor, s: int | Tensor) -> Tensor:
        """Estimate x_0.

        Args:
            x_s: images (B, C, H, W) degraded `s` times, in [-1, 1]. The network computes in its own dtype.
            s: the level, 1 to T: one int for the batch, or int64 (B,).

        Returns:
            R(x_s, s), of the shape and dtype of `x_s`, not clamped.

        Raises:
            ValueError: an int `s` outside 1 to T.
        """
        if not isinstance(s, Tensor):
            check_level(s, self.T)
            s = torch.full((len(x_s),), s, device=x_s.device)
        (missing,) = self.model(x_s.to(next(self.parameters()).dtype), s)
        return x_s + missing.to(x_s.dtype)


def check_level(s: int, T: int) -> None:
    """Raise ValueError unless a restorer of T levels was trained on level `s`."""
    if not 1 <= s <= T:
        raise ValueError(f"s is {s}: this restorer was trained on the levels 1 to {T}")
