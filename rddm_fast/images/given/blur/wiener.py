"""Take a known blur back by Wiener's filter."""

from __future__ import annotations

import torch
from torch import Tensor

from .blurs import Blur
from .spectrum import mirrored, photograph_power

DOUBT = 1e-3
"""The blur is never quite what was guessed: what is left of the photograph's power counts as noise."""
ROUNDS = 4
"""Nobody knows what lies beyond the border, and a wrong guess rings far into the picture. So the result is blurred
again, and what comes to lie beyond the border is taken. For three photographs that moved by 9 pixels, four rounds gain
0.7 to 4 dB; twelve more add 0.1 to 0.8 dB, and take 1.5 dB from one that is out of focus."""
CHANNELS = 3.0
"""A channel has three times the noise of grey."""


def deconvolved(image: Tensor, blur: Blur, powers: Tensor, noise: Tensor) -> Tensor:
    """Take `blur` back as far as the noise allows (Wiener, 1949).

    Args:
        image: (C, H, W) in [0, 1].
        blur: what it was blurred by.
        powers: (6,), factors of `spectrum.terms` that give the sharp photograph's log-power.
        noise: the variance of the noise in grey.

    Returns:
        The same shape, in [0, 1].
    """
    around = max(2 * (blur.kernel().shape[0] // 2), 16)
    size = (image.shape[1] + 2 * around, image.shape[2] + 2 * around)
    transfer = blur.transfer(*size)
    inverse = transfer / (transfer.square() + CHANNELS * noise / photograph_power(powers, *size) + DOUBT)
    inverse[0, 0] = 1
    filters = transfer.to(image.device), inverse.to(image.device)
    # One channel after the other: a picture of 12 megapixels takes 470 MiB.
    return torch.stack([_deconvolved(channel, around, *filters) for channel in image])


def _deconvolved(channel: Tensor, around: int, transfer: Tensor, inverse: Tensor) -> Tensor:
    """Take a blur back from (H, W): `transfer` is how much it leaves, `inverse` by how much that is multiplied."""
    rows, columns = (slice(around, around + side) for side in channel.shape)
    padded = mirrored(channel, around, (around, around))

    def filtered(image: Tensor, by: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(image).mul_(by), padded.shape)

    # A Fourier transform takes opposite borders for neighbours: blurred twice, they fade into each other.
    inside = (_ramp(padded.shape[0], around)[:, None] * _ramp(padded.shape[1], around)).to(channel)
    for _ in range(2):
        padded = torch.lerp(filtered(padded, transfer), padded, inside)
    sharp = filtered(padded, inverse).clamp_(0, 1)
    for _ in range(ROUNDS):
        padded = filtered(sharp, transfer)
        padded[rows, columns] = channel
        sharp = filtered(padded, inverse).clamp_(0, 1)
    return sharp[rows, columns]


def _ramp(length: int, around: int) -> Tensor:
    """Rise from 0 at both ends to 1 within `around` pixels."""
    position = torch.arange(length)
    return (torch.minimum(position, length - 1 - position) / around).clamp(max=1)
