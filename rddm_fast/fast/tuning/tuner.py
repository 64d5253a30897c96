"""`Tuner`: gives a sampler's layers what a table of choices says, and measures what the table lacks."""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from ...diffusion.start import Start
from ..folded.ways import Site
from ..loop import Loop
from ..together import on_half
from .measure import Measurement, choosable
from .table import Entry, Table, TableError

AT_ONCE, IN_TURN = "at once", "one after the other"
BY_RULES, AS_MEASURED = "by the rules", "as measured"


class Tuner:
    """The choices of one sampler's networks.

    Args:
        networks: the folded networks, whose layers take the choices that the table has.
        table: the table.

    Attributes:
        say: told what is measured, before each measurement.

    Raises:
        TableError: the table names a way that a layer does not have.
    """

    def __init__(self, networks: nn.Module, table: Table) -> None:
        self.networks, self.table = networks, table
        self.say: Callable[[str], object] = lambda what: None
        self.layers = choosable(networks)
        for layer in self.layers:
            for site, entry in self._entries(layer.title()):
                try:
                    layer.choose(site, entry.way)
                except ValueError as error:
                    raise TableError(f"{table.path}: {error}: measure again with rddm-fast tune") from error

    @classmethod
    def of(cls, networks: nn.Module, tune: bool | str | PathLike[str] | None, device: torch.device) -> Tuner | None:
        """Return the tuner that `FastSampler(tune=)` asks for; None for False."""
        if tune is False:
            return None
        table = Table.stored(device) if tune is None or tune is True else Table.at(Path(tune), device)
        return cls(networks, table)

    def give(self, loop: Loop) -> None:
        """Give the loop what the table says of its two networks."""
        for site, entry in self._entries(title_of(loop)):
            loop.at_once[site.shapes[0]] = entry.way == AT_ONCE

    def measure(self, loop: Loop, start: Start, *, whole: bool) -> int:
        """Measure what the table lacks for images of a start's size; return how many entries were added.

        Args:
            loop: the sampler's loop.
            start: images of the size.
            whole: whether two networks at once or one after the other is to be chosen, too.

        Raises:
            WrongResult: a layer's rule gives another result than its definition.
        """
        measurement = Measurement(self.table, loop.device, self.say)
        with torch.no_grad(), loop.networks.own_arithmetic():
            at_once = loop.can_be_at_once()
            with measurement.watching(self.networks):
                _, x, previous, constant = loop.begin(start)
                shown = loop.networks.input(x, previous)
                for i in loop.wanted:
                    network, row = loop.networks.bound(i), loop.rows[i][0]
                    network(shown, row, constant[i])
                    if at_once and loop.side is None:
                        on_half(lambda network=network, row=row, i=i: network(shown, row, constant[i]))  # type: ignore[misc]
            title, site = title_of(loop), Site.of((shown,))

            def evaluated(at_once: bool | None = None) -> torch.Tensor:
                return torch.cat(list(loop.outputs(x, 0, previous, constant, at_once)))

            def by_rules() -> torch.Tensor:
                with measurement.by_the_rules():
                    return evaluated()

            exact = evaluated().float()
            if at_once and whole:
                if (title, site) not in self.table.entries:
                    ways = {AT_ONCE: lambda: evaluated(True), IN_TURN: lambda: evaluated(False)}
                    measurement.measured(title, site, ways, exact, 0, [shown], 1.0)
                self.give(loop)
            # A layer's way can be faster by itself only: its weights take caches from the others.
            if measurement.others:
                both = {BY_RULES: by_rules, AS_MEASURED: evaluated}
                entry = measurement.measured(f"layers of {title}", site, both, exact, 0, [shown], 1.0)
                if entry.way == BY_RULES:
                    measurement.return_to_the_rules()
        return measurement.added

    def known(self) -> list[tuple[str, Site, Entry]]:
        """Return the entries of these networks' layers."""
        titles = {layer.title() for layer in self.layers}
        return [(title, site, entry) for (title, site), entry in self.table.entries.items() if title in titles]

    def _entries(self, title: str) -> list[tuple[Site, Entry]]:
        return [(site, entry) for (other, site), entry in self.table.entries.items() if other == title]


def title_of(loop: Loop) -> str:
    """Name the networks of a loop, whose evaluation is measured as a whole."""
    numbers = sum(parameter.numel() for parameter in loop.networks.parameters())
    dtype = str(loop.networks.dtype).removeprefix("torch.")
    return f"{len(loop.wanted)} networks of {numbers} parameters in all, {dtype}"
