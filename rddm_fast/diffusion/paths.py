"""Partially path-independent generation: the residual first, the noise first, or both together, under any schedule.

Let the residual network see only alpha_bar_t T and the noise network only beta_bar_t T, and let neither depend on the
other's coefficient. Then dI = I_res d alpha_bar + epsilon d beta_bar leads to nearly the same image along every
monotone path of (alpha_bar, beta_bar) (RDDM, section 4). A path is a list of `Step`s, like every sampler:

    images = sample_along(diffusion, path(diffusion.schedule, 10, "residual_first"), batch_size=4)[-1]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..theory.objective import Objective
from ..theory.schedule import Schedule
from ..theory.steps import Step
from .residual import ResidualDiffusion
from .start import Start


@torch.no_grad()
def sample_along(
    diffusion: ResidualDiffusion,
    steps: Sequence[Step],
    I_in: Tensor | None = None,
    mask: Tensor | None = None,
    **options: Any,
) -> list[Tensor]:
    """Sample along `steps`. The path's schedule may differ from the trained one, if both end at the same beta_bar.

    Each step evaluates only the networks whose coefficient moves. The residual is clamped, the noise is not.

    Args:
        steps: from `theory.steps.path`.
        I_in, mask, options: those of `ResidualDiffusion.sample`: batch_size, generator, draws, every_step, callback,
            progress.

    Returns:
        The images of `ResidualDiffusion.sample`, in [0, 1].

    Raises:
        ValueError: the model is not path-independent, its objective is not pred_res_noise, or the path does not start
            at the largest beta_bar of the training.
    """
    if not diffusion.path_independent or diffusion.objective is not Objective.pred_res_noise:
        kind = f"path_independent={diffusion.path_independent}, objective {diffusion.objective.name}"
        raise ValueError(
            f"a path needs two networks, pred_res_noise, that see alpha_bar and beta_bar (path_independent=True), and "
            f"this model has {kind}: train the preset 'path_independent'"
        )
    _check_ends(diffusion.schedule, steps)
    start = diffusion.start(steps, I_in, mask, **options)
    I_t = start.I_T
    for number, step in enumerate(start.steps):
        I_t = _moved(diffusion, step, I_t, start)
        if start.on_step is not None:
            start.on_step(number, step, I_t)
    return start.finished(I_t)


def _check_ends(trained: Schedule, steps: Sequence[Step]) -> None:
    start, end = steps[0].beta_bar, float(trained.beta_bar[-1])
    if abs(start - end) > 0.01:
        raise ValueError(
            f"the path starts at beta_bar {start:.3f} and the model was trained up to {end:.3f}: "
            "take a schedule of the same sum_scale"
        )


def _moved(diffusion: ResidualDiffusion, step: Step, I_t: Tensor, start: Start) -> Tensor:
    wanted = tuple(i for i, k in enumerate((step.k_res, step.k_noise)) if k)
    if not wanted:
        return I_t
    # Ask the networks whose coefficient moves, each at its own coefficient.
    x = diffusion.network_input(I_t, start.I_in, start.mask)
    T = diffusion.num_timesteps
    times = [torch.full((len(I_t),), c * T, device=I_t.device) for c in (step.alpha_bar, step.beta_bar)]
    found = dict(zip(wanted, diffusion.model(x, times, None, only=wanted), strict=True))
    # Move along both.
    if 0 in found:
        I_t = I_t + step.k_res * found[0].clamp(-diffusion.clip_res, diffusion.clip_res)
    return I_t + step.k_noise * found[1] if 1 in found else I_t
