"""`RDDMScheduler`: RDDM's schedules and reverse steps behind the methods that diffusers calls."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...ops.forward_diffuse import forward_diffuse
from ...ops.reverse_step import reverse_step
from ...theory.ddim import converted
from ...theory.objective import Objective, at_test
from ...theory.schedule import Schedule
from ...theory.steps import Step, check_eta, model_steps, step_between

FAMILIES = ("triangular", "power", "ddim")


@dataclass
class RDDMSchedulerOutput(BaseOutput):
    """What a step gives, each (B, C, H, W) in the sample's dtype.

    Attributes:
        prev_sample: the next, less noisy image.
        pred_original_sample: the clean image that the network's output stands for, clamped.
        pred_residual: the residual that it stands for, clamped.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor | None = None
    pred_residual: Tensor | None = None


class RDDMScheduler(SchedulerMixin, ConfigMixin):
    """The schedule and the reverse steps of a residual denoising diffusion model (Liu et al., CVPR 2024).

    Images are in [-1, 1]. A model that restores starts from the degraded image plus `init_noise_sigma` times noise.

    Args:
        num_train_timesteps: T.
        family: "triangular", "power" or "ddim", as in `Schedule`.
        alpha_shape, alpha_ratio: the curve of alpha. None is "decreased"; in the family "ddim" it is the converted one.
        beta2_shape, beta2_ratio: the curve of the noise's variance, not in the family "ddim".
        beta_schedule: DDPM's schedule by diffusers' name, in the family "ddim".
        sum_scale: the variance of the noise that sampling starts from. "ddim" has 1.
        objective: what the network's output means (`theory.objective`).
        test_res_or_noise: sample with one of two outputs only: "res", "noise", or None for both.
        clip_residual, clip_sample: half-widths of the clamps of residual and clean image; None for no clamp.
        eta: stochasticity of the steps, 0 to 1.
        condition: the model restores: `step` needs the degraded image.
        official_two_pass: few steps take a pass for the residual, then one for the noise (`theory.steps.two_pass`).
        trained_betas: DDPM's variances (T,) to convert instead of the family.
        alpha_bar, beta_bar, delta_bar: a schedule's tables (T,) instead of the family; the third is DiffUIR's, or None.

    Attributes:
        schedule: the `Schedule`, which is not in the configuration.
        betas: the roots of the noise's variances, (T,), by the published name.

    Raises:
        ValueError: an unknown name, or tables that are no schedule.
    """

    __module__ = "rddm_fast.integrations.diffusers"  # by this name saved pipelines find the class
    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        family: str = "triangular",
        alpha_shape: str | None = None,
        alpha_ratio: float = 1.0,
        beta2_shape: str = "increased",
        beta2_ratio: float = 1.0,
        beta_schedule: str = "linear",
        sum_scale: float = 1.0,
        objective: str = "pred_res",
        test_res_or_noise: str | None = None,
        clip_residual: float | None = 1.0,
        clip_sample: float | None = 1.0,
        eta: float = 0.0,
        condition: bool = False,
        official_two_pass: bool = False,
        trained_betas: Sequence[float] | None = None,
        alpha_bar: Sequence[float] | None = None,
        beta_bar: Sequence[float] | None = None,
        delta_bar: Sequence[float] | None = None,
    ) -> None:
        at_test(objective, test_res_or_noise)
        check_eta(eta)
        self.schedule = self._configured_schedule()
        self.betas = self.schedule.buffers()["betas"]
        self.init_noise_sigma = math.sqrt(self.schedule.sum_scale)
        self.set_timesteps(self.schedule.timesteps)

    @classmethod
    def from_schedule(cls, schedule: Schedule, **settings: Any) -> RDDMScheduler:
        """Make the scheduler of any `Schedule`: by its family's arguments, or else by its tables.

        Args:
            settings: the arguments of the class that are no schedule's: objective, eta and so on.
        """
        recipe, named = schedule.recipe, {}
        if recipe.get("family") in FAMILIES:
            alpha, beta2 = recipe.get("alpha", {}), recipe.get("beta2", {})
            named = {
                "family": recipe["family"],
                "alpha_shape": alpha.get("shape"),
                "alpha_ratio": alpha.get("ratio", 1.0),
                "beta2_shape": beta2.get("shape", "increased"),
                "beta2_ratio": beta2.get("ratio", 1.0),
                "beta_schedule": recipe.get("beta_schedule", "linear"),
                "sum_scale": schedule.sum_scale,
            }
            found = cls(schedule.timesteps, **named, **settings)
            if found.schedule.recipe == recipe:
                return found
        tables = {name: getattr(schedule, name) for name in ("alpha_bar", "beta_bar", "delta_bar")}
        lists = {name: None if table is None else table.tolist() for name, table in tables.items()}
        return cls(schedule.timesteps, family="tables", sum_scale=schedule.sum_scale, **lists, **settings)

    def _configured_schedule(self) -> Schedule:
        settings = self.config
        T, shape = settings.num_train_timesteps, settings.alpha_shape
        if settings.trained_betas is not None:
            return converted(torch.tensor(settings.trained_betas, dtype=torch.float32))
        if (settings.alpha_bar is None) != (settings.beta_bar is None):
            raise ValueError("alpha_bar and beta_bar are one schedule's two tables: pass both or neither")
        if settings.alpha_bar is not None:
            return Schedule.from_tables(
                settings.alpha_bar, settings.beta_bar, settings.sum_scale, delta_bar=settings.delta_bar
            )
        if settings.family == "triangular":
            return Schedule.triangular(T, settings.sum_scale, shape or "decreased", settings.beta2_shape)
        if settings.family == "power":
            alpha = (shape or "decreased", settings.alpha_ratio)
            return Schedule.power(T, settings.sum_scale, alpha, (settings.beta2_shape, settings.beta2_ratio))
        if settings.family == "ddim":
            readjusted = None if shape is None else (shape, settings.alpha_ratio)
            return Schedule.from_ddim(T, settings.beta_schedule, alpha=readjusted)
        raise ValueError(f"unknown family {settings.family!r}: choose one of {', '.join(FAMILIES)}")

    @classmethod
    def _get_compatibles(cls) -> list[type]:
        # diffusers looks for the names in its own namespace, where ours is not.
        return [cls]

    def __len__(self) -> int:
        return self.schedule.timesteps

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return the sample as it is: RDDM's networks take it so."""
        return sample

    # -- the indices ------------------------------------------------------------------------------------------

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> None:
        """Choose the indices to visit, as `timesteps` (int64, descending) on `device`.

        Args:
            num_inference_steps: their number, at most T. T itself is the ancestral sampler, which takes no eta.
            timesteps: the indices themselves, instead of a number.

        Raises:
            ValueError: neither or both, a number out of range, or indices that do not descend within 0 to T - 1.
        """
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("pass either num_inference_steps or timesteps")
        self._chosen = num_inference_steps if timesteps is None else [int(t) for t in timesteps]
        if isinstance(self._chosen, list):
            bounded = [len(self), *self._chosen, -1]
            if len(bounded) == 2 or any(t <= s for t, s in pairwise(bounded)):
                raise ValueError(f"timesteps must descend within {len(self) - 1} to 0, not {self._chosen}")
        self._steps: dict[float, list[Step]] = {}
        indices = [step.t for step in self._steps_of(self.config.eta)]
        self.timesteps = torch.tensor(indices, dtype=torch.int64, device=device)
        self.num_inference_steps = len(indices)
        self._taken = 0

    def _steps_of(self, eta: float) -> list[Step]:
        """Return the steps along the chosen indices."""
        if eta not in self._steps:
            if isinstance(self._chosen, list):
                legs = pairwise([*self._chosen, -1])
                self._steps[eta] = [step_between(self.schedule, t, s, eta) for t, s in legs]
            else:
                two_pass = self.config.official_two_pass
                self._steps[eta] = model_steps(self.schedule, self._chosen or 0, eta, official_two_pass=two_pass)
        return self._steps[eta]

    def previous_timestep(self, timestep: int) -> int:
        """Return the largest visited index below `timestep`, or -1, the clean image."""
        return max((t for t in self.timesteps.tolist() if t < timestep), default=-1)

    def _step_at(self, t: int, eta: float) -> Step:
        """Return the step from `t`: the next of the chosen ones that starts there, or one of its own."""
        if not 0 <= t < len(self):
            raise ValueError(f"the timestep is {t}: choose one from 0 to {len(self) - 1}")
        steps = self._steps_of(eta)
        # The two passes visit an index twice, so the search begins behind the last step taken.
        order = [*range(self._taken, len(steps)), *range(self._taken)]
        number = next((i for i in order if steps[i].t == t), None)
        if number is None:
            return step_between(self.schedule, t, self.previous_timestep(t), eta)
        self._taken = number + 1
        return steps[number]

    # -- the two processes ------------------------------------------------------------------------------------

    def step(
        self,
        model_output: Tensor | Sequence[Tensor],
        timestep: int | Tensor,
        sample: Tensor,
        image: Tensor | None = None,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> RDDMSchedulerOutput | tuple[Tensor, ...]:
        """Step from the image at `timestep` to the next one.

        Args:
            model_output: the network's output: (B, C, H, W), or for two-output objectives a tuple of two of them, or
                both along the channels (B, 2C, H, W).
            timestep: an index, as in `timesteps`.
            sample: the current image (B, C, H, W) in [-1, 1], in float32, bfloat16 or float16.
            image: the degraded image, like `sample`; None for generation.
            eta: stochasticity, 0 to 1; None takes the configured one.
            generator: the generator of the noise, where the step draws.
            variance_noise: the noise itself, like `sample`.
            return_dict: return an `RDDMSchedulerOutput`, otherwise a tuple of its three images.

        Raises:
            ValueError: an output that does not fit the objective, a timestep out of range, or no degraded image for a
                model that restores.
        """
        if self.config.condition and image is None:
            raise ValueError("this scheduler belongs to a model that restores: pass the degraded image as image=")
        step = self._step_at(int(timestep), self.config.eta if eta is None else eta)
        if variance_noise is None and step.draws:
            variance_noise = randn_tensor(sample.shape, generator, sample.device, sample.dtype)
        objective, out0, out1 = self._outputs(model_output, sample)
        clips = self.config.clip_residual, self.config.clip_sample
        clip_res, clip_0 = (math.inf if clip is None else clip for clip in clips)
        I_in = None if image is None else image.to(sample.dtype)

        def taken(step: Step, noise: Tensor | None = None) -> Tensor:
            known: dict[str, Any] = {"objective": objective, "I_in": I_in, "clip_res": clip_res, "clip_0": clip_0}
            return reverse_step(sample, out0, out1, **step.numbers, **known, noise=noise)

        clean = step.to_clean
        prev_sample = taken(step, variance_noise if step.draws else None)
        images = prev_sample, taken(clean), taken(replace(clean, k_0=0.0, k_res=1.0))
        return RDDMSchedulerOutput(*images) if return_dict else images

    def _outputs(
        self, model_output: Tensor | Sequence[Tensor], sample: Tensor
    ) -> tuple[Objective, Tensor, Tensor | None]:
        """Return the objective to read out with, and the one or two outputs that it takes."""
        objective, wanted = at_test(self.config.objective, self.config.test_res_or_noise)
        number = Objective.parse(self.config.objective).outputs
        outputs = [model_output] if isinstance(model_output, Tensor) else list(model_output)
        if len(outputs) == 1 and number == 2 and outputs[0].shape[1] == 2 * sample.shape[1]:
            outputs = list(outputs[0].chunk(2, dim=1))
        if len(outputs) == number:
            outputs = [outputs[i] for i in wanted]
        if len(outputs) != len(wanted) or any(out.shape != sample.shape for out in outputs):
            shapes = " and ".join(str(tuple(out.shape)) for out in outputs)
            several = ", as a tuple or along the channels" if number == 2 else ""
            raise ValueError(
                f"objective {self.config.objective} takes {number} output{'s' * (number > 1)} of the sample's shape "
                f"{tuple(sample.shape)}{several}, not {shapes}"
            )
        # The step takes outputs in half precision beside a float32 image, otherwise all in one dtype.
        if sample.dtype != torch.float32:
            outputs = [out.to(sample.dtype) for out in outputs]
        return objective, outputs[0], outputs[1] if len(outputs) > 1 else None

    def add_noise(
        self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, image: Tensor | None = None
    ) -> Tensor:
        """Apply the forward process: I_t of clean images, their degraded ones and standard normal noise.

        Args:
            original_samples, noise, image: (B, C, H, W) in [-1, 1]; without `image` it is 0, as in generation.
            timesteps: indices (B,) or (1,).
        """
        schedule, device = self.schedule, original_samples.device
        tables = [torch.from_numpy(table).float().to(device) for table in (schedule.alpha_bar, schedule.beta_bar)]
        t = timesteps.to(device, torch.int64).expand(len(original_samples)).contiguous()
        I_t = forward_diffuse(original_samples, image, t, *tables, noise=noise)
        if schedule.delta_bar is None or image is None:
            return I_t
        taken = torch.from_numpy(schedule.delta_bar).to(I_t)[t]
        return I_t - taken.view(-1, *(1,) * (I_t.dim() - 1)) * image
