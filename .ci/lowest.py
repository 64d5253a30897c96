"""Prints pip constraints: the lowest version that pyproject.toml allows of each dependency of the extra `test`.

    python .ci/lowest.py > constraints-lowest.txt

Every dependency must state one, as in "numpy>=1.26.0", or be pinned; the release of that very number must exist.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import tomllib

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(\[(?P<extras>[\w,]+)\])?(?P<bounds>[^;]*)(;.*)?")


def lowest(project: dict, extra: str | None = "test") -> dict[str, str]:
    """Return each dependency's lowest version, those of the extra's own extras included.

    Raises SystemExit, with a sentence, for a dependency without one.
    """
    listed = project["dependencies"] if extra is None else project["optional-dependencies"][extra]
    found = {} if extra is None else lowest(project, None)
    for text in listed:
        requirement = _REQUIREMENT.fullmatch(text.replace(" ", ""))
        if requirement is None:
            sys.exit(f"error: {text!r} in pyproject.toml is not understood")
        if requirement["name"] == project["name"]:
            for inner in requirement["extras"].split(","):
                found |= lowest(project, inner)
            continue
        bound = re.search(r"(?:>=|==)([^,]+)", requirement["bounds"])
        if bound is None:
            sys.exit(f"error: {text!r} in pyproject.toml states no lowest version: write one, such as {text}>=1.0")
        found[requirement["name"]] = bound[1]
    return found


if __name__ == "__main__":
    for name, version in sorted(lowest(tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]).items()):
        print(f"{name}=={version}")
