"""Draw what a benchmark measured, from its JSON: rddm-fast bench draw FILE.json [STEM].

For a machine that measures but does not draw. Files of `rddm-fast bench ops` and `rddm-fast bench sampler` become
STEM.png and STEM.svg, beside FILE.json if no STEM is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from . import report
from .end_to_end import sampler
from .harness import Record


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("stem", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    stem = options.stem or options.file.with_suffix("")
    try:
        found = json.loads(options.file.read_text())
        rows = [{**row, "shape": tuple(row["shape"])} for row in (found if isinstance(found, list) else found["rows"])]
        if isinstance(found, list):
            report.plot(stem, [Record(**row) for row in rows])
        else:
            sampler.plot(stem, [sampler.Row(**row) for row in rows])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SystemExit(
            f"error: {options.file} is not what a benchmark of the ops or of the sampler wrote with --json: {error}"
        ) from error
