"""`forward_diffuse` in Triton, with the arithmetic of csrc/forward_diffuse/forward_diffuse.h."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .images import in_layout_of, launch_config, load_or_zeros, result_for
from .noise import drawn_noise


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
    one_sample: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    I_0 = load_or_zeros(I_0_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)
    if draws:
        epsilon = drawn_noise(seed, stream, first, channels, pixels, pixels_together, block)
    else:
        epsilon = load_or_zeros(noise_pointer, offsets, inside)

    # A program within one sample reads its index once. Otherwise every element reads its own, from the cache.
    if one_sample:
        index = tl.load(t_pointer + first // per_sample)
        known = (index >= 0) & (index < table_length)
    else:
        index = tl.load(t_pointer + offsets // per_sample, mask=inside, other=0)
        known = inside & (index >= 0) & (index < table_length)
    alpha_bar = tl.load(alpha_bar_pointer + index, mask=known, other=float("nan"))
    beta_bar = tl.load(beta_bar_pointer + index, mask=known, other=float("nan"))

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
    result, wanted, (channels, pixels) = result_for(I_0, counted=True)
    numel = result.numel()
    if numel == 0:
        return wanted
    per_sample = numel // I_0.shape[0]
    config = launch_config(I_0.element_size())
    with torch.cuda.device_of(result):
        forward_diffuse_kernel[(triton.cdiv(numel, config["block"]),)](
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
            channels,
            pixels,
            draws=noise is None,
            pixels_together=channels != 1,
            one_sample=per_sample % config["block"] == 0,
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
