"""The command line as a user runs it, in this process or in several, and Python in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from typer.testing import CliRunner, Result

from rddm_fast.cli import app


def run(*arguments: object) -> Result:
    """`rddm-fast` with these arguments, in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def succeeded(result: Result) -> Result:
    """The result of a command, which must have succeeded."""
    assert result.exit_code == 0, result.output
    return result


def error_of(result: Result) -> str:
    """The one line of error of a command that failed: exit code 1, no traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("error: ") and "Traceback" not in result.output
    return lines[0]


def python(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """This Python in a process of its own, with subprocess.run's `options`."""
    return subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, **options)


def launched(processes: int, *command: object) -> subprocess.CompletedProcess[str]:
    """`torchrun` of a command on this machine's CPU."""
    launcher = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = python(*launcher, *command, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return done
