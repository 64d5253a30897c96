"""The page of `restore --html`: what of each outcome is shown on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ...system.processes import world_size

if TYPE_CHECKING:  # a command's --help needs no restorer
    from ...restoration.files.outcome import Outcome
    from ...restoration.report import Pair


class Page:
    """Collects outcomes, and writes them as a page of before/after sliders.

    Args:
        path: the page; its folder is created at once, so that a wrong one is not found out after the work.
        degrade: whether clean pictures are degraded first: then what is shown before is the degraded one.

    Raises:
        ValueError: the path is not named like a page, or other processes restore a share of the files.
        OSError: its folder cannot be created.
    """

    def __init__(self, path: Path, *, degrade: bool = False) -> None:
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(f"--html is {str(path)!r}: name a page, such as report.html")
        if world_size() > 1:
            raise ValueError("--html makes one page of what one process restores: leave it out under a launcher")
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self.degrade = path, degrade
        self.pairs: list[Pair] = []
        self.failures: list[str] = []

    def add(self, outcome: Outcome) -> None:
        """Take a file whose result is there, made now or before, or the error of one that failed."""
        from ...restoration.report import Pair
        from ...restoration.solve import degraded_path

        if outcome.error is not None or outcome.target is None:
            self.failures.append(str(outcome.error))
            return
        source, target = Path(outcome.source), Path(outcome.target)
        before = degraded_path(target) if self.degrade else source
        facts = ["from an earlier run" if outcome.skipped else f"{outcome.seconds:.1f} s", outcome.note or ""]
        facts += [f"{name} {psnr:.2f} dB" for name, (psnr, _) in (outcome.scores or {}).items()]
        self.pairs.append(Pair(source.name, before, target, ", ".join(filter(None, facts))))

    def write(self, how: str) -> None:
        """Write the page; `how` names the model or the method."""
        from ...restoration.report import write_report

        count = f"{len(self.pairs)} picture{'' if len(self.pairs) == 1 else 's'}"
        failed = f", {len(self.failures)} failed" if self.failures else ""
        summary = f"{count} restored by rddm_fast with {how}{failed}"
        write_report(self.path, self.pairs, title="Before and after", summary=summary, failures=self.failures)
