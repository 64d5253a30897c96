"""A server of the page in this process, for all its tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from client import Client

from rddm_fast.serve.server import Server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    server = Server(0, torch.device("cpu"))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.stop()
    thread.join()


@pytest.fixture
def ask(server: Server) -> Client:
    return Client(server)


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    """A photograph-like picture, uint8 (20, 28, 3)."""
    rows, columns = np.mgrid[:20, :28] / 28
    return (255 * np.stack([rows, columns, 1 - rows], axis=2)).round().astype(np.uint8)
