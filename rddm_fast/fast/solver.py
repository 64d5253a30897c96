"""`FastSolver`: `inverse.restore` with its settings chosen once, and on a GPU the whole walk as one CUDA graph."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..diffusion.start import noise_source
from ..inverse.operator import Operator
from ..inverse.restore import check_settings, checked_noise, restore, walk_of
from .graphs import Graphs, wanted
from .prior import FastPrior


class FastSolver:
    """Restore measurements of one operator by DDRM or DDNM, with the images of `inverse.restore`.

    Args:
        prior: the model of the noise.
        operator: A; its tables move to the device of the first measurement.
        method: as for `restore`.
        graphs: capture the whole walk (the network, the steps and the transforms) as one CUDA graph for each shape of
            measurement. The default is True on a GPU. An operator whose pseudo-inverse looks at its progress on the
            host, as conjugate gradients with a tolerance do, cannot be captured.
        max_graphs: number of shapes whose graphs are kept; the least recently used is dropped first. A graph keeps the
            images of all draws, one for each step.
        options: sigma_y, steps, eta, eta_b, travel, official and indices, as for `restore`.

    Attributes:
        draws: the number of draws that a call takes: one to start, and one for each step.

    Raises:
        ValueError: options that are out of range, or graphs where there are none.
    """

    def __init__(
        self,
        prior: FastPrior,
        operator: Operator,
        method: str = "ddnm",
        *,
        graphs: bool | None = None,
        max_graphs: int = 4,
        **options: Any,
    ) -> None:
        settings = {name: options[name] for name in ("sigma_y", "eta", "eta_b", "travel") if name in options}
        check_settings(method, **settings)
        self.prior, self.operator, self.method, self.options = prior, operator, method, options
        self.graphs = wanted(graphs, prior.device)
        self._graphs = Graphs(prior.device, max_graphs)
        plan = {name: options[name] for name in ("steps", "travel", "official", "indices") if name in options}
        self.draws = 1 + len(walk_of(prior.schedule, method, **plan))

    @torch.no_grad()
    def __call__(
        self, y: Tensor, *, noise: Iterable[Tensor] | None = None, generator: torch.Generator | None = None
    ) -> Tensor:
        """Return the images (B, C, H, W) in [-1, 1] of measurements (B, *operator.measured).

        `noise` and `generator` are those of `restore`. Raises what `restore` raises, and CaptureFailed.
        """
        if not self.graphs:
            return self._restored(y, noise, generator)
        shape = (len(y), *self.operator.image)
        draw = noise_source(shape, y.device, self.draws, generator, checked_noise(noise, self.draws, shape))

        def walk(inputs: Sequence[Tensor]) -> Tensor:
            return self._restored(inputs[0], inputs[1:], None)

        return self._graphs([y, *(draw() for _ in range(self.draws))], walk)

    def _restored(self, y: Tensor, noise: Iterable[Tensor] | None, generator: torch.Generator | None) -> Tensor:
        return restore(y, self.operator, self.prior, self.method, noise=noise, generator=generator, **self.options)

    def reset(self) -> None:
        """Drop all captured graphs."""
        self._graphs.clear()
