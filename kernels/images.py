"""What the launchers and kernels of all ops have in common."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def load_or_zeros(pointer, offsets, inside):
    # In float32. An absent input (None is a compile-time constant) is zeros and costs nothing.
    if pointer is None:
        return tl.zeros(offsets.shape, tl.float32)
    else:
        return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


def launch_config(narrowest: int) -> dict[str, int]:
    """Elements a program takes, and its warps, where the narrowest tensor has `narrowest` bytes an element.

    16 bytes of the narrowest tensor a thread, the widest access there is, in 4 warps: enough loads in flight
    to fill the memory pipe, and programs small enough that a 64 x 64 image still spreads over the device.
    Accesses are that wide where the tensors are aligned and the element count divides by 16.
    """
    return {"block": 4 * 32 * (16 // narrowest), "num_warps": 4}


def in_layout_of(x: Tensor | None, model: Tensor) -> Tensor | None:
    """`x` itself where it lies in memory as `model` does, else a copy that does."""
    if x is None:
        return None
    along = zip(model.shape, x.stride(), model.stride(), strict=True)
    if all(size == 1 or stride == wanted for size, stride, wanted in along):
        return x
    return torch.empty_like(model, dtype=x.dtype).copy_(x)


def pixel_layout(x: Tensor) -> tuple[int, int] | None:
    """(channels that lie together, pixels) of a contiguous or channels-last image, None for other layouts."""
    if x.is_contiguous():
        return 1, 1
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return x.shape[1], x.shape[2] * x.shape[3]
    return None


def result_for(image: Tensor, counted: bool) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """(the tensor a kernel writes, the tensor the caller gets, its pixel layout), laid out as `torch.empty_like`.

    A kernel that has to know which element it is at (`counted`) knows it in contiguous and channels-last images: for
    another layout it writes a contiguous one, which the launcher copies.
    """
    wanted = torch.empty_like(image)
    layout = pixel_layout(wanted)
    if counted and layout is None:
        return torch.empty(image.shape, dtype=image.dtype, device=image.device), wanted, (1, 1)
    return wanted, wanted, layout or (1, 1)
