"""`rddm_fast::reverse_step_`: a reverse step in place, with all that the next evaluation of the network needs.

What a captured sampler runs: its addresses never change, its coefficients, its step and its seed are read from
device memory, and the next network input is written where the network reads it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..theory.objective import Objective, read_out
from . import backends
from .noise import noise as draw
from .noise import signed64
from .reverse_step import check_images
from .step_table import FIELDS, StepTable

_SCHEMA = (
    "(Tensor(a!) I_t, Tensor out0, Tensor? out1, Tensor? I_in, Tensor? noise, int? seed, Tensor? seed_tensor, "
    "int stream, int objective, Tensor table, int step, Tensor? index, "
    "Tensor(b!)? next_input, Tensor(c!)? clean) -> ()"
)


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
    """The op's definition in plain torch, with the schema's arguments. Computes in float32 and rounds once."""
    number = step + (0 if index is None else int(index))
    if not 0 <= number < len(table):
        raise RuntimeError(f"reverse_step_: there is no step {number} in a table of {len(table)}")
    k = dict(zip(FIELDS, table[number].tolist(), strict=True))
    x = I_t.float()
    I_res, epsilon, I_0 = read_out(
        Objective(objective),
        x,
        out0.float(),
        None if out1 is None else out1.float(),
        0.0 if I_in is None else I_in.float(),
        k["alpha_bar"],
        k["beta_bar"],
        -k["alpha_bar_minus_1"],
        k["clip_res"],
        k["clip_0"],
    )
    terms = [("k_t", x), ("k_res", I_res), ("k_noise", epsilon), ("k_0", I_0)]
    if k["sigma"] != 0:
        if noise is None:
            assert seed is not None
            seed = seed if seed_tensor is None else int(seed_tensor)
            noise = draw(I_t.shape, seed, stream + number, I_t.device)
        terms.append(("sigma", noise.float()))
    result = torch.full_like(x, k["offset"])
    for name, term in terms:
        if k[name] != 0:
            result = result + k[name] * term
    I_t.copy_(result)
    if next_input is not None:
        next_input.copy_(result)
    if clean is not None:
        clean.copy_(I_0)


def _triton(*args) -> None:
    from rddm_fast.kernels.reverse_step import reverse_step_in_place as launch

    launch(*args)


def _fake(*args) -> None:
    return None


backends.define("reverse_step_", _SCHEMA, reference=reverse_step_in_place_reference, triton=_triton, fake=_fake)
_op = torch.ops.rddm_fast.reverse_step_.default
_CALL: dict[str, Callable[..., None]] = {
    "reference": reverse_step_in_place_reference,
    "cpp": _op,
    "cuda": _op,
    "triton": torch.ops.rddm_fast.reverse_step__triton.default,
}


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
    """`reverse_step` in place of I_t, in the same single pass also writing what the network is given next.

    The coefficients are row `step` of a table, the noise's stream is `stream` + that number. With `step` and `seed`
    as tensors nothing of a call depends on the step, so that one captured CUDA graph serves them all.

    Args:
        I_t: the current image (B, C, H, W), contiguous or channels-last, in float32, bfloat16 or float16.
            Overwritten by the next one.
        out0, out1, objective, I_in, noise: as in `reverse_step`.
        table: every step's coefficients, on I_t's device.
        step: the number of the table's row, or an int64 tensor that holds it, on I_t's device. A number that the
            table does not have is an error on the CPU and from an int; read on a GPU, it makes the image NaN.
        seed: to draw the noise from, or an int64 tensor that holds it, on I_t's device.
        next_input: where the next image is written too, in out0's dtype: of I_t's shape, some of the channels of a
            contiguous or channels-last image, such as the first half of the next [I_t, I_in].
        clean: where the clean image I_0 is written, likewise: what a self-conditioned network is given.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best that there is for the device.

    Returns:
        I_t, with its new values: those of `reverse_step` with the row's numbers.

    Raises:
        ValueError: shapes, devices, layouts or numbers that do not go together.
        TypeError: a dtype that is not served.
        BackendUnavailable: `impl` is not there; the message says why.
        RuntimeError: a gradient would be needed, and there is none.
    """
    objective = Objective.parse(objective)
    if I_t.dtype == torch.float64:
        raise TypeError("I_t is torch.float64: convert it to float32, bfloat16 or float16, or use reverse_step")
    check_images(I_t, out0, out1, I_in, noise, objective)
    _check(I_t, out0, noise, seed, table, step, next_input, clean)
    stochastic = any(table.stochastic) if isinstance(step, Tensor) else table.stochastic[step]
    if stochastic and noise is None and seed is None:
        raise ValueError("this step is stochastic: pass a seed, or a standard normal draw of I_t's shape")
    backend = backends.choose(impl, I_t.device)
    backends.check_no_gradient("reverse_step_", I_t, out0, out1, I_in, noise, advice="call it under torch.no_grad()")
    _CALL[backend](
        I_t,
        out0,
        out1,
        I_in if objective.needs_input else None,
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


def _check(
    I_t: Tensor,
    out0: Tensor,
    noise: Tensor | None,
    seed: int | Tensor | None,
    table: StepTable,
    step: int | Tensor,
    next_input: Tensor | None,
    clean: Tensor | None,
) -> None:
    if noise is not None and seed is not None:
        raise ValueError("noise and seed were both given: pass one of them")
    if table.rows.device != I_t.device:
        raise ValueError(f"the table is on {table.rows.device} and I_t on {I_t.device}: make it with device=")
    if isinstance(step, int) and not 0 <= step < len(table.rows):
        raise ValueError(f"there is no step {step} in a table of {len(table.rows)}")
    for name, x in (("step", step), ("seed", seed)):
        if isinstance(x, Tensor) and (x.dtype != torch.int64 or x.numel() != 1 or x.device != I_t.device):
            raise ValueError(
                f"{name} must be an int, or a tensor of one int64 number on {I_t.device}, "
                f"not {x.dtype} of shape {tuple(x.shape)} on {x.device}"
            )
    dense = I_t.is_contiguous() or (I_t.dim() == 4 and I_t.is_contiguous(memory_format=torch.channels_last))
    if not dense:
        raise ValueError(
            f"I_t has strides {I_t.stride()}: it is written in place and must be contiguous or channels-last"
        )
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
