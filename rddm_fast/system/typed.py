"""Values that someone wrote, in a file or a call, held against the types and ranges that are declared for them."""

from __future__ import annotations

import math
import types
from contextlib import suppress
from os import PathLike
from typing import Any, Literal, Union, get_args, get_origin

from .errors import quoted_value

_WORDS: dict[Any, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "a group of names and values",
}


def checked(value: Any, hint: Any, name: str) -> Any:
    """Return `value` as the type `hint` says: a list as a tuple, a whole number or its text as a float.

    Args:
        value: as JSON, YAML or a caller gives it.
        hint: bool, int, float, str, dict, a Literal of texts, a tuple of one type, or one of these or None.
        name: what the user calls it.

    Raises:
        ValueError: it is of another type; one sentence with the name.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value not in parts:
            raise ValueError(f"{name} is {quoted_value(value)}: choose one of {', '.join(parts)}")
        return value
    if origin in (Union, types.UnionType):
        if value is None:
            return None
        (inner,) = (part for part in parts if part is not type(None))
        return checked(value, inner, name)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{name} is {quoted_value(value)}: write a list, such as [1, 2, 4]")
        if parts[-1] is not Ellipsis and len(value) != len(parts):
            raise ValueError(f"{name} has {len(value)} numbers: it takes {len(parts)}")
        return tuple(checked(entry, parts[0], name) for entry in value)
    if hint is float and isinstance(value, (int, str)) and not isinstance(value, bool):
        with suppress(ValueError, OverflowError):
            value = float(value)  # YAML reads 4e-4 as a text, because it has no point
    if hint is str and isinstance(value, PathLike):
        return str(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"{name} is {quoted_value(value)}: it must be {_WORDS[hint]}")
    if hint is int and not -(1 << 63) <= value < 1 << 63:
        raise ValueError(f"{name} is {quoted_value(value)}: it must be a whole number of at most 64 bits")
    return value


def check_range(value: Any, least: float | None, most: float | None, name: str) -> None:
    """Raise ValueError unless a number is finite and in a range, ends included; each number, if it is a tuple.

    A `least` of None leaves the number free, but for NaN, a `most` of None the range unbounded above. None is in every
    range.
    """
    if isinstance(value, tuple):
        for entry in value:
            check_range(entry, least, most, name)
        return
    if least is None and isinstance(value, float) and math.isnan(value):
        raise ValueError(f"{name} is nan: it must be a number")
    if value is None or least is None:
        return
    if most is not None and value > most:
        raise ValueError(f"{name} is {value}: it must be between {least} and {most}")
    if not (math.isfinite(value) and value >= least):
        raise ValueError(f"{name} is {value}: it must be at least {least}")
