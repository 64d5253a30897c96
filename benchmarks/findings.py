"""What a benchmark finds: rows that are printed as they come, what was wrong, and the files that are made of them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from rddm_fast.system.files import write_whole

Row = TypeVar("Row")


class Findings(Generic[Row]):
    """The rows of a run, each printed by `line` when it is reported, and what was not timed because it is wrong."""

    def __init__(self, line: Callable[[Row], str]) -> None:
        self.line = line
        self.rows: list[Row] = []
        self.wrong: list[str] = []

    def report(self, row: Row) -> None:
        print(self.line(row), flush=True)
        self.rows.append(row)

    def complain(self, sentence: str) -> None:
        print(f"WRONG: {sentence}", flush=True)
        self.wrong.append(sentence)

    def end(self) -> None:
        """Exit code 1 where anything was wrong."""
        if self.wrong:
            raise SystemExit(
                f"error: not timed, because it is wrong, in {len(self.wrong)} cases; the first: {self.wrong[0]}"
            )


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """One line a row, with a header; a shape as 1x3x64x64."""

    def write(unfinished: Path) -> None:
        with unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "shape": "x".join(map(str, row["shape"]))} for row in rows)

    write_whole(path, write)


def save_figure(stem: Path, figure: Any) -> None:
    """STEM.png and STEM.svg."""
    figure.tight_layout()
    for suffix in (".png", ".svg"):
        write_whole(stem.with_suffix(suffix), lambda unfinished: figure.savefig(unfinished, dpi=120))
