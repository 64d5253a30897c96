"""Repeats what users do for some minutes, in one process, and says whether memory, open files or threads grow.

    python -m benchmarks.soak --minutes 10 [--json FILE]

A round restores a folder of whole and broken pictures, samples images of changing sizes and dtypes with a sampler that
stays and one that is new, trains some steps with a checkpoint and resumes, and calls the ops that write in place.

The rule: a straight line is fitted to the second half of the rounds. A quantity grows if that line rises by more than
its allowance, and by more than three times the error that chance gives the rise. One that grows makes the exit code 1.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset

from rddm_fast.diffusion import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.fast import FastSampler
from rddm_fast.restoration.restore import Restorer, restore_files
from rddm_fast.theory.schedule import Schedule
from rddm_fast.training.trainer import Trainer, TrainSettings

from .fuzzing import image_files, ops

MIB = 1 << 20
ALLOWED = {"rss": 8 * MIB, "rss_after_gc": 8 * MIB, "objects": 2000, "files": 0.5, "threads": 0.5}
"""By how much each quantity may rise over the second half: caches fill, and an allocator's memory is in pieces."""
SIZES = ((8, 40), (33, 20), (64, 64), (71, 17), (50, 70), (24, 24))
"""The images' sizes. oneDNN keeps what it compiled for 1024 shapes: sizes without end would fill that for long."""
ROUNDS = 12
"""Fewer rounds show nothing; they are done whatever the minutes."""
EVERY = 10.0
"""Seconds between the lines that say how far it is."""
SETTINGS = TrainSettings(steps=4, batch_size=2, warmup=1, plot=False, save_every=1e9, log_every=1)


class Pairs(Dataset[dict[str, torch.Tensor]]):
    """Random images of 16 x 16 pixels beside darker ones."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        target = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return {"target": target, "input": target * 0.4}


def model() -> ResidualDiffusion:
    """A restoring model of 16 channels and two stages, with random weights."""
    torch.manual_seed(0)
    network = ResidualUnets(16, networks="one", dim_mults=[1, 2], condition=True)
    schedule = Schedule.triangular(1000, 0.01)
    return ResidualDiffusion(network, schedule, objective="pred_res", condition=True, sampling_timesteps=3).eval()


class Round:
    """One round of a user's work, in an empty folder."""

    def __init__(self) -> None:
        self.model, self.rng = model(), random.Random(0)
        self.restorer, self.sampler = Restorer(self.model, tile=64, overlap=16), FastSampler(self.model)

    def __call__(self, folder: Path) -> None:
        """Do it. Raises RuntimeError if something is not as it must be, such as a broken picture that is restored."""
        self.restore(folder)
        self.sample()
        self.train(folder / "run")
        for _ in range(20):
            found = ops.call(self.rng, folder)
            _must(found.answer != "wrong", found.says)

    def restore(self, folder: Path) -> None:
        whole = {
            name: image_files.whole()[name]
            for name in ("PNG RGB", "JPEG RGB", "TIFF L", "PNG 16-bit 3", "WEBP RGBA lossless")
        }
        (folder / "in").mkdir()
        for number, content in enumerate(whole.values()):
            (folder / "in" / f"{number}.png").write_bytes(content)
            (folder / "in" / f"broken {number}.png").write_bytes(content[: len(content) // 2])
        outcomes = list(restore_files(self.restorer, [folder / "in"], folder / "out"))
        failed = sorted(Path(outcome.source).name for outcome in outcomes if outcome.error)
        _must(failed == [f"broken {number}.png" for number in range(len(whole))], f"the files that failed are {failed}")

    def sample(self) -> None:
        sides = self.rng.choice(SIZES)
        fresh = FastSampler(self.model, dtype=self.rng.choice((torch.float32, torch.bfloat16)), steps=2)
        for sampler in (self.sampler, fresh):
            result = sampler(torch.rand(self.rng.randint(1, 3), 3, *sides))
            _must(bool(result.isfinite().all()), "an image is not finite")

    def train(self, folder: Path) -> None:
        stopped = Trainer(model(), Pairs(), folder, SETTINGS)
        for progress in stopped.run():
            if progress.step == 2:
                break
        stopped.save()
        resumed = Trainer(model(), Pairs(), folder, SETTINGS)
        _must(resumed.step == 2, f"training resumed at step {resumed.step}")
        resumed.train()


def _must(right: bool, sentence: str) -> None:
    if not right:
        raise RuntimeError(sentence)


def measured() -> dict[str, float]:
    """The quantities now: memory before and after collecting garbage, Python's objects, open files and threads.

    glibc keeps memory that was freed, in ever more pieces; after the collection it gives back what it can.
    """
    before = _rss()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    return {
        "rss": before,
        "rss_after_gc": _rss(),
        "objects": len(gc.get_objects()),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def _rss() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def rise(values: Sequence[float]) -> tuple[float, float]:
    """How much a line fitted to the second half of the values rises over it, and the standard error of that."""
    half = values[len(values) // 2 :]
    n, mean = len(half), sum(half) / len(half)
    centred = [i - (n - 1) / 2 for i in range(n)]
    spread = sum(c * c for c in centred)
    slope = sum(c * (value - mean) for c, value in zip(centred, half, strict=True)) / spread
    rest = sum((value - mean - slope * c) ** 2 for c, value in zip(centred, half, strict=True))
    return slope * (n - 1), math.sqrt(rest / max(1, n - 2) / spread) * (n - 1)


def grows(values: Sequence[float], allowed: float) -> bool:
    """Whether a quantity grows, by the rule above."""
    by, error = rise(values)
    return by > allowed and by > 3 * error


def soaked(minutes: float, work: Callable[[Path], None], say: Callable[[str], None]) -> list[dict[str, float]]:
    """Do rounds for so many minutes, `ROUNDS` at least; the quantities at the start and after each round."""
    ends, said, history = time.monotonic() + 60 * minutes, time.monotonic(), [measured()]
    while time.monotonic() < ends or len(history) <= ROUNDS:
        with tempfile.TemporaryDirectory(prefix="rddm-soak-") as folder:
            work(Path(folder))
        history.append(measured())
        if time.monotonic() - said > EVERY:
            said = time.monotonic()
            say(f"{len(history) - 1} rounds: {_text(history[-1])}")
    return history


def _text(now: dict[str, float]) -> str:
    sizes = ", ".join(f"{name} {now[name] / MIB:.1f} MiB" for name in ("rss", "rss_after_gc"))
    return f"{sizes}, {now['objects']:.0f} objects, {now['files']:.0f} files, {now['threads']:.0f} threads"


def main(argv: Sequence[str] | None = None) -> None:
    """Soak, print the quantities at the start, at half time and at the end, and exit with 1 if one grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the quantities of every round")
    options = parser.parse_args(argv)
    if not 0 <= options.minutes < math.inf:
        parser.error("--minutes must be at least 0")
    history = soaked(options.minutes, Round(), lambda text: print(text, flush=True))
    if options.json is not None:
        options.json.write_text(json.dumps(history) + "\n")
    rounds = len(history) - 1
    for name, at in (("start", 0), ("half", rounds // 2), ("end", rounds)):
        print(f"{name:5} {_text(history[at])}")
    growing = []
    for name, allowed in ALLOWED.items():
        values = [quantities[name] for quantities in history[1:]]
        by, error = rise(values)
        if grows(values, allowed):
            growing.append(name)
        print(f"  {name:12} rises by {by:.1f} ± {error:.1f} over the second half, of {allowed:g} allowed")
    if growing:
        sys.exit(f"error: {', '.join(growing)} grows, over {rounds} rounds")
    print(f"nothing grows, over {rounds} rounds")


if __name__ == "__main__":
    main()
