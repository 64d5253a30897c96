"""`RDDMUNetModel`: RDDM's networks as a model of diffusers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from ...diffusion.residual_unets import ResidualUnets
from ...models.errors import ModelError


@dataclass
class RDDMUNetOutput(BaseOutput):
    """The networks' outputs along the channels, (B, C or 2C, H, W)."""

    sample: Tensor


def _by_attribute(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    """Name the shared network's tensors by its attributes: diffusers loads them by `getattr`, past the hooks."""
    _rename(state, prefix + "model.", prefix + "model.unet0.")


def _by_published_name(module: nn.Module, state: dict[str, Tensor], prefix: str, *_unused: Any) -> None:
    """Undo `_by_attribute`, as `ResidualUnets.load_state_dict` takes the published names."""
    _rename(state, prefix + "model.unet0.", prefix + "model.")


def _rename(state: dict[str, Tensor], old: str, new: str) -> None:
    for key in [key for key in state if key.startswith(old)]:
        state[new + key.removeprefix(old)] = state.pop(key)


class RDDMUNetModel(ModelMixin, ConfigMixin):
    """The networks of one RDDM model, `ResidualUnets`, with what the pipeline must know to call them.

    Args:
        dim, networks: the width of a network's first stage, and "two", "one" or "shared".
        init_dim, out_dim, dim_mults, channels, self_condition, resnet_block_groups, condition, input_condition,
            img_to_img_translation, padding_factor: the arguments of `Unet`.
        path_independent: the networks' times are alpha_bar_t T and beta_bar_t T instead of t.
        input_condition_mask: the mask stays in [0, 1]; otherwise it is mapped to [-1, 1].
        image_size: height and width of a generated image in pixels.
        mask_marks, first_guess, clean_without, global_exposure: how pictures are prepared, as in
            `ResidualDiffusion`.
    """

    __module__ = "rddm_fast.integrations.diffusers"  # by this name saved pipelines find the class

    @register_to_config
    def __init__(
        self,
        dim: int = 64,
        networks: str = "two",
        init_dim: int | None = None,
        out_dim: int | None = None,
        dim_mults: Sequence[int] = (1, 2, 4, 8),
        channels: int = 3,
        self_condition: bool = False,
        resnet_block_groups: int = 8,
        condition: bool = False,
        input_condition: bool = False,
        img_to_img_translation: bool = False,
        padding_factor: int | None = None,
        path_independent: bool = False,
        input_condition_mask: bool = False,
        image_size: int | None = None,
        mask_marks: str | None = None,
        first_guess: str | None = None,
        clean_without: str | None = None,
        global_exposure: bool = False,
    ) -> None:
        super().__init__()
        self.model = ResidualUnets(
            dim,
            networks=networks,
            init_dim=init_dim,
            out_dim=out_dim,
            dim_mults=dim_mults,
            channels=channels,
            self_condition=self_condition,
            resnet_block_groups=resnet_block_groups,
            condition=condition,
            input_condition=input_condition,
            img_to_img_translation=img_to_img_translation,
            padding_factor=padding_factor,
        )
        if networks == "shared":
            self.register_state_dict_post_hook(_by_attribute)
            self.register_load_state_dict_pre_hook(_by_published_name)

    @classmethod
    def of(cls, networks: nn.Module, **settings: Any) -> RDDMUNetModel:
        """Make the model of existing networks, which it shares.

        Args:
            networks: a `ResidualUnets`.
            settings: path_independent, input_condition_mask, image_size, and how pictures are prepared.

        Raises:
            ModelError: other networks.
        """
        if not isinstance(networks, ResidualUnets):
            raise ModelError(
                "only models made of ResidualUnets or compat.UnetRes become a pipeline of diffusers, not "
                f"{type(networks).__name__}"
            )
        with torch.device("meta"):  # These weights are replaced: draw no random numbers for them.
            made = cls(**networks.config, **settings)
        made.model = networks
        return made.train(networks.training)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | Sequence[Tensor],
        self_condition: Tensor | None = None,
        return_dict: bool = True,
    ) -> RDDMUNetOutput | tuple[Tensor]:
        """Ask the networks.

        Args:
            sample: the image, and behind it along the channels the degraded image and the mask, as far as the networks
                take them, all in [-1, 1] (`ResidualDiffusion.network_input`); (B, inputs C, H, W).
            timestep: a time for all, one each (B,), or one such tensor for each network (`network_times`).
            self_condition: the last estimate of the clean image (B, C, H, W), for networks that take it.
            return_dict: return an `RDDMUNetOutput`, otherwise a tuple.
        """
        pair = timestep if isinstance(timestep, (list, tuple)) else [timestep]
        times = [torch.as_tensor(t, device=sample.device).expand(len(sample)) for t in pair]
        dtype = self.dtype
        # The embedding of the time is computed in float32, and autocast brings it to the weights' dtype.
        with torch.autocast(sample.device.type, dtype, enabled=dtype != torch.float32):
            known = None if self_condition is None else self_condition.to(dtype)
            outputs = self.model(sample.to(dtype), times if len(times) > 1 else times[0], known)
        images = torch.cat(outputs, dim=1)
        return RDDMUNetOutput(images) if return_dict else (images,)
