"""Degradations by name, with settings that suit photographs of about 64 pixels: what a restorer is trained on.

    cold:blur, cold:resolution, cold:fade, cold:snow, cold:decolour         a number after it is T: cold:decolour:50

A recipe is plain values, which a model folder keeps: a restorer is sampled with the degradation that it was trained on,
whatever later versions of this table say. T is from 3 to 30, so that a sample takes a second; the published T goes to
300. The settings are published schedules of fewer levels. Sizes are in pixels, so a recipe fits pictures of any size.

Animorphosis has no recipe: its last level holds nothing of the picture, so there is nothing to restore from a file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...system.typed import check_range, checked
from .blur import Blur
from .decolour import Decolour
from .degradation import Degradation, check_choice, check_levels
from .fade import Fade
from .resolution import Resolution
from .snow import Snow, snow_layers, snow_noise

PREFIX = "cold:"
"""What the names start with on the command line."""
MOST = 1_000_000
"""The greatest number that a setting may be: pixels, or a share of them."""
Size = tuple[int, int]


@dataclass(frozen=True)
class _Kind:
    """How a name becomes a degradation.

    Attributes:
        settings: the defaults, T among them.
        make: makes it from the size, T, what was drawn, and the other settings.
        draw: draws what every picture has of its own, from the size, their number, a generator and the settings.
    """

    settings: Mapping[str, Any]
    make: Callable[..., Degradation]
    draw: Callable[..., Tensor] | None = None


_KINDS = {
    # sigma = sqrt(s): 4.5 pixels in the end, where the 50 published levels of "Special_6" make 4.2.
    "blur": _Kind(
        {"T": 20, "schedule": "Constant_reflect", "std": 1.0, "taps": 7},
        lambda size, T, drawn, **settings: Blur(size, T, **settings),
    ),
    # Half of each side, three times: 64 pixels become 8.
    "resolution": _Kind(
        {"T": 3, "schedule": "Incremental_factor_2"},
        lambda size, T, drawn, **settings: Resolution(size, T, **settings),
    ),
    # A spot whose sigma grows to 6 pixels; half of the picture is gone 12 pixels from its middle.
    "fade": _Kind(
        {"T": 30, "schedule": "Incremental", "std": 0.2, "initial_mask": 1},
        lambda size, T, drawn, **settings: Fade(size, T, **settings),
    ),
    "snow": _Kind(
        {"T": 20, "level": 3},
        lambda size, T, drawn, level: Snow(snow_layers(drawn, T, level), level),
        lambda size, pictures, generator, level: snow_noise(size, level, pictures, generator),
    ),
    "decolour": _Kind(
        {"T": 20, "schedule": "Linear"},
        lambda size, T, drawn, **settings: Decolour(T, **settings),
    ),
}
COLD = tuple(_KINDS)
"""The names."""


@dataclass(frozen=True)
class Recipe:
    """A degradation without its size: what a restorer is trained on.

    Attributes:
        name: one of `COLD`.
        T: the number of levels. More of them blur, coarsen and fade further; snow and decolour end where they did.
        settings: the degradation's other arguments.

    Raises:
        ValueError: an unknown name, T below 1, or a setting that the degradation does not have or of another type.
    """

    name: str
    T: int
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_choice("cold degradation", self.name, COLD)
        check_levels(self.T)
        known = {name: default for name, default in _KINDS[self.name].settings.items() if name != "T"}
        settings = {}
        for name, value in self.settings.items():
            if name not in known:
                raise ValueError(f"{PREFIX}{self.name} has no setting {name}: it has {', '.join(known)}")
            spelled = f"{name} of {PREFIX}{self.name}"
            settings[name] = checked(value, type(known[name]), spelled)
            if not isinstance(known[name], str):
                check_range(settings[name], 0, MOST, spelled)
        object.__setattr__(self, "settings", settings)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Recipe:
        """Return the recipe that `values` returned. Raises KeyError if it has no "name" or "T"."""
        settings = dict(values)
        return cls(settings.pop("name"), settings.pop("T"), settings)

    @classmethod
    def parsed(cls, spec: str) -> Recipe:
        """Return the recipe of a text such as cold:blur or, with another T, cold:blur:50.

        Raises:
            ValueError: an unknown name, or a T that is no whole number from 1.
        """
        name, colon, levels = spec.removeprefix(PREFIX).partition(":")
        check_choice("cold degradation", name, COLD)
        settings = dict(_KINDS[name].settings)
        T = settings.pop("T")
        if colon:
            if not levels.isdecimal():
                raise ValueError(f"{spec!r} has no whole number of levels: write it as {PREFIX}{name}:{T}")
            T = int(levels)
        return cls(name, T, settings)

    def values(self) -> dict[str, Any]:
        """Return name, T and settings in one mapping, ready for JSON."""
        return {"name": self.name, "T": self.T, **self.settings}

    @property
    def drawn_per_picture(self) -> bool:
        """Whether every picture has a degradation of its own, so that a degraded file does not tell which."""
        return _KINDS[self.name].draw is not None

    def draw(self, size: Size, pictures: int, generator: torch.Generator | None = None) -> Tensor | None:
        """Draw what each picture has of its own, (pictures, …) on the CPU; None if all are degraded alike."""
        draw = _KINDS[self.name].draw
        return None if draw is None else draw(size, pictures, generator, **self.settings)

    def made(self, size: Size, drawn: Tensor | None = None) -> Degradation:
        """Make the degradation for images of `size` (H, W), with what `draw` returned for them.

        Raises:
            ValueError: a size that has no such degradation, or `drawn` left out where pictures have their own.
        """
        if self.drawn_per_picture and drawn is None:
            raise ValueError(f"{PREFIX}{self.name} is drawn for each picture: pass what Recipe.draw returns")
        return _KINDS[self.name].make(size, self.T, drawn, **self.settings)


def named(
    name: str,
    size: int | Size,
    T: int | None = None,
    *,
    pictures: int = 1,
    generator: torch.Generator | None = None,
) -> Degradation:
    """Make a degradation by its name.

    Args:
        name: one of `COLD`, with "cold:" before it or without.
        size: H and W of the images, or the side of a square.
        T: the number of levels; None takes the recipe's.
        pictures: the batch for which random degradations are drawn, one each; 1 gives all pictures the same.
        generator: draws them, on the CPU.

    Raises:
        ValueError: an unknown name, T below 1, or a size that has no such degradation.
    """
    recipe = Recipe.parsed(name)
    if T is not None:
        recipe = Recipe(recipe.name, T, recipe.settings)
    size = (size, size) if isinstance(size, int) else size
    return recipe.made(size, recipe.draw(size, pictures, generator))
