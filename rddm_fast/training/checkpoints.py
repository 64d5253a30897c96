"""The checkpoints of a run: each is whole or absent, a few are kept, and the newest good one is found."""

from __future__ import annotations

import errno
import pickle
import re
import warnings
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ..system.errors import one_line
from ..system.files import remove_unfinished_in, write_whole
from ..system.saved import NotOnlyTensors, load_saved

_NAME = re.compile(r"checkpoint-(\d+)\.pt")
_WRITTEN = re.compile(
    r"checkpoint-\d+\.pt|log\.jsonl|settings\.json|loss\.png|model\.safetensors|config\.json|step-\d+\.png"
)
"""The files that a run writes."""


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
            raise CheckpointError(
                f"no space is left for {path}: {self.left()}; free some space and run the same command to resume"
            ) from error
        for old in self.checkpoints()[: -self.keep]:
            old.unlink(missing_ok=True)
        return path

    def left(self) -> str:
        """What a run that stops has left, as part of a sentence."""
        found = self.checkpoints()
        return f"the last whole checkpoint is {found[-1]}" if found else "there is no earlier checkpoint"

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest whole checkpoint and its content, on the CPU, or None if the folder has no checkpoint.

        A warning names each damaged one that is passed over. Raises CheckpointError if all are damaged, and if one is
        whole but cannot be loaded.
        """
        damaged: list[str] = []
        for path in reversed(self.checkpoints()):
            try:
                file = path.open("rb")
            except OSError as error:
                raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
            with file:
                reason = _damage(file)
            if reason is not None:
                damaged.append(f"{path} is damaged ({reason})")
                continue
            state = _loaded(path)
            for sentence in damaged:
                warnings.warn(f"{sentence}; resuming from the previous checkpoint", stacklevel=3)
            return path, state
        if damaged:
            raise CheckpointError(
                f"training cannot resume: {damaged[0]}, and no checkpoint in {self.folder} is whole; "
                "remove them to start again"
            )
        return None

    def tidy(self) -> None:
        """Remove files that a process left unfinished when it was killed, the model's too."""
        for folder in (self.folder, self.folder / "model", self.folder / "samples"):
            remove_unfinished_in(folder, lambda name, suffix: _WRITTEN.fullmatch(name) is not None)


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


def _damage(file: BinaryIO) -> str | None:
    """What is damaged of a checkpoint, or None; torch writes checksums but never checks them."""
    try:
        with zipfile.ZipFile(file) as archive:
            name = archive.testzip()
    except Exception as error:  # a damaged archive raises errors of many types
        return one_line(error)[:200]
    return None if name is None else f"the checksum of {name} does not match"


def _loaded(path: Path) -> dict[str, Any]:
    # To the CPU, whatever device it was written from: loading a state copies it to the device in use.
    try:
        state = load_saved(path)
    except NotOnlyTensors as error:
        raise CheckpointError(f"training cannot resume: {error}") from error
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} is whole but cannot be loaded: {one_line(error)[:200]}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"training cannot resume from {path}: it is not a checkpoint of this trainer")
    return state
