"""A pytest plugin under which test_gpu.py takes the CPU for a GPU, so that its own mistakes are not found on one."""

import pytest
import torch
from plugin import pytest_terminal_summary  # noqa: F401  (which also loads the kernels)

from rddm_fast.ops import backends

torch.cuda.is_available = lambda: True
backends._why_not_cuda = lambda device: None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for module in {item.module for item in items}:
        module.CUDA = torch.device("cpu")
