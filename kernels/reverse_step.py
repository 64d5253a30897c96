"""`reverse_step` in Triton. The arithmetic is csrc/reverse_step.h's, in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rddm_fast.objective import Objective

from .images import in_layout_of, launch_config, load_or_zeros, result_for
from .noise import drawn_noise

NOISE = ("seed", "stream", "channels", "pixels")
COEFFICIENTS = (
    *("alpha_bar", "alpha_bar_minus_1", "beta_bar", "inv_beta_bar", "inv_one_minus_alpha_bar"),
    *("k_t", "k_res", "k_noise", "k_0", "sigma", "clip_res", "clip_0"),
)


@triton.jit
def clamp(x, limit):
    # Comparisons rather than min and max: a NaN fails both and is returned, as by torch.clamp.
    return tl.where(x < -limit, -limit, tl.where(x > limit, limit, x))


# Coefficients change at every step: not specialised on, so that a new step is not a new compilation.
# Which of them are zero changes once in a run, at the last step: `adds_*` are compiled in.
@triton.jit(do_not_specialize=[*COEFFICIENTS, *NOISE])
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
    clip_res,
    clip_0,
    noise_only: tl.constexpr,
    x0_known: tl.constexpr,
    added: tl.constexpr,
    adds_I_t: tl.constexpr,
    adds_res: tl.constexpr,
    adds_noise: tl.constexpr,
    adds_I_0: tl.constexpr,
    draws: tl.constexpr,
    pixels_together: tl.constexpr,
    block: tl.constexpr,
):
    first = tl.program_id(0).to(tl.int64) * block
    offsets = first + tl.arange(0, block)
    inside = offsets < numel
    I_t = load_or_zeros(I_t_pointer, offsets, inside)
    out0 = load_or_zeros(out0_pointer, offsets, inside)
    out1 = load_or_zeros(out1_pointer, offsets, inside)
    I_in = load_or_zeros(I_in_pointer, offsets, inside)

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

    result = tl.zeros([block], tl.float32)
    if adds_I_t:
        result += k_t * I_t
    if adds_res:
        result += k_res * I_res
    if adds_noise:
        result += k_noise * epsilon
    if adds_I_0:
        result += k_0 * I_0
    if draws:
        result += sigma * drawn_noise(seed, stream, first, channels, pixels, pixels_together, block)
    elif noise_pointer is not None:
        result += sigma * load_or_zeros(noise_pointer, offsets, inside)
    tl.store(result_pointer + offsets, result.to(result_pointer.dtype.element_ty), mask=inside)


def read_out(objective: Objective) -> dict[str, bool]:
    """What the kernel has to know of an objective, beside whether there is a second output."""
    return {
        "noise_only": objective is Objective.pred_noise,
        "x0_known": objective in (Objective.pred_x0_noise, Objective.pred_x0_add_noise, Objective.pred_x0),
        "added": objective in (Objective.pred_res_add_noise, Objective.pred_x0_add_noise),
    }


def inverse(x: float) -> float:
    """1 / x as IEEE arithmetic has it, where Python would raise."""
    return 1.0 / x if x else float("inf")


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
    clip_res: float,
    clip_0: float,
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/reverse_step.py)."""
    if I_t.dtype == torch.float64:
        raise TypeError("I_t is float64, which the Triton kernel does not take: use impl='reference'")
    draws = seed is not None and sigma != 0
    result, wanted, (channels, pixels) = result_for(I_t, counted=draws)
    numel = result.numel()
    if numel == 0:
        return wanted
    config = launch_config(min(I_t.element_size(), out0.element_size()))
    with torch.cuda.device_of(result):
        reverse_step_kernel[(triton.cdiv(numel, config["block"]),)](
            in_layout_of(I_t, result),
            in_layout_of(out0, result),
            in_layout_of(out1, result),
            in_layout_of(I_in, result) if Objective(objective).needs_input else None,
            in_layout_of(noise, result) if sigma != 0 else None,
            result,
            numel,
            seed or 0,
            stream,
            channels,
            pixels,
            alpha_bar,
            alpha_bar - 1.0,
            beta_bar,
            inverse(beta_bar),
            inverse(one_minus_alpha_bar),
            k_t,
            k_res,
            k_noise,
            k_0,
            sigma,
            clip_res,
            clip_0,
            **read_out(Objective(objective)),
            adds_I_t=k_t != 0,
            adds_res=k_res != 0,
            adds_noise=k_noise != 0,
            adds_I_0=k_0 != 0,
            draws=draws,
            pixels_together=channels != 1,
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
