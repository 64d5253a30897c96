"""Partially path-independent generation: the residual first, the noise first, or both together, under any schedule.

Where the residual network sees alpha_bar_t T alone and the noise network beta_bar_t T alone, and neither depends on the
other's coefficient, dI = I_res d alpha_bar + epsilon d beta_bar leads along every monotone path of (alpha_bar,
beta_bar) to nearly the same image (RDDM, section 4). A path here is a list of `Step`s, as every sampler is:

    images = sample_along(diffusion, path(diffusion.schedule, 10, "residual_first"), batch_size=4)[-1]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..theory.objective import Objective
from ..theory.schedule import Schedule
from ..theory.steps import Step
from .residual import ResidualDiffusion


def sample_along(
    diffusion: ResidualDiffusion, steps: Sequence[Step], I_in: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """What `diffusion.sample(I_in)` returns, along a `path`; of any schedule that ends at the same noise, untrained on.

    At each step only the networks whose coefficient moves are evaluated; the residual is clamped, the noise not.
    `options` are those of `sample`: mask, batch_size, generator, draws, every_step, callback, progress.

    Raises ValueError for a model that is not path-independent, or not of objective pred_res_noise.
    """
    if not diffusion.path_independent or diffusion.objective is not Objective.pred_res_noise:
        kind = f"path_independent={diffusion.path_independent}, objective {diffusion.objective.name}"
        raise ValueError(
            f"a path needs two networks, pred_res_noise, that see alpha_bar and beta_bar (path_independent=True), and "
            f"this model has {kind}: train the preset path_independent"
        )
    _check_start(diffusion.schedule, steps)

    def walk(
        I_t: Tensor,
        steps: Iterable[Step],
        I_in: Tensor | None,
        mask: Tensor | None,
        _draw: Callable[[], Tensor],
        on_step: Callable[[int, Step, Tensor], None] | None,
    ) -> Tensor:
        for number, step in enumerate(steps):
            I_t = _moved(diffusion, step, I_t, I_in, mask)
            if on_step is not None:
                on_step(number, step, I_t)
        return I_t

    return ResidualDiffusion.sample(diffusion, I_in, steps=steps, walk=walk, **options)


def _check_start(trained: Schedule, steps: Sequence[Step]) -> None:
    start, end = steps[0].beta_bar, float(trained.beta_bar[-1])
    if abs(start - end) > 0.01:
        raise ValueError(
            f"the path starts at beta_bar {start:.3f} and the model was trained up to {end:.3f}: "
            "take a schedule of the same sum_scale"
        )


def _moved(diffusion: ResidualDiffusion, step: Step, I_t: Tensor, I_in: Tensor | None, mask: Tensor | None) -> Tensor:
    wanted = tuple(i for i, k in enumerate((step.k_res, step.k_noise)) if k)
    if not wanted:
        return I_t
    x = diffusion.network_input(I_t, I_in, mask)
    T = diffusion.num_timesteps
    times = [torch.full((len(I_t),), c * T, device=I_t.device) for c in (step.alpha_bar, step.beta_bar)]
    found = dict(zip(wanted, diffusion.model(x, times, None, only=wanted), strict=True))
    if 0 in found:
        I_t = I_t + step.k_res * found[0].clamp(-diffusion.clip_res, diffusion.clip_res)
    return I_t + step.k_noise * found[1] if 1 in found else I_t
