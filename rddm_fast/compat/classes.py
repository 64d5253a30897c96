"""The published classes over ours: the same names, arguments, methods and return values.

Both published generations are covered: `share_encoder` (the deraining experiment), and `num_unet` with
`test_res_or_noise` (the others). What the published code has in its source, to be edited, is a keyword here:
`ResidualDiffusion(..., convert_to_ddim=False, path_independent=False, schedule=None)`. Arguments are never modified.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..diffusion import unet
from ..diffusion.residual import ResidualDiffusion as _ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..diffusion.start import to_signed
from ..theory.objective import Objective, Prediction, at_test, decision
from ..theory.schedule import Schedule
from ..theory.steps import Step, two_pass
from ..training.aosa import AutoObjective
from .gaussian import GaussianDiffusion
from .trainer import Trainer

__all__ = ["GaussianDiffusion", "ResidualDiffusion", "Trainer", "Unet", "UnetRes", "set_seed"]

AUTO = "auto_res_noise"

_GENERATIONS = {0: "two", 1: "shared", -1: "one"}


def set_seed(SEED: int) -> None:
    """Seed Python, NumPy and torch on every device."""
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


def _image_arguments(out_dim: int | None, channels: int, learned_variance: bool, sinusoidal: bool) -> dict[str, int]:
    if sinusoidal:
        raise ValueError(
            "learned or random sinusoidal time embeddings are refused by the published ResidualDiffusion "
            "and not built here: leave learned_sinusoidal_cond and random_fourier_features False"
        )
    return {"channels": channels, "out_dim": out_dim or channels * (2 if learned_variance else 1)}


class Unet(unet.Unet):
    """`rddm_fast.diffusion.unet.Unet` with the published arguments."""

    random_or_learned_sinusoidal_cond = False

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
        super().__init__(
            dim,
            init_dim=init_dim,
            dim_mults=dim_mults,
            self_condition=self_condition,
            resnet_block_groups=resnet_block_groups,
            condition=condition,
            input_condition=input_condition,
            img_to_img_translation=img_to_img_translation,
            **_image_arguments(out_dim, channels, learned_variance, learned_sinusoidal_cond or random_fourier_features),
        )


class UnetRes(ResidualUnets):
    """The networks of an RDDM model, with the published arguments of both generations.

    Pass `share_encoder` (0: two U-Nets, 1: one encoder with two decoders, -1: one U-Net), or `num_unet` (2 or
    1) with `objective` and `test_res_or_noise`. Without either, `share_encoder` is 1, as published.
    """

    random_or_learned_sinusoidal_cond = False

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
    ) -> None:
        if num_unet is not None and share_encoder is not None:
            raise ValueError("pass share_encoder or num_unet, not both: they are two generations' names for one choice")
        if num_unet not in (None, 1, 2):
            raise ValueError(f"num_unet is 1 or 2, not {num_unet}")
        if share_encoder not in (None, *_GENERATIONS):
            raise ValueError(
                f"share_encoder is 0 (two U-Nets), 1 (shared encoder) or -1 (one U-Net), not {share_encoder}"
            )
        if num_unet is not None:
            networks = "two" if num_unet == 2 else "one"
        else:
            networks = _GENERATIONS[1 if share_encoder is None else share_encoder]
        images = _image_arguments(
            out_dim, channels, learned_variance, learned_sinusoidal_cond or random_fourier_features
        )
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
            **images,
        )
        self.condition = condition
        self.input_condition = input_condition
        self.channels = channels
        self.out_dim = images["out_dim"]
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


def _default_schedule(timesteps: int, sum_scale: float, convert_to_ddim: bool, later_generation: bool) -> Schedule:
    """Return the schedule of an experiment that does not name one."""
    if convert_to_ddim:
        return replace(Schedule.from_ddim(timesteps), sum_scale=sum_scale)
    return (Schedule.power if later_generation else Schedule.triangular)(timesteps, sum_scale)


class ResidualDiffusion(_ResidualDiffusion):
    """`rddm_fast.diffusion.ResidualDiffusion` with the published arguments, methods and return values.

    What the published code has in its source, to be edited, is a keyword here:

    * `convert_to_ddim=True`: DDIM's schedule, by the coefficient transformation.
    * `path_independent=True`: the networks see alpha_bar_t T and beta_bar_t T as their times.
    * `official_two_pass=True`: few-step sampling runs the loop of the published path-independent experiment, a pass for
      the residual and a pass for the noise (`diffusion.paths` has the paper's own paths).
    * `schedule`: any `theory.schedule.Schedule`. The default depends on the generation: triangular for `share_encoder`,
      power (ratio 1) for `num_unet`.

    As published, `sum_scale` None or 0 means 0.01 when restoring and 1 when generating, and a restoring model samples
    with eta = 0 whatever `ddim_sampling_eta` says.

    With `objective="auto_res_noise"` (AOSA, one network) the parameter `alpha_res` weighs the two readings of the
    output, and `decided` says which one it has chosen. `alpha_res_to_0_or_1` fixes the choice from the start: 1 for the
    residual, 0 for the noise. `alpha_res` keeps it, and so do checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: int,
        timesteps: int = 1000,
        sampling_timesteps: int | None = None,
        loss_type: str = "l1",
        objective: str = "pred_res_noise",
        ddim_sampling_eta: float = 0.0,
        condition: bool = False,
        sum_scale: float | None = None,
        input_condition: bool = False,
        input_condition_mask: bool = False,
        test_res_or_noise: str | None = "None",
        img_to_img_translation: bool = False,
        convert_to_ddim: bool = False,
        path_independent: bool = False,
        schedule: Schedule | None = None,
        alpha_res_to_0_or_1: int | None = None,
        official_two_pass: bool = False,
    ) -> None:
        if alpha_res_to_0_or_1 not in (None, 0, 1):
            raise ValueError(f"alpha_res_to_0_or_1 is 1 (residual), 0 (noise) or None, not {alpha_res_to_0_or_1!r}")
        self.automatic = objective == AUTO
        self.official_two_pass = official_two_pass
        later_generation = getattr(model, "num_unet", None) is not None
        if schedule is not None and convert_to_ddim:
            raise ValueError("pass schedule or convert_to_ddim=True, not both")
        if schedule is None:
            scale = sum_scale or (0.01 if condition else 1.0)
            if convert_to_ddim and scale != 1:
                warnings.warn(
                    f"a schedule converted from DDIM ends at beta_bar_T = 1, but sampling would start from noise of "
                    f"variance sum_scale={scale}: pass sum_scale=1",
                    stacklevel=2,
                )
            schedule = _default_schedule(timesteps, scale, convert_to_ddim, later_generation)
        elif sum_scale:
            schedule = replace(schedule, sum_scale=sum_scale)
        mode = test_res_or_noise
        if later_generation and mode in (None, "None"):
            mode = getattr(model, "test_res_or_noise", None)
        super().__init__(
            model,
            schedule,
            objective="pred_res" if self.automatic else objective,
            condition=condition,
            input_condition=input_condition,
            input_condition_mask=input_condition_mask,
            img_to_img_translation=img_to_img_translation,
            path_independent=path_independent,
            test_res_or_noise=mode,
            loss_type=loss_type,
            sampling_timesteps=sampling_timesteps,
            eta=0.0 if condition else ddim_sampling_eta,
            image_size=image_size,
        )
        self.later_generation = later_generation
        if self.automatic:
            start = 0.5 if alpha_res_to_0_or_1 is None else float(alpha_res_to_0_or_1)
            self.alpha_res = nn.Parameter(torch.full((1,), start), requires_grad=alpha_res_to_0_or_1 is None)
            self.read_objective_of_alpha_res()
            self.register_load_state_dict_post_hook(lambda module, _keys: module.read_objective_of_alpha_res())

    def steps(self, sampling_timesteps: int | None = None, eta: float | None = None) -> list[Step]:
        """Return the reverse steps; with `official_two_pass` those of both passes."""
        steps = super().steps(sampling_timesteps, eta)
        return two_pass(steps) if self.official_two_pass and len(steps) < self.num_timesteps else steps

    @property
    def decided(self) -> Objective | None:
        """The objective that AOSA has chosen, pred_res or pred_noise; None until then, and without AOSA."""
        return decision(self.alpha_res) if self.automatic else None

    @property
    def alpha_res_to_0_or_1(self) -> int | None:
        """The decision in the published form: 1 for the residual, 0 for the noise, None if there is no decision."""
        return None if self.decided is None else int(self.decided is Objective.pred_res)

    def read_objective_of_alpha_res(self) -> None:
        """Set the objective by `alpha_res`: the residual above 1/2, else the noise. Loading a checkpoint calls this."""
        self.objective = Objective.pred_res if float(self.alpha_res.detach()) > 0.5 else Objective.pred_noise
        self.read_objective, self.read_outputs = at_test(self.objective, None)

    @property
    def is_ddim_sampling(self) -> bool:
        return self.sampling_timesteps < self.num_timesteps

    @property
    def sum_scale(self) -> float:
        return self.schedule.sum_scale

    @property
    def ddim_sampling_eta(self) -> float:
        return self.eta

    def init(self, schedule: Schedule | None = None) -> None:
        """Rebuild the coefficients for testing: from `schedule`, or from the present one and its first increment."""
        if schedule is None:
            recipe = self.schedule.recipe
            if recipe.get("family") == "ddim":
                recipe = {**recipe, "boundary": "test"}
            schedule = replace(self.schedule, recipe=recipe)
        self.schedule = schedule
        for name, values in schedule.buffers().items():
            setattr(self, name, values.to(self.device))

    def q_sample(self, x_start: Tensor, x_res: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return I_t of the clean image and the residual, both in [-1, 1] (RDDM, eq. 7)."""
        return super().q_sample(x_start, x_res, t, noise)

    def model_predictions(
        self,
        x_input: Tensor | float,
        x: Tensor,
        t: Tensor,
        x_input_condition: Tensor | float = 0,
        x_self_cond: Tensor | None = None,
        clip_denoised: bool = True,
    ) -> Prediction:
        """Return (pred_res, pred_noise, pred_x_start) for `x` at `t`; `x_input` is 0 to generate."""
        I_in = x_input if isinstance(x_input, Tensor) else None
        mask = x_input_condition if isinstance(x_input_condition, Tensor) else None
        return self.predict(x, t, I_in, mask, x_self_cond, clip=clip_denoised)

    def p_losses(
        self, imgs: Tensor | Sequence[Tensor], t: Tensor, noise: Tensor | None = None
    ) -> Tensor | list[Tensor]:
        """Return the training loss of images already in [-1, 1]: `[truth, input(, mask)]`, or the truth alone.

        For `share_encoder` it is a scalar, the sum over the outputs; for `num_unet` a list, one loss per output.
        """
        truth, *rest = [imgs] if isinstance(imgs, Tensor) else imgs
        I_in = rest[0] if rest else None
        mask = rest[1] if self.input_condition and len(rest) > 1 else None
        if self.automatic:
            noise = torch.randn_like(truth) if noise is None else noise
            return [AutoObjective(self, self.alpha_res)(truth, I_in, t, mask, noise).total]
        losses = self.losses(truth, I_in, t, mask, noise)
        return losses if self.later_generation else torch.stack(losses).sum()

    def forward(self, img: Tensor | Sequence[Tensor], noise: Tensor | None = None) -> Tensor | list[Tensor]:
        """Return the training loss of images in [0, 1] at random times."""
        images = [img] if isinstance(img, Tensor) else list(img)
        keep = 2 if self.input_condition and self.input_condition_mask else len(images)
        signed = [to_signed(x) if i < keep else x for i, x in enumerate(images)]
        first, end = AutoObjective(self, self.alpha_res).times() if self.automatic else (0, self.num_timesteps)
        t = torch.randint(first, end, (signed[0].shape[0],), device=signed[0].device).long()
        return self.p_losses(signed if not isinstance(img, Tensor) else signed[0], t, noise)

    # The published signature. The package itself calls `start` and `walk`, which keep theirs.
    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        x_input: Tensor | Sequence[Tensor] | None = None,
        batch_size: int = 16,
        last: bool = True,
        **options: Any,
    ) -> list[Tensor]:
        """Restore `x_input` (a list: image, mask) to `[noisy input, result]`, or generate `[result]`.

        `last=False` returns the image after every step. All are in [0, 1], not clamped. `options` are those of
        `rddm_fast.diffusion.ResidualDiffusion.sample`: `callback`, `progress`, `generator`, ….
        """
        given = [] if x_input is None else ([x_input] if isinstance(x_input, Tensor) else list(x_input))
        I_in = given[0] if given and self.condition else None
        mask = given[1] if len(given) > 1 and self.input_condition else None
        return super().sample(I_in, mask, batch_size=batch_size, every_step=not last, **options)
