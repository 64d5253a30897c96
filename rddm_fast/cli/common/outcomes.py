"""What the commands that restore files say of each file, and of all in the end."""

from __future__ import annotations

import json
import math
import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from . import app
from .console import err, out, shown

if TYPE_CHECKING:  # a command's --help needs no restorer
    from ...restoration.files.outcome import Outcome


@dataclass
class Tally:
    """How many files were restored, skipped because their result exists, left out as they are no images, and failed.

    Attributes:
        quiet: print errors alone.
        as_json: print one JSON object per line on stdout instead of sentences: each file's, and the counts.
    """

    restored: int = 0
    skipped: int = 0
    failed: int = 0
    left_out: int = 0
    quiet: bool = False
    as_json: bool = False

    def says(self, text: str) -> None:
        """Print a line on stdout, which is markup."""
        if not (self.quiet or self.as_json):
            out.print(text)

    def restores(self, outcome: Outcome) -> bool:
        """Count an outcome and print its error, with --debug its traceback; return whether it was restored."""
        status = "failed" if outcome.error else "skipped" if outcome.skipped else "restored"
        setattr(self, status, getattr(self, status) + 1)
        if outcome.error:
            err.print(f"[red]error:[/red] {shown(outcome.error)}")
            if app.debug and outcome.cause is not None:
                err.print("".join(traceback.format_exception(outcome.cause)), markup=False)
        self._line(status, outcome)
        return status == "restored"

    def leaves_out(self, paths: Sequence[Path | str]) -> None:
        """Count the files in folders that are left out, and name the first of each kind; in JSON name all."""
        # Late, as these need torch.
        from ...images.formats import left_out_lines, why_not_read
        from ...restoration.files.outcome import Outcome

        self.left_out += len(paths)
        for path in paths if self.as_json else ():
            self._line("left_out", Outcome(path, note=why_not_read(path)))
        for line in () if self.quiet else left_out_lines(paths):
            err.print(f"[yellow]left out:[/yellow] {shown(line)}")

    def finish(self, output: Path | str, **more: str | None) -> None:
        """Print the counts, in JSON with `more`; exit with 1 if a file failed."""
        counts = [f"{self.restored} restored"]
        if self.skipped:
            place = f"there as {output}" if os.path.isfile(output) else f"in {output}"
            counts.append(f"{self.skipped} already {place} (--overwrite restores them again)")
        if self.left_out:
            counts.append(f"{self.left_out} left out")
        if self.failed:
            counts.append(f"{self.failed} failed")
        self.says(shown(", ".join(counts)))
        if self.as_json:
            numbers = {name: getattr(self, name) for name in ("restored", "skipped", "left_out", "failed")}
            _print_json({"status": "finished", **numbers, **more})
        if self.failed:
            raise typer.Exit(1)

    def _line(self, status: str, outcome: Outcome) -> None:
        if not self.as_json:
            return
        # JSON has no infinity, the PSNR of equal images.
        scores = {
            name: {"psnr": psnr if math.isfinite(psnr) else None, "ssim": ssim}
            for name, (psnr, ssim) in (outcome.scores or {}).items()
        }
        told = {
            "source": str(outcome.source),
            "target": outcome.target and str(outcome.target),
            "comparison": outcome.comparison and str(outcome.comparison),
            "seconds": round(outcome.seconds, 3),
            "scores": scores or None,
            "note": outcome.note,
            "error": outcome.error,
        }
        _print_json({"status": status, **told})


def _print_json(line: dict[str, Any]) -> None:
    """Print an object on a line of its own; a byte of a file's name that is no text is written as \\udce9."""
    out.print(json.dumps(line), markup=False)
