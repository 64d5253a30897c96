"""The paper's Table 1 on a small scale: SM-Res, SM-N and SM-Res-N trained alike on the same real images.

    rddm-fast bench table1 --photos FOLDER [--tasks digits,derain,lowlight] [--steps 200] [--digits-steps 400]
        [--seeds 2] [--dim 16] [--work build/table1] [-o table1]

`--photos` are photographs to train on; `python -m rddm_fast.images.photographs FOLDER` gathers some. The package's own
are restored and measured. Writes table1.json, table1.csv and table1.md, anew after each task. A command that was cut
off goes on where it stopped: every (task, method, seed) has its folder in the work folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from rddm_fast.images.find import find_images
from rddm_fast.restoration.demo import DEGRADATIONS
from rddm_fast.training.trainer import Interrupted, Progress

from ..timing import machine
from .table1_report import TITLES, Column, plain, write
from .table1_runs import GENERATING, METHODS, RESTORING, Generation, Restoration, Task, run


def main(argv: Sequence[str] | None = None) -> None:
    """Run from the command line; bad input ends it with one sentence and exit code 1."""
    options = _parser().parse_args(argv)
    given = sys.argv[1:] if argv is None else argv
    about = {
        "command": " ".join(["rddm-fast bench table1", *given]),
        "machine": machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "seeds": options.seeds,
    }
    try:
        columns: list[Column] = []
        # What is missing is missed before the first training.
        for task in [_task(name, options) for name in options.tasks]:
            columns.append(_column(task, options.seeds, options.work))
            write(options.output, columns, about)
    except (ValueError, ImportError, OSError) as error:
        sys.exit(f"error: {error}")
    except Interrupted as interrupted:
        sys.exit(f"{interrupted}")
    print(plain(columns))
    print("\n".join(" ".join(column.ordering()) for column in columns))


def _column(task: Task, seeds: int, work: Path) -> Column:
    column = Column(task)
    for seed in range(seeds):
        for method in METHODS:
            column.add(run(task, method, seed, work, _report(f"{task.name}, {method}, seed {seed}", task.plan.steps)))
    return column


def _task(name: str, options: argparse.Namespace) -> Task:
    if name not in DEGRADATIONS:
        return Generation(
            name, replace(GENERATING, dim=options.dim, steps=options.digits_steps, samples=options.samples)
        )
    if options.photos is None:
        raise ValueError(f"{name} needs photographs to train on: pass --photos FOLDER, or leave it out of --tasks")
    plan = replace(RESTORING, dim=options.dim, steps=options.steps, crop=options.crop)
    return Restoration(name, DEGRADATIONS[name], plan, find_images(options.photos))


def _report(what: str, steps: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.step % 50 == 0 or progress.step == steps:
            print(f"{what}: step {progress.step} of {steps}, loss {progress.loss:.4f}", file=sys.stderr, flush=True)

    return report


def _tasks(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in TITLES]:
        raise argparse.ArgumentTypeError(f"there is no task {unknown[0]!r}: choose of {','.join(TITLES)}")
    return list(dict.fromkeys(names))


def _count(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def _width(text: str) -> int:
    number = _count(text)
    if number % 8:  # the groups of the group norm
        raise argparse.ArgumentTypeError(f"{number} is no multiple of 8")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="photographs to train on")
    parser.add_argument("--tasks", type=_tasks, default=list(TITLES), help="names with commas; all by default")
    parser.add_argument("--steps", type=_count, default=RESTORING.steps, help="of each training of a restoration")
    parser.add_argument("--digits-steps", type=_count, default=GENERATING.steps, help="of each training on digits")
    parser.add_argument("--seeds", type=_count, default=2, help="trainings of each method, of which the spread is")
    parser.add_argument("--dim", type=_width, default=RESTORING.dim, help="width of each network, a multiple of 8")
    parser.add_argument("--crop", type=_count, default=RESTORING.crop, help="side of the crops that are measured")
    parser.add_argument("--samples", type=_count, default=GENERATING.samples, help="digits that are measured")
    parser.add_argument("--work", type=Path, default=Path("build/table1"), help="folder of the trained models")
    parser.add_argument("-o", "--output", type=Path, default=Path("table1"), help="folder of the results")
    return parser
