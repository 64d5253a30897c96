"""`ResidualDiffusion`: RDDM's training and sampling with a network, a schedule and an objective.

This is the readable reference. `sample` takes and returns images in [0, 1]; all other methods work in [-1, 1].
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..images.given.given import Given, check_settings, given
from ..theory.objective import Objective, Prediction, at_test, read_out, stacked, targets
from ..theory.schedule import Schedule
from ..theory.steps import Step, check_eta, model_steps, step_indices
from .reverse import reverse
from .start import Start, check_input, noise_source, to_signed, watcher

LOSSES = {"l1": F.l1_loss, "l2": F.mse_loss}


def _adopt_coefficients(module: nn.Module, _keys: Any) -> None:
    """After a state dict is loaded, sample with its coefficients: those of the training."""
    assert isinstance(module, ResidualDiffusion)
    names = ["alphas_cumsum", "betas_cumsum"] + (["delta_cumsum"] if module.schedule.delta_bar is not None else [])
    module.schedule = module.schedule.or_tables(*(module.get_buffer(name).double().cpu() for name in names))


class ResidualDiffusion(nn.Module):
    """A residual denoising diffusion model (Liu et al., CVPR 2024).

    Args:
        model: the networks, called with the concatenated input, their times and the self-condition.
        schedule: alpha_bar and beta_bar.
        objective: what the network's outputs mean (see `theory.objective`).
        condition: the model restores: sampling starts from the degraded image, and the network sees it.
        input_condition: the network also sees another image, for example a shadow mask.
        input_condition_mask: that image stays in [0, 1]; otherwise it is mapped to [-1, 1].
        img_to_img_translation: sampling starts from the degraded image, but the network does not see it.
        path_independent: the networks see alpha_bar_t T and beta_bar_t T as their times instead of t.
        official_two_pass: few-step sampling takes a pass for the residual and then a pass for the noise, as the
            published path-independent experiment does (`theory.steps.two_pass`).
        test_res_or_noise: sample with one of two networks only: "res", "noise", or None for both.
        loss_type: "l1" or "l2".
        sampling_timesteps: number of steps of `sample`; None for T, the ancestral sampler.
        eta: stochasticity of the few-step sampler, 0 to 1.
        clip_res: half-width of the residual's clamp. The published 1 is the default, although residuals span [-2, 2].
        image_size: height and width of a generated image in pixels; a restored one has the input's size.
        mask_marks: what is white in the mask: "change", pixels that were changed; "shadow", darkened ones, which are
            shown lit; "grey hole" or "filled hole", missing ones, shown as 0.5 or filled. Training looks at those
            alone, and sampling keeps the others. None, as published: the mask is an input.
        first_guess: the network sees the picture after a guess of its "exposure", "blur" or "noise" (`images.given`).
        clean_without: traces of "noise" or of JPEG's "blocks": a picture without them comes back as it is.
        global_exposure: how bright a region becomes depends on the whole picture; `Restorer` gives it one exposure.

    Raises:
        ValueError: settings that do not fit the model or the schedule.
    """

    clip_0 = 1.0
    """Half-width of the clean image's clamp."""

    def __init__(
        self,
        model: nn.Module,
        schedule: Schedule,
        *,
        objective: Objective | str = Objective.pred_res_noise,
        condition: bool = False,
        input_condition: bool = False,
        input_condition_mask: bool = False,
        img_to_img_translation: bool = False,
        path_independent: bool = False,
        official_two_pass: bool = False,
        test_res_or_noise: str | None = None,
        loss_type: str = "l1",
        sampling_timesteps: int | None = None,
        eta: float = 0.0,
        clip_res: float = 1.0,
        image_size: int | None = None,
        mask_marks: str | None = None,
        first_guess: str | None = None,
        clean_without: str | None = None,
        global_exposure: bool = False,
    ) -> None:
        super().__init__()
        if loss_type not in LOSSES:
            raise ValueError(f"loss_type is 'l1' or 'l2', not {loss_type!r}")
        check_settings(mask_marks, first_guess, clean_without, condition, input_condition)
        self.objective = Objective.parse(objective)
        self.read_objective, self.read_outputs = at_test(self.objective, test_res_or_noise)
        networks = getattr(model, "outputs", self.objective.outputs)
        if networks < self.objective.outputs:
            raise ValueError(
                f"objective={self.objective.name} needs {self.objective.outputs} outputs, but the model has "
                f"{networks}: choose pred_res, pred_noise or pred_x0, or a model of two networks"
            )
        self.model = model
        self.schedule = schedule
        self.condition = condition
        self.input_condition = input_condition
        self.input_condition_mask = input_condition_mask
        self.img_to_img_translation = img_to_img_translation
        self.path_independent = path_independent
        self.official_two_pass = official_two_pass
        self.test_res_or_noise = test_res_or_noise
        self.loss_type = loss_type
        self.sampling_timesteps = schedule.timesteps if sampling_timesteps is None else sampling_timesteps
        self.eta = eta
        self.clip_res = clip_res
        self.image_size = image_size
        self.mask_marks = mask_marks
        self.first_guess = first_guess
        self.clean_without = clean_without
        self.global_exposure = global_exposure
        for name, values in schedule.buffers().items():
            self.register_buffer(name, values)
        self.register_load_state_dict_post_hook(_adopt_coefficients)
        # A bad number of steps raises here, not when sampling.
        step_indices(schedule.timesteps, self.sampling_timesteps)
        if schedule.delta_bar is not None and not condition:
            raise ValueError("a schedule with delta_bar takes away the degraded image: it needs condition=True")
        if self.sampling_timesteps < schedule.timesteps:  # the ancestral sampler has no eta
            check_eta(eta)

    alphas_cumsum: Tensor
    betas_cumsum: Tensor

    @property
    def num_timesteps(self) -> int:
        """T."""
        return self.schedule.timesteps

    @property
    def device(self) -> torch.device:
        """The device that the model computes on."""
        return self.alphas_cumsum.device

    @property
    def channels(self) -> int:
        """Number of channels of an image."""
        return self.model.channels  # type: ignore[return-value]

    @property
    def self_condition(self) -> bool:
        """Whether the network sees its previous estimate of the clean image."""
        return self.model.self_condition  # type: ignore[return-value]

    # -- what the network is given ------------------------------------------------------------------------

    def network_times(self, t: Tensor) -> Tensor | list[Tensor]:
        """Return the networks' times for indices `t` (B,): t, or [alpha_bar_t T, beta_bar_t T] if path-independent."""
        if not self.path_independent:
            return t
        residual, noise = (self.alphas_cumsum[t] * self.num_timesteps, self.betas_cumsum[t] * self.num_timesteps)
        if self.objective.outputs == 1:
            return [noise, noise] if self.objective is Objective.pred_noise else [residual, residual]
        return [residual, noise]

    def network_input(self, I_t: Tensor, I_in: Tensor | None, mask: Tensor | None) -> Tensor:
        """Concatenate [I_t, I_in, mask] along the channels, as far as the model takes them; each (B, C, H, W)."""
        parts = [I_t, *self.constant_input(I_in, mask)]
        return torch.cat(parts, dim=1) if len(parts) > 1 else I_t

    def constant_input(self, I_in: Tensor | None, mask: Tensor | None) -> list[Tensor]:
        """Concatenate the inputs that no step changes, [I_in, mask], as far as the model takes them."""
        parts = []
        if self.condition and not self.img_to_img_translation:
            if I_in is None:
                raise ValueError("this model restores: it needs the degraded image (I_in)")
            parts.append(I_in)
        if self.input_condition:
            if mask is None:
                raise ValueError("this model was trained with a mask (input_condition=True): pass one")
            parts.append(mask)
        return parts

    def outputs(
        self,
        I_t: Tensor,
        t: Tensor,
        I_in: Tensor | None = None,
        mask: Tensor | None = None,
        x_self_cond: Tensor | None = None,
        only: tuple[int, ...] | None = None,
    ) -> tuple[Tensor, ...]:
        """Return the network's raw outputs at indices `t` (B,): those numbered in `only`, by default all it needs."""
        wanted = tuple(range(self.objective.outputs)) if only is None else only
        x, times = self.network_input(I_t, I_in, mask), self.network_times(t)
        if hasattr(self.model, "members"):  # Several networks: evaluate only those wanted.
            return tuple(self.model(x, times, x_self_cond, only=wanted))
        results = stacked(self.model(x, times, x_self_cond))
        return tuple(results[i] for i in wanted)

    # -- forward process and training ---------------------------------------------------------------------

    def _at(self, name: str, t: Tensor) -> Tensor:
        return getattr(self, name)[t][:, None, None, None]

    def q_sample(self, I_0: Tensor, I_res: Tensor, t: Tensor, /, noise: Tensor | None = None) -> Tensor:
        """Return `noised`, with fresh noise if none is given."""
        return self.noised(I_0, I_res, t, torch.randn_like(I_0) if noise is None else noise)

    def noised(self, I_0: Tensor, I_res: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Return I_t = I_0 + alpha_bar_t I_res + beta_bar_t epsilon (RDDM, eq. 7); images (B, C, H, W), `t` (B,).

        DiffUIR's schedule takes away delta_bar_t I_in too. The package itself calls this method: the published classes
        have a `q_sample` of their own.
        """
        I_t = I_0 + self._at("alphas_cumsum", t) * I_res + self._at("betas_cumsum", t) * noise
        return I_t if self.schedule.delta_bar is None else I_t - self._at("delta_cumsum", t) * (I_0 + I_res)

    def losses(
        self,
        I_0: Tensor,
        I_in: Tensor | None,
        t: Tensor,
        mask: Tensor | None = None,
        noise: Tensor | None = None,
        x_self_cond: Tensor | None = None,
    ) -> list[Tensor]:
        """Return one mean loss per output, for images in [-1, 1] and indices `t` (B,) (RDDM, eq. 12).

        A self-conditioned network sees its own estimate in half of the calls, unless `x_self_cond` is passed. With
        `mask_marks`, the first output is judged where the mask marks pixels alone.
        """
        noise = torch.randn_like(I_0) if noise is None else noise
        I_res = -I_0 if I_in is None else I_in - I_0
        I_t = self.noised(I_0, I_res, t, noise)
        if self.self_condition and x_self_cond is None and random.random() < 0.5:
            with torch.no_grad():
                x_self_cond = self.predict(I_t, t, I_in, mask).pred_x_start
        outputs = self.outputs(I_t, t, I_in, mask, x_self_cond)
        wanted = targets(self.objective, I_0, I_res, noise)
        outputs = (self.judged(outputs[0], wanted[0], mask), *outputs[1:])
        return [LOSSES[self.loss_type](out, target) for out, target in zip(outputs, wanted, strict=True)]

    def judged(self, out0: Tensor, target: Tensor, mask: Tensor | None) -> Tensor:
        """Return `out0` as the loss sees it: equal to the target wherever `Restorer` keeps the picture as it is."""
        return out0 if self.mask_marks is None or mask is None else torch.where(mask > 0, out0, target)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return `losses`: DDP and torch.compile intercept `forward`, so a training step must go through it."""
        return self.losses(*args, **kwargs)

    def predict(
        self,
        I_t: Tensor,
        t: Tensor,
        I_in: Tensor | None = None,
        mask: Tensor | None = None,
        x_self_cond: Tensor | None = None,
        clip: bool = True,
    ) -> Prediction:
        """Predict residual, noise and clean image at indices `t` (B,), all (B, C, H, W) in [-1, 1]."""
        out = self.outputs(I_t, t, I_in, mask, x_self_cond, self.read_outputs)
        read = read_out(
            self.read_objective,
            I_t,
            out[0],
            out[1] if len(out) > 1 else None,
            0.0 if I_in is None else I_in,
            self._at("alphas_cumsum", t),
            self._at("betas_cumsum", t),
            self._at("one_minus_alphas_cumsum", t),
            clip_res=self.clip_res if clip else math.inf,
            clip_0=self.clip_0 if clip else math.inf,
        )
        if self.schedule.delta_bar is not None and self.read_objective in (Objective.pred_res, Objective.pred_x0):
            # DiffUIR's I_t lacks delta_bar I_in, which the noise of a residual must not contain.
            assert I_in is not None
            missing = self._at("delta_cumsum", t) * I_in / self._at("betas_cumsum", t)
            read = read._replace(pred_noise=read.pred_noise + missing)
        return read

    # -- reverse process ----------------------------------------------------------------------------------

    def steps(self, sampling_timesteps: int | None = None, eta: float | None = None) -> list[Step]:
        """Make the reverse steps: ancestral for T steps, few-step for fewer. None takes the model's own settings."""
        count = self.sampling_timesteps if sampling_timesteps is None else sampling_timesteps
        eta = self.eta if eta is None else eta
        return model_steps(self.schedule, count, eta, official_two_pass=self.official_two_pass)

    def given(self, picture: Tensor, mask: Tensor | None = None) -> Given:
        """Prepare whole pictures, (B, C, H, W) in [0, 1], for the networks; the mask has their shape."""
        return given(picture, mask, self.mask_marks, self.first_guess, self.clean_without)

    def of_given(self) -> ResidualDiffusion:
        """Return this model, sharing the networks, for images that `given` has prepared already."""
        other = copy.copy(self)
        other.mask_marks = other.first_guess = other.clean_without = None
        return other

    def start(
        self,
        steps: Sequence[Step],
        I_in: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        batch_size: int = 16,
        generator: torch.Generator | None = None,
        draws: Iterable[Tensor] | None = None,
        every_step: bool = False,
        callback: Callable[[int, int, Tensor], None] | None = None,
        progress: Callable[[Sequence[Step]], Iterable[Step]] | None = None,
    ) -> Start:
        """Check the input, bring it to this model's device and to [-1, 1], and draw the noisy image I_T.

        The arguments and errors are those of `sample`.
        """
        settings = {"condition": self.condition, "input_condition": self.input_condition}
        check_input(I_in, mask, channels=self.channels, **settings)
        mask = None if mask is None else mask.to(self.device)
        prepared = None
        if I_in is None:
            shape: tuple[int, ...] = (batch_size, self.channels, *(self._generated_side(),) * 2)
        else:
            prepared = self.given(I_in.to(self.device), mask)
            mask, shape, I_in = prepared.mask, tuple(I_in.shape), to_signed(prepared.image)
        if mask is not None and not (self.input_condition and self.input_condition_mask):
            mask = to_signed(mask)
        needed = 1 + sum(step.draws for step in steps)  # one more for I_T
        draw = noise_source(shape, self.device, needed, generator, draws)
        noise = math.sqrt(self.schedule.sum_scale) * draw() if I_in is not None else draw()
        I_T = noise if I_in is None else self.schedule.start_scale * I_in + noise
        images: list[Tensor] = []
        on_step = watcher(images if every_step else None, callback)
        return Start(I_T, I_in, mask, steps if progress is None else progress(steps), draw, on_step, images, prepared)

    def walk(self, start: Start) -> Tensor:
        """Walk from `start` to the clean image, in [-1, 1]. `fast.loop.Loop` does the same faster."""

        def predict(_number: int, step: Step, I_t: Tensor, x_self_cond: Tensor | None) -> tuple[Tensor, ...]:
            t = torch.full((I_t.shape[0],), step.t, device=I_t.device, dtype=torch.long)
            return self.outputs(I_t, t, start.I_in, start.mask, x_self_cond, self.read_outputs)

        return reverse(
            predict,
            start.I_T,
            start.steps,
            objective=self.read_objective,
            I_in=start.I_in,
            draw=lambda _like: start.draw(),
            self_condition=self.self_condition,
            clip_res=self.clip_res,
            clip_0=self.clip_0,
            on_step=start.on_step,
        )

    @torch.no_grad()
    def sample(
        self,
        I_in: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        sampling_timesteps: int | None = None,
        eta: float | None = None,
        steps: Sequence[Step] | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Restore `I_in`, or generate images.

        Args:
            I_in: the degraded images, (B, C, H, W) in [0, 1], of a model that restores.
            mask: the image of `input_condition`, (B, C, H, W) in [0, 1].
            sampling_timesteps, eta: number and stochasticity of the steps; None takes the model's own.
            steps: the reverse steps, instead of the two numbers above (`theory.ddim` makes others).
            batch_size: the number of images to generate, 16 by default.
            generator: the generator of the normal draws; torch's global one if None.
            draws: the normal draws, in order, instead of a generator.
            every_step: return the image after every step instead of only the last.
            callback: called after each step with its number, its index t and the image in [0, 1].
            progress: wraps the list of steps, as tqdm does.

        Returns:
            A list of images in [0, 1], not clamped. When restoring, the noisy input comes first, as in the published
            code.

        Raises:
            TypeError: images that are not floating point.
            ValueError: images, steps or draws that do not fit the model.
        """
        if steps is None:
            steps = self.steps(sampling_timesteps, eta)
        elif sampling_timesteps is not None or eta is not None:
            raise ValueError("steps says how many steps there are and their eta: pass it alone")
        start = self.start(steps, I_in, mask, **options)
        I_0 = self.walk(start)
        return start.finished(I_0)

    def _generated_side(self) -> int:
        if self.image_size is None:
            raise ValueError("to generate, the model needs image_size (the side of an image in pixels)")
        return self.image_size
