"""A recorder of torch's ops that stands in for CUDA's graphs, so that what is captured can be tested without a GPU.

A replay runs the recorded ops again on the recorded tensors, as a graph does; the host's work between two images is not
part of it. So the tests show that a captured loop reads its inputs, draws and tables from memory that is refilled, and
that callers keep what they got. Streams, and what CUDA refuses to capture, can be tested on a GPU only.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class RecordedGraph(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.ops: list[tuple[Any, tuple, dict, Any]] = []

    def __torch_dispatch__(self, op: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = op(*args, **(kwargs or {}))
        self.ops.append((op, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for op, args, kwargs, result in self.ops:
            for new, recorded in zip(tree_leaves(op(*args, **kwargs)), tree_leaves(result), strict=True):
                if isinstance(new, torch.Tensor) and new.data_ptr() != recorded.data_ptr():
                    recorded.copy_(new)


class NoStream:
    def __init__(self, *_: Any) -> None: ...
    def wait_stream(self, _: Any) -> None: ...
    def wait_event(self, _: Any) -> None: ...
    def record(self, _: Any) -> None: ...


@contextlib.contextmanager
def nowhere(_: Any) -> Iterator[None]:
    yield


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda`'s graphs and streams be recorders on the CPU."""
    replaced = {"CUDAGraph": RecordedGraph, "graph": lambda graph, **_: graph, "Stream": NoStream, "Event": NoStream}
    replaced["graph_pool_handle"] = object
    for name, ours in {**replaced, "current_stream": NoStream, "stream": nowhere, "device": nowhere}.items():
        monkeypatch.setattr(torch.cuda, name, ours)
