"""Kills a training of several processes at random moments, resumes it by the same command, and compares its end.

    python -m benchmarks.kills --kills 50 [--processes 2] [--seed 0]

Each kill takes one process, the launcher (torchrun), or all of them, with SIGKILL: while they start, between two steps,
or while a checkpoint is written. After each, all processes must end by themselves and let go of the folder. In the end
the weights, their average, the optimiser and the model's file must have the bits of a run that nothing happened to.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from rddm_fast.restoration.demo import PHOTOS
from rddm_fast.training.checkpoints import RunFolder
from rddm_fast.training.guards import lock

STEPS_PER_KILL = 25
"""More steps than a fast machine takes between two kills."""
MARK = "RDDM_FAST_KILLS"
"""The environment variable by which a run's processes are known, also once they have lost their parent."""
PATIENCE = 120.0
"""Seconds for a run to start, to go down, and to let go of its folder."""
VICTIMS = ("one", "one", "launcher", "launcher and one", "all")
MOMENTS = ("starting", "between", "between", "saving", "saving")


class Failed(Exception):
    """A run did not do what it must; one sentence."""


def command(folder: Path, processes: int, steps: int) -> list[str]:
    """The command that trains in `folder`, and resumes there; it saves after each step."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    train = [
        "-m",
        "rddm_fast.cli",
        "train",
        "--photos",
        str(PHOTOS),
        "--degradation",
        "lowlight",
        "--output",
        str(folder),
    ]
    small = ["--dim", "8", "--mults", "1", "--patch", "16", "--batch", str(processes), "--steps", str(steps)]
    often = ["--set", "train.save_every=0", "--set", "train.warmup=1", "--set", "train.plot=false"]
    return [sys.executable, *launcher, *train, *small, *often]


def start(folder: Path, processes: int, steps: int, log: Path) -> subprocess.Popen[bytes]:
    """Start the command on the CPU, with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", MARK: str(folder)}
    with log.open("ab") as output:
        return subprocess.Popen(command(folder, processes, steps), env=environment, stdout=output, stderr=output)


def finish(folder: Path, processes: int, steps: int, log: Path) -> None:
    """Run the command to its end. Raises Failed if it fails."""
    run = start(folder, processes, steps, log)
    if run.wait() != 0:
        raise Failed(f"the run in {folder} ended with exit code {run.returncode}: {_last_lines(log)}")


def members(folder: Path) -> dict[int, bool]:
    """The processes of the run in `folder`, oldest first, and whether each is one that trains."""
    found = {}
    for entry in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        try:
            environment = Path("/proc", entry, "environ").read_bytes().split(b"\0")  # of a zombie it is empty
        except OSError:
            continue  # it ended meanwhile
        if f"{MARK}={folder}".encode() in environment:
            found[int(entry)] = any(value.startswith(b"LOCAL_RANK=") for value in environment)
    return found


def kill_one(folder: Path, processes: int, steps: int, log: Path, draw: random.Random) -> tuple[str, str, float]:
    """Start the run and kill it at a drawn moment.

    Returns:
        Who was killed, when, and the seconds until every process was gone and the lock free.

    Raises Failed if the run ends before, or does not go down.
    """
    victim, moment = draw.choice(VICTIMS), draw.choice(MOMENTS)
    already = RunFolder(folder).checkpoints()
    run = start(folder, processes, steps, log)
    _wait_for(folder, moment, already, run, draw, log)
    victims = _chosen(victim, run.pid, members(folder), draw)
    for pid in victims:
        _kill(pid)
    killed = time.monotonic()
    while (run.poll() is None) or members(folder) or not _free(folder):
        if time.monotonic() - killed > PATIENCE:
            left = members(folder)
            for pid in left:
                _kill(pid)
            raise Failed(f"{PATIENCE:.0f} s after killing {victim} while {moment}, {len(left)} processes are left")
        time.sleep(0.02)
    return victim, moment, time.monotonic() - killed


def _chosen(victim: str, launcher: int, running: dict[int, bool], draw: random.Random) -> list[int]:
    workers = [pid for pid, trains in running.items() if trains]
    one = [draw.choice(workers)] if workers else [launcher]
    if victim == "all":
        return [launcher, *workers]
    return {"one": one, "launcher": [launcher], "launcher and one": [launcher, *one]}[victim]


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was faster
        os.kill(pid, signal.SIGKILL)


def _wait_for(
    folder: Path, moment: str, already: list[Path], run: subprocess.Popen[bytes], draw: random.Random, log: Path
) -> None:
    started = time.monotonic()
    if moment == "starting":
        time.sleep(draw.uniform(0, 5))
        return
    while RunFolder(folder).checkpoints() == already or (moment == "saving" and not list(folder.glob(".checkpoint-*"))):
        if run.poll() is not None:
            raise Failed(f"the run ended with {run.returncode} before it could be killed: {_last_lines(log)}")
        if time.monotonic() - started > PATIENCE:
            raise Failed(f"the run has written no checkpoint in {PATIENCE:.0f} s")
        time.sleep(0.001)
    if moment == "between":
        time.sleep(draw.uniform(0, 1))


def _free(folder: Path) -> bool:
    """Whether no process holds the folder's lock."""
    try:
        with (folder / lock.NAME).open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _last_lines(log: Path) -> str:
    return " / ".join(log.read_text(errors="replace").splitlines()[-3:])


def differences(killed: Path, whole: Path) -> list[str]:
    """What differs between the ends of two runs, to the bit, and what the killed one has left behind."""
    found = []
    ends = [torch.load(RunFolder(folder).checkpoints()[-1], weights_only=True) for folder in (killed, whole)]
    for part in ("step", "model", "ema", "optimizers"):
        if not _same(ends[0][part], ends[1][part]):
            found.append(f"{part} of the last checkpoint")
    if (killed / "model" / "model.safetensors").read_bytes() != (whole / "model" / "model.safetensors").read_bytes():
        found.append("model.safetensors")
    return found + [f"{path.name} is left" for path in killed.rglob(".*")]


def _same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.numpy().tobytes() == b.numpy().tobytes()
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b


def main(argv: Sequence[str] | None = None) -> None:
    """Kill, resume and compare; exit with 1 if the ends differ or a run misbehaves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of victims and moments; where they fall is the machine's")
    options = parser.parse_args(argv)
    if options.kills < 1 or options.processes < 2:
        parser.error("--kills must be at least 1 and --processes at least 2")
    draw, steps = random.Random(options.seed), STEPS_PER_KILL * options.kills
    counts: Counter[str] = Counter()
    longest = 0.0
    with tempfile.TemporaryDirectory(prefix="rddm-kills-") as name:
        whole, killed, log = Path(name) / "whole", Path(name) / "killed", Path(name) / "log"
        try:
            finish(whole, options.processes, steps, log)
            for number in range(1, options.kills + 1):
                victim, moment, seconds = kill_one(killed, options.processes, steps, log, draw)
                counts[f"{victim}, {moment}"] += 1
                longest = max(longest, seconds)
                found = RunFolder(killed).checkpoints()
                left = found[-1].stem if found else "no checkpoint"
                print(f"{number}: killed {victim} while {moment}; gone after {seconds:.1f} s; {left}", flush=True)
            finish(killed, options.processes, steps, log)
        except Failed as failed:
            sys.exit(f"error: {failed}")
        wrong = differences(killed, whole)
    for what, count in sorted(counts.items()):
        print(f"  {count:3} {what}")
    print(f"every process was gone and the lock free after at most {longest:.1f} s")
    if wrong:
        sys.exit(f"error: after {options.kills} kills the end differs: {', '.join(wrong)}")
    print(f"after {options.kills} kills the run ends at the same bits, step {steps}")


if __name__ == "__main__":
    main()
