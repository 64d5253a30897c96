"""Fade: a dark spot that grows, collapsed to one mask A_s, the product of the first s masks.

    D(x, s) = A_s x + (1 - A_s) x_end            a blend with alpha_bar_s = 1 - A_s for every pixel and I_in = x_end

x_end is 0, mid-grey, when restoring. When generating it is one colour, and sampling starts from x_end itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...ops.inverse.tacos_step import tacos_step
from .degradation import Blend, Level, Resident, Table, check_choice, check_far_end, check_positive, gaussian, sides

FADES = ("Incremental", "Constant", "Random_Incremental")
"""The published schedules (Cold Diffusion, defading)."""


def fade_masks(
    size: int | tuple[int, int],
    T: int,
    schedule: str = "Incremental",
    *,
    std: float = 0.1,
    initial_mask: int = 1,
    offsets: Tensor | None = None,
) -> Tensor:
    """Return the masks m_1 .. m_T, float64 (T, P, 1, H, W) in [0, 1]: 1 minus a Gaussian spot of height 1.

    The spot of an (N + 1)-pixel side is in its middle; the published code cuts the first row and column off. P is 1, or
    the number of `offsets`. The arguments and errors are those of `Fade`.
    """
    check_choice("fade schedule", schedule, FADES)
    check_positive("std", std)
    check_positive("initial_mask", initial_mask)
    height, width = sides(size)
    if schedule == "Random_Incremental":
        if offsets is None:
            raise ValueError("Random_Incremental has a spot for each picture: pass offsets=random_offsets(batch, size)")
        limits = torch.tensor([height, width], device=offsets.device)
        if offsets.dim() != 2 or offsets.shape[1] != 2 or (offsets < 0).any() or (offsets > limits).any():
            raise ValueError(f"offsets are (B, 2): a row from 0 to {height} and a column from 0 to {width} per picture")
        # The mask has 2N pixels and its middle at N - 1; the picture is the N pixels from the offset on.
        middles = limits - 1 - offsets
    elif offsets is not None:
        raise ValueError(f"{schedule} has its spot in the middle: leave offsets out, or choose Random_Incremental")
    else:
        middles = torch.tensor([[(height + 1) // 2 - 1, (width + 1) // 2 - 1]])
    rows = torch.arange(height) - middles[:, :1].cpu()
    columns = torch.arange(width) - middles[:, 1:].cpu()
    sigmas = [std if schedule == "Constant" else std * (i + initial_mask) for i in range(T)]
    spots = [gaussian(rows, sigma)[:, :, None] * gaussian(columns, sigma)[:, None] for sigma in sigmas]
    return 1 - torch.stack(spots)[:, :, None]


def random_offsets(batch: int, size: int | tuple[int, int], generator: torch.Generator | None = None) -> Tensor:
    """Draw the place of the spot for each picture, int64 (B, 2): a row from 0 to H, a column from 0 to W."""
    draws = [torch.randint(0, side + 1, (batch,), generator=generator) for side in sides(size)]
    return torch.stack(draws, 1)


class Fade(Blend):
    """The image fades out in a growing spot.

    Args:
        size: H and W of the images, or the side of a square.
        T: the number of levels.
        schedule: one of `FADES`. The (i+1)-th spot has sigma std (i + initial_mask), "Constant" std.
        std, initial_mask: the growth and the first size of the spot.
        offsets: for "Random_Incremental", int64 (B, 2), from `random_offsets`.
        discrete: `start` rounds the image down to 8 bits, so that nothing of it hides in the last digits.
        x_end: the far end in [-1, 1], (C,) for one colour or a shape that broadcasts to (B, C, H, W); None for 0,
            mid-grey.
        reverse: grow the spot from nothing to the whole image in reverse order: A_s is 1 - the product of T - s masks.

    Raises:
        ValueError: T below 1, an unknown schedule, a std or initial_mask that is not above 0, or wrong offsets.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        T: int,
        schedule: str = "Incremental",
        *,
        std: float = 0.1,
        initial_mask: int = 1,
        offsets: Tensor | None = None,
        discrete: bool = False,
        x_end: Tensor | None = None,
        reverse: bool = False,
    ) -> None:
        super().__init__(T, sides(size), 1 if offsets is None else len(offsets))
        masks = fade_masks(size, T, schedule, std=std, initial_mask=initial_mask, offsets=offsets)
        # alpha_bar_s = 1 - m_1 … m_s; in reverse order, the products of T - s masks themselves.
        products = torch.cat([torch.ones_like(masks[:1]), masks.cumprod(0)])
        alpha_bar = products[:-1].flip(0) if reverse else 1 - products[1:]
        self._alpha_bar = Table(torch.cat([torch.zeros_like(masks[:1]), alpha_bar]))
        self.discrete = discrete
        far = torch.zeros(1) if x_end is None else x_end
        self._x_end = Resident(far.view(1, -1, 1, 1) if far.dim() == 1 else far)

    def alpha_bar(self, s: Level, like: Tensor) -> Tensor:
        """Return 1 - A_s, (1 or B, 1, H, W)."""
        return self._alpha_bar.at(s, like)

    def I_in(self, x: Tensor) -> Tensor:
        """Return x_end."""
        return self._x_end.like(x)

    def tacos(self, x_s: Tensor, x_0: Tensor, s: int, to: int) -> Tensor:
        self._check_change(x_0, s, to)
        before, after, x_end = self.alpha_bar(s, x_0), self.alpha_bar(to, x_0), self._x_end.like(x_0)
        return tacos_step(x_s, x_0, kind="mix", numbers=(-1.0, 1.0), x_end=x_end, layer_s=before, layer_to=after)

    def check(self, x: Tensor) -> None:
        super().check(x)
        check_far_end(self._x_end.values, x)

    def start(self, x_0: Tensor) -> Tensor:
        """Return D(x_0, T), rounded down to 8 bits if `discrete`."""
        x_T = self.D(x_0, self.T)
        return ((x_T + 1) / 2 * 255).floor().clamp(0, 255) / 255 * 2 - 1 if self.discrete else x_T
