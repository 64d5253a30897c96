"""DDPM (Ho et al., 2020) and DDIM (Song et al., 2021): the published code's `GaussianDiffusion`.

RDDM contains both. With I_in = 0, alpha_bar = 1 - sqrt(a) and beta_bar = sqrt(1 - a), where a is the cumulative product
of 1 - b, an RDDM noise network is a DDPM network and the step of eta = 0 is DDIM's. This class keeps DDPM's own
formulas: DDPM clamps the clean image and derives the noise from it again, and its variances differ from RDDM's.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..theory.families import ddim_betas
from ..theory.steps import step_indices

_BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "scaled_linear": "scaled_linear"}


class GaussianDiffusion(nn.Module):
    """Generation from noise with one network that predicts the noise or the clean image.

    Args:
        model: `Unet`, called with (B, C, H, W) in [-1, 1] and times (B,).
        image_size: height and width of an image in pixels.
        timesteps: T.
        sampling_timesteps: number of steps. Fewer than T are DDIM's; T, or None, are DDPM's.
        loss_type: "l1" or "l2".
        objective: "pred_noise" or "pred_x0".
        beta_schedule: "linear", "cosine" or "scaled_linear".
        ddim_sampling_eta: DDIM's eta; it multiplies the standard deviation.
    """

    alphas_cumprod: Tensor

    def __init__(
        self,
        model: nn.Module,
        *,
        image_size: int,
        timesteps: int = 1000,
        sampling_timesteps: int | None = None,
        loss_type: str = "l1",
        objective: str = "pred_noise",
        beta_schedule: str = "cosine",
        ddim_sampling_eta: float = 0.0,
        auto_normalize: bool = True,
    ) -> None:
        super().__init__()
        if objective not in ("pred_noise", "pred_x0"):
            raise ValueError(f"objective is 'pred_noise' or 'pred_x0', not {objective!r}")
        if loss_type not in ("l1", "l2"):
            raise ValueError(f"loss_type is 'l1' or 'l2', not {loss_type!r}")
        if beta_schedule not in _BETA_SCHEDULES:
            raise ValueError(f"beta_schedule is one of {', '.join(_BETA_SCHEDULES)}, not {beta_schedule!r}")
        self.model = model
        self.image_size = image_size
        self.channels = int(model.channels)  # type: ignore[arg-type]
        self.num_timesteps = timesteps
        self.sampling_timesteps = timesteps if sampling_timesteps is None else sampling_timesteps
        if not 0 <= ddim_sampling_eta <= 1:
            raise ValueError(f"ddim_sampling_eta must be between 0 and 1, not {ddim_sampling_eta}")
        self.loss_type, self.objective = loss_type, objective
        self.ddim_sampling_eta = ddim_sampling_eta
        self.auto_normalize = auto_normalize
        self.indices = step_indices(timesteps, self.sampling_timesteps)
        betas = ddim_betas(timesteps, _BETA_SCHEDULES[beta_schedule])
        self._a = torch.cumprod(1 - betas, 0).tolist()
        self.register_buffer("betas", betas.float())
        self.register_buffer("alphas_cumprod", torch.tensor(self._a))

    def _roots(self, t: Tensor) -> tuple[Tensor, Tensor]:
        a = self.alphas_cumprod[t][:, None, None, None]
        return a.sqrt(), (1 - a).sqrt()

    def q_sample(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return x_t = sqrt(a_t) x_0 + sqrt(1 - a_t) epsilon (DDPM, eq. 4); images (B, C, H, W), `t` (B,)."""
        signal, sigma = self._roots(t)
        return signal * x_start + sigma * (torch.randn_like(x_start) if noise is None else noise)

    def model_predictions(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise and the clean image for `x` at `t`. The image is clamped; the noise follows from it."""
        signal, sigma = self._roots(t)
        out = self.model(x, t)
        x_start = out if self.objective == "pred_x0" else (x - sigma * out) / signal
        x_start = x_start.clamp(-1, 1)
        return (x - signal * x_start) / sigma, x_start

    def p_losses(self, x_start: Tensor, t: Tensor, noise: Tensor | None = None) -> Tensor:
        """Return the mean loss of images in [-1, 1] at times `t` (B,)."""
        noise = torch.randn_like(x_start) if noise is None else noise
        out = self.model(self.q_sample(x_start, t, noise), t)
        target = noise if self.objective == "pred_noise" else x_start
        return (F.l1_loss if self.loss_type == "l1" else F.mse_loss)(out, target)

    def forward(self, img: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the mean loss of images at random times; they are in [0, 1] if `auto_normalize`, else in [-1, 1]."""
        t = torch.randint(0, self.num_timesteps, (img.shape[0],), device=img.device)
        return self.p_losses(img * 2 - 1 if self.auto_normalize else img, t, *args, **kwargs)

    @torch.no_grad()
    def sample(self, batch_size: int = 16, return_all_timesteps: bool = False) -> Tensor:
        """Generate `batch_size` images in [0, 1]: (B, C, H, W), or (B, steps + 1, C, H, W) with all timesteps."""
        device = self.alphas_cumprod.device
        x = torch.randn(batch_size, self.channels, self.image_size, self.image_size, device=device)
        images = [x]
        ddpm = self.sampling_timesteps == self.num_timesteps
        for t, s in zip(self.indices[:-1], self.indices[1:], strict=True):
            # Ask the network.
            times = torch.full((batch_size,), t, device=device, dtype=torch.long)
            noise, x_start = self.model_predictions(x, times)
            # Step from t to s (DDIM, eq. 12 and 16).
            a_t, a_s = self._a[t], self._a[s] if s >= 0 else 1.0
            eta = 1.0 if ddpm else self.ddim_sampling_eta
            sigma = eta * ((1 - a_s) / (1 - a_t) * (1 - a_t / a_s)) ** 0.5
            x = a_s**0.5 * x_start + (1 - a_s - sigma**2) ** 0.5 * noise
            if s >= 0 and eta:
                x = x + sigma * torch.randn_like(x)
            images.append(x)
        result = torch.stack(images, dim=1) if return_all_timesteps else x
        return (result + 1) * 0.5 if self.auto_normalize else result
