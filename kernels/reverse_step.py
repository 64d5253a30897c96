"""`reverse_step` in Triton. The arithmetic is csrc/reverse_step.h's, in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from rddm_fast.objective import Objective

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


@triton.jit
def load_or_zeros(pointer, offsets, inside):
    # In float32. An absent input (None is a compile-time constant) is zeros and costs nothing.
    if pointer is None:
        return tl.zeros(offsets.shape, tl.float32)
    else:
        return tl.load(pointer + offsets, mask=inside, other=0.0).to(tl.float32)


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


def launch_config(narrowest: int) -> dict[str, int]:
    """Elements a program takes, and its warps, where the narrowest tensor has `narrowest` bytes an element.

    16 bytes of the narrowest tensor a thread, the widest access there is, in 4 warps: enough loads in flight
    to fill the memory pipe, and programs small enough that a 64 x 64 image still spreads over the device.
    Accesses are that wide where the tensors are aligned and the element count divides by 16.
    """
    return {"block": 4 * 32 * (16 // narrowest), "num_warps": 4}


def read_out(objective: Objective) -> dict[str, bool]:
    """What the kernel has to know of an objective, beside whether there is a second output."""
    return {
        "noise_only": objective is Objective.pred_noise,
        "x0_known": objective in (Objective.pred_x0_noise, Objective.pred_x0_add_noise, Objective.pred_x0),
        "added": objective in (Objective.pred_res_add_noise, Objective.pred_x0_add_noise),
    }


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
    result = wanted = torch.empty_like(I_t)
    numel = result.numel()
    if numel == 0:
        return result
    draws = seed is not None and sigma != 0
    layout = pixel_layout(result)
    if draws and layout is None:  # drawn noise is counted in contiguous and channels-last images
        result, layout = torch.empty(I_t.shape, dtype=I_t.dtype, device=I_t.device), (1, 1)
    channels, pixels = layout or (1, 1)
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
