"""`spectral_step_` in Triton, with the arithmetic of csrc/spectral_step/spectral_step.h in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..images import in_layout_of, launch_config, load_or_zeros
from ..noise import drawn_noise

NUMBERS = tl.constexpr(9)  # numbers of a step, in the order of FIELDS (rddm_fast/ops/inverse/spectral_step.py)


@triton.jit
def term(k, x):
    # Left out, not multiplied: x may be infinite if k is 0.
    return tl.where(k != 0, k * x, 0.0)


@triton.jit(do_not_specialize=["seed", "stream"])
def spectral_step_kernel(
    x_pointer,
    epsilon_pointer,
    y_bar_pointer,
    s_pointer,
    noise_pointer,
    clean_pointer,
    numel,
    size,  # coordinates of a sample
    seed,
    stream,
    numbers,
    strict: tl.constexpr,
    draws: tl.constexpr,
    y_rows: tl.constexpr,  # whether every sample has a row of its own
    s_rows: tl.constexpr,
    s_columns: tl.constexpr,  # whether every coordinate has a number of its own
    one_sample: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    sigma_t, inv_root_a_t, root_a_s, sigma_s, threshold, k_noise, k_eta, k_y_per_s, eta_b = numbers

    # Where they are in a row, and which. A program within one sample has adjacent accesses.
    if one_sample:
        sample = first // size
        column = tl.multiple_of(first % size, 16) + tl.arange(0, block)
    else:
        sample = offsets // size
        column = offsets % size
    x = load_or_zeros(x_pointer, offsets, inside)
    epsilon = load_or_zeros(epsilon_pointer, offsets, inside)
    y_bar = load_or_zeros(y_bar_pointer, sample * size + column if y_rows else column, inside)
    if s_columns:
        s = load_or_zeros(s_pointer, sample * size + column if s_rows else column, inside)
    else:
        of_sample = sample if s_rows else sample * 0
        s = tl.load(s_pointer + of_sample) if one_sample else load_or_zeros(s_pointer, of_sample, inside)

    # Which case is it?
    level = s * sigma_s
    observed = s > 0
    is_cleaner = observed & (level > threshold if strict else level >= threshold)
    is_noisier = observed & (level < threshold)

    # The coefficients of x_0, epsilon, y_bar and z.
    x_0 = (x - sigma_t * epsilon) * inv_root_a_t
    k_y = tl.where(is_cleaner, eta_b * root_a_s, tl.where(is_noisier, k_y_per_s * s, 0.0))
    k_0 = tl.where(is_cleaner, (1.0 - eta_b) * root_a_s, root_a_s - k_y)
    k_epsilon = tl.where(is_cleaner | is_noisier, 0.0, k_noise)
    of_y = eta_b * threshold / tl.where(is_cleaner, s, 1.0)
    left = sigma_s * sigma_s - of_y * of_y
    k_z = tl.where(is_cleaner, tl.sqrt(tl.where(left > 0, left, 0.0)), k_eta)

    result = term(k_0, x_0) + term(k_epsilon, epsilon) + term(k_y, y_bar)
    if draws:
        result += term(k_z, drawn_noise(seed, stream, first, 1, 1, False, block))
    elif noise_pointer is not None:
        result += term(k_z, load_or_zeros(noise_pointer, offsets, inside))
    tl.store(x_pointer + offsets, result.to(x_pointer.dtype.element_ty), mask=inside)
    if clean_pointer is not None:
        tl.store(clean_pointer + offsets, x_0.to(clean_pointer.dtype.element_ty), mask=inside)


def spectral_step(
    x: Tensor,
    epsilon: Tensor,
    y_bar: Tensor,
    s: Tensor,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    strict: bool,
    numbers: list[float],
    clean: Tensor | None,
) -> None:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/inverse/spectral_step.py)."""
    if x.dtype == torch.float64:
        raise TypeError("x is float64, which the Triton kernel does not take: use impl='reference'")
    if x.numel() == 0:
        return
    batch, size = x.shape
    config = launch_config(x.element_size())
    with torch.cuda.device_of(x):
        spectral_step_kernel[(triton.cdiv(x.numel(), config["block"]),)](
            x,
            in_layout_of(epsilon, x),
            y_bar.contiguous(),
            s.contiguous(),
            in_layout_of(noise, x),
            clean,
            x.numel(),
            size,
            seed or 0,
            stream,
            tuple(numbers),
            strict=strict,
            draws=seed is not None,
            y_rows=len(y_bar) == batch and batch > 1,
            s_rows=len(s) == batch and batch > 1,
            s_columns=s.shape[1] == size and size > 1,
            one_sample=size % config["block"] == 0,
            **config,
        )
