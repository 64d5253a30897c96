"""Changes to bytes and to nested plain values, drawn from a generator."""

from __future__ import annotations

import copy
import math
import random
import struct
from collections.abc import Sequence
from typing import Any

NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000),
    *(0x7FFFFFFF, 0x80000000, 0xFFFFFFFF),
)
"""Where integers of files overflow, or nearly do."""

# Whole numbers of sizes between are left out: they are only slow, or ask for memory that a machine may have.
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 8, 1 << 40, 1 << 63, -(1 << 63), 10**400, 0.0, -0.0, 0.5, -0.5, 1e-300, 1e300),
    *(
        math.nan,
        math.inf,
        -math.inf,
        "",
        "x",
        "8",
        "nan",
        "one",
        "two",
        "shared",
        "pred_res",
        "a\nb",
        "\x1b[31m",
        "é\u2028",
    ),
    *(
        "\x00",
        "x" * 3000,
        [],
        [1, 2],
        [0],
        ["x"],
        [[1]],
        {},
        {"x": 1},
        {"family": "tables", "timesteps": 3},
        [None] * 3,
    ),
)


def of_bytes(rng: random.Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change bytes in one to five places: flipped, overwritten, cut, doubled, or spliced with one of `others`."""
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
        at = rng.randrange(len(content) + 1)
        end = min(len(content), at + rng.choice((1, 1, 2, 4, 16, 300)))
        how = rng.randrange(8)
        if how <= 1 and content:
            content[min(at, len(content) - 1)] ^= 1 << rng.randrange(8)
        elif how == 2:
            content[at:end] = rng.randbytes(end - at)
        elif how == 3:
            form = rng.choice(("<B", "<H", ">H", "<I", ">I"))
            number = rng.choice(NUMBERS) & ((1 << 8 * struct.calcsize(form)) - 1)
            content[at : at + struct.calcsize(form)] = struct.pack(form, number)
        elif how == 4:
            del content[at:end]
        elif how == 5:
            content[at:at] = content[at:end]
        elif how == 6 and rng.random() < 0.5:
            del content[at:]
        elif how == 7 and others:
            other = rng.choice(others)
            content[at:] = other[rng.randrange(len(other) + 1) :]
    return bytes(content)


def of_value(rng: random.Random, value: Any) -> Any:
    """Return a copy of nested lists and dictionaries, changed in one to three places."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = _changed(rng, value)
    return value


def _changed(rng: random.Random, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or rng.random() < 0.05:
        return copy.deepcopy(rng.choice(VALUES)) if not isinstance(value, float | int) or rng.random() < 0.7 else -value
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key = rng.choice(keys)
    if isinstance(value[key], dict | list) and rng.random() < 0.8:
        value[key] = _changed(rng, value[key])
        return value
    how = rng.randrange(6)
    if how == 0:
        del value[key]
    elif how == 1 and isinstance(value, dict):
        value[rng.choice(("x", "", "dim ", "a\nb", str(key).upper(), str(key) + "_"))] = value[key]
    elif how == 2:
        value[key] = copy.deepcopy(value[rng.choice(keys)])
    else:
        value[key] = _changed(rng, value[key]) if not isinstance(value[key], dict | list) else rng.choice(VALUES)
    return value


def drawn(rng: random.Random, depth: int = 3) -> Any:
    """Return a nested plain value from nothing."""
    if depth == 0 or rng.random() < 0.5:
        return copy.deepcopy(rng.choice(VALUES))
    inner = [drawn(rng, depth - 1) for _ in range(rng.randrange(4))]
    return inner if rng.random() < 0.4 else {rng.choice(("x", "model", "train", "data", "network")): v for v in inner}
