"""Printing that never decides about the work: what cannot be printed is left out, and the command goes on."""

from __future__ import annotations

import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def shown(text: object) -> str:
    r"""Return a text, such as a file's name, for rich's markup, on one line: control characters are written as \x1b."""
    return escape(_CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text)))


def printable_streams() -> None:
    r"""Let stdout and stderr write a character that their encoding lacks as \xe9."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # None where the stream is closed or someone's own
            reconfigure(errors="backslashreplace")


class SteadyConsole(Console):
    """A console that falls silent where its stream fails: its reader has gone, or the disk is full."""

    def print(self, *objects: Any, **options: Any) -> None:
        try:
            super().print(*objects, **options)
        except OSError as error:
            _silence(self.file)
            if not self.stderr:
                err.print(f"[yellow]warning:[/yellow] nothing more can be printed ({error.strerror}); the work goes on")

    def on_broken_pipe(self) -> None:
        """A reader that has gone, such as `head`, has what it wants (rich ends the program here)."""
        _silence(self.file)


def _silence(stream: Any) -> None:
    """Lead a stream nowhere, so that Python's own flush at exit does not fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    except OSError:
        pass  # a stream without a file, which has nothing to flush
    finally:
        os.close(nowhere)


# Without emoji: a name such as sr:-1: is not a thumb.
out = SteadyConsole(highlight=False, soft_wrap=True, emoji=False)
err = SteadyConsole(stderr=True, highlight=False, soft_wrap=True, emoji=False)
