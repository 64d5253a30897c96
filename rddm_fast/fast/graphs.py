"""A whole loop as one CUDA graph: one launch per image, however busy the host is."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from ..diffusion.start import Start
from ..system.errors import one_line
from .loop import Loop

WARM_UP = 3  # runs before the capture, in which libraries choose their algorithms and allocate their workspaces


Result = TypeVar("Result")


class CaptureFailed(RuntimeError):
    """The loop could not be captured; the message says where, and what to do."""


def capture(run: Callable[[], Result], device: torch.device) -> tuple[torch.cuda.CUDAGraph, Result]:
    """Capture `run`, which reads and writes memory of fixed addresses; return the graph and what `run` returned in it.

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
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
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


class CapturedLoop:
    """A `Loop` captured for images of one shape.

    A call copies its inputs into the graph's own memory and the result out of it, so callers keep what they got.

    Args:
        loop: the loop.
        start: a start of that shape, in float32.

    Raises:
        CaptureFailed: CUDA cannot capture the loop.
    """

    def __init__(self, loop: Loop, start: Start) -> None:
        with torch.inference_mode(False):  # as in `capture`
            I_in, mask = (None if image is None else torch.empty_like(image) for image in (start.I_in, start.mask))
            self.draws = [torch.empty_like(start.I_T) for step in loop.steps if step.draws]
            self.own = replace(start, I_T=torch.empty_like(start.I_T), I_in=I_in, mask=mask, steps=loop.steps)
        self._copy_in(start, [start.I_T] * len(self.draws))

        def run() -> Tensor:
            draws_ = iter(self.draws)
            return loop(replace(self.own, draw=lambda: next(draws_)))

        self.graph, self.result = capture(run, start.I_T.device)

    def _copy_in(self, start: Start, draws: Sequence[Tensor]) -> None:
        given = [start.I_T, start.I_in, start.mask, *draws]
        for own, image in zip([self.own.I_T, self.own.I_in, self.own.mask, *self.draws], given, strict=True):
            if own is not None and image is not None:
                own.copy_(image)

    def __call__(self, start: Start) -> Tensor:
        """Replay the graph; return the clean image in memory of its own."""
        self._copy_in(start, [start.draw() for step in start.steps if step.draws])
        self.graph.replay()
        return self.result.clone()
