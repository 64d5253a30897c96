"""The published `ResidualDiffusion` over ours: the same arguments, methods and return values.

What the published code has in its source, to be edited, comes with one word here:

    ResidualDiffusion(..., experiment="translation")

`rddm_fast.theory.experiments` lists the words. `rddm_fast.compat.experiment5` and its sisters say it by their name.
Arguments are never modified.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..diffusion.residual import ResidualDiffusion as _ResidualDiffusion
from ..diffusion.start import to_signed
from ..theory.experiments import CHOICES, DDIM_CONVERSION, DIFFUIR, Experiment
from ..theory.objective import Objective, Prediction, at_test, decision
from ..theory.schedule import Schedule
from ..training.aosa import AutoObjective
from .networks import experiment_of

AUTO = "auto_res_noise"


class ResidualDiffusion(_ResidualDiffusion):
    """`rddm_fast.diffusion.ResidualDiffusion` with the published arguments, methods and return values.

    Args:
        experiment: the published experiment whose source this replaces: schedule, time input, sampling loop, `init()`.
            A model of the later generation (`num_unet`) that names none of the following warns, and takes the schedule
            of folder 6 with t as its time.
        convert_to_ddim: DDIM's schedule, by the coefficient transformation.
        path_independent: the networks see alpha_bar_t T and beta_bar_t T as their times.
        official_two_pass: few-step sampling takes a pass for the residual and a pass for the noise (`diffusion.paths`
            has the paper's own paths).
        schedule: any `theory.schedule.Schedule`, instead of the experiment's.
        delta_end: the last increment of DiffUIR's delta; for the experiment "diffuir" alone.

    As published, `sum_scale` None or 0 means 0.01 when restoring and 1 when generating, and a restoring model samples
    with eta = 0 whatever `ddim_sampling_eta` says, except DiffUIR's.

    With `objective="auto_res_noise"` (AOSA, one network) the parameter `alpha_res` weighs the two readings of the
    output. Sampling reads it whenever it is used: the residual above 1/2, else the noise. `decided` says what it stands
    for. `alpha_res_to_0_or_1` fixes the training from the start: 1 for the residual, 0 for the noise. Asking for a loss
    fixes it too, once `alpha_res` has left the band around 1/2. Checkpoints keep it.

    Raises:
        ValueError: arguments that do not fit together, in one sentence.
    """

    published: ClassVar[Experiment | None] = None
    """The experiment of the module that was imported (`rddm_fast.compat.experiment5`, …)."""

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
        convert_to_ddim: bool | None = None,
        path_independent: bool | None = None,
        schedule: Schedule | None = None,
        alpha_res_to_0_or_1: int | None = None,
        official_two_pass: bool | None = None,
        delta_end: float | None = None,
        experiment: str | int | None = None,
    ) -> None:
        if alpha_res_to_0_or_1 not in (None, 0, 1):
            raise ValueError(f"alpha_res_to_0_or_1 is 1 (residual), 0 (noise) or None, not {alpha_res_to_0_or_1!r}")
        later_generation = getattr(model, "num_unet", None) is not None
        known = experiment_of(experiment, self.published, getattr(model, "experiment", None))
        _check(known, later_generation, convert_to_ddim, path_independent, official_two_pass, schedule, delta_end)
        if known is None and later_generation and path_independent is schedule is convert_to_ddim is None:
            warnings.warn(
                "a published model of num_unet networks is one of several experiments, which differ in their source "
                f"alone: pass experiment= ({CHOICES}), or import from its module, such as rddm_fast.compat.experiment6",
                stacklevel=2,
            )
        scale = sum_scale or (0.01 if condition else 1.0)
        if schedule is None:
            schedule = _schedule(known, timesteps, scale, bool(convert_to_ddim), later_generation, delta_end)
        elif sum_scale:
            schedule = replace(schedule, sum_scale=sum_scale)
        # Without a test mode of its own, the model takes the one that its networks were built with.
        mode = test_res_or_noise
        if later_generation and mode in (None, "None"):
            mode = getattr(model, "test_res_or_noise", None)
        eta_is_0 = (known is not None and known.eta_is_0) or (condition and known is not DIFFUIR)
        self.automatic = objective == AUTO
        self.experiment, self.later_generation = known, later_generation
        super().__init__(
            model,
            schedule,
            objective="pred_res" if self.automatic else objective,
            condition=condition,
            input_condition=input_condition,
            input_condition_mask=input_condition_mask,
            img_to_img_translation=img_to_img_translation,
            path_independent=known.path_independent if known else bool(path_independent),
            official_two_pass=known.two_pass if known else bool(official_two_pass),
            test_res_or_noise=mode,
            loss_type="l1" if known is DIFFUIR else loss_type,  # DiffUIR's code does not heed it.
            sampling_timesteps=sampling_timesteps,
            eta=0.0 if eta_is_0 else ddim_sampling_eta,
            image_size=image_size,
        )
        if self.automatic:
            start = 0.5 if alpha_res_to_0_or_1 is None else float(alpha_res_to_0_or_1)
            self.alpha_res = nn.Parameter(torch.full((1,), start), requires_grad=alpha_res_to_0_or_1 is None)
            self.alpha_res_to_0_or_1 = alpha_res_to_0_or_1
            self.register_load_state_dict_post_hook(lambda module, _keys: module.keep_decision())

    # -- AOSA ---------------------------------------------------------------------------------------------

    @property
    def decided(self) -> Objective | None:
        """The objective that `alpha_res` stands for, pred_res or pred_noise; None within the band, and without AOSA."""
        return decision(self.alpha_res) if self.automatic else None

    def keep_decision(self) -> None:
        """Train by the objective that `alpha_res` stands for. Loading a checkpoint calls this."""
        if self.decided is not None:
            self.alpha_res_to_0_or_1 = int(self.decided is Objective.pred_res)

    def _read_now(self) -> Objective | None:
        """The objective that sampling reads `alpha_res` as now; None without AOSA."""
        if not self.automatic or "alpha_res" not in self._parameters:
            return None
        return Objective.pred_res if float(self.alpha_res.detach()) > 0.5 else Objective.pred_noise

    @property
    def objective(self) -> Objective:
        """What the network's outputs mean."""
        return self._read_now() or self._objective

    @objective.setter
    def objective(self, objective: Objective) -> None:
        self._objective = objective

    @property
    def read_objective(self) -> Objective:
        """What the outputs that sampling takes mean."""
        now = self._read_now()
        return self._read_objective if now is None else at_test(now, None)[0]

    @read_objective.setter
    def read_objective(self, objective: Objective) -> None:
        self._read_objective = objective

    # -- the published attributes and methods -------------------------------------------------------------

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
        """Rebuild the coefficients for testing: from `schedule`, or as the experiment's source does.

        Without an experiment the present schedule stays; one that was converted from DDIM gets the published first
        increments.
        """
        if schedule is None:
            schedule = self.schedule
            if self.experiment is not None and self.experiment.rebuilt is not None:
                schedule = self.experiment.rebuilt(schedule)
            elif schedule.recipe.get("family") == "ddim":
                schedule = replace(schedule, recipe={**schedule.recipe, "boundary": "test"})
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

        For `share_encoder` it is a scalar, the sum over the outputs; for `num_unet` a list, one loss per output. AOSA
        returns the loss of the residual and that of the noise; 0 stands for the one that it has decided against.
        """
        truth, *rest = [imgs] if isinstance(imgs, Tensor) else imgs
        I_in = rest[0] if rest else None
        mask = rest[1] if self.input_condition and len(rest) > 1 else None
        if self.automatic:
            fixed = self.alpha_res_to_0_or_1
            weight = self.alpha_res if fixed is None else nn.Parameter(torch.full_like(self.alpha_res, float(fixed)))
            noise = torch.randn_like(truth) if noise is None else noise
            losses = AutoObjective(self, weight)(truth, I_in, t, mask, noise)
            self.keep_decision()
            return [losses.residual, losses.noise]
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


def _check(
    known: Experiment | None,
    later_generation: bool,
    convert_to_ddim: bool | None,
    path_independent: bool | None,
    official_two_pass: bool | None,
    schedule: Schedule | None,
    delta_end: float | None,
) -> None:
    """Raise ValueError for arguments that contradict the experiment or each other."""
    if schedule is not None and convert_to_ddim:
        raise ValueError("pass schedule or convert_to_ddim=True, not both")
    if delta_end is not None and known is not DIFFUIR:
        raise ValueError("delta_end is DiffUIR's: pass experiment='diffuir' with it")
    if known is None:
        return
    if known is DDIM_CONVERSION:
        raise ValueError(
            f"experiment {known} samples pipelines of diffusers: run rddm-fast ddim FOLDER, or call "
            "rddm_fast.models.from_diffusers.from_diffusers"
        )
    if known.num_unet != later_generation:
        wanted = "num_unet" if known.num_unet else "share_encoder"
        raise ValueError(f"experiment {known} has networks chosen by {wanted}: build UnetRes with {wanted}=")
    converted = known.schedule(2, 1.0).recipe["family"] == "ddim"
    for name, value, has in (
        ("convert_to_ddim", convert_to_ddim, converted),
        ("path_independent", path_independent, known.path_independent),
        ("official_two_pass", official_two_pass, known.two_pass),
    ):
        if value not in (None, has):
            raise ValueError(f"{name}={value} contradicts experiment {known}: leave one of them out")


def _schedule(
    known: Experiment | None,
    timesteps: int,
    sum_scale: float,
    convert_to_ddim: bool,
    later_generation: bool,
    delta_end: float | None,
) -> Schedule:
    """Return the schedule of the experiment, or of a generation's default."""
    if known is DIFFUIR:
        options = {} if delta_end is None else {"delta_end": delta_end}
        return Schedule.diffuir(timesteps, sum_scale=sum_scale, **options)
    if convert_to_ddim or (known is not None and known.schedule(2, 1.0).recipe["family"] == "ddim"):
        if sum_scale != 1:
            warnings.warn(
                f"a schedule converted from DDIM ends at beta_bar_T = 1, but sampling would start from noise of "
                f"variance sum_scale={sum_scale}: pass sum_scale=1",
                stacklevel=3,
            )
        return replace(Schedule.from_ddim(timesteps), sum_scale=sum_scale)
    if known is not None:
        return known.schedule(timesteps, sum_scale)
    return (Schedule.power if later_generation else Schedule.triangular)(timesteps, sum_scale)
