"""Errors in the words of the command line: what Python calls an argument is written as the option that was typed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

from typer.models import OptionInfo

_OTHERWISE = {"sampling_timesteps": "steps", "kind": "degradation"}
"""Python's name of an argument -> the command's, where they differ."""


def options_of(parameters: Iterable[inspect.Parameter]) -> dict[str, tuple[str, str]]:
    """Return how each option of a command is written, and how its opposite is, by Python's names of the argument."""
    found = {}
    for parameter in parameters:
        info = next((x for x in getattr(parameter.annotation, "__metadata__", ()) if isinstance(x, OptionInfo)), None)
        if info is None:
            continue
        long = [name for name in info.param_decls or () if name.startswith("--")]
        spelled, _, opposite = (long[0] if long else "--" + parameter.name.replace("_", "-")).partition("/")
        found[parameter.name] = spelled, opposite or f"--no-{spelled[2:]}"
    return {python: found[ours] for python, ours in _OTHERWISE.items() if ours in found} | found


def as_typed(sentence: str, options: Mapping[str, tuple[str, str]]) -> str:
    """Return an error's sentence with the options of a command in the place of Python's arguments.

    An argument is known by what stands beside it: `name=VALUE`, "name must be …" and "name is …" at the beginning of
    a clause, "unknown name 'VALUE'". A name of several words, such as sigma_y, is known wherever it stands.
    """
    for name, (spelled, opposite) in options.items():

        def with_value(found: re.Match[str], spelled: str = spelled, opposite: str = opposite) -> str:
            value: Any = found[1] or ""
            if value in ("", "True", "False"):
                return opposite if value == "False" else spelled
            return f"{spelled} {value.strip(chr(39))}"

        sentence = re.sub(rf"(?<![\w.-]){name}=('[^']*'|[\w.]*\w)?", with_value, sentence)
        sentence = re.sub(rf"(^|[:;,] ){name}(?= (?:must|is)\b)", rf"\g<1>{spelled}", sentence)
        sentence = re.sub(rf"(unknown|there is no) {name}(?= ')", rf"\g<1> {spelled}", sentence)
        if "_" in name:
            sentence = re.sub(rf"(?<![\w.'-]){name}(?![\w.'])", spelled, sentence)
    return sentence
