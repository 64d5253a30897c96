"""Whole walks as CUDA graphs: one launch per image, however busy the host is."""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..system.errors import one_line

WARM_UP = 3  # runs before the capture, in which libraries choose their algorithms and allocate their workspaces
Result = TypeVar("Result")


class CaptureFailed(RuntimeError):
    """The walk could not be captured; the message says where, and what to do."""


def capture(
    run: Callable[[], Result], device: torch.device, *, pool: Any = None, stream: Any = None
) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture `run`, which reads and writes memory of fixed addresses; return the graph and what `run` returned in it.

    Args:
        run: called a few times before it is captured.
        device: where it runs.
        pool: the memory that the graph shares with others that are never replayed at the same time.
        stream: the stream to capture on; libraries keep a workspace for each stream.

    Raises:
        CaptureFailed: CUDA cannot capture it.
    """
    # A first call in inference mode may be followed by one outside of it, which could not write its inputs into the
    # graph's memory if that were made of inference tensors.
    with torch.cuda.device(device), torch.inference_mode(False), _measured_convolutions():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        try:
            # Another thread, such as a loader's, may allocate memory meanwhile.
            with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
                return graph, run()
        except Exception as error:
            raise CaptureFailed(
                f"the sampling loop could not be captured as a CUDA graph ({type(error).__name__}: "
                f"{one_line(error)[:300]}): pass graphs=False to run it without one"
            ) from error


@contextlib.contextmanager
def _measured_convolutions() -> Iterator[None]:
    """Let cuDNN choose each convolution's algorithm by timing all of them, which a graph pays for once."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.benchmark_limit
    cudnn.benchmark, cudnn.benchmark_limit = True, 0
    try:
        yield
    finally:
        cudnn.benchmark, cudnn.benchmark_limit = before


def float32_products() -> tuple[str, str]:
    """Return how torch is set to compute float32 products on a GPU, "ieee" or "tf32": by matrices, by convolutions."""
    return torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]


def wanted(graphs: bool | None, device: torch.device) -> bool:
    """Return whether to capture graphs on `device`: on a GPU by default. Raises ValueError where there are none."""
    on_gpu = device.type == "cuda"
    if graphs and not on_gpu:
        raise ValueError(f"there are no CUDA graphs on {device}: leave graphs out, or move the model to a GPU")
    return on_gpu if graphs is None else graphs


class Graphs:
    """One sampler's graphs, one for each kind of call; the least recently used is dropped first.

    The graphs share one pool of memory and one stream. Calls from several threads and streams take turns.

    Args:
        device: where they run.
        at_most: number of graphs that are kept.

    Raises:
        ValueError: `at_most` is below 1.
    """

    def __init__(self, device: torch.device, at_most: int) -> None:
        if at_most < 1:
            raise ValueError(f"max_graphs is {at_most}: at least one graph has to be kept")
        self.device, self.at_most = device, at_most
        self.kept: OrderedDict[tuple[Any, ...], tuple[Sequence[Tensor], torch.cuda.CUDAGraph, Tensor]] = OrderedDict()
        self._shared: tuple[Any, Any] | None = None  # the pool and the stream
        self._done: torch.cuda.Event | None = None  # of the last call, which another stream has to wait for
        self._turn = threading.Lock()

    def __call__(self, inputs: Sequence[Tensor], walk: Callable[[Sequence[Tensor]], Tensor]) -> Tensor:
        """Return `walk(inputs)` in memory of its own, by a graph that is captured at the first call of its kind.

        Args:
            inputs: copied into the graph's own memory; their shapes and dtypes make a kind, and so does torch's TF32.
            walk: what is captured; it depends on its argument alone.

        Raises:
            CaptureFailed: CUDA cannot capture the walk.
        """
        key = (*((tuple(x.shape), x.dtype) for x in inputs), float32_products())
        with self._turn, torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            if self._done is not None:
                stream.wait_event(self._done)
            if key not in self.kept:
                while len(self.kept) >= self.at_most:
                    self.kept.popitem(last=False)
                self.kept[key] = self._captured(inputs, walk)
            self.kept.move_to_end(key)
            own, graph, result = self.kept[key]
            for mine, given in zip(own, inputs, strict=True):
                mine.copy_(given)
            graph.replay()
            copied = result.clone()
            self._done = self._done or torch.cuda.Event()
            self._done.record(stream)
            return copied

    def _captured(
        self, inputs: Sequence[Tensor], walk: Callable[[Sequence[Tensor]], Tensor]
    ) -> tuple[Sequence[Tensor], torch.cuda.CUDAGraph, Tensor]:
        if self._shared is None:
            self._shared = torch.cuda.graph_pool_handle(), torch.cuda.Stream()
        with torch.inference_mode(False):  # as in `capture`
            own = [x.clone() for x in inputs]
        pool, stream = self._shared
        return own, *capture(lambda: walk(own), self.device, pool=pool, stream=stream)

    def clear(self) -> None:
        """Drop all graphs."""
        with self._turn:
            self.kept.clear()
            self._shared = None
