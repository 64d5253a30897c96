"""`forward_diffuse` in Triton, with the arithmetic of csrc/forward_diffuse/forward_diffuse.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import drawing_config, elements_of_program, in_layout_of, load_or_zeros, result_for
from .noise import drawn_noise


@triton.jit
def coefficients(t_pointer, alpha_bar_pointer, beta_bar_pointer, table_length, samples, inside):
    index = tl.load(t_pointer + samples, mask=inside, other=-1)
    known = (index >= 0) & (index < table_length)
    alpha_bar = tl.load(alpha_bar_pointer + index, mask=known, other=float("nan"))
    beta_bar = tl.load(beta_bar_pointer + index, mask=known, other=float("nan"))
    return alpha_bar, beta_bar


@triton.jit(do_not_specialize=["seed", "stream", "channels", "pixels", "table_length"])
def forward_diffuse_kernel(
    I_0_pointer,
    I_in_pointer,
    noise_pointer,
    t_pointer,
    alpha_bar_pointer,
    beta_bar_pointer,
    result_pointer,
    numel,
    per_sample,
    table_length,
    seed,
    stream,
    channels,
    pixels,
    draws: tl.constexpr,
    pixels_together: tl.constexpr,
    in_fours: tl.constexpr,
    samples: tl.constexpr,  # that a program's elements may be of: 1, 2, or 0 for more
    narrow: tl.constexpr,
    share: tl.constexpr,
    block: tl.constexpr,
):
    first, offsets, inside = elements_of_program(numel, share, block, narrow)
    I_0 = load_or_zeros(I_0_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)

    # A program within one sample reads its index once, one within two reads both. Otherwise every element reads its
    # own, from the cache.
    if samples == 0:
        alpha_bar, beta_bar = coefficients(
            t_pointer, alpha_bar_pointer, beta_bar_pointer, table_length, offsets // per_sample, inside
        )
    else:
        sample = first // per_sample
        alpha_bar, beta_bar = coefficients(
            t_pointer, alpha_bar_pointer, beta_bar_pointer, table_length, sample, first < numel
        )
        if samples == 2:
            following = (sample + 1) * per_sample  # may be the end
            next_alpha_bar, next_beta_bar = coefficients(
                t_pointer, alpha_bar_pointer, beta_bar_pointer, table_length, sample + 1, following < numel
            )
            alpha_bar = tl.where(offsets < following, alpha_bar, next_alpha_bar)
            beta_bar = tl.where(offsets < following, beta_bar, next_beta_bar)

    if draws:
        epsilon = drawn_noise(seed, stream, first, channels, pixels, pixels_together, block, in_fours)
    else:
        epsilon = load_or_zeros(noise_pointer, offsets, inside)
    result = I_0 + alpha_bar * (I_in - I_0) + beta_bar * epsilon
    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=inside)


def forward_diffuse(
    I_0: Tensor,
    I_in: Tensor | None,
    t: Tensor,
    alpha_bar: Tensor,
    beta_bar: Tensor,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/forward_diffuse.py)."""
    if I_0.dtype == torch.float64:
        raise TypeError("I_0 is float64, which the Triton kernel does not take: use impl='reference'")
    result, wanted, layout = result_for(I_0, counted=True)
    numel = result.numel()
    if numel == 0:
        return wanted
    per_sample = numel // I_0.shape[0]
    config = drawing_config(I_0.element_size(), numel, noise is None, layout)
    share = config["share"]
    samples = 1 if per_sample % share == 0 else 2 if per_sample >= share else 0
    with torch.cuda.device_of(result):
        forward_diffuse_kernel[(triton.cdiv(numel, share),)](
            in_layout_of(I_0, result),
            in_layout_of(I_in, result),
            in_layout_of(noise, result),
            t.contiguous(),
            alpha_bar.contiguous(),
            beta_bar.contiguous(),
            result,
            numel,
            per_sample,
            alpha_bar.shape[0],
            seed or 0,
            stream,
            *layout,
            draws=noise is None,
            samples=samples,
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
