"""The table of measured choices: a small JSON file that can be read, shipped to a machine like this one, and pinned."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ...system.errors import one_line
from ...system.files import write_text_whole
from ..folded.ways import Site
from .machine import machine, table_path

FORMAT, VERSION = "rddm_fast choices", 1


class TableError(ValueError):
    """A table of measured choices cannot be used; the message is one sentence that says what to do."""


@dataclass(frozen=True)
class Entry:
    """What was measured of a layer, or of a whole evaluation, at a site.

    Attributes:
        way: the one chosen.
        us: the microseconds of each way's fastest turn, the rule's first.
        left_out: the ways that failed or gave another result, and why.
        products: the multiplications of the direct computation.
    """

    way: str
    us: dict[str, float]
    left_out: dict[str, str] = field(default_factory=dict)
    products: int = 0

    @property
    def rule(self) -> str:
        return next(iter(self.us))

    @property
    def gain(self) -> float:
        """How many times as fast the chosen way is as the rule's."""
        return self.us[self.rule] / self.us[self.way]


@dataclass(frozen=True)
class Peak:
    """What this machine was measured to do at most: products of matrices and copies of memory."""

    gflop_s: float
    gb_s: float


class Table:
    """Measured choices of one machine.

    Attributes:
        machine: what they hold for, as `machine` describes it.
        entries: by a layer's title and the site.
        peaks: by a dtype's name and the threads.
        pinned: whether it is only read: what it lacks is left to the rules.
    """

    def __init__(self, path: Path, machine: dict[str, str], *, pinned: bool = False) -> None:
        self.path, self.machine, self.pinned = path, machine, pinned
        self.entries: dict[tuple[str, Site], Entry] = {}
        self.peaks: dict[tuple[str, int], Peak] = {}

    @classmethod
    def stored(cls, device: torch.device) -> Table:
        """Return this machine's table from the cache folder, an empty one if there is none yet.

        Raises TableError if the file cannot be read.
        """
        found = machine(device)
        table = cls(table_path(device, found), found)
        if table.path.exists():
            table._read()
        return table

    @classmethod
    def at(cls, path: Path, device: torch.device) -> Table:
        """Return the table in a file, pinned.

        Raises TableError if there is none, it cannot be read, or it was measured on another machine.
        """
        table = cls(path, machine(device), pinned=True)
        table._read()
        return table

    def write(self, path: Path | None = None) -> None:
        """Write the table, by default to where it came from, with what others have added there meanwhile.

        Raises OSError if the file cannot be written.
        """
        path = path or self.path
        if path == self.path and path.exists():
            others = Table(path, self.machine)
            others._read()
            self.entries, self.peaks = others.entries | self.entries, others.peaks | self.peaks
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, self._text())

    def _text(self) -> str:
        """Return the file's text: one line for each peak and each layer, so that two tables can be compared."""
        peaks = [
            {"dtype": dtype, "threads": threads, "gflop_s": round(peak.gflop_s, 1), "gb_s": round(peak.gb_s, 2)}
            for (dtype, threads), peak in sorted(self.peaks.items())
        ]
        measured = [
            {
                "layer": title,
                "threads": site.threads,
                "images": ["x".join(map(str, shape)) for shape in site.shapes],
                "way": entry.way,
                "us": {way: round(us, 2) for way, us in entry.us.items()},
                "left_out": entry.left_out,
                "products": entry.products,
            }
            for (title, site), entry in sorted(self.entries.items(), key=lambda item: item[0])
        ]
        head = {"format": FORMAT, "version": VERSION, "machine": self.machine}
        lists = {"peaks": peaks, "measured": measured}
        lines = [f'  "{name}": {json.dumps(value)}' for name, value in head.items()]
        for name, rows in lists.items():
            inner = ",\n".join(f"    {json.dumps(row)}" for row in rows)
            lines.append(f'  "{name}": [\n{inner}\n  ]' if rows else f'  "{name}": []')
        return "{\n" + ",\n".join(lines) + "\n}\n"

    def _read(self) -> None:
        again = "measure again with rddm-fast tune"
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except OSError as error:
            raise TableError(
                f"the table of choices {self.path} cannot be read ({one_line(error)}): make one with rddm-fast tune"
            ) from error
        except ValueError as error:
            raise TableError(
                f"{self.path} is not a table of choices ({one_line(error)}): delete it, and {again}"
            ) from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise TableError(f"{self.path} is not a table of choices: pass one that rddm-fast tune has written")
        if found.get("version") != VERSION:
            raise TableError(
                f"{self.path} is a table of version {found.get('version')}, and this rddm_fast reads {VERSION}: {again}"
            )
        other = found.get("machine")
        if other != self.machine:
            raise TableError(
                f"{self.path} was measured elsewhere ({_differences(other, self.machine)}): {again} on this machine"
            )
        try:
            for row in found["peaks"]:
                self.peaks[str(row["dtype"]), int(row["threads"])] = Peak(float(row["gflop_s"]), float(row["gb_s"]))
            for row in found["measured"]:
                self.entries[str(row["layer"]), _site(row)] = _entry(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TableError(
                f"{self.path} is damaged ({type(error).__name__}: {one_line(error)}): delete it, and {again}"
            ) from error


def _site(row: dict[str, Any]) -> Site:
    for shape in row["images"]:
        if not re.fullmatch(r"\d+(x\d+){3}", shape):
            raise ValueError(f"{shape!r} is not the shape of images")
    return Site(int(row["threads"]), tuple(tuple(map(int, shape.split("x"))) for shape in row["images"]))


def _entry(row: dict[str, Any]) -> Entry:
    us = {str(way): float(time) for way, time in row["us"].items()}
    if row["way"] not in us:
        raise ValueError(f"the way {row['way']!r} has no time")
    return Entry(row["way"], us, {str(way): str(why) for way, why in row["left_out"].items()}, int(row["products"]))


def _differences(found: Any, here: dict[str, str]) -> str:
    if not isinstance(found, dict):
        return "it does not say which"
    names = sorted(set(found) | set(here))
    return ", ".join(
        f"{name} {found.get(name, 'none')}, not {here.get(name, 'none')}"
        for name in names
        if found.get(name) != here.get(name)
    )
