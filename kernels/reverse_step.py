"""`reverse_step` in Triton. The arithmetic is csrc/reverse_step.h's, in the same order."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rddm_fast.ops.step_table import FIELDS, coefficients
from rddm_fast.theory.objective import Objective

from .images import in_layout_of, launch_config, load_or_zeros, pixel_layout, result_for
from .noise import drawn_noise

NOISE = ("seed", "stream", "channels", "pixels")


@triton.jit
def clamp(x, limit):
    # Comparisons rather than min and max: a NaN fails both and is returned, as by torch.clamp.
    return tl.where(x < -limit, -limit, tl.where(x > limit, limit, x))


@triton.jit
def term(k, x):
    # Left out, not multiplied: x may be infinite where k is 0.
    return tl.where(k != 0, k * x, 0.0)


@triton.jit
def place(pointer, value, first, offsets, inside, middle, inner, by_outer, by_middle, by_inner, packed: tl.constexpr):
    # `value`, an image's elements counted in memory, to its channels in a larger image (csrc/tensors.h, Placement).
    if packed:  # the program is within one sample, whose elements lie together
        sample = middle * inner
        start = tl.multiple_of(first // sample * by_outer + first % sample, 16)
        to = start + (offsets - first)
    else:
        rest = offsets // inner
        to = rest // middle * by_outer + rest % middle * by_middle + offsets % inner * by_inner
    tl.store(pointer + to, value.to(pointer.dtype.element_ty), mask=inside)


# Coefficients change at every step: not specialised on, so that a new step is not a new compilation.
@triton.jit(do_not_specialize=[*FIELDS, *NOISE, "step"])
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
    alpha_bar,
    alpha_bar_minus_1,
    beta_bar,
    inv_beta_bar,
    inv_one_minus_alpha_bar,
    k_t,
    k_res,
    k_noise,
    k_0,
    sigma,
    offset,
    clip_res,
    clip_0,
    table_pointer,
    rows,
    step,
    index_pointer,
    seed_pointer,
    next_input_pointer,
    next_input_by_outer,
    next_input_by_middle,
    next_input_by_inner,
    clean_pointer,
    clean_by_outer,
    clean_by_middle,
    clean_by_inner,
    middle,
    inner,
    noise_only: tl.constexpr,
    x0_known: tl.constexpr,
    added: tl.constexpr,
    draws: tl.constexpr,
    pixels_together: tl.constexpr,
    next_input_packed: tl.constexpr,
    clean_packed: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    I_t = load_or_zeros(I_t_pointer, offsets, inside)
    out0 = load_or_zeros(out0_pointer, offsets, inside)
    out1 = load_or_zeros(out1_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)

    if table_pointer is not None:
        number = step.to(tl.int64)
        if index_pointer is not None:
            number += tl.load(index_pointer)
        there = (number >= 0) & (number < rows)
        row = table_pointer + number * 13
        nan = float("nan")  # of a row that is not there: an error would have to stop the queue
        alpha_bar = tl.load(row, mask=there, other=nan)
        alpha_bar_minus_1 = tl.load(row + 1, mask=there, other=nan)
        beta_bar = tl.load(row + 2, mask=there, other=nan)
        inv_beta_bar = tl.load(row + 3, mask=there, other=nan)
        inv_one_minus_alpha_bar = tl.load(row + 4, mask=there, other=nan)
        k_t = tl.load(row + 5, mask=there, other=nan)
        k_res = tl.load(row + 6, mask=there, other=nan)
        k_noise = tl.load(row + 7, mask=there, other=nan)
        k_0 = tl.load(row + 8, mask=there, other=nan)
        sigma = tl.load(row + 9, mask=there, other=0.0)
        offset = tl.load(row + 10, mask=there, other=nan)
        clip_res = tl.load(row + 11, mask=there, other=nan)
        clip_0 = tl.load(row + 12, mask=there, other=nan)
        stream += number
    if seed_pointer is not None:
        seed = tl.load(seed_pointer)

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

    result = offset + term(k_t, I_t) + term(k_res, I_res) + term(k_noise, epsilon) + term(k_0, I_0)
    if draws:
        if sigma != 0:
            result += sigma * drawn_noise(seed, stream, first, channels, pixels, pixels_together, block)
    elif noise_pointer is not None:
        result += term(sigma, load_or_zeros(noise_pointer, offsets, inside))
    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=inside)
    if next_input_pointer is not None:
        place(
            next_input_pointer,
            result,
            first,
            offsets,
            inside,
            middle,
            inner,
            next_input_by_outer,
            next_input_by_middle,
            next_input_by_inner,
            next_input_packed,
        )
    if clean_pointer is not None:
        place(
            clean_pointer,
            I_0,
            first,
            offsets,
            inside,
            middle,
            inner,
            clean_by_outer,
            clean_by_middle,
            clean_by_inner,
            clean_packed,
        )


def read_out(objective: Objective) -> dict[str, bool]:
    """What the kernel has to know of an objective, beside whether there is a second output."""
    return {
        "noise_only": objective is Objective.pred_noise,
        "x0_known": objective in (Objective.pred_x0_noise, Objective.pred_x0_add_noise, Objective.pred_x0),
        "added": objective in (Objective.pred_res_add_noise, Objective.pred_x0_add_noise),
    }


def reverse_step(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    objective: int,
    alpha_bar: float,
    beta_bar: float,
    one_minus_alpha_bar: float,
    k_t: float,
    k_res: float,
    k_noise: float,
    k_0: float,
    sigma: float,
    offset: float,
    clip_res: float,
    clip_0: float,
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/reverse_step.py)."""
    numbers = coefficients(
        *(alpha_bar, beta_bar, one_minus_alpha_bar, k_t, k_res, k_noise, k_0, sigma, offset, clip_res, clip_0)
    )
    if sigma == 0:
        noise = seed = None
    result, wanted, layout = result_for(I_t, counted=seed is not None)
    _launch(I_t, out0, out1, I_in, noise, seed, stream, objective, result, layout, numbers, {}, {})
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
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/reverse_step_in_place.py)."""
    source = {
        "table_pointer": table,
        "rows": len(table),
        "step": step,
        "index_pointer": index,
        "seed_pointer": seed_tensor,
    }
    layout = pixel_layout(I_t)
    assert layout is not None, "I_t must be contiguous or channels-last"
    places: dict[str, Any] = {}
    for name, to in (("next_input", next_input), ("clean", clean)):
        if to is not None:
            places |= placement(to, layout, name, launch_config(min(I_t.element_size(), out0.element_size()))["block"])
    _launch(
        I_t, out0, out1, I_in, noise, seed, stream, objective, I_t, layout, dict.fromkeys(FIELDS, 0.0), source, places
    )


def placement(to: Tensor, layout: tuple[int, int], name: str, block: int) -> dict[str, Any]:
    """What the kernel has to know to write an image of that pixel layout to `to` (csrc/tensors.h, Placement)."""
    channels, pixels = to.shape[1], to.shape[2] * to.shape[3]
    pixel_stride = to.stride(2) if to.shape[3] == 1 else to.stride(3)
    dims = [(channels, to.stride(1)), (pixels, pixel_stride)]
    (middle, middle_stride), (inner, inner_stride) = dims if layout[0] == 1 else dims[::-1]
    whole = inner_stride == 1 and (middle == 1 or middle_stride == inner)
    return {
        f"{name}_pointer": to,
        f"{name}_by_outer": to.stride(0),
        f"{name}_by_middle": middle_stride,
        f"{name}_by_inner": inner_stride,
        f"{name}_packed": whole and middle * inner % block == 0 and to.stride(0) % 16 == 0,
        "middle": middle,
        "inner": inner,
    }


def _launch(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    objective: int,
    result: Tensor,
    layout: tuple[int, int],
    numbers: dict[str, float],
    source: dict[str, Any],
    places: dict[str, Any],
) -> None:
    if I_t.dtype == torch.float64:
        raise TypeError("I_t is float64, which the Triton kernel does not take: use impl='reference'")
    numel = result.numel()
    if numel == 0:
        return
    config = launch_config(min(I_t.element_size(), out0.element_size()))
    absent: dict[str, Any] = dict.fromkeys(("table_pointer", "index_pointer", "seed_pointer"))
    absent |= {"rows": 0, "step": 0, "middle": 1, "inner": 1}
    for name in ("next_input", "clean"):
        absent |= {f"{name}_pointer": None, f"{name}_packed": False}
        absent |= dict.fromkeys((f"{name}_by_outer", f"{name}_by_middle", f"{name}_by_inner"), 0)
    with torch.cuda.device_of(result):
        reverse_step_kernel[(triton.cdiv(numel, config["block"]),)](
            in_layout_of(I_t, result),
            in_layout_of(out0, result),
            in_layout_of(out1, result),
            in_layout_of(I_in, result) if Objective(objective).needs_input else None,
            in_layout_of(noise, result),
            result,
            numel,
            seed or 0,
            stream,
            *layout,
            **numbers,
            **{**absent, **source, **places},
            **read_out(Objective(objective)),
            draws=seed is not None,
            pixels_together=layout[0] != 1,
            **config,
        )
