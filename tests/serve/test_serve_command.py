"""`rddm-fast serve` as a user starts and ends it."""

import os
import re
import signal
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
from client import file_of
from commands import error_of, run

ROOT = Path(__file__).parents[2]


def test_ctrl_c_ends_it_and_nothing_is_left(tmp_path: Path, pixels: np.ndarray) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "rddm_fast.cli", "serve"]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        found = re.search(r"http://127\.0\.0\.1:(\d+)/", process.stdout.readline())
        assert found is not None
        connection = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        connection.request("POST", "/convert?to=png&name=a.png", file_of(pixels))
        assert connection.getresponse().read()[:4] == b"\x89PNG"
        # A job is at work when it is ended.
        connection.request("POST", "/solve?operator=denoising&steps=1000&job=long", file_of(pixels))
        other = HTTPConnection("127.0.0.1", int(found[1]), timeout=60)
        done = b'"of": 0'
        while b'"of": 0' in done or b"error" in done:
            other.request("GET", "/progress?job=long")
            done = other.getresponse().read()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == "" and process.stdout.read() == "ending\n"
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = error_of(run("serve", "--port", port))
    assert f"--port is {port}, which cannot be used" in line and "0 for a free one" in line
