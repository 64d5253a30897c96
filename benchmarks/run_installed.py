"""Run a benchmark of this checkout against the installed package: python run_installed.py NAME [OPTIONS].

`python -m benchmarks` from the checkout imports the checkout's package, which is compiled only where it was installed
with `pip install -e` (`make develop`). NAME is a module of benchmarks, or `ops` for all ops.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path


def main() -> None:
    if len(sys.argv) < 2:
        sys.exit("error: name a benchmark, such as ops, bench_reverse_step or bench_network")
    name = sys.argv.pop(1)
    sys.path.append(str(Path(__file__).resolve().parents[1]))  # last: the installed package comes first
    runpy.run_module("benchmarks" if name == "ops" else f"benchmarks.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
