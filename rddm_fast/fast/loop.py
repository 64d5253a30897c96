"""The few-step loop on folded networks: what a sampler runs as it is on a CPU, and as one captured graph on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..ops.reverse_step_in_place import reverse_step_
from ..ops.step_table import StepTable
from ..theory.objective import Objective
from ..theory.steps import Step
from .fold import FoldedNetworks
from .together import can_be_together, together


class Loop:
    """From a noisy image to the clean one, in the folded networks' dtype; the image itself stays in float32.

    Args:
        networks: the folded networks.
        steps: the steps that they were folded for.
        objective, only: what the outputs are, and which of them there are.
        clip_res: half-width of the residual's clamp.
        compiled: whether each network is compiled (torch.compile) at its first call.
        parallel: whether two networks run at once: on two CUDA streams, or on a CPU on half of the threads each.
    """

    def __init__(
        self,
        networks: FoldedNetworks,
        steps: Sequence[Step],
        *,
        objective: Objective,
        only: tuple[int, ...],
        clip_res: float,
        compiled: bool,
        parallel: bool,
    ) -> None:
        self.networks, self.steps, self.objective, self.only = networks, list(steps), objective, only
        self.device = networks.device
        self.table = StepTable.of([step.numbers for step in steps], clip_res=clip_res, device=self.device)
        # As tensors, so that a compiled network is compiled for all steps at once.
        self.numbers = [torch.tensor([i], device=self.device) for i in range(len(self.steps))]
        self.member: list[Callable[..., Sequence[Tensor]]] = [
            _compiled(networks, i) if compiled else networks.bound(i) for i in range(len(networks.members))
        ]
        self.parallel = parallel and len(self.wanted) == 2
        self.side = torch.cuda.Stream(self.device) if self.parallel and self.device.type == "cuda" else None

    @property
    def wanted(self) -> list[int]:
        """The networks to evaluate; a shared encoder is one that has both outputs."""
        return [0] if self.networks.networks == "shared" else list(self.only)

    def outputs(
        self, x: Tensor, number: int, previous: Tensor | None, constant: Sequence[Tensor | None]
    ) -> Sequence[Tensor]:
        """The networks' outputs in `only` at a step, for the images in the networks' dtype."""
        x = self.networks.input(x, previous)
        step = self.numbers[number]
        if self.networks.networks == "shared":
            both = self.member[0](x, step, constant[0])
            return [both[i] for i in self.only]
        if self.side is None:
            calls = [lambda i=i: self.member[i](x, step, constant[i])[0] for i in self.only]  # type: ignore[misc]
            # Autocast is a matter of the thread that it was switched on in.
            at_once = self.parallel and can_be_together() and not torch.is_autocast_enabled("cpu")
            return together(*calls) if at_once else [call() for call in calls]
        main = torch.cuda.current_stream(self.device)
        self.side.wait_stream(main)
        with torch.cuda.stream(self.side):
            second = self.member[1](x, step, constant[1])[0]
        first = self.member[0](x, step, constant[0])[0]
        main.wait_stream(self.side)
        return [first, second]

    @torch.no_grad()
    def __call__(
        self,
        I_T: Tensor,
        I_in: Tensor | None,
        parts: Sequence[Tensor],
        draw: Callable[[], Tensor],
        steps: Iterable[Step] | None = None,
        on_step: Callable[[int, Step, Tensor], None] | None = None,
    ) -> Tensor:
        """The clean image (B, C, H, W), float32 in [-1, 1], in memory of its own.

        `I_T` is the noisy image, which is not changed, `parts` what of the networks' input stays the same, and `steps`
        the loop's own, perhaps wrapped by a progress bar. `on_step` is given a copy of the image after every step.
        """
        size = I_T.shape[-2:]
        constant = self.networks.constant(torch.cat(list(parts), dim=1)) if parts else [None] * len(self.member)
        state = torch.empty_like(I_T, memory_format=torch.channels_last).copy_(I_T)
        reduced = self.networks.dtype != torch.float32
        x = state.to(self.networks.dtype) if reduced else state
        previous = torch.zeros_like(x) if self.networks.self_condition else None
        for number, step in enumerate(self.steps if steps is None else steps):
            out = [o[..., : size[0], : size[1]] for o in self.outputs(x, number, previous, constant)]
            reverse_step_(
                state,
                *out,
                objective=self.objective,
                table=self.table,
                step=number,
                I_in=I_in,
                noise=draw() if step.draws else None,
                next_input=x if reduced else None,
                clean=previous,
            )
            if on_step is not None:
                on_step(number, step, state.clone(memory_format=torch.contiguous_format))
        return state.contiguous()


def _compiled(networks: FoldedNetworks, i: int) -> Callable[..., Sequence[Tensor]]:
    return torch.compile(networks.bound(i), fullgraph=True, dynamic=False)
