"""The checkpoints of a run: each is whole or absent, a few are kept, and the newest good one is found."""

from __future__ import annotations

import errno
import re
import warnings
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from ..system.errors import one_line
from ..system.files import write_whole

_NAME = re.compile(r"checkpoint-(\d+)\.pt")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; one sentence names it and says what to do."""


class RunFolder:
    """The checkpoints `checkpoint-STEP.pt` of a folder.

    A checkpoint is written under another name, flushed to the disk and renamed: whatever kills the process, a file of
    this name is whole. Checksums in each file show damage, and a damaged checkpoint is passed over.

    Args:
        folder: need not exist before the first `save`.
        keep: how many of the newest to keep, at least 1.

    Raises ValueError for a smaller `keep`.
    """

    def __init__(self, folder: str | PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep is {keep}: at least 1 checkpoint is kept")
        self.folder, self.keep = Path(folder), keep

    def checkpoints(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        found = [(int(match[1]), path) for path in self.folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`, then drop the oldest beyond `keep`.

        Raises CheckpointError if the disk is full; earlier checkpoints stay as they are.
        """
        path = self.folder / f"checkpoint-{step:08d}.pt"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, lambda unfinished: _write(unfinished, state))
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            older = self.checkpoints()
            rest = f"the last whole checkpoint is {older[-1]}" if older else "there is no earlier checkpoint"
            raise CheckpointError(
                f"no space is left for {path}: {rest}; free some space and run the same command to resume"
            ) from error
        for old in self.checkpoints()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def latest(self, map_location: torch.device | str = "cpu") -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its content, or None if the folder has no checkpoint.

        A warning names each damaged one. Raises CheckpointError if all are damaged.
        """
        found = self.checkpoints()
        reason = ""
        for path in reversed(found):
            try:
                return path, _read(path, map_location)
            except Exception as error:
                reason = one_line(error)[:200]
                if path != found[0]:
                    warnings.warn(f"{path} is damaged ({reason}); resuming from the previous checkpoint", stacklevel=3)
        if found:
            raise CheckpointError(
                f"training cannot resume from {found[0]}, and there is no other checkpoint: {reason}; "
                "remove it to start again"
            )
        return None

    def tidy(self) -> None:
        """Remove files that a process left unfinished when it was killed."""
        for unfinished in self.folder.glob(".checkpoint-*.pt.*.pt"):
            unfinished.unlink(missing_ok=True)


def _write(path: Path, state: dict[str, Any]) -> None:
    # When the disk is full, a Python file raises an error with a number. torch's own error says only that writing
    # failed, and may hide that one.
    with path.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _read(path: Path, map_location: torch.device | str) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:  # torch writes checksums but never checks them
        if damaged := archive.testzip():
            raise ValueError(f"the checksum of {damaged} does not match")
    state = torch.load(path, map_location=map_location, weights_only=True)
    if not isinstance(state, dict):
        raise ValueError("it is not a checkpoint")
    return state
