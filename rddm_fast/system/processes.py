"""The processes of one job, as `torchrun` and `accelerate launch` describe them in the environment.

Processes that share a list of files need not talk to each other, so they need no process group. The launcher's
`RANK` and `WORLD_SIZE` say which of how many processes this is; that is enough to take every n-th item.
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
    """Return how many processes the launcher started; 1 without a launcher.

    Raises:
        ValueError: the environment variable `WORLD_SIZE` is not a number of at least 1.
    """
    count = _number("WORLD_SIZE", 1)
    if count < 1:
        raise ValueError(f"the environment variable WORLD_SIZE is {count}: a job has at least one process")
    return count


def rank() -> int:
    """Return this process's number, from 0 to `world_size() - 1`; 0 without a launcher.

    Raises:
        ValueError: the environment variable `RANK` is not such a number.
    """
    number, count = _number("RANK", 0), world_size()
    if not 0 <= number < count:
        raise ValueError(f"the environment variable RANK is {number}: it must be from 0 to WORLD_SIZE - 1, {count - 1}")
    return number


def share(items: Sequence[T]) -> list[T]:
    """Return this process's part of `items`: every `world_size()`-th item, starting at the `rank()`-th.

    No item is taken twice and none is left out, whatever the number of items, as long as every process passes the
    same items in the same order. A folder's listing must therefore be sorted.
    """
    return list(items[rank() :: world_size()])
