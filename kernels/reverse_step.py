"""`reverse_step` in Triton, with the arithmetic of csrc/reverse_step/reverse_step.h in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import drawing_config, elements_of_program, in_layout_of, load_or_zeros, pixel_layout, result_for
from .noise import drawn_noise
from .objective import flags_of

NUMBERS = tl.constexpr(14)  # numbers of a step, in the order of FIELDS (rddm_fast/ops/step_table.py)


@triton.jit
def row_of(table_pointer, rows, number):
    # A step's numbers. A missing row makes the image NaN, because raising an error would stall the queue.
    there = (number >= 0) & (number < rows)
    numbers = ()
    for i in tl.static_range(NUMBERS):
        value = tl.load(table_pointer + number * NUMBERS + i, mask=there, other=float("nan"))
        numbers = numbers + (value,)  # type: ignore[assignment]  # noqa: RUF005  (Triton cannot unpack here)
    return numbers


@triton.jit
def clamp(x, limit):
    # Comparisons instead of min and max: a NaN fails both and is returned, as torch.clamp returns it.
    return tl.where(x < -limit, -limit, tl.where(x > limit, limit, x))


@triton.jit
def term(k, x):
    # Left out, not multiplied: x may be infinite if k is 0.
    return tl.where(k != 0, k * x, 0.0)


@triton.jit
def place(to, value, first, offsets, inside, packed: tl.constexpr):
    # Store `value`, an image's elements in memory order, in some channels of a larger image (csrc/common/tensors.h,
    # Placement).
    pointer, middle, inner, by_outer, by_middle, by_inner = to
    # In 64 bits, as the larger image may have more elements than the offsets' type counts.
    if packed:  # The program stays within one sample, whose elements are adjacent.
        sample = middle * inner
        start = tl.multiple_of((first // sample).to(tl.int64) * by_outer + first % sample, 16)
        at = start + (offsets - first)
    else:
        rest = offsets // inner
        at = (rest // middle).to(tl.int64) * by_outer + (rest % middle).to(tl.int64) * by_middle
        at += (offsets % inner).to(tl.int64) * by_inner
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), mask=inside)


# These integers change from call to call. If specialised, each new value would be a new compilation.
@triton.jit(do_not_specialize=["seed", "stream", "channels", "pixels", "rows", "step"])
def reverse_step_kernel(
    I_t_pointer,
    out0_pointer,
    out1_pointer,
    I_in_pointer,
    noise_pointer,
    result_pointer,
    numel,
    seed,
    stream,
    channels,
    pixels,
    numbers,  # a step's numbers; None reads row `step` of the table (plus the number that `index_pointer` holds)
    table_pointer,
    rows,
    step,
    index_pointer,
    seed_pointer,
    next_input,  # None, or (pointer, middle, inner, and the three strides)
    clean,
    noise_only: tl.constexpr,
    x0_known: tl.constexpr,
    added: tl.constexpr,
    draws: tl.constexpr,
    pixels_together: tl.constexpr,
    in_fours: tl.constexpr,
    next_input_packed: tl.constexpr,
    clean_packed: tl.constexpr,
    narrow: tl.constexpr,
    share: tl.constexpr,
    block: tl.constexpr,
):
    first, offsets, inside = elements_of_program(numel, share, block, narrow)
    I_t = load_or_zeros(I_t_pointer, offsets, inside)
    out0 = load_or_zeros(out0_pointer, offsets, inside)
    out1 = load_or_zeros(out1_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)

    # The step's numbers.
    if table_pointer is not None:
        number = step.to(tl.int64)
        if index_pointer is not None:
            number += tl.load(index_pointer)
        numbers = row_of(table_pointer, rows, number)
        stream += number
    if seed_pointer is not None:
        seed = tl.load(seed_pointer)
    alpha_bar, alpha_bar_minus_1, beta_bar, inv_beta_bar, inv_one_minus_alpha_bar = numbers[:5]
    k_t, k_res, k_noise, k_0, k_in, sigma, offset, clip_res, clip_0 = numbers[5:]

    # Read the outputs out.
    if noise_only:
        epsilon = out0
        I_0 = clamp((I_t - alpha_bar * I_in - beta_bar * epsilon) * inv_one_minus_alpha_bar, clip_0)
        I_res = clamp(I_in - I_0, clip_res)
    else:
        I_res = clamp(I_in - out0 if x0_known else out0, clip_res)
        if out1_pointer is not None:
            epsilon = out1 - out0 if added else out1
            I_0 = clamp(out0 if x0_known else I_t - alpha_bar * I_res - beta_bar * epsilon, clip_0)
        else:
            epsilon = (I_t - I_in - alpha_bar_minus_1 * I_res) * inv_beta_bar
            I_0 = clamp(I_in - I_res, clip_0)

    # Step.
    result = offset + term(k_t, I_t) + term(k_res, I_res) + term(k_noise, epsilon) + term(k_0, I_0)
    if I_in_pointer is not None:
        result += term(k_in, I_in)
    if draws:
        if sigma != 0:
            result += sigma * drawn_noise(seed, stream, first, channels, pixels, pixels_together, block, in_fours)
    elif noise_pointer is not None:
        result += term(sigma, load_or_zeros(noise_pointer, offsets, inside))

    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=inside)
    if next_input is not None:
        place(next_input, result, first, offsets, inside, next_input_packed)
    if clean is not None:
        place(clean, I_0, first, offsets, inside, clean_packed)


def reverse_step(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    objective: int,
    numbers: list[float],
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/reverse_step.py)."""
    result, wanted, layout = result_for(I_t, counted=seed is not None)
    grid, images, flags = _prepared(I_t, out0, out1, I_in, noise, seed, stream, result, layout)
    if result.numel():
        with torch.cuda.device_of(result):
            reverse_step_kernel[grid](
                *images,
                tuple(numbers),
                *(None, 0, 0, None, None),
                *(None, None),
                **flags_of(objective),
                **flags,
                next_input_packed=False,
                clean_packed=False,
            )
    return result if result is wanted else wanted.copy_(result)


def reverse_step_in_place(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    seed_tensor: Tensor | None,
    stream: int,
    objective: int,
    table: Tensor,
    step: int,
    index: Tensor | None,
    next_input: Tensor | None,
    clean: Tensor | None,
) -> None:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/reverse_step.py)."""
    layout = pixel_layout(I_t)
    assert layout is not None, "I_t must be contiguous or channels-last"
    placed = next_input is not None or clean is not None
    grid, images, flags = _prepared(I_t, out0, out1, I_in, noise, seed, stream, I_t, layout, placed)
    next_to, next_packed = placement(next_input, layout, flags["share"])
    clean_to, clean_packed = placement(clean, layout, flags["share"])
    if I_t.numel():
        with torch.cuda.device_of(I_t):
            reverse_step_kernel[grid](
                *images,
                None,
                *(table, len(table), step, index, seed_tensor),
                *(next_to, clean_to),
                **flags_of(objective),
                **flags,
                next_input_packed=next_packed,
                clean_packed=clean_packed,
            )


def placement(to: Tensor | None, layout: tuple[int, int], share: int) -> tuple[tuple | None, bool]:
    """Return where the kernel writes an image of that layout in `to`, and whether its elements are adjacent there.

    The first is (the tensor, middle, inner, the strides of csrc/common/tensors.h's Placement), or None without `to`.
    """
    if to is None:
        return None, False
    channels, pixels = to.shape[1], to.shape[2] * to.shape[3]
    pixel_stride = to.stride(2) if to.shape[3] == 1 else to.stride(3)
    dims = [(channels, to.stride(1)), (pixels, pixel_stride)]
    (middle, middle_stride), (inner, inner_stride) = dims if layout[0] == 1 else dims[::-1]
    whole = inner_stride == 1 and (middle == 1 or middle_stride == inner)
    packed = whole and middle * inner % share == 0 and to.stride(0) % 16 == 0
    return (to, middle, inner, to.stride(0), middle_stride, inner_stride), packed


def _prepared(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    result: Tensor,
    layout: tuple[int, int],
    placed: bool = False,
) -> tuple[tuple[int], list, dict]:
    """Return what both launchers pass: the grid, the images with the numbers of their elements, and the flags."""
    if I_t.dtype == torch.float64:
        raise TypeError("I_t is float64, which the Triton kernel does not take: use impl='reference'")
    draws = seed is not None
    config = drawing_config(min(I_t.element_size(), out0.element_size()), I_t.numel(), draws, layout, placed)
    inputs = [in_layout_of(x, result) for x in (I_t, out0, out1, I_in, noise)]
    grid = (triton.cdiv(result.numel(), config["share"]),)
    flags = {"draws": draws, **config}
    return grid, [*inputs, result, result.numel(), seed or 0, stream, *layout], flags
