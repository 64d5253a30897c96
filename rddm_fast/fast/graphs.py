"""A whole few-step loop as one CUDA graph: one launch an image, whatever the host does meanwhile."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .loop import Loop

WARM_UP = 3  # runs before the capture, in which libraries choose their algorithms and allocate their workspaces


class CaptureFailed(RuntimeError):
    """The loop could not be captured; the message says at what, and what to do."""


class CapturedLoop:
    """A `Loop` captured for images of one shape; called like it, with all of its draws at once.

    Inputs are copied into the graph's own memory and the result out of it, so callers keep what they got.
    """

    def __init__(self, loop: Loop, I_T: Tensor, I_in: Tensor | None, parts: Sequence[Tensor], draws: int) -> None:
        self.I_T = torch.empty_like(I_T)
        # The degraded image is one of the parts, which are copied once.
        self.parts = [torch.empty_like(part) for part in parts]
        self.I_in_part = next((i for i, part in enumerate(parts) if part is I_in), None)
        self.I_in = (
            None if I_in is None else torch.empty_like(I_in) if self.I_in_part is None else self.parts[self.I_in_part]
        )
        self.draws = [torch.empty_like(I_T) for _ in range(draws)]
        self._copy_in(I_T, I_in, parts, [I_T] * draws)

        def run() -> Tensor:
            draws_ = iter(self.draws)
            return loop(self.I_T, self.I_in, self.parts, lambda: next(draws_))

        with torch.cuda.device(I_T.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    run()
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(self.graph):
                    self.result = run()
            except Exception as error:
                reason = " ".join(str(error).split())[:300]
                raise CaptureFailed(
                    f"the sampling loop could not be captured as a CUDA graph ({type(error).__name__}: {reason}): "
                    "graphs=False runs it without"
                ) from error

    def _copy_in(self, I_T: Tensor, I_in: Tensor | None, parts: Sequence[Tensor], draws: Sequence[Tensor]) -> None:
        self.I_T.copy_(I_T)
        for own, given in zip([*self.parts, *self.draws], [*parts, *draws], strict=True):
            own.copy_(given)
        if self.I_in is not None and self.I_in_part is None:
            assert I_in is not None
            self.I_in.copy_(I_in)

    def __call__(self, I_T: Tensor, I_in: Tensor | None, parts: Sequence[Tensor], draws: Sequence[Tensor]) -> Tensor:
        """The clean image, in memory of its own."""
        self._copy_in(I_T, I_in, parts, draws)
        self.graph.replay()
        return self.result.clone()
