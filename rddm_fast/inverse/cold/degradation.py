"""A degradation of Cold Diffusion (Bansal et al., 2022): D(x, s), the image `x` degraded s times, s = 0 .. T.

    x_s = d.D(x, s)              one operation, whatever s; D(x, 0) = x
    x_T = d.start(x_0)           what sampling starts from
    d.change(x, s, to)           D(x, to) - D(x, s), the move of Algorithm 2
    d.tacos(x_s, x_0, s, to)     x_s + d.change(x_0, s, to), in one op where D is elementwise

The published code degrades step after step, so that a sample takes T^2 degradations. Here each D(., s) is collapsed to
one operation, with a table for all s that is made once in float64.

Some degradations are a blend, D(x, s) = x + alpha_bar_s (I_in - x). That is RDDM's forward process without noise, and
Algorithm 2 is then RDDM's reverse step with beta_bar = 0 and I_res = I_in - x_0. They derive from `Blend`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

Level = int | Tensor
"""s: one int for the whole batch, or an integer tensor (B,), as a training draws it."""


class Degradation(ABC):
    """A degradation in T levels of images (B, C, H, W), float32 or float64, with values in [-1, 1].

    Attributes:
        T: the number of levels.
        size: (H, W) of the images that the tables are for; None for any size.
        pictures: the batch that the tables are for, where every picture has its own; 1 for any batch.
    """

    def __init__(self, T: int, size: tuple[int, int] | None = None, pictures: int = 1) -> None:
        check_levels(T)
        self.T, self.size, self.pictures = T, size, pictures

    def D(self, x: Tensor, s: Level) -> Tensor:
        """Return `x` degraded `s` times, of its shape and dtype; `x` itself where s is 0.

        Raises:
            ValueError: s outside 0 to T, or an image of another size or batch than the tables.
            TypeError: an image that is neither float32 nor float64, or an s that is no integer.
        """
        self.check(x)
        s = self._checked(s, x)
        if isinstance(s, Tensor):
            return torch.where(s.view(-1, 1, 1, 1) == 0, x, self._degraded(x, s))
        return self._degraded(x, s) if s else x

    @abstractmethod
    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        """Return D(x, s) for an int s of 1 .. T, or a tensor s; what it gives where the tensor is 0 is not used."""

    def change(self, x: Tensor, s: int, to: int) -> Tensor:
        """Return D(x, to) - D(x, s). Raises what `D` raises."""
        return self.D(x, to) - self.D(x, s)

    def tacos(self, x_s: Tensor, x_0: Tensor, s: int, to: int) -> Tensor:
        """Return x_s - D(x_0, s) + D(x_0, to), a step of Algorithm 2 from level `s` to `to`. Raises what `D` raises."""
        return x_s + self.change(x_0, s, to)

    def start(self, x_0: Tensor) -> Tensor:
        """Return the degraded image from which sampling brings `x_0` back. Raises what `D` raises."""
        return self.D(x_0, self.T)

    def at(self, x_s: Tensor, x_0: Tensor, s: int) -> Degradation:
        """Return the degradation that leads from the estimate `x_0` to `x_s`: itself, unless it has unknowns."""
        return self

    def published_level(self, s: int) -> int:
        """Return the level that the published sampler in fact applies where it means `s`."""
        return s

    def check(self, x: Tensor) -> None:
        """Raise ValueError or TypeError unless `x` is an image that this degradation takes."""
        if x.dim() != 4:
            raise ValueError(f"an image has the shape (batch, channels, height, width), not {tuple(x.shape)}")
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"the image is {x.dtype}: convert it to float32 or float64")
        if self.size is not None and tuple(x.shape[-2:]) != self.size:
            made, given = ("×".join(map(str, side)) for side in (self.size, x.shape[-2:]))
            raise ValueError(
                f"this degradation is made for images of {made}, and the image is {given}: make one of its size"
            )
        if self.pictures not in (1, x.shape[0]):
            raise ValueError(f"this degradation has its own tables for {self.pictures} pictures, not for {x.shape[0]}")

    def _check_change(self, x: Tensor, s: int, to: int) -> None:
        """Raise what `D` raises for an image and two levels."""
        self.check(x)
        for level in (s, to):
            self._checked(level, x)

    def _checked(self, s: Level, x: Tensor) -> Level:
        """Return `s`, a tensor on the device of `x`, if it is one or more levels of 0 .. T; raise if not."""
        if isinstance(s, Tensor):
            if s.dtype not in (torch.int32, torch.int64) or s.shape != x.shape[:1]:
                raise TypeError(
                    f"s is {s.dtype} of shape {tuple(s.shape)}: pass an int, or integers of shape ({len(x)},)"
                )
            low, high = (int(s.min()), int(s.max())) if len(s) else (0, 0)
        elif isinstance(s, int):
            low = high = s
        else:
            raise TypeError(f"s is a {type(s).__name__}: pass an int, or integers of shape ({len(x)},)")
        if low < 0 or high > self.T:
            raise ValueError(f"s is {low if low < 0 else high}: choose a level from 0 (the clean image) to {self.T}")
        return s.to(x.device) if isinstance(s, Tensor) else s


class Blend(Degradation):
    """A degradation of the form D(x, s) = x + alpha_bar_s (I_in - x): RDDM's forward process without noise."""

    @abstractmethod
    def alpha_bar(self, s: Level, like: Tensor) -> Tensor | float:
        """Return alpha_bar_s, from 0 at s = 0 to at most 1; one number, or one for every pixel."""

    @abstractmethod
    def I_in(self, x: Tensor) -> Tensor:
        """Return the image that `x` fades into, broadcastable to `x`."""

    def _degraded(self, x: Tensor, s: Level) -> Tensor:
        return x + self.alpha_bar(s, x) * (self.I_in(x) - x)


class Resident:
    """A tensor and its copies, one for every device and dtype that asked, so that a loop copies nothing."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self._copies: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Return the values on the device and in the dtype of `x`."""
        key = (x.device, x.dtype)
        if key not in self._copies:
            with torch.inference_mode(False):  # a training may use the copy later
                self._copies[key] = self.values.to(*key)
        return self._copies[key]


class Table(Resident):
    """A tensor for every level and picture: float64 (T + 1, P, …), where P is 1 if all pictures share it."""

    def at(self, s: Level, x: Tensor) -> Tensor:
        """Return the row of level `s`, (P, …); for levels (B,) the rows (B, …), each of its own picture."""
        rows = self.like(x)
        if not isinstance(s, Tensor):
            return rows[s]
        return rows[s, 0] if rows.shape[1] == 1 else rows[s, torch.arange(len(s), device=s.device)]


class Numbers(Resident):
    """A number for every level, s = 0 .. T."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__(torch.tensor(numbers, dtype=torch.float64))
        self._numbers = list(numbers)

    def number(self, s: int) -> float:
        """Return the number of level `s`."""
        return self._numbers[s]

    def at(self, s: Level, x: Tensor) -> Tensor | float:
        """Return the number of level `s` as a float; for levels (B,) a tensor (B, 1, 1, 1)."""
        return self.like(x)[s].view(-1, 1, 1, 1) if isinstance(s, Tensor) else self.number(s)


def sides(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return (H, W) of a size; one number means a square. Raises ValueError unless both are at least 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"the size of an image is {height}×{width}: both sides must be at least 1")
    return height, width


def check_levels(T: int) -> None:
    """Raise ValueError unless T is a whole number, at least 1."""
    if not isinstance(T, int) or T < 1:
        raise ValueError(f"T is {T}: a degradation has a whole number of levels, at least 1")


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ValueError, with the choices, unless `value` is one of them."""
    if value not in choices:
        raise ValueError(f"unknown {name} {value!r}: choose one of {', '.join(choices)}")


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless `value` is above 0."""
    if not value > 0:
        raise ValueError(f"{name} is {value}: it must be above 0")


def check_far_end(x_end: Tensor, x: Tensor) -> None:
    """Raise ValueError unless `x_end` broadcasts to the image `x`."""
    if x_end.dim() != 4 or any(have not in (1, want) for have, want in zip(x_end.shape, x.shape, strict=True)):
        shapes = f"{tuple(x_end.shape)} and the image {tuple(x.shape)}"
        raise ValueError(f"x_end has shape {shapes}: pass an x_end that broadcasts to the image")


def gaussian(offsets: Tensor, sigma: float) -> Tensor:
    """Return exp(-offset^2 / 2 sigma^2), float64, not normalised."""
    return torch.exp(-(offsets.double() ** 2) / (2 * sigma**2))
