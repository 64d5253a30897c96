"""A pytest plugin under which the CPU ops are the CUDA kernels, compiled for the host (see test_cuda_on_host.py).

Their tests then run on these unchanged, but for those of float64, which CUDA has no kernel for.
"""

from __future__ import annotations

import ctypes
import os

import pytest
import torch

import rddm_fast.ops  # noqa: F401  (registers the CPU's kernels, which are then replaced)

LIBRARY = os.environ["RDDM_CUDA_ON_HOST"]
torch.ops.load_library(LIBRARY)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    wide = [item for item in items if "float64" in str(getattr(item, "callspec", None) and item.callspec.params)]
    config.hook.pytest_deselected(items=wide)
    items[:] = [item for item in items if item not in wide]
    import oracle  # only now, when pytest has put the tests' folder on the path

    for drawn in (oracle.ALL_PAIRS, oracle.ALL_DTYPES):  # Hypothesis draws from these lists.
        drawn[:] = [entry for entry in drawn if "float64" not in str(entry)]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"launches: {ctypes.CDLL(LIBRARY).rddm_on_host_launches()}")
