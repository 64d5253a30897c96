"""What a benchmark finds: rows that are printed as they come, complaints, and the files made of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from rddm_fast.system.files import write_text_whole, write_whole

from .timing import machine

Row = TypeVar("Row")


class Table:
    """A printed table, one space between columns.

    Args:
        columns: (title, field of the row, width as "<18" or ">9", format of the value as ".1f").
    """

    def __init__(self, *columns: tuple[str, str, str, str]) -> None:
        self.columns = columns

    @property
    def header(self) -> str:
        return " ".join(f"{title:{width}}" for title, _, width, _ in self.columns)

    def line(self, row: object) -> str:
        """Return a row, a dataclass, as a line under the header."""
        return " ".join(f"{_text(getattr(row, field), form):{width}}" for _, field, width, form in self.columns)


def _text(value: Any, form: str) -> str:
    """Format a value; a shape becomes 1x3x64x64, None a dash."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return "-" if value is None else format(value, form)


class Findings(Generic[Row]):
    """The rows of a run, each printed when it is reported, and what was not timed because its result is wrong."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.rows: list[Row] = []
        self.wrong: list[str] = []

    def report(self, row: Row) -> None:
        print(self.table.line(row), flush=True)
        self.rows.append(row)

    def complain(self, sentence: str) -> None:
        print(f"WRONG: {sentence}", flush=True)
        self.wrong.append(sentence)

    def end(self) -> None:
        """Exit with code 1 if anything was wrong."""
        if self.wrong:
            raise SystemExit(
                f"error: not timed, because it is wrong, in {len(self.wrong)} cases; the first: {self.wrong[0]}"
            )


def write_json(path: Path, rows: Sequence[Any]) -> None:
    """Write the rows, dataclasses, with the machine and torch's version."""
    found = {"machine": machine(), "torch": torch.__version__, "rows": [asdict(row) for row in rows]}
    write_text_whole(path, json.dumps(found, indent=1) + "\n")


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one line per row, with a header; a shape as 1x3x64x64, None as nothing."""

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            for row in rows:
                writer.writerow({name: _text(v, "") if isinstance(v, tuple) else v for name, v in row.items()})

    write_whole(path, write)


def save_figure(stem: Path, figure: Any) -> None:
    """Save STEM.png and STEM.svg."""
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        write_whole(stem.with_suffix(suffix), lambda unfinished: figure.savefig(unfinished, dpi=120))
