"""A layer that can be computed in several ways, of which a measurement chooses one for each size of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Site(NamedTuple):
    """What a way is chosen for, beside the layer itself.

    Attributes:
        threads: those of a CPU that compute the layer; 0 on a GPU.
        shapes: those of the images, (B, C, H, W) each.
    """

    threads: int
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, given: Sequence[Any]) -> Site:
        """Return the site of a layer's arguments."""
        images = list(images_of(given))
        threads = 0 if images[0].is_cuda else _threads()
        return cls(threads, tuple(tuple(image.shape) for image in images))


def _threads() -> int:
    return torch.get_num_threads()


# What torch.compiler.assume_constant_result does, which would import the compiler: 2 s that no other user waits for.
_threads._dynamo_marked_constant = True  # type: ignore[attr-defined]


def images_of(given: Sequence[Any]) -> Iterator[Tensor]:
    """Yield the images among a layer's arguments, which may be in tuples: its tensors of four axes."""
    for argument in given:
        if isinstance(argument, Tensor) and argument.dim() == 4:
            yield argument
        elif isinstance(argument, tuple):
            yield from images_of(argument)


class ManyWays(nn.Module):
    """A layer with several ways to compute it. All give the same images, up to rounding.

    Attributes:
        WAYS: all names of ways, if they do not depend on the images.
        chosen: the way for each site that was measured; for all others `rule` decides.
    """

    WAYS: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.chosen: dict[Site, str] = {}

    def title(self) -> str:
        """Say which layer this is: those of one title take the same time for the same images."""
        raise NotImplementedError

    def rule(self, *given: Any) -> str:
        """Return the way that is taken for these arguments without a measurement."""
        raise NotImplementedError

    def ways(self, *given: Any) -> list[str]:
        """Return the names of all ways for these arguments that are worth a measurement."""
        return list(self.WAYS)

    def is_choosable(self) -> bool:
        """Return whether this layer has more than one way where it is."""
        return True

    def by(self, way: str, *given: Any) -> Tensor:
        """Compute the layer in this way."""
        raise NotImplementedError

    def exact(self, *given: Any) -> Tensor:
        """Compute the layer in plain torch, in float32: what every way is checked against."""
        raise NotImplementedError

    def products(self, *given: Any) -> int:
        """Return the number of multiplications of the direct computation."""
        raise NotImplementedError

    def choose(self, site: Site, way: str) -> None:
        """Take this way at this site from now on. Raises ValueError if the layer has no such way."""
        if self.WAYS and way not in self.WAYS:
            raise ValueError(f"{self.title()} is computed by {', '.join(self.WAYS)}, not by {way!r}")
        self.chosen[site] = way

    def settle(self) -> None:
        """Free what only the ways that were not chosen need."""

    def forward(self, *given: Any) -> Tensor:
        return self.by(self.way(*given), *given)

    def way(self, *given: Any) -> str:
        """Return the way that is taken for these arguments."""
        found = self.chosen.get(Site.of(given)) if self.chosen else None
        return found or self.rule(*given)
