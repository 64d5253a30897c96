"""The published networks over ours: the same names and arguments, of both published generations and of DiffUIR."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..diffusion import unet
from ..diffusion.residual_unets import ResidualUnets
from ..theory.experiments import DIFFUIR, Experiment

_GENERATIONS = {0: "two", 1: "shared", -1: "one"}


def set_seed(SEED: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def experiment_of(*named: str | int | Experiment | None) -> Experiment | None:
    """Return the experiment that is named, or None if none is.

    Raises:
        ValueError: an unknown experiment, or two different ones.
    """
    found = {Experiment.parse(name) for name in named if name is not None}
    if len(found) > 1:
        raise ValueError(f"two experiments are named, {' and '.join(sorted(map(str, found)))}: name one")
    return found.pop() if found else None


def _common(
    dim_mults: Sequence[int],
    out_dim: int | None,
    channels: int,
    learned_variance: bool,
    sinusoidal: bool,
    experiment: Experiment | None,
) -> dict[str, Any]:
    """Return the arguments of our networks that both published classes work out alike."""
    if sinusoidal:
        raise ValueError(
            "learned or random sinusoidal time embeddings are refused by the published ResidualDiffusion "
            "and not built here: leave learned_sinusoidal_cond and random_fourier_features False"
        )
    common: dict[str, Any] = {"channels": channels, "out_dim": out_dim or channels * (2 if learned_variance else 1)}
    if experiment is DIFFUIR:
        common["padding_factor"] = 2 ** len(dim_mults)
    return common


class Unet(unet.Unet):
    """`rddm_fast.diffusion.unet.Unet` with the published arguments."""

    random_or_learned_sinusoidal_cond = False
    published: ClassVar[Experiment | None] = None

    def __init__(
        self,
        dim: int,
        init_dim: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        self_condition: bool = False,
        resnet_block_groups: int = 8,
        learned_variance: bool = False,
        learned_sinusoidal_cond: bool = False,
        random_fourier_features: bool = False,
        learned_sinusoidal_dim: int = 16,
        condition: bool = False,
        input_condition: bool = False,
        img_to_img_translation: bool = False,
    ) -> None:
        sinusoidal = learned_sinusoidal_cond or random_fourier_features
        super().__init__(
            dim,
            init_dim=init_dim,
            dim_mults=dim_mults,
            self_condition=self_condition,
            resnet_block_groups=resnet_block_groups,
            condition=condition,
            input_condition=input_condition,
            img_to_img_translation=img_to_img_translation,
            **_common(dim_mults, out_dim, channels, learned_variance, sinusoidal, self.published),
        )


class UnetRes(ResidualUnets):
    """The networks of an RDDM model, with the published arguments of both generations.

    Pass `share_encoder` (0: two U-Nets, 1: one encoder with two decoders, -1: one U-Net), or `num_unet` (2 or
    1) with `objective` and `test_res_or_noise`. Without either, the published default holds: `share_encoder` 1, or
    `num_unet` 1 for an `experiment` of the later generation.
    """

    random_or_learned_sinusoidal_cond = False
    published: ClassVar[Experiment | None] = None
    """The experiment of the module that was imported (`rddm_fast.compat.experiment5`, …)."""

    def __init__(
        self,
        dim: int,
        init_dim: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        self_condition: bool = False,
        resnet_block_groups: int = 8,
        learned_variance: bool = False,
        learned_sinusoidal_cond: bool = False,
        random_fourier_features: bool = False,
        learned_sinusoidal_dim: int = 16,
        share_encoder: int | None = None,
        condition: bool = False,
        input_condition: bool = False,
        *,
        num_unet: int | None = None,
        objective: str = "pred_res_noise",
        test_res_or_noise: str | None = "res_noise",
        img_to_img_translation: bool = False,
        experiment: str | int | None = None,
    ) -> None:
        known = experiment_of(experiment, self.published)
        if num_unet is not None and share_encoder is not None:
            raise ValueError("pass share_encoder or num_unet, not both: they are two generations' names for one choice")
        if num_unet is None and share_encoder is None:
            num_unet, share_encoder = (1, None) if known is not None and known.num_unet else (None, 1)
        if num_unet not in (None, 1, 2):
            raise ValueError(f"num_unet is 1 or 2, not {num_unet}")
        if share_encoder not in (None, *_GENERATIONS):
            raise ValueError(
                f"share_encoder is 0 (two U-Nets), 1 (shared encoder) or -1 (one U-Net), not {share_encoder}"
            )
        if known is not None and known.num_unet != (num_unet is not None):
            wanted, given = ("num_unet", "share_encoder") if known.num_unet else ("share_encoder", "num_unet")
            raise ValueError(f"experiment {known} chooses its networks by {wanted}, not by {given}: pass {wanted}=")
        networks = {1: "one", 2: "two"}[num_unet] if num_unet is not None else _GENERATIONS[share_encoder or 0]
        sinusoidal = learned_sinusoidal_cond or random_fourier_features
        common = _common(dim_mults, out_dim, channels, learned_variance, sinusoidal, known)
        super().__init__(
            dim,
            networks=networks,
            init_dim=init_dim,
            dim_mults=dim_mults,
            self_condition=self_condition,
            resnet_block_groups=resnet_block_groups,
            condition=condition,
            input_condition=input_condition,
            img_to_img_translation=img_to_img_translation,
            **common,
        )
        self.experiment = known
        self.condition = condition
        self.input_condition = input_condition
        self.channels = channels
        self.out_dim = common["out_dim"]
        self.self_condition = self_condition
        self.num_unet = num_unet
        self.share_encoder = share_encoder
        self.objective = objective
        self.test_res_or_noise = test_res_or_noise

    def forward(
        self,
        x: Tensor,
        time: Tensor | Sequence[Any],
        x_self_cond: Tensor | None = None,
        only: tuple[int, ...] | None = None,
    ) -> list[Tensor]:
        """Call the networks as the published code does. A single noise network takes the second of the two times."""
        if self.num_unet == 1 and self.objective == "pred_noise" and isinstance(time, (list, tuple)):
            time = time[1]
        return super().forward(x, time, x_self_cond, only)
