"""`rddm_fast::reverse_step` and `rddm_fast::reverse_step_`: one step of the reverse process in one pass over memory.

A captured sampler runs the in-place form. Its addresses never change: it reads the coefficients, the step and the seed
from device memory, and writes the next input where the network reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..theory.objective import Objective, Prediction, read_out
from . import backends
from .autocast import without_autocast
from .checks import (
    DTYPES,
    check_alike,
    check_dtype,
    check_no_gradient,
    check_number,
    check_outputs,
    check_written_in_place,
)
from .noise import noise as draw
from .noise import signed64
from .step_table import FIELDS, StepTable, step_numbers

_INPUTS = "Tensor out0, Tensor? out1, Tensor? I_in, Tensor? noise, int? seed"


def terms(read: Prediction, I_t: Tensor, I_in: Tensor | None, noise: Tensor | None) -> dict[str, Tensor | None]:
    """Return the images that a step adds up, by the names of their coefficients; None for one that there is not."""
    of_prediction = {"k_res": read.pred_res, "k_noise": read.pred_noise, "k_0": read.pred_x_start}
    return {"k_t": I_t, **of_prediction, "k_in": I_in, "sigma": noise}


def combined(k: Mapping[str, Any], read: Prediction, I_t: Tensor, I_in: Tensor | None, noise: Tensor | None) -> Tensor:
    """The sum that defines a step: offset + k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + k_in I_in + sigma z.

    A term whose coefficient is 0 is left out, not multiplied: at the last step epsilon may be infinite. The values of
    `k` are floats, or tensors of one number.
    """
    result = torch.full_like(I_t, k["offset"])
    for name, x in terms(read, I_t, I_in, noise).items():
        if x is None:
            continue
        if isinstance(k[name], Tensor):
            result = result + torch.where(k[name] == 0, 0.0, k[name] * x)
        elif k[name] != 0:
            result = result + k[name] * x
    return result


def _stepped(
    k: Mapping[str, float],
    objective: int,
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
) -> tuple[Tensor, Tensor]:
    """Return the next image and I_0, in float32 (float64 for float64 images), from the numbers of FIELDS by name."""
    compute = torch.float64 if I_t.dtype == torch.float64 else torch.float32
    x, out0 = I_t.to(compute), out0.to(compute)
    I_in = None if I_in is None else I_in.to(compute)
    read = read_out(
        Objective(objective),
        x,
        out0,
        None if out1 is None else out1.to(compute),
        0.0 if I_in is None else I_in,
        k["alpha_bar"],
        k["beta_bar"],
        1.0 / k["inv_one_minus_alpha_bar"],
        k["clip_res"],
        k["clip_0"],
    )
    if k["sigma"] != 0 and noise is None:
        assert seed is not None
        noise = draw(I_t.shape, seed, stream, I_t.device)
    return combined(k, read, x, I_in, None if noise is None else noise.to(compute)), read.pred_x_start


@without_autocast
def reverse_step_reference(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    objective: int,
    numbers: Sequence[float],
) -> Tensor:
    """The definition of reverse_step in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as `torch.empty_like(I_t)`.
    """
    k = dict(zip(FIELDS, numbers, strict=True))
    result, _ = _stepped(k, objective, I_t, out0, out1, I_in, noise, seed, stream)
    return torch.empty_like(I_t).copy_(result)


@without_autocast
def reverse_step_in_place_reference(
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
    """The definition of reverse_step_ in plain torch, with the schema's arguments. It computes in float32."""
    number = step + (0 if index is None else int(index))
    if not 0 <= number < len(table):
        raise RuntimeError(f"reverse_step_: there is no step {number} in a table of {len(table)}")
    k = dict(zip(FIELDS, table[number].tolist(), strict=True))
    seed = seed if seed_tensor is None else int(seed_tensor)
    result, I_0 = _stepped(k, objective, I_t, out0, out1, I_in, noise, seed, stream + number)
    I_t.copy_(result)
    if next_input is not None:
        next_input.copy_(result)
    if clean is not None:
        clean.copy_(I_0)


REVERSE_STEP = backends.define(
    "reverse_step",
    f"(Tensor I_t, {_INPUTS}, int stream, int objective, float[] numbers) -> Tensor",
    reference=reverse_step_reference,
    triton="reverse_step:reverse_step",
)
REVERSE_STEP_IN_PLACE = backends.define(
    "reverse_step_",
    f"(Tensor(a!) I_t, {_INPUTS}, Tensor? seed_tensor, int stream, int objective, "
    "Tensor table, int step, Tensor? index, Tensor(b!)? next_input, Tensor(c!)? clean) -> ()",
    reference=reverse_step_in_place_reference,
    triton="reverse_step:reverse_step_in_place",
    fake=lambda *_: None,
    same=("I_t", "next_input"),
)


def reverse_step(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None = None,
    *,
    objective: Objective | str | int,
    alpha_bar: float,
    beta_bar: float,
    one_minus_alpha_bar: float | None = None,
    k_t: float,
    k_res: float,
    k_noise: float,
    k_0: float,
    k_in: float = 0.0,
    sigma: float = 0.0,
    offset: float = 0.0,
    I_in: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int | None = None,
    stream: int = 0,
    clip_res: float = 1.0,
    clip_0: float = 1.0,
    impl: str | None = None,
) -> Tensor:
    """Take one step of the reverse process: from the network's outputs at I_t to the next, less noisy image.

    Reads the residual I_res, the noise epsilon and the clean image I_0 out of the outputs as
    `objective.read_out` does, and returns

        offset + k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + k_in I_in + sigma noise

    This form covers every sampler of the paper (RDDM, Liu et al., CVPR 2024): the generalised step, its eq. 13
    (k_t = 1, k_res = -(alpha_bar_t - alpha_bar_s), k_noise = -(beta_bar_t - sqrt(beta_bar_s^2 - sigma^2))),
    the last step (k_0 = 1), and the mean of the posterior (k_t, k_res, k_0). DiffUIR's step (Zheng et al., CVPR 2024)
    also adds a share of the degraded image (k_in). A term whose coefficient is exactly 0 is left out, not multiplied:
    an infinite epsilon (beta_bar = 0) does not spoil a last step.

    Args:
        I_t: the current image, of any shape, in float32, bfloat16 or float16 (float64: on the CPU only).
        out0, out1: the network's outputs, of I_t's shape and dtype, or both bfloat16 or both float16 beside
            a float32 I_t. `out1` is given exactly where the objective has two outputs.
        objective: what the outputs mean, an `Objective` or its name.
        alpha_bar, beta_bar: the schedule's cumulative coefficients at t, which I_t was made with.
        one_minus_alpha_bar: 1 - alpha_bar, if the schedule knows it more exactly than the subtraction.
        k_t, k_res, k_noise, k_0, k_in, sigma, offset: the coefficients of the sum above. k_0 = offset = 1/2 is the
            clean image in [0, 1].
        I_in: the degraded image, of I_t's shape and dtype. None means 0, as in generation; it needs `k_in` 0.
        noise: standard normal noise of I_t's shape and dtype. If `sigma` is not 0, pass either this or `seed`.
        seed, stream: 64-bit integers from which the kernel draws the noise (`ops.noise`), in float32 for every
            dtype. All backends draw the same noise to 1e-6.
        clip_res, clip_0: half-widths of the clamps of I_res and I_0; `math.inf` for none.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        The next image: I_t's shape and dtype, laid out as `torch.empty_like(I_t)`. Computed in float32
        (float64 images: in float64) and rounded once. All memory layouts are accepted; an input whose layout
        differs from the result's is copied first.

    Raises:
        ValueError: shapes, devices or coefficients that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    objective = Objective.parse(objective)
    if sigma != 0 and noise is None and seed is None:
        raise ValueError(
            f"sigma is {sigma}, but there is no noise: pass a seed, or a standard normal draw of I_t's shape"
        )
    if k_in != 0 and I_in is None:
        raise ValueError(f"k_in is {k_in}, but there is no degraded image: pass I_in")
    if not (clip_res >= 0 and clip_0 >= 0):
        raise ValueError(
            f"clip_res={clip_res} and clip_0={clip_0} must be half-widths, 0 or more; math.inf clamps nothing"
        )
    _check_images(I_t, out0, out1, I_in, noise, seed, objective)
    run = REVERSE_STEP(impl, I_t.device)
    if impl != "reference":  # Refuse it even if the reference stands in for C++: one call, one answer on every machine.
        check_no_gradient("reverse_step", I_t, out0, out1, I_in, noise)
    one_minus_alpha_bar = 1.0 - alpha_bar if one_minus_alpha_bar is None else one_minus_alpha_bar
    return run(
        I_t,
        out0,
        out1,
        I_in if objective.needs_input or k_in != 0 else None,
        noise if sigma != 0 else None,
        None if seed is None or sigma == 0 else signed64(seed),
        signed64(stream),
        int(objective),
        step_numbers(
            *(alpha_bar, beta_bar, one_minus_alpha_bar),
            *(k_t, k_res, k_noise, k_0, k_in, sigma, offset, clip_res, clip_0),
        ),
    )


def reverse_step_(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None = None,
    *,
    objective: Objective | str | int,
    table: StepTable,
    step: int | Tensor,
    I_in: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    stream: int = 0,
    next_input: Tensor | None = None,
    clean: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Take one step in place; in the same pass also write the network's next input.

    The coefficients are row `step` of a table, and the noise's stream is `stream + step`. If `step` and `seed` are
    tensors, all steps are the same call, so one captured CUDA graph serves them all.

    Args:
        I_t: the current image (B, C, H, W), contiguous or channels-last, in float32, bfloat16 or float16.
            The next image overwrites it.
        out0, out1, objective, I_in, noise: as in `reverse_step`.
        table: the coefficients of all steps, on I_t's device.
        step: the number of the table's row: an int, or an int64 tensor on I_t's device. A number out of range is an
            error if it is an int or on the CPU; in a GPU's tensor it makes the image NaN.
        seed: the seed of the noise: an int, or an int64 tensor on I_t's device.
        next_input: also receives the next image. It has I_t's shape and out0's dtype, and may be some channels of a
            contiguous or channels-last image, such as the first half of the next [I_t, I_in].
        clean: receives the clean image I_0, which a self-conditioned network is given; laid out like `next_input`.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        I_t, with its new values: those of `reverse_step` with the row's numbers.

    Raises:
        ValueError: shapes, devices, layouts or numbers that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient, which the op does not have, or memory overlaps: an input may be
            what is written, and next_input may be I_t, but they may not share only some of their memory.
    """
    objective = Objective.parse(objective)
    if I_t.dtype == torch.float64:
        raise TypeError("I_t is torch.float64: convert it to float32, bfloat16 or float16, or use reverse_step")
    _check_images(I_t, out0, out1, I_in, noise, seed, objective)
    _check_place(I_t, out0, seed, table, step, next_input, clean)
    stochastic = any(table.stochastic) if isinstance(step, Tensor) else table.stochastic[step]
    if stochastic and noise is None and seed is None:
        raise ValueError("this step is stochastic: pass a seed, or a standard normal draw of I_t's shape")
    if table.adds_input and I_in is None:
        raise ValueError("a step of this table adds the degraded image: pass I_in")
    run = REVERSE_STEP_IN_PLACE(impl, I_t.device)
    check_no_gradient("reverse_step_", I_t, out0, out1, I_in, noise, advice="call it under torch.no_grad()")
    run(
        I_t,
        out0,
        out1,
        I_in if objective.needs_input or table.adds_input else None,
        noise if stochastic else None,
        None if seed is None else 0 if isinstance(seed, Tensor) else signed64(seed),
        seed if isinstance(seed, Tensor) else None,
        signed64(stream),
        int(objective),
        table.rows,
        0 if isinstance(step, Tensor) else step,
        step if isinstance(step, Tensor) else None,
        next_input,
        clean,
    )
    return I_t


def _check_images(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | Tensor | None,
    objective: Objective,
) -> None:
    if noise is not None and seed is not None:
        raise ValueError("noise and seed were both given: pass one of them")
    check_dtype("I_t", I_t, DTYPES)
    check_outputs(objective, out0, out1, "I_t", I_t, "leave it out")
    check_alike("I_t", I_t, out0, out1=out1, I_in=I_in, noise=noise)


def _check_place(
    I_t: Tensor,
    out0: Tensor,
    seed: int | Tensor | None,
    table: StepTable,
    step: int | Tensor,
    next_input: Tensor | None,
    clean: Tensor | None,
) -> None:
    if table.rows.device != I_t.device:
        raise ValueError(f"the table is on {table.rows.device} and I_t on {I_t.device}: make it with device=")
    if isinstance(step, int) and not 0 <= step < len(table.rows):
        raise ValueError(f"there is no step {step} in a table of {len(table.rows)}")
    check_number("step", step, I_t.device)
    check_number("seed", seed, I_t.device)
    check_written_in_place("I_t", I_t)
    for name, x in (("next_input", next_input), ("clean", clean)):
        if x is None:
            continue
        if x.shape != I_t.shape or x.dim() != 4 or x.device != I_t.device:
            raise ValueError(
                f"{name} must be (B, C, H, W) as I_t is, {tuple(I_t.shape)} on {I_t.device}, "
                f"not {tuple(x.shape)} on {x.device}"
            )
        if x.dtype != out0.dtype:
            raise TypeError(f"{name} is {x.dtype} and out0 is {out0.dtype}: the network has one dtype for both")
        if x.shape[2] > 1 and x.shape[3] > 1 and x.stride(2) != x.shape[3] * x.stride(3):
            raise ValueError(
                f"{name} has strides {x.stride()}: it must be channels of a contiguous or channels-last image"
            )
