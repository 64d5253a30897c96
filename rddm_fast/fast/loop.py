"""The few-step loop on folded networks. A CPU runs it as it is, a GPU as one captured graph."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.start import Start
from ..ops.reverse_step import reverse_step_
from ..ops.step_table import StepTable
from ..theory.steps import Step
from .fold import FoldedNetworks
from .together import can_be_together, together


class Loop:
    """From a noisy image to the clean one. The networks compute in their own dtype; the image stays in float32.

    Args:
        diffusion: the model whose networks were folded; its objective and clamps are used.
        networks: the folded networks.
        steps: the steps that they were folded for.
        compiled: torch.compile each network at its first call.
        parallel: run two networks at once: on two CUDA streams, or on a CPU on half of the threads each.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion,
        networks: FoldedNetworks,
        steps: Sequence[Step],
        *,
        compiled: bool,
        parallel: bool,
    ) -> None:
        self.networks, self.steps = networks, list(steps)
        self.objective, self.only = diffusion.read_objective, diffusion.read_outputs
        self.constant_input = diffusion.constant_input
        self.device = networks.device
        clips = {"clip_res": diffusion.clip_res, "clip_0": diffusion.clip_0}
        self.table = StepTable.of([step.numbers for step in steps], **clips, device=self.device)
        # What a network knows of a step is a tensor, so that a compiled one is compiled once for all steps.
        self.rows = [[networks.row(i, n) for n in range(len(self.steps))] for i in range(len(networks.members))]
        codes: dict[tuple[int, ...], types.CodeType] = {}
        self.member: list[Callable[..., Sequence[Tensor]]] = [
            CompiledPerSize(networks.bound(i), codes) if compiled else networks.bound(i)
            for i in range(len(networks.members))
        ]
        self.parallel = parallel and len(self.wanted) == 2
        # Where that was measured: whether two networks are computed at once, by the shape of their input.
        self.at_once: dict[tuple[int, ...], bool] = {}
        self.side = torch.cuda.Stream(self.device) if self.parallel and self.device.type == "cuda" else None

    @property
    def wanted(self) -> list[int]:
        """The numbers of the networks to evaluate; a shared encoder is one network with both outputs."""
        return [0] if self.networks.networks == "shared" else list(self.only)

    def can_be_at_once(self) -> bool:
        """Return whether two networks can be computed at once now."""
        # Autocast applies to the thread that enabled it; the two threads would not see it.
        on_halves = can_be_together() and not torch.is_autocast_enabled("cpu")
        return self.parallel and (self.side is not None or on_halves)

    def outputs(
        self,
        x: Tensor,
        number: int,
        previous: Tensor | None,
        constant: Sequence[Tensor | None],
        at_once: bool | None = None,
    ) -> Sequence[Tensor]:
        """Return the networks' outputs in `only` at a step, for images in the networks' dtype.

        `at_once` says whether two are computed at once if they can be; None takes what was measured, else does so.
        """
        x = self.networks.input(x, previous)
        if self.networks.networks == "shared":
            both = self.member[0](x, self.rows[0][number], constant[0])
            return [both[i] for i in self.only]
        calls = [
            lambda i=i: self.member[i](x, self.rows[i][number], constant[i])[0]  # type: ignore[misc]
            for i in self.only
        ]
        if at_once is None:
            at_once = self.at_once.get(tuple(x.shape), True)
        if not at_once or not self.can_be_at_once():
            return [call() for call in calls]
        if self.side is None:
            return together(*calls)
        # Run the second network on a stream of its own, beside the first.
        main = torch.cuda.current_stream(self.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            second = calls[1]()
        first = calls[0]()
        main.wait_stream(self.side)
        return [first, second]

    @torch.no_grad()
    def __call__(self, start: Start) -> Tensor:
        """Walk from `start` to the clean image (B, C, H, W), float32 in [-1, 1], in memory of its own.

        `start` is in float32, has the loop's steps, and is not modified. Its `on_step` sees a copy of the image.
        """
        with self.networks.own_arithmetic():
            return self._walk(start)

    def begin(self, start: Start) -> tuple[Tensor, Tensor, Tensor | None, Sequence[Tensor | None]]:
        """Return the image that is walked, and what `outputs` takes at the first step: x, previous and constant.

        In float32 x is the image itself.
        """
        # Convolve the images that no step changes, once.
        parts = self.constant_input(start.I_in, start.mask)
        constant = self.networks.constant(torch.cat(parts, dim=1)) if parts else [None] * len(self.member)

        state = torch.empty_like(start.I_T, memory_format=torch.channels_last).copy_(start.I_T)
        x = state if self.networks.dtype == torch.float32 else state.to(self.networks.dtype)
        return state, x, torch.zeros_like(x) if self.networks.self_condition else None, constant

    def _walk(self, start: Start) -> Tensor:
        size = start.I_T.shape[-2:]
        state, x, previous, constant = self.begin(start)
        for number, step in enumerate(start.steps):
            # Ask the networks.
            out = [o[..., : size[0], : size[1]] for o in self.outputs(x, number, previous, constant)]

            # Step in place, and write the next network input in the same pass.
            reverse_step_(
                state,
                *out,
                objective=self.objective,
                table=self.table,
                step=number,
                I_in=start.I_in,
                noise=start.draw() if step.draws else None,
                next_input=None if x is state else x,
                clean=previous,
            )

            # Show a copy.
            if start.on_step is not None:
                start.on_step(number, step, state.clone(memory_format=torch.contiguous_format))
        return state.contiguous()


class CompiledPerSize:
    """A network compiled for each size of image by itself.

    torch.compile keeps at most 8 compiled versions of a function, and refuses the next size. Every size has a function
    of its own here, whose code the networks share: what is compiled for one serves the other.
    """

    def __init__(self, network: Callable[..., Sequence[Tensor]], codes: dict[tuple[int, ...], types.CodeType]) -> None:
        self.network, self.codes = network, codes
        self.of_size: dict[tuple[int, ...], Callable[..., Sequence[Tensor]]] = {}

    def __call__(self, x: Tensor, *rest: Any) -> Sequence[Tensor]:
        size = tuple(x.shape)
        if size not in self.of_size:
            if x.device.type == "cpu":
                self.network(x, *rest)  # packs the convolutions' weights for this size: no graph can hold that
            code = self.codes.setdefault(size, self.network.__code__.replace())  # type: ignore[attr-defined]
            own = types.FunctionType(code, self.network.__globals__, closure=self.network.__closure__)  # type: ignore[attr-defined]
            self.of_size[size] = torch.compile(own, fullgraph=True, dynamic=False)
        return self.of_size[size](x, *rest)
