"""DiffUIR's names (Zheng et al., CVPR 2024) over ours: its scripts import them from here instead of from src.model.

    from rddm_fast.compat.diffuir import ResidualDiffusion, Trainer, Unet, UnetRes, set_seed

DiffUIR restores five kinds of damage with one network. Its forward process takes a share of the degraded image away,
delta_bar_t I_in, and its steps put it back (`theory.steps.diffuir_steps`). Images are padded to a multiple of 2 to the
number of the network's stages. With as many sampling steps as `timesteps` its own code fails; here that many steps of
the same kind are taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..theory.experiments import DIFFUIR
from ..theory.objective import Prediction
from . import diffusion, networks
from .networks import set_seed
from .trainers.diffuir import Trainer

__all__ = ["ResidualDiffusion", "Trainer", "Unet", "UnetRes", "set_seed"]


class Unet(networks.Unet):
    published = DIFFUIR


class UnetRes(networks.UnetRes):
    published = DIFFUIR


class ResidualDiffusion(diffusion.ResidualDiffusion):
    """DiffUIR's class: images are passed as tensors in [0, 1], and tasks are accepted without effect, as published."""

    published = DIFFUIR

    def model_predictions(  # type: ignore[override]
        self, x_input: Tensor, x: Tensor, t: Tensor, task: Any = None, clip_denoised: bool = True
    ) -> Prediction:
        """Return (pred_res, pred_noise, pred_x_start) for `x` at `t`, in [-1, 1]."""
        return super().model_predictions(x_input, x, t, clip_denoised=clip_denoised)

    def q_sample(  # type: ignore[override]
        self, x_start: Tensor, x_res: Tensor, condition: Tensor, t: Tensor, noise: Tensor | None = None
    ) -> Tensor:
        """Return I_t of the clean image, the residual and the degraded image, in [-1, 1]."""
        return super().q_sample(x_start, x_res, t, noise)

    def p_losses(  # type: ignore[override]
        self, imgs: Sequence[Any], t: Tensor, noise: Tensor | None = None
    ) -> list[Tensor]:
        """Return the training loss of images in [0, 1], `[truth, input(, tasks)]`, in a list."""
        truth, I_in = (image * 2 - 1 for image in imgs[:2])
        return self.losses(truth, I_in, t, noise=noise)

    def forward(  # type: ignore[override]
        self, img: Sequence[Any], noise: Tensor | None = None
    ) -> list[Tensor]:
        """Return the training loss of images in [0, 1] at random times."""
        t = torch.randint(0, self.num_timesteps, (len(img[0]),), device=img[0].device).long()
        return self.p_losses(img, t, noise)

    def sample(  # type: ignore[override]
        self,
        x_input: Tensor,
        batch_size: int = 16,
        last: bool = True,
        task: Any = None,
        **options: Any,
    ) -> list[Tensor]:
        """Restore `x_input`, (B, C, H, W) in [0, 1], to the noisy start and the image after every step.

        As published, `last` has no effect.
        """
        return super().sample([x_input], last=False, **options)
