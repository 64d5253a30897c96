"""Processes whose launcher was killed notice it, and do not wait for what never comes."""

import os
import subprocess
import sys

import pytest

from rddm_fast.system import launcher

WAITING = """
import os, sys, time
from rddm_fast.system.launcher import ended_with_launcher
with ended_with_launcher():
    print(os.getpid(), flush=True)
    time.sleep(20)
print("waited to the end")
"""
LAUNCHER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WAITING!r}])"


def test_an_orphan_of_several_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process alone may outlive its shell, as under nohup."""
    for world in (1, 2):
        monkeypatch.setenv("WORLD_SIZE", str(world))
        assert not launcher.launcher_is_gone()
        with monkeypatch.context() as orphaned:
            orphaned.setattr(launcher.os, "getppid", lambda: 1_000_000)
            assert launcher.launcher_is_gone() == (world == 2)


@pytest.mark.parametrize("world", [1, 2])
def test_a_process_that_waits_ends_with_its_launcher(world: int) -> None:
    environment = {**os.environ, "WORLD_SIZE": str(world)}
    started = [sys.executable, "-c", LAUNCHER]
    with subprocess.Popen(started, env=environment, stdout=-1, stderr=-1, text=True) as run:
        assert run.stdout is not None and run.stderr is not None
        waiting = int(run.stdout.readline())
        run.kill()
        if world == 1:
            os.kill(waiting, 9)
        rest, said = run.stdout.read(), run.stderr.read()  # both end with the last process that has them open
    assert rest == ""
    assert said == (
        "" if world == 1 else "error: the launcher of several processes is gone: run the same command again\n"
    )
