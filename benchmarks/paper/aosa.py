"""What AOSA decides, and when: restoring photographs from rain, and generating digits.

    rddm-fast bench aosa --photos photos --json aosa.json --plot aosa.png

Each run is the trainer's selection as published (one network, L1, DDIM's schedule, Adam at a constant 8e-5) with
a small network and small patches, from the start to the decision. Adam moves lambda by about the rate per step, so
that at 8e-5 nothing can be decided before step 125. `photos` is what
`python -m rddm_fast.images.photographs photos --scale 4` gathers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from rddm_fast.system.files import write_text_whole, write_whole
from rddm_fast.theory.objective import THRESHOLD
from rddm_fast.training.from_settings import trainer_of
from rddm_fast.training.settings import RunSettings

from ..timing import machine

MODEL = {"objective": "auto", "networks": "one", "schedule": "ddim", "sum_scale": 1.0, "dim": 16, "mults": [1, 2]}
TRAIN = {"lr_schedule": "constant", "warmup": 0, "ema": "published", "ema_decay": 0.995, "plot": False}


@dataclass(frozen=True)
class Selection:
    """One selection: lambda after each step, and the decision (None: none within the allowed steps)."""

    task: str
    loss_type: str
    seed: int
    lambdas: list[float]
    decided: str | None
    seconds: float


def task_settings(task: str, photos: Path | None) -> dict[str, Any]:
    """The sections of the task "deraining" or "digits"."""
    if task == "deraining":
        return {"model": {}, "data": {"photos": photos, "degradation": "rain", "patch": 32}, "train": {"batch_size": 4}}
    return {"model": {"kind": "generate", "channels": 1}, "data": {"digits": True, "patch": 16}, "train": {}}


def select(task: str, photos: Path | None, loss_type: str, seed: int, lr: float, steps: int) -> Selection:
    """Run one selection, at most `steps` steps."""
    common = {
        "model": {**MODEL, "loss_type": loss_type},
        "train": {**TRAIN, "lr": lr, "steps": steps, "seed": seed},
    }
    run = RunSettings.of(common, task_settings(task, photos))
    lambdas: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(run, folder)
        started = time.perf_counter()
        for progress in trainer.run():
            if progress.alpha_res is None:
                break
            lambdas.append(progress.alpha_res)
            if progress.step == steps and trainer.selection is not None and trainer.selection.decided is None:
                break
    decided = trainer.aosa["decided"] if trainer.aosa else None
    return Selection(task, loss_type, seed, lambdas, decided, time.perf_counter() - started)


def plot(path: Path, selections: list[Selection]) -> None:
    """Draw lambda over the steps, one line per run, with a dot at the decision; the legend names the outcome."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5))
    axis.axhspan(0.5 - THRESHOLD, 0.5 + THRESHOLD, color="0.92", label="undecided")
    colours = {task: f"C{i}" for i, task in enumerate(dict.fromkeys(s.task for s in selections))}
    styles = {"l1": "-", "l2": "--"}
    labelled: set[str] = set()
    for s in selections:
        look: dict[str, Any] = {"color": colours[s.task], "linestyle": styles[s.loss_type], "linewidth": 1.2}
        label = f"{s.task}, {s.loss_type}: {s.decided or 'undecided'}"
        axis.plot(range(1, len(s.lambdas) + 1), s.lambdas, label=None if label in labelled else label, **look)
        labelled.add(label)
        if s.decided is not None:
            axis.plot(len(s.lambdas), s.lambdas[-1], "o", color=colours[s.task])
    axis.set(xlabel="optimiser step", ylabel="lambda (alpha_res)")
    axis.legend(fontsize=8)
    figure.tight_layout()
    write_whole(path, lambda unfinished: figure.savefig(unfinished, dpi=120))
    pyplot.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, help="folder of photographs; without it, digits alone")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--losses", nargs="+", choices=["l1", "l2"], default=["l1"])
    parser.add_argument("--lr", type=float, default=8e-5)
    parser.add_argument("--steps", type=int, default=600, help="the most that a selection may take")
    parser.add_argument("--json", type=Path, help="write the runs there")
    parser.add_argument("--plot", type=Path, help="draw them there")
    options = parser.parse_args(argv)
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads; lr {options.lr:g}")
    tasks = ["digits"] if options.photos is None else ["deraining", "digits"]
    selections = []
    for task in tasks:
        for loss_type in options.losses:
            for seed in options.seeds:
                s = select(task, options.photos, loss_type, seed, options.lr, options.steps)
                selections.append(s)
                found = f"{s.decided or 'nothing'} after {len(s.lambdas)} steps, lambda {s.lambdas[-1]:.4f}"
                print(f"{task:10} {loss_type} seed {seed}: {found}, {s.seconds:.0f} s", flush=True)
    if options.json is not None:
        content = {"machine": machine(), "torch": torch.__version__, "lr": options.lr, "threshold": THRESHOLD}
        runs = [{**asdict(s), "lambdas": [round(w, 6) for w in s.lambdas]} for s in selections]
        write_text_whole(options.json, json.dumps({**content, "runs": runs}) + "\n")
    if options.plot is not None:
        plot(options.plot, selections)
