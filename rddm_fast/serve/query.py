"""What stands behind the ? of an address, read with one sentence for what is wrong."""

from __future__ import annotations

import math
import re
from urllib.parse import parse_qsl

from ..system.errors import quoted

_JOB = re.compile(r"[A-Za-z0-9-]{1,64}")
UNNAMED = "the picture"


class Query:
    """The settings of one request. Each is read once; `finish` refuses those that nobody has read.

    Raises:
        ValueError: what cannot be read, or a setting that is given twice.
    """

    def __init__(self, text: str) -> None:
        self._left: dict[str, str] = {}
        for name, value in parse_qsl(text, keep_blank_values=True, strict_parsing=bool(text), max_num_fields=32):
            if name in self._left:
                raise ValueError(f"{quoted(name)} is given twice: give it once")
            self._left[name] = value

    def text(self, name: str, default: str | None = None) -> str:
        """Return a setting as it is; raise ValueError if it is missing and has no default."""
        value = self._left.pop(name, "") or default
        if value is None:
            raise ValueError(f"{name} is missing: add {name}=")
        return value

    def one_of(self, name: str, choices: list[str], default: str | None = None) -> str:
        """Return a setting that must be one of some words."""
        value = self.text(name, default)
        if value not in choices:
            raise ValueError(f"{name} is {quoted(value)!r}: choose {', '.join(choices)}")
        return value

    def whole(self, name: str, least: int, most: int) -> int | None:
        """Return a setting as a whole number of this range, None if it is not given."""
        value = self._left.pop(name, "")
        if not value:
            return None
        if not re.fullmatch(r"[0-9]{1,10}", value) or not least <= int(value) <= most:
            raise ValueError(f"{name} is {quoted(value)!r}: write a whole number from {least} to {most}")
        return int(value)

    def number(self, name: str, default: float) -> float:
        """Return a setting as a finite number."""
        value = self._left.pop(name, "")
        try:
            number = float(value) if value else default
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(f"{name} is {quoted(value)!r}: write a number, such as {default:g}")
        return number

    def job(self) -> str | None:
        """Return the job's name, None if it has none."""
        value = self._left.pop("job", None)
        if value is not None and not _JOB.fullmatch(value):
            raise ValueError(f"job is {quoted(value)!r}: write up to 64 letters, digits and hyphens")
        return value

    def file(self) -> str:
        """Return the name of the file, without folders, as errors call it."""
        value = self.text("name", UNNAMED)
        return quoted(re.split(r"[/\\]", value)[-1]) or UNNAMED

    def finish(self) -> None:
        """Raise ValueError for a setting that is not known."""
        for name in self._left:
            raise ValueError(f"{quoted(name)} is not a setting of this address: leave it out")
