"""Random calls of what takes files, settings and memory, which must be right or refused with one sentence.

    python -m benchmarks.fuzz --calls 100000 [--target images] [--seed 0] [--keep FOLDER]

    ops          ops that write in place, whose arguments lie anywhere in memory, also in each other's
    images       pictures of all formats, damaged and made up
    config       model folders with another config.json
    checkpoints  published .pt files with other content, also with code
    pairs        folders, lists and CSV files of training images
    settings     settings of training in YAML, JSON and --set

Call number i of seed s is the same as call 0 of seed s + i, with the same versions of the packages that write files.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from .fuzzing import checkpoints, config, images, ops, pairs, settings
from .fuzzing.contract import Found

TARGETS: dict[str, Callable[[random.Random, Path], Found]] = {
    "ops": ops.call,
    "images": images.call,
    "config": config.call,
    "checkpoints": checkpoints.call,
    "pairs": pairs.call,
    "settings": settings.call,
}
"""Name to what makes a call in an empty folder and says how it went."""
EVERY = 10.0
"""Seconds between the lines that say how far it is."""


def tried(target: str, seed: int, keep: Path | None = None) -> Found:
    """Make the call of a seed; keep its files in `keep`/TARGET-SEED if it is wrong."""
    with tempfile.TemporaryDirectory(prefix="rddm-fuzz-") as folder:
        found = TARGETS[target](random.Random(seed), Path(folder))
        if keep is not None and found.answer == "wrong":
            shutil.copytree(folder, keep / f"{target}-{seed}", symlinks=True, ignore=_special, dirs_exist_ok=True)
    return found


def _special(folder: str, names: list[str]) -> list[str]:
    """The pipes of a folder, which cannot be copied."""
    return [name for name in names if (Path(folder) / name).is_fifo()]


def main(argv: Sequence[str] | None = None) -> None:
    """Make the calls, print how many were right, refused and wrong, and exit with 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated; all by default")
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copies the files of wrong calls there")
    options = parser.parse_args(argv)
    if options.calls < 1:
        parser.error("--calls must be at least 1")
    targets = options.target or list(TARGETS)
    counts: Counter[tuple[str, str, str]] = Counter()
    said = time.monotonic()
    for done, seed in enumerate(range(options.seed, options.seed + options.calls)):
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            print(f"{done} of {options.calls} calls: {_sums(counts)}", flush=True)
        target = targets[seed % len(targets)]
        found = tried(target, seed, options.keep)
        counts[target, found.kind, found.answer] += 1
        if found.answer == "wrong":
            repeat = f"--target {target} --calls 1 --seed {seed}"
            print(f"wrong: {target}, {found.kind}: {found.says}\n  repeat it with {repeat}", flush=True)
    print(f"{options.calls} calls from seed {options.seed}: {_sums(counts)}")
    for target, kind in dict.fromkeys((target, kind) for target, kind, _ in sorted(counts)):
        answers = (f"{counts[target, kind, answer]} {answer}" for answer in ("right", "refused", "wrong"))
        print(f"  {target + ' ' + kind:30}" + ", ".join(answers))
    sys.exit(1 if _total(counts, "wrong") else 0)


def _total(counts: Counter[tuple[str, str, str]], answer: str) -> int:
    return sum(n for (_, _, given), n in counts.items() if given == answer)


def _sums(counts: Counter[tuple[str, str, str]]) -> str:
    return ", ".join(f"{_total(counts, answer)} {answer}" for answer in ("right", "refused", "wrong"))


if __name__ == "__main__":
    main()
