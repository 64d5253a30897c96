"""What differs between a source and a published one, a sentence each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Part(Enum):
    """The part of a source that a difference is in. Keywords can express some of them."""

    generation = "generation"
    schedule = "schedule"
    rebuilt = "init()"
    test_init = "test()"
    time = "time input"
    passes = "passes"
    eta = "eta"
    optimiser = "optimiser"
    arithmetic = "arithmetic"


@dataclass(frozen=True)
class Difference:
    """A difference, in the file's line `line` (0: none), with the sentence that tells it."""

    part: Part
    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}" if self.line else self.what
