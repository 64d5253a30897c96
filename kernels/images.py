"""What the launchers and kernels of all ops share."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def elements_of_program(numel, share: tl.constexpr, block: tl.constexpr, narrow: tl.constexpr):
    """Return the first element of this program, its `block` offsets, and which of them are its `share` elements'."""
    first = tl.program_id(0) * share if narrow else tl.program_id(0).to(tl.int64) * share
    lanes = tl.arange(0, block)
    inside = first + lanes < numel
    if share != block:
        inside = inside & (lanes < share)
    return first, first + lanes, inside


@triton.jit
def load_or_zeros(pointer, offsets, inside):
    # In float32. An absent input (None is a compile-time constant) is zeros and costs nothing.
    if pointer is None:
        return tl.zeros(offsets.shape, tl.float32)
    else:
        return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


def launch_config(narrowest: int) -> dict[str, int]:
    """Return a program's elements and warps, if the narrowest tensor has `narrowest` bytes per element.

    A thread takes 16 bytes of the narrowest tensor, the widest access there is, and a program has 4 warps. That is
    enough loads in flight to fill the memory pipe, in programs small enough that a 64 x 64 image still spreads over
    the device. Accesses are that wide if the tensors are aligned and 16 divides the number of elements.
    """
    return {"block": 4 * 32 * (16 // narrowest), "num_warps": 4}


def drawing_config(
    narrowest: int, numel: int, draws: bool, layout: tuple[int, int], within_samples: bool = False
) -> dict[str, int | bool]:
    """Return `launch_config`, and how the programs of a kernel that may draw noise divide an image of that layout.

    They are `share` elements each, which with `within_samples` divide samples of the usual sizes; `in_fours` (see
    drawn_noise); and whether every index is below 2^31 (`narrow`).
    """
    config = launch_config(narrowest)
    channels, pixels = layout
    in_fours = 0
    if draws and channels != 1 and pixels % 4 == 0 and 4 * channels <= config["block"]:
        in_fours = channels
        # A thread's second pack shares what the first one computes: 89 instead of 106 instructions.
        config["block"] *= 2
    share = config["block"]
    if in_fours:
        # 84 fours of pixels of 3 channels fill 1008 of 1024 lanes, 64 of them 768.
        fours = share // (4 * channels)
        fours = 1 << (fours.bit_length() - 1) if within_samples else fours - fours % 2  # even: from 16 bytes on
        share = 4 * channels * fours
    narrow = numel + config["block"] < 2**31
    return {**config, "share": share, "in_fours": in_fours, "pixels_together": channels != 1, "narrow": narrow}


def in_layout_of(x: Tensor | None, model: Tensor) -> Tensor | None:
    """Return `x` itself if it has the memory layout of `model`, else a copy that has it."""
    if x is None:
        return None
    along = zip(model.shape, x.stride(), model.stride(), strict=True)
    if all(size == 1 or stride == wanted for size, stride, wanted in along):
        return x
    return torch.empty_like(model, dtype=x.dtype).copy_(x)


def pixel_layout(x: Tensor) -> tuple[int, int] | None:
    """Return (adjacent channels, pixels) of a contiguous or channels-last image, None for other layouts."""
    if x.is_contiguous():
        return 1, 1
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1], x.shape[2] * x.shape[3]
    return None


def result_for(image: Tensor, counted: bool) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Return the tensor that a kernel writes, the tensor that the caller gets, and the former's pixel layout.

    The caller's is laid out as `torch.empty_like(image)`. A kernel that must know an element's logical index
    (`counted`) knows it in contiguous and channels-last images. For another layout it writes a contiguous image, which
    the launcher copies.
    """
    wanted = torch.empty_like(image)
    layout = pixel_layout(wanted)
    if counted and layout is None:
        return torch.empty(image.shape, dtype=image.dtype, device=image.device), wanted, (1, 1)
    return wanted, wanted, layout or (1, 1)
