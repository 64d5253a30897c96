"""`joint_loss` in Triton, with the arithmetic of csrc/joint_loss/joint_loss.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import in_layout_of, launch_config, load_or_zeros, result_for
from .noise import drawn_noise
from .objective import flags_of

MOST_PROGRAMS = tl.constexpr(3168)
"""The most programs of a launch: 3 times what an H100 or H200 holds. The same everywhere, as then are the loss's bits.

All work to the end, and their sums are few enough for one program to add up.
"""


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


@triton.jit
def scale_at(pointer, offsets, inside, scale):
    if pointer is not None:
        scaled = load_or_zeros(pointer, offsets, inside) * scale
        tl.store(pointer + offsets, scaled.to(pointer.dtype.element_ty), mask=inside)


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
    if lam_pointer is not None:
        weight0 = tl.load(lam_pointer)
        weight1 = 1.0 - weight0
    total0 = tl.zeros((block,), tl.float32)
    total1 = tl.zeros((block,), tl.float32)
    first = program.to(tl.int64) * block
    while first < numel:
        offsets = first + tl.arange(0, block)
        inside = offsets < numel
        out0 = load_or_zeros(out0_pointer, offsets, inside)
        out1 = load_or_zeros(out1_pointer, offsets, inside)
        I_0 = load_or_zeros(I_0_pointer, offsets, inside)
        I_in = load_or_zeros(I_in_pointer, offsets, inside)
        if draws:
            epsilon = drawn_noise(seed, stream, first, channels, pixels, pixels_together, block)
        else:
            epsilon = load_or_zeros(noise_pointer, offsets, inside)

        target0 = epsilon if noise_only else (I_0 if x0_known else I_in - I_0)
        d0 = out0 - target0
        gradient0 = weight0 * scale * distance_derivative(d0, squared)
        tl.store(gradient0_pointer + offsets, gradient0.to(gradient0_pointer.dtype.element_ty), mask=inside)
        total0 += tl.where(inside, distance(d0, squared), 0.0)
        if out1_pointer is not None:
            d1 = out1 - (target0 + epsilon if added else epsilon)
            gradient1 = weight1 * scale * distance_derivative(d1, squared)
            tl.store(gradient1_pointer + offsets, gradient1.to(gradient1_pointer.dtype.element_ty), mask=inside)
            total1 += tl.where(inside, distance(d1, squared), 0.0)
        first += tl.num_programs(0).to(tl.int64) * block
    tl.store(sums_pointer + 2 * program, tl.sum(total0))
    tl.store(sums_pointer + 2 * program + 1, tl.sum(total1))


@triton.jit(do_not_specialize=["programs", "weight0", "weight1"])
def means_kernel(
    sums_pointer, lam_pointer, loss_pointer, parts_pointer, programs, numel, weight0, weight1, block: tl.constexpr
):
    # One program adds up the others' sums. A kernel of its own: were the last program to do it, as in CUDA, each would
    # wait twice at a barrier for an atomic's answer.
    total0 = tl.zeros((block,), tl.float64)
    total1 = tl.zeros((block,), tl.float64)
    for first in tl.static_range(0, MOST_PROGRAMS, block):  # unrolled, so that all loads are in flight at once
        pairs = first + tl.arange(0, block)
        inside = pairs < programs
        total0 += tl.load(sums_pointer + 2 * pairs, mask=inside, other=0.0).to(tl.float64)
        total1 += tl.load(sums_pointer + 2 * pairs + 1, mask=inside, other=0.0).to(tl.float64)
    if lam_pointer is not None:
        weight0 = tl.load(lam_pointer)
        weight1 = 1.0 - weight0
    mean0 = tl.sum(total0) / numel
    mean1 = tl.sum(total1) / numel
    tl.store(parts_pointer, mean0.to(tl.float32))
    tl.store(parts_pointer + 1, mean1.to(tl.float32))
    tl.store(loss_pointer, (weight0 * mean0 + weight1 * mean1).to(tl.float32))


@triton.jit(do_not_specialize=["factor"])
def joint_loss_backward_kernel(
    gradient0_pointer, gradient1_pointer, by_loss_pointer, numel, factor, block: tl.constexpr
):
    scale = tl.load(by_loss_pointer) * factor
    if scale != 1.0:
        first = tl.program_id(0).to(tl.int64) * block
        while first < numel:
            offsets = first + tl.arange(0, block)
            inside = offsets < numel
            scale_at(gradient0_pointer, offsets, inside, scale)
            scale_at(gradient1_pointer, offsets, inside, scale)
            first += tl.num_programs(0).to(tl.int64) * block


def _programs(numel: int, block: int) -> int:
    return max(1, min(triton.cdiv(numel, block), MOST_PROGRAMS.value))


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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Launch the kernels; the arguments and results are the op's (rddm_fast/ops/joint_loss.py)."""
    if I_0.dtype == torch.float64:
        raise TypeError("I_0 is float64, which the Triton kernel does not take: use impl='reference'")
    draws = noise is None
    gradient0, wanted0, (channels, pixels) = result_for(out0, counted=draws)
    gradient1 = torch.empty_like(gradient0) if out1 is not None else out0.new_empty(0)
    numel = out0.numel()
    config = launch_config(min(I_0.element_size(), out0.element_size()))
    programs = _programs(numel, config["block"])
    sums = torch.empty((programs, 2), dtype=torch.float32, device=out0.device)
    loss, parts = (torch.empty(shape, dtype=torch.float32, device=out0.device) for shape in ((), 2))
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
            1.0 if out0.dtype == torch.float16 else 1.0 / max(numel, 1),
            **flags_of(objective),
            squared=squared,
            draws=draws,
            pixels_together=channels != 1,
            **config,
        )
        means_kernel[(1,)](sums, lam, loss, parts, programs, numel, weight0, weight1, block=1024)
    if gradient0 is not wanted0:
        wanted0.copy_(gradient0)
        gradient1 = torch.empty_like(out0).copy_(gradient1) if out1 is not None else gradient1
    return loss, parts, wanted0, gradient1


def joint_loss_backward(gradient0: Tensor, gradient1: Tensor | None, by_loss: Tensor, factor: float) -> None:
    """Launch the kernel, which multiplies both gradients in place; they lie in memory as the forward pass left them."""
    numel, config = gradient0.numel(), launch_config(gradient0.element_size())
    with torch.cuda.device_of(gradient0):
        joint_loss_backward_kernel[(_programs(numel, config["block"]),)](
            gradient0, gradient1, by_loss, numel, factor, **config
        )
