"""`joint_loss` in Triton, with the arithmetic of csrc/joint_loss/joint_loss.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import in_layout_of, launch_config, load_or_zeros, result_for
from .noise import drawn_noise
from .objective import flags_of


@triton.jit
def distance(d, squared: tl.constexpr):
    if squared:
        return d * d
    else:
        return tl.where(d < 0, -d, d)


@triton.jit
def distance_derivative(d, squared: tl.constexpr):
    # 0 at 0, like torch.sign; NaN stays.
    if squared:
        return 2 * d
    else:
        return tl.where(d > 0, 1.0, tl.where(d < 0, -1.0, d))


@triton.jit(do_not_specialize=["seed", "stream", "channels", "pixels", "weight0", "weight1", "scale"])
def joint_loss_kernel(
    out0_pointer,
    out1_pointer,
    I_0_pointer,
    I_in_pointer,
    noise_pointer,
    lam_pointer,
    gradient0_pointer,
    gradient1_pointer,
    sums_pointer,
    numel,
    seed,
    stream,
    channels,
    pixels,
    weight0,
    weight1,
    scale,
    noise_only: tl.constexpr,
    x0_known: tl.constexpr,
    added: tl.constexpr,
    squared: tl.constexpr,
    draws: tl.constexpr,
    pixels_together: tl.constexpr,
    block: tl.constexpr,
):
    program = tl.program_id(0)
    first = program.to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    out0 = load_or_zeros(out0_pointer, offsets, inside)
    I_0 = load_or_zeros(I_0_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)
    if draws:
        epsilon = drawn_noise(seed, stream, first, channels, pixels, pixels_together, block)
    else:
        epsilon = load_or_zeros(noise_pointer, offsets, inside)
    if lam_pointer is not None:
        weight0 = tl.load(lam_pointer)
        weight1 = 1.0 - weight0

    target0 = epsilon if noise_only else (I_0 if x0_known else I_in - I_0)
    d0 = out0 - target0
    gradient0 = weight0 * scale * distance_derivative(d0, squared)
    tl.store(gradient0_pointer + offsets, gradient0.to(gradient0_pointer.dtype.element_ty), mask=inside)
    tl.store(sums_pointer + 2 * program, tl.sum(tl.where(inside, distance(d0, squared), 0.0)))
    if out1_pointer is not None:
        out1 = load_or_zeros(out1_pointer, offsets, inside)
        d1 = out1 - (target0 + epsilon if added else epsilon)
        gradient1 = weight1 * scale * distance_derivative(d1, squared)
        tl.store(gradient1_pointer + offsets, gradient1.to(gradient1_pointer.dtype.element_ty), mask=inside)
        tl.store(sums_pointer + 2 * program + 1, tl.sum(tl.where(inside, distance(d1, squared), 0.0)))
    else:
        tl.store(sums_pointer + 2 * program + 1, 0.0)


def joint_loss(
    out0: Tensor,
    out1: Tensor | None,
    I_0: Tensor,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    lam: Tensor | None,
    weight0: float,
    weight1: float,
    objective: int,
    squared: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Launch the kernel; the arguments and results are the op's (rddm_fast/ops/joint_loss.py)."""
    if I_0.dtype == torch.float64:
        raise TypeError("I_0 is float64, which the Triton kernel does not take: use impl='reference'")
    draws = noise is None
    gradient0, wanted0, (channels, pixels) = result_for(out0, counted=draws)
    gradient1 = torch.empty_like(gradient0) if out1 is not None else out0.new_empty(0)
    numel = out0.numel()
    config = launch_config(min(I_0.element_size(), out0.element_size()))
    programs = triton.cdiv(numel, config["block"])
    sums = torch.empty((programs, 2), dtype=torch.float32, device=out0.device)
    if numel:
        with torch.cuda.device_of(out0):
            joint_loss_kernel[(programs,)](
                in_layout_of(out0, gradient0),
                in_layout_of(out1, gradient0),
                in_layout_of(I_0, gradient0),
                in_layout_of(I_in, gradient0),
                in_layout_of(noise, gradient0),
                lam,
                gradient0,
                gradient1,
                sums,
                numel,
                seed or 0,
                stream,
                channels,
                pixels,
                weight0,
                weight1,
                1.0 if out0.dtype == torch.float16 else 1.0 / numel,
                **flags_of(objective),
                squared=squared,
                draws=draws,
                pixels_together=channels != 1,
                **config,
            )
    parts = sums.sum(0, dtype=torch.float64).div(numel).float()
    if gradient0 is not wanted0:
        wanted0.copy_(gradient0)
        gradient1 = torch.empty_like(out0).copy_(gradient1) if out1 is not None else gradient1
    return parts, wanted0, gradient1
