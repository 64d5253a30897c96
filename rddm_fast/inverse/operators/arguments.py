"""What the operators share: checks of their arguments, masks, and constants that follow the image to its device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Constant:
    """A tensor of an operator, kept as it was made, with one copy in the dtype and on the device of its last use.

    A solver's loop then copies nothing from the host. Masks and indices keep their dtype.
    """

    def __init__(self, value: Tensor) -> None:
        self.value = self._copy = value.detach()

    def like(self, x: Tensor) -> Tensor:
        """Return the tensor on the device of `x`, in its dtype if both are floating."""
        dtype = x.dtype if self.value.is_floating_point() else self.value.dtype
        if self._copy.device != x.device or self._copy.dtype != dtype:
            with torch.inference_mode(False):  # a copy made in inference mode could not take part in a gradient later
                self._copy = self.value.to(x.device, dtype)
        return self._copy


def check_image(image: Sequence[int]) -> tuple[int, int, int]:
    """Return `image` as a tuple (C, H, W); raise ValueError unless it is three positive integers."""
    numbers = tuple(image)
    if len(numbers) != 3 or not all(isinstance(n, int) and n > 0 for n in numbers):
        raise ValueError(f"image is {numbers}: give the shape of one image as three positive integers (C, H, W)")
    channels, height, width = numbers
    return channels, height, width


def check_multiple(image: tuple[int, int, int], factor: int, of: str) -> None:
    """Raise ValueError unless `factor`, the argument named `of`, divides height and width."""
    _, height, width = image
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"{of} is {factor!r}: it must be a positive integer")
    if factor > min(height, width):
        raise ValueError(f"{of} is {factor}, larger than the image of {height} × {width}: choose a smaller one")
    if height % factor or width % factor:
        fits = f"{height - height % factor} × {width - width % factor}"
        raise ValueError(
            f"the image's height and width must be multiples of {of} {factor}, but it is {height} × {width}: "
            f"crop it to {fits}"
        )


def check_threshold(threshold: float) -> float:
    """Return `threshold`; raise ValueError if it is negative."""
    if not threshold >= 0:
        raise ValueError(f"threshold is {threshold}: it must be 0 or more; singular values below it are set to 0")
    return float(threshold)


def check_rank(rank: int, threshold: float) -> None:
    """Raise ValueError if no singular value reached the threshold."""
    if rank == 0:
        raise ValueError(f"all singular values are below the threshold {threshold}: choose a lower one")


def check_weights(weights: Sequence[float], channels: int) -> Tensor:
    """Return the weights of the channels in float64; raise ValueError unless there are C of them, not all 0."""
    if len(weights) != channels:
        raise ValueError(f"there are {len(weights)} weights and {channels} channels: give one weight for each channel")
    row = torch.tensor([float(w) for w in weights], dtype=torch.float64)
    if not (bool(row.isfinite().all()) and bool(row.any())):
        raise ValueError(f"weights are {tuple(weights)}: they must be finite and not all 0")
    return row


def check_mask(mask: Tensor, image: tuple[int, int, int]) -> Tensor:
    """Return the mask as booleans, (1 or B, H, W).

    Args:
        mask: 1 or True where a pixel is kept, 0 where it is missing; (H, W), or (B, H, W) for a batch of B images.

    Raises:
        ValueError: a mask of another size, or with values between 0 and 1.
    """
    _, height, width = image
    if mask.dim() not in (2, 3) or mask.shape[-2:] != (height, width):
        raise ValueError(
            f"the mask has shape {tuple(mask.shape)} and the image is {height} × {width}: "
            f"give a mask ({height}, {width}), or one for each image of the batch, (B, {height}, {width})"
        )
    if mask.dtype != torch.bool:
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError(
                "the mask has values other than 0 and 1: round it, "
                "or pass a soft mask m as Function(image, lambda x: m * x)"
            )
        mask = mask != 0
    return mask.detach() if mask.dim() == 3 else mask.detach()[None]


def fitting_mask(mask: Constant, x: Tensor) -> Tensor:
    """Return the mask (1 or B, H, W) on the device of `x`; raise ValueError if it is for a batch of another size."""
    masks = len(mask.value)
    if masks not in (1, len(x)):
        raise ValueError(
            f"the operator has {masks} masks and the batch has {len(x)} images: give one mask, or {len(x)}"
        )
    return mask.like(x)


def random_mask(image: Sequence[int], missing: float = 0.5, seed: int = 0) -> Tensor:
    """Return a mask (H, W) that misses ⌊missing H W⌋ pixels, drawn by `seed`; True where a pixel is kept.

    Raises:
        ValueError: `missing` outside [0, 1).
    """
    _, height, width = check_image(image)
    if not 0 <= missing < 1:
        raise ValueError(f"missing is {missing}: it is the share of the pixels to leave out, from 0 to less than 1")
    order = torch.randperm(height * width, generator=torch.Generator().manual_seed(seed))
    mask = torch.ones(height * width, dtype=torch.bool)
    mask[order[: int(missing * height * width)]] = False
    return mask.view(height, width)
