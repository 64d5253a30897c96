"""Measures a layer's ways on the images that it is given, and keeps the fastest of those that are right."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...system.errors import one_line
from ..folded.ways import ManyWays, Site, images_of
from .clock import fastest, peak
from .table import Entry, Table

LIMITS = {torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""How far a way's result may be from the exact one, relative to the largest value: a few roundings of the dtype."""

WORTH = 0.95
"""Another way than the rule's is chosen if it takes at most so much of its time: less is the clock's noise."""


def choosable(networks: nn.Module) -> list[ManyWays]:
    """Return the layers that have several ways, those within other layers too."""
    return [module for module in networks.modules() if isinstance(module, ManyWays) and module.is_choosable()]


class WrongResult(RuntimeError):
    """A layer's own rule gives another result than its definition."""


class Measurement:
    """Measures layers as they are called, and fills a table.

    Args:
        table: the table; what it knows is not measured again.
        device: where the layers are.
        say: told what is measured, before each measurement.

    Attributes:
        added: the number of entries that were added to the table.
        others: where a layer was measured, and is to be computed in another way than the rule's.
    """

    def __init__(self, table: Table, device: torch.device, say: Callable[[str], object]) -> None:
        self.table, self.device, self.say = table, device, say
        self.added = 0
        self.others: list[tuple[ManyWays, Site]] = []
        self._new: set[tuple[str, Site]] = set()

    @contextmanager
    def watching(self, networks: nn.Module) -> Iterator[None]:
        """Return a context in which each layer with several ways is measured when it is called at a new site."""
        layers = choosable(networks)
        handles = [layer.register_forward_pre_hook(self._before) for layer in layers]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
        for layer in layers:
            layer.settle()

    def _before(self, layer: nn.Module, given: tuple[Any, ...]) -> None:
        assert isinstance(layer, ManyWays)
        site = Site.of(given)
        if site in layer.chosen:
            return
        title, rule = layer.title(), layer.rule(*given)
        entry = self.table.entries.get((title, site))
        if entry is None:
            exact = layer.exact(*given)
            names = [rule, *(name for name in layer.ways(*given) if name != rule)]
            ways = {name: functools.partial(layer.by, name, *given) for name in names}
            entry = self.measured(title, site, ways, exact, layer.products(*given), list(images_of(given)))
            dtype = next(images_of(given)).dtype
            key = str(dtype).removeprefix("torch."), site.threads
            if key not in self.table.peaks:
                self.table.peaks[key] = peak(self.device, dtype)
            self._new.add((title, site))
        if (title, site) in self._new and entry.way != rule:
            self.others.append((layer, site))
        layer.choose(site, entry.way)

    def return_to_the_rules(self) -> None:
        """Compute the layers that were measured here by their rules, and say so in the table."""
        for layer, site in self.others:
            entry = self.table.entries[layer.title(), site]
            if entry.way != entry.rule:  # An equal layer may have been here.
                left_out = {**entry.left_out, entry.way: "faster by itself, not among the other layers"}
                self.table.entries[layer.title(), site] = replace(entry, way=entry.rule, left_out=left_out)
            layer.choose(site, entry.rule)
        self.others.clear()

    @contextmanager
    def by_the_rules(self) -> Iterator[None]:
        """Return a context in which the layers that were measured here are computed by their rules."""
        chosen = [(layer, site, layer.chosen[site]) for layer, site in self.others]
        for layer, site, _ in chosen:
            layer.choose(site, self.table.entries[layer.title(), site].rule)
        try:
            yield
        finally:
            for layer, site, way in chosen:
                layer.choose(site, way)

    def measured(
        self,
        title: str,
        site: Site,
        ways: Mapping[str, Callable[[], Tensor]],
        exact: Tensor,
        products: int,
        images: Sequence[Tensor],
        scale: float = 0.0,
    ) -> Entry:
        """Check and time ways to compute the same, the rule's first, and add the entry to the table.

        Results may be apart by a few roundings of their largest value, or of `scale` if that is larger.

        Raises:
            WrongResult: the rule's result is not the exact one.
        """
        self.say(f"{title}, {' and '.join('x'.join(map(str, shape)) for shape in site.shapes)}")
        left_out: dict[str, str] = {}
        right: dict[str, Callable[[], Tensor]] = {}
        for name, way in ways.items():
            try:
                wrong = _wrong(way(), exact, scale)
            except Exception as error:
                if not right:
                    raise  # The rule's own way has to work.
                wrong = f"{type(error).__name__}: {one_line(error)[:200]}"
            if wrong and not right:
                raise WrongResult(f"{title}: {name}, which the rule takes, is {wrong}: please report this")
            if wrong:
                left_out[name] = wrong
            else:
                right[name] = way
        us = {name: 1e6 * time for name, time in fastest(right, self.device, images).items()}
        rule, best = next(iter(us)), min(us, key=us.__getitem__)
        entry = Entry(best if us[best] <= WORTH * us[rule] else rule, us, left_out, products)
        self.table.entries[title, site] = entry
        self.added += 1
        return entry


def _wrong(found: Tensor, exact: Tensor, scale: float) -> str:
    """Return how a result differs from the exact one, or "" if only by rounding."""
    if found.shape != exact.shape:
        return f"of shape {tuple(found.shape)}, not {tuple(exact.shape)}"
    apart = (found.float() - exact).abs().max() / exact.abs().max().clamp_min(max(scale, 1e-12))
    return "" if apart <= LIMITS[found.dtype] else f"{apart:.1e} apart from the exact result"
