"""Do the work on each planned file: one that fails is an outcome, and the next one follows."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ...images.picture import ImageError, Picture, read_image
from ...system.errors import one_line
from ...system.files import remove_unfinished
from ...system.processes import rank, share
from ..compare import View, compared_path, write_comparison
from .failure import why_it_failed
from .outcome import Done, Outcome
from .plan import Plan

Views = Callable[[Path, Path], list[View]]


def each_file(
    planned: Plan,
    work: Callable[[Picture, Picture | None, Path], Done],
    *,
    overwrite: bool,
    views: Views | None = None,
    on_start: Callable[[int, int, Path], None] | None,
    advice: str,
) -> Iterator[Outcome]:
    """Do `work` for each planned file of this process that is not done; yields one Outcome per file.

    Whatever is raised for a file is its outcome, and the next one follows.

    Args:
        planned: from `plan`.
        work: takes the picture, its mask and the path of its result; writes the result, and tells of it.
        overwrite: also work on files whose result exists.
        views: takes a file and its result, and returns what is compared; None for no comparison.
        on_start: as in `restore_files`.
        advice: what to do about a picture that needs too much memory.
    """
    if rank() == 0:
        yield from planned.failures
    files = share(planned.files)
    remove_unfinished(target for _, target in files)
    for number, (source, target) in enumerate(files):
        if on_start is not None:
            on_start(number, len(files), source)
        try:
            outcome = _outcome(source, target, planned.masks.get(source), work, overwrite)
            beside = compared_path(target)
            if views is not None and not (outcome.skipped and _is_result(beside)):
                write_comparison(beside, views(source, target))
            outcome = replace(outcome, comparison=beside if views is not None else None)
        except Exception as error:
            outcome = Outcome(source, error=why_it_failed(source, error, advice), cause=error)
        yield outcome


def _outcome(
    source: Path,
    target: Path,
    mask: Path | None,
    work: Callable[[Picture, Picture | None, Path], Done],
    overwrite: bool,
) -> Outcome:
    if _is_result(target) and not overwrite:
        return Outcome(source, target, skipped=True)
    started = time.perf_counter()
    masked = None if mask is None else read_image(mask)
    done = work(read_image(source), masked, target)
    return Outcome(source, target, seconds=time.perf_counter() - started, scores=done.scores, note=done.note)


def _is_result(target: Path) -> bool:
    """Return whether a file is in a result's place; an empty one is none, as results appear whole.

    Raises:
        ImageError: something is there that is no file, or it cannot be looked at.
    """
    try:
        found = os.stat(target)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise ImageError(f"{target} cannot be written: {reason}") from error
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, a socket or a device"
        raise ImageError(
            f"{target} is a {kind}, where the result should be written: remove it or choose another output"
        )
    return found.st_size > 0
