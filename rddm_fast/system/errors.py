"""Errors as one sentence."""

from __future__ import annotations

import re
import reprlib

LONGEST = 200
"""The most characters that a sentence quotes of a text."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(error: BaseException) -> str:
    """Return the error's message on one line, or the name of its type if it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def quoted(text: object) -> str:
    r"""Return a text that a file holds for a sentence: shortened, and with control characters written as \x1b."""
    whole = str(text)
    if len(whole) > LONGEST:
        whole = f"{whole[: LONGEST // 2]}...{whole[-LONGEST // 4 :]}"
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), whole)


def quoted_value(value: object) -> str:
    """Return a value's `repr` for a sentence, shortened: nested lists of a few bytes of YAML can be gigabytes long."""
    return quoted(_SHORT.repr(value))


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother = 3, 100, 100
        self.maxlist = self.maxtuple = 20

    def repr_int(self, x: int, level: int) -> str:
        return (
            repr(x) if abs(x) < 1 << 128 else f"a number of {x.bit_length()} bits"
        )  # Python writes none of 5000 digits


_SHORT = _Short()
