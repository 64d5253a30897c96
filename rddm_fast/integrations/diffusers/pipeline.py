"""`RDDMPipeline`: an RDDM model as a pipeline of diffusers, sampled fast or by diffusers' own loop."""

# No `from __future__ import annotations`: diffusers reads the types of `__init__`, and takes no strings.
import copy
import json
from collections.abc import Callable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Optional

import torch
from diffusers import DiffusionPipeline
from diffusers.image_processor import VaeImageProcessor
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from ...diffusion.residual import ResidualDiffusion
from ...diffusion.start import Start
from ...fast.engine import FastSampler
from ...restoration.tiles import OVERLAP, TILE, tiled
from ...system.files import write_text_whole
from .pictures import batch_of
from .scheduler import RDDMScheduler
from .unet import RDDMUNetModel

CODE = "from rddm_fast.integrations.diffusers import RDDMPipeline\n"
"""The `pipeline.py` of a saved pipeline, by which `DiffusionPipeline.from_pretrained` finds the class."""
Callback = Callable[["RDDMPipeline", int, Tensor, dict[str, Tensor]], "dict[str, Tensor] | None"]


class RDDMPipeline(DiffusionPipeline):
    """Restores or generates images with a residual denoising diffusion model.

    Args:
        unet: the networks.
        scheduler: the schedule, the objective and the steps.
        default_steps: number of steps of a call that names none; None for T.
        loss_type: "l1" or "l2", with which the model was trained; kept for `to_rddm`.
    """

    __module__ = "rddm_fast.integrations.diffusers"  # by this name saved pipelines find the class
    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        unet: RDDMUNetModel,
        scheduler: RDDMScheduler,
        default_steps: Optional[int] = None,  # noqa: UP045  # nor does diffusers 0.35 take `int | None`
        loss_type: str = "l1",
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(default_steps=default_steps, loss_type=loss_type)
        grey = unet.config.channels == 1
        # Pixels stay in [0, 1], as `FastSampler` takes them.
        self.image_processor = VaeImageProcessor(
            do_resize=False, vae_scale_factor=1, do_normalize=False, do_convert_rgb=not grey, do_convert_grayscale=grey
        )
        self._sampler: tuple[Any, FastSampler] | None = None

    # -- from and to our models -------------------------------------------------------------------------------

    @classmethod
    def from_rddm(cls, diffusion: ResidualDiffusion) -> "RDDMPipeline":
        """Make the pipeline of a model (`load_model`), whose networks it shares.

        Raises:
            ModelError: the networks are not RDDM's U-Nets.
        """
        unet = RDDMUNetModel.of(
            diffusion.model,
            path_independent=diffusion.path_independent,
            input_condition_mask=diffusion.input_condition_mask,
            image_size=diffusion.image_size,
            mask_marks=diffusion.mask_marks,
            first_guess=diffusion.first_guess,
            clean_without=diffusion.clean_without,
            global_exposure=diffusion.global_exposure,
        )
        clips = (None if clip == float("inf") else clip for clip in (diffusion.clip_res, diffusion.clip_0))
        clip_residual, clip_sample = clips
        scheduler = RDDMScheduler.from_schedule(
            diffusion.schedule,
            objective=diffusion.objective.name,
            test_res_or_noise=diffusion.test_res_or_noise,
            clip_residual=clip_residual,
            clip_sample=clip_sample,
            eta=diffusion.eta,
            condition=diffusion.condition,
            official_two_pass=diffusion.official_two_pass,
        )
        return cls(unet, scheduler, diffusion.sampling_timesteps, diffusion.loss_type)

    def to_rddm(self) -> ResidualDiffusion:
        """Return the pipeline's model, for `FastSampler`, training or `save_model`. It shares the networks.

        Raises:
            ValueError: the scheduler or the networks are not RDDM's.
        """
        unet: Any = getattr(self.unet, "_orig_mod", self.unet)  # what torch.compile wraps
        scheduler = self.scheduler
        for name, part, wanted in (("unet", unet, RDDMUNetModel), ("scheduler", scheduler, RDDMScheduler)):
            if not isinstance(part, wanted):
                raise ValueError(f"the {name} of an RDDMPipeline is an {wanted.__name__}, not {type(part).__name__}")
        network, settings = unet.config, scheduler.config
        infinite = float("inf")
        diffusion = ResidualDiffusion(
            unet.model,
            scheduler.schedule,
            objective=settings.objective,
            condition=network.condition,
            input_condition=network.input_condition,
            input_condition_mask=network.input_condition_mask,
            img_to_img_translation=network.img_to_img_translation,
            path_independent=network.path_independent,
            official_two_pass=settings.official_two_pass,
            test_res_or_noise=settings.test_res_or_noise,
            loss_type=self.config.loss_type,
            sampling_timesteps=self.config.default_steps,
            eta=settings.eta,
            clip_res=infinite if settings.clip_residual is None else settings.clip_residual,
            image_size=network.image_size,
            mask_marks=network.mask_marks,
            first_guess=network.first_guess,
            clean_without=network.clean_without,
            global_exposure=network.global_exposure,
        )
        diffusion.clip_0 = infinite if settings.clip_sample is None else settings.clip_sample
        if unet.device.type != "meta":  # where offloaded weights are while nobody needs them
            self._buffers_at(diffusion, unet.device)
        return diffusion.train(unet.training)

    @staticmethod
    def _buffers_at(diffusion: ResidualDiffusion, device: torch.device) -> None:
        """Move the coefficients alone: they stay in float32, and the networks stay where diffusers keeps them."""
        for name, values in list(diffusion.named_buffers(recurse=False)):
            setattr(diffusion, name, values.to(device))

    # -- files ------------------------------------------------------------------------------------------------

    def save_config(self, save_directory: str | PathLike[str], push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json, and the line of code by which `DiffusionPipeline` finds this class."""
        super().save_config(save_directory, push_to_hub=push_to_hub, **kwargs)
        index = Path(save_directory) / self.config_name
        content = json.loads(index.read_text(encoding="utf-8"))
        content["_class_name"] = ["pipeline", type(self).__name__]
        write_text_whole(index, json.dumps(content, indent=2) + "\n")
        write_text_whole(Path(save_directory) / "pipeline.py", CODE)

    @classmethod
    def _dict_from_json_file(cls, json_file: str | PathLike[str], **options: Any) -> dict[str, Any]:
        # Whoever calls this class has its code already: diffusers need not run the folder's.
        content = super()._dict_from_json_file(json_file, **options)
        return {**content, "_class_name": cls.__name__} if "_class_name" in content else content

    # -- sampling ---------------------------------------------------------------------------------------------

    @torch.no_grad()
    def __call__(
        self,
        image: Any = None,
        mask_image: Any = None,
        num_inference_steps: int | None = None,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        batch_size: int = 1,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        fast: bool = True,
        tile: int | None = TILE,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Restore `image`, or generate images.

        Args:
            image: the degraded image or images: of PIL, numpy arrays (H, W, C) or tensors (C, H, W), in [0, 1], of one
                size; None for a model that generates.
            mask_image: the same for the mask, of a model that takes one. Where the model says what it marks
                (`ResidualDiffusion.mask_marks`), the other pixels come back as they are.
            num_inference_steps: number of steps; None takes the pipeline's `default_steps`.
            eta: stochasticity, 0 to 1; None takes the scheduler's.
            generator: of the noise; one, or one for each image.
            batch_size: number of images to generate.
            output_type: "pil", "np" (B, H, W, C) or "pt" (B, C, H, W), in [0, 1].
            return_dict: return an `ImagePipelineOutput`, otherwise a tuple.
            callback_on_step_end: called after every step with the pipeline, the step's number, its timestep and
                {"latents": the image in [-1, 1]}; it may return another image under that name.
            callback_on_step_end_tensor_inputs: what it wants: "latents".
            fast: sample by `FastSampler`, which gives the same images within rounding. It is not used with a callback,
                nor for networks that are brought to the device in parts (sequential and group offload).
            tile: the fast way restores larger images in tiles of this side in pixels; None never tiles.

        Raises:
            TypeError: pixels that are not floating point.
            ValueError: images or settings that do not fit the model.
        """
        for name in callback_on_step_end_tensor_inputs:
            if name not in self._callback_tensor_inputs:
                raise ValueError(f"a callback of this pipeline can have latents, not {name}")
        diffusion = self.to_rddm()
        steps = diffusion.sampling_timesteps if num_inference_steps is None else num_inference_steps
        eta = self.scheduler.config.eta if eta is None else eta
        I_in = None if image is None else batch_of(self.image_processor, image, "image").to(self._execution_device)
        mask = None
        if mask_image is not None:
            mask = batch_of(self.image_processor, mask_image, "mask_image").to(self._execution_device)
            if I_in is not None:
                mask = mask.expand_as(I_in) if mask.shape[-2:] == I_in.shape[-2:] else mask
                if mask.shape != I_in.shape:
                    raise ValueError(
                        f"mask_image is {tuple(mask.shape)} and image {tuple(I_in.shape)}: make them alike"
                    )
        given = None
        if I_in is not None:
            given = diffusion.given(I_in, mask)  # once, for the whole image: a tile may lie in a hole
            I_in, mask, diffusion = given.image, given.mask, diffusion.of_given()
        inputs: dict[str, Any] = {"batch_size": batch_size, "draws": self._draws(I_in, batch_size, generator)}

        if fast and callback_on_step_end is None and not self._in_parts():
            result = self._fast(diffusion, steps, eta, I_in, mask, tile, inputs)
        else:
            self._buffers_at(diffusion, self._execution_device)
            self.scheduler.set_timesteps(steps, device=self._execution_device)
            start = diffusion.start([], I_in, mask, **inputs).float()
            wanted = callback_on_step_end_tensor_inputs
            result = self._walk(diffusion, start, eta, generator, callback_on_step_end, wanted)
        if given is not None:
            result = given.finished(result)
        pictures = self.image_processor.postprocess(result, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=pictures) if return_dict else (pictures,)

    def _in_parts(self) -> bool:
        """Return whether hooks inside the networks bring them to the device in parts, so that nobody can fold them."""
        hooks = ("_hf_hook", "_diffusers_hook")  # accelerate's and diffusers' own
        return any(hasattr(module, hook) for module in self.unet.model.modules() for hook in hooks)

    def _draws(self, I_in: Tensor | None, batch_size: int, generator: Any) -> Iterator[Tensor]:
        """Yield the normal draws of a run, as diffusers draws them: where the generator is."""
        side = self.unet.config.image_size
        shape = (batch_size, self.unet.config.channels, side, side) if I_in is None else tuple(I_in.shape)
        while True:
            yield randn_tensor(shape, generator, self._execution_device, torch.float32)

    def _fast(
        self,
        diffusion: ResidualDiffusion,
        steps: int,
        eta: float,
        I_in: Tensor | None,
        mask: Tensor | None,
        tile: int | None,
        inputs: dict[str, Any],
    ) -> Tensor:
        """Sample by `FastSampler`, in tiles where the image is larger than one."""
        sampler = self._fast_sampler(diffusion, steps, eta)
        if I_in is None or tile is None or max(I_in.shape[-2:]) <= tile:
            return sampler(I_in, mask, progress=self.progress_bar, **inputs)
        # Draw the noise of the whole image first, so that overlapping tiles see the same noise.
        noise = [next(inputs["draws"]) for _ in range(1 + sum(step.draws for step in sampler.steps))]
        masks = [] if mask is None else [mask]

        def restore(parts: Sequence[Tensor]) -> Tensor:
            return sampler(*parts[: -len(noise)], draws=parts[-len(noise) :])

        return tiled(restore, [I_in, *masks, *noise], tile, min(OVERLAP, tile // 4))

    def _fast_sampler(self, diffusion: ResidualDiffusion, steps: int, eta: float) -> FastSampler:
        """Return the sampler of the last call, or a new one if anything that it depends on has changed."""
        weights = list(self.unet.parameters())
        device, dtype = self._execution_device, self.unet.dtype
        # Folded weights are copies. The versions and the norm tell whether those that they were made of have changed.
        state = (sum(w._version for w in weights), float(torch.nn.utils.get_total_norm(weights)))
        key = (steps, eta, dtype, device, self.unet.model, self.scheduler.to_json_string(), state)
        if self._sampler is None or self._sampler[0] != key:
            if diffusion.device != device:  # diffusers keeps the networks elsewhere until they are called
                diffusion.model = copy.deepcopy(diffusion.model)
                diffusion = diffusion.to(device)
            self._sampler = key, FastSampler(diffusion, steps=steps, eta=eta, dtype=dtype)
        return self._sampler[1]

    def _walk(
        self,
        diffusion: ResidualDiffusion,
        start: Start,
        eta: float,
        generator: Any,
        callback: Callback | None,
        wanted: Sequence[str],
    ) -> Tensor:
        """Sample by the scheduler, one call of the networks a step."""
        sample, known = start.I_T, None
        for number, t in enumerate(self.progress_bar(self.scheduler.timesteps)):
            x = diffusion.network_input(sample, start.I_in, start.mask)
            output = self.unet(x, diffusion.network_times(t.expand(len(x))), known, return_dict=False)[0]
            stepped = self.scheduler.step(output, t, sample, image=start.I_in, eta=eta, generator=generator)
            sample = stepped.prev_sample
            known = stepped.pred_original_sample if self.unet.config.self_condition else None
            if callback is not None:
                changed = callback(self, number, t, {name: sample for name in wanted}) or {}
                sample = changed.get("latents", sample)
        return start.finished(sample)[-1].clamp(0, 1)
