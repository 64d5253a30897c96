"""Do the work on each planned file: one that fails is an outcome, and the next one follows.

A result is encoded and written in a thread, while the next picture is computed. It is waited for where that takes
little: whoever watches sees it at once then.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from ...images.picture import ImageError, Picture, read_image, write_image
from ...system.errors import one_line
from ...system.files import remove_unfinished
from ...system.portable.ahead import ask_ahead
from ...system.processes import rank, share
from ..compare import View, compared_path, write_comparison
from .failure import why_it_failed
from .outcome import Done, Outcome
from .plan import Plan

Views = Callable[[Path, Path], list[View]]

WAITED = 0.1
"""A result is waited for up to this share of the time that its picture took to compute."""


@dataclass(frozen=True)
class _Restored:
    """A picture that is being written; `written` gives the seconds that this takes."""

    done: Done
    seconds: float
    written: Future[float]


def each_file(
    planned: Plan,
    work: Callable[[Picture, Picture | None, Path], Done],
    *,
    overwrite: bool,
    views: Views | None = None,
    on_start: Callable[[int, int, Path], None] | None,
    advice: str,
) -> Iterator[Outcome]:
    """Do `work` for each planned file of this process that is not done; yields one Outcome per file, in their order.

    Whatever is raised for a file is its outcome, and the next one follows.

    Args:
        planned: from `plan`.
        work: takes the picture, its mask and the path of its result; returns what is to be written.
        overwrite: also work on files whose result exists.
        views: takes a file and its result, and returns what is compared; None for no comparison.
        on_start: as in `restore_files`.
        advice: what to do about a picture that needs too much memory.
    """
    if rank() == 0:
        yield from planned.failures
    files = share(planned.files)
    remove_unfinished(target for _, target in files)

    def restored(source: Path, target: Path) -> _Restored | None:
        """Do the work and begin to write; None where the result exists."""
        if _is_result(target) and not overwrite:
            return None
        started = time.perf_counter()
        mask = planned.masks.get(source)
        done = work(read_image(source), None if mask is None else read_image(mask), target)
        seconds = time.perf_counter() - started
        return _Restored(done, seconds, writer.submit(_write, done))

    def finished(source: Path, target: Path, result: _Restored | Exception | None) -> Outcome:
        """Wait until the result is written, and write the comparison."""
        try:
            if isinstance(result, Exception):
                raise result
            if result is None:
                outcome = Outcome(source, target, skipped=True)
            else:
                seconds, done = result.seconds + result.written.result(), result.done
                outcome = Outcome(source, target, seconds=seconds, scores=done.scores, note=done.note)
            beside = compared_path(target)
            if views is not None and not (outcome.skipped and _is_result(beside)):
                write_comparison(beside, views(source, target))
            return replace(outcome, comparison=beside if views is not None else None)
        except Exception as error:
            return Outcome(source, error=why_it_failed(source, error, advice), cause=error)

    with ThreadPoolExecutor(1, "rddm-fast-writer") as writer:
        waiting: tuple[Path, Path, _Restored] | None = None
        for number, (source, target) in enumerate(files):
            if on_start is not None:
                on_start(number, len(files), source)
            if number + 1 < len(files):
                ask_ahead(files[number + 1][0])
            result: _Restored | Exception | None
            try:
                result = restored(source, target)
            except Exception as error:
                result = error
            if waiting is not None:
                yield finished(*waiting)
            waiting = None
            if isinstance(result, _Restored) and not _soon(result):
                waiting = (source, target, result)
            else:
                yield finished(source, target, result)
        if waiting is not None:
            yield finished(*waiting)


def _write(done: Done) -> float:
    """Write the pictures; return the seconds that this took."""
    started = time.perf_counter()
    for path, picture in done.pictures:
        write_image(path, picture)
    return time.perf_counter() - started


def _soon(result: _Restored) -> bool:
    """Wait a little, and return whether the result is written."""
    return not wait([result.written], WAITED * result.seconds).not_done


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
