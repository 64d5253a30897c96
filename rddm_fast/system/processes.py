"""The processes of one job, as `torchrun` and `accelerate launch` describe them in the environment.

A command that works through a list of files without talking to its sisters needs no process group: the launcher's
`RANK` and `WORLD_SIZE` say which process this is and of how many, and that is enough to take every n-th item.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def _number(name: str, default: int) -> int:
    text = os.environ.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"the environment variable {name} is {text!r}: a launcher such as torchrun sets it to a whole number; "
            f"unset it to run one process"
        ) from None


def world_size() -> int:
    """How many processes the launcher started: 1 without a launcher. Raises ValueError if `WORLD_SIZE` is no count."""
    count = _number("WORLD_SIZE", 1)
    if count < 1:
        raise ValueError(f"the environment variable WORLD_SIZE is {count}: a job has at least one process")
    return count


def rank() -> int:
    """This process's number, from 0 to `world_size() - 1`: 0 without a launcher. Raises ValueError outside that."""
    number, count = _number("RANK", 0), world_size()
    if not 0 <= number < count:
        raise ValueError(f"the environment variable RANK is {number}: it must be from 0 to WORLD_SIZE - 1, {count - 1}")
    return number


def share(items: Sequence[T]) -> list[T]:
    """This process's part of `items`: every `world_size()`-th from the `rank()`-th on.

    Over all processes no item is taken twice and none is lost, whether or not the number divides, provided that each
    passes the same items in the same order (sort what a folder lists).
    """
    return list(items[rank() :: world_size()])
