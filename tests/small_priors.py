"""A prior of real structure and known answer, for tests of what restores with one."""

from __future__ import annotations

from pathlib import Path

import torch

from rddm_fast.diffusion.residual import ResidualDiffusion
from rddm_fast.diffusion.residual_unets import ResidualUnets
from rddm_fast.models.folder import save_model
from rddm_fast.theory.schedule import Schedule


def small_prior(channels: int = 3) -> ResidualDiffusion:
    """A U-Net that takes its whole input for noise, epsilon = x_t, as if images were nearly black or white noise.

    Its convolutions are all there; the first and the last ones are set so that the input alone goes through. Images
    stay bounded, as with a trained prior, and with random weights they do not.
    """
    torch.manual_seed(0)
    unets = ResidualUnets(8, networks="one", dim_mults=[1, 2], channels=channels, condition=False)
    unet = unets.unet0
    with torch.no_grad():
        last = unet.final_res_block
        for module in (unet.init_conv, last.res_conv, last.block2.norm, unet.final_conv):
            module.weight.zero_()
            module.bias.zero_()
        for c in range(channels):
            unet.init_conv.weight[c, c, 3, 3] = 1.0
            last.res_conv.weight[c, 8 + c, 0, 0] = 1.0  # the skip from the first convolution
            unet.final_conv.weight[c, c, 0, 0] = 1.0
    settings = {"objective": "pred_noise", "condition": False, "sampling_timesteps": 10, "image_size": 32}
    return ResidualDiffusion(unets, Schedule.from_ddim(), **settings).eval()


def saved_prior(folder: Path, channels: int = 3) -> Path:
    """The folder of a small prior."""
    save_model(folder, small_prior(channels))
    return folder
