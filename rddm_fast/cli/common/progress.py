"""Progress on stderr: a bar on a terminal; elsewhere, as in a log or a notebook, a line now and then."""

from __future__ import annotations

import threading
import time
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from ...system.processes import rank
from .console import err

FIRST, LONGEST = 10.0, 300.0
"""Seconds before the first line, and the most between two; in between they grow with the time that has passed."""


def pause(elapsed: float) -> float:
    """Return the seconds until the next line, a twentieth of those that have passed: few lines in a long job."""
    return min(max(FIRST, elapsed / 20), LONGEST)


def duration(seconds: float) -> str:
    """Return seconds as a person says them: 40 s, 4 min, 3 h, 2 days."""
    for unit, length, least in (("days", 86400, 2), ("h", 3600, 1.5), ("min", 60, 1.5)):
        if seconds >= least * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def time_left(task: Task) -> str | None:
    """Return a text such as "about 4 min left" by the mean pace since the task began; None before anything is done."""
    done = task.completed - task.fields.get("before", 0)
    if task.total is None or task.elapsed is None or done <= 0 or task.completed >= task.total:
        return None
    return f"about {duration(task.elapsed * (task.total - task.completed) / done)} left"


class _TimeLeft(ProgressColumn):
    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        return Text(time_left(task) or "", style="progress.remaining")


class _Progress(Progress):
    """rich's progress, whose tasks know how much was done before they began, and which can be told in lines."""

    def __init__(self, *, quiet: bool, lines: bool) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _TimeLeft())
        super().__init__(*columns, console=err, transient=True, disable=quiet or not err.is_terminal)
        self._lines = lines and not quiet and not err.is_terminal
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def add_task(
        self,
        description: str,
        start: bool = True,
        total: float | None = 100.0,
        completed: int = 0,
        visible: bool = True,
        **fields: Any,
    ) -> TaskID:
        fields["before"] = completed
        return super().add_task(description, start, total, completed, visible, **fields)

    def begin_after(self, task: TaskID, done: int) -> None:
        """Count this much as done before the task began: it took no time, and tells nothing of the rest."""
        self.reset(task, completed=done, before=done)  # type: ignore[arg-type]

    def start(self) -> None:
        super().start()
        if self._lines and rank() == 0:
            # A thread, as one tile can take longer than the pause between two lines.
            self._thread = threading.Thread(target=self._tell, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        super().stop()

    def _tell(self) -> None:
        started = time.monotonic()
        while not self._stopped.wait(pause(time.monotonic() - started)):
            if line := self.line():
                err.print(line)

    def line(self) -> str:
        """Return the visible tasks as one line, such as "photo.jpg: 2 of 12, tiles: 3 of 54, about 4 min left"."""
        tasks = [task for task in self.tasks if task.visible and not task.finished]
        if not tasks:
            return ""
        parts = [
            task.description + ("" if task.total is None else f": {int(task.completed)} of {int(task.total)}")
            for task in tasks
        ]
        elapsed = tasks[0].elapsed or 0.0
        return ", ".join([*parts, escape(time_left(tasks[0]) or f"{duration(elapsed)} so far")])


def progress_bar(*, quiet: bool = False, lines: bool = True) -> _Progress:
    """Make a progress bar on stderr that disappears when done; where stderr is no terminal, a line now and then.

    Args:
        quiet: show neither.
        lines: whether to print lines where stderr is no terminal; False for a command that prints its own.
    """
    return _Progress(quiet=quiet, lines=lines)
