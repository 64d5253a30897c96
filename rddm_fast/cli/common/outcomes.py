"""What the commands that restore files say of each file, and of all in the end."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from . import app
from .console import err, out, shown

if TYPE_CHECKING:  # a command's --help needs no restorer
    from ...restoration.restore import Outcome


@dataclass
class Tally:
    """How many files were restored, skipped because their result exists, left out as they are no images, and failed."""

    restored: int = 0
    skipped: int = 0
    failed: int = 0
    left_out: int = 0

    def restores(self, outcome: Outcome) -> bool:
        """Count an outcome and print its error, with --debug its traceback; return whether it was restored."""
        if outcome.error:
            self.failed += 1
            err.print(f"[red]error:[/red] {shown(outcome.error)}")
            if app.debug and outcome.cause is not None:
                err.print("".join(traceback.format_exception(outcome.cause)), markup=False)
        elif outcome.skipped:
            self.skipped += 1
        else:
            self.restored += 1
        return not (outcome.error or outcome.skipped)

    def leaves_out(self, paths: Sequence[Path]) -> None:
        """Count the files in folders that are left out, and name the first of each kind."""
        from ...images.formats import left_out_lines  # late, as that folder needs torch

        self.left_out = len(paths)
        for line in left_out_lines(paths):
            err.print(f"[yellow]left out:[/yellow] {shown(line)}")

    def finish(self, output: Path) -> None:
        """Print the counts; exit with 1 if a file failed."""
        counts = [f"{self.restored} restored"]
        if self.skipped:
            place = f"in {output}" if output.is_dir() else f"there as {output}"
            counts.append(f"{self.skipped} already {place} (--overwrite restores them again)")
        if self.left_out:
            counts.append(f"{self.left_out} left out")
        if self.failed:
            counts.append(f"{self.failed} failed")
        out.print(shown(", ".join(counts)))
        if self.failed:
            raise typer.Exit(1)
