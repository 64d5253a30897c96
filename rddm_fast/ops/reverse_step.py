"""`rddm_fast::reverse_step`: one step of the reverse process in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..theory.objective import Objective, read_out
from . import backends
from .noise import noise as draw
from .noise import signed64

_SCHEMA = (
    "(Tensor I_t, Tensor out0, Tensor? out1, Tensor? I_in, Tensor? noise, int? seed, int stream, int objective, "
    "float alpha_bar, float beta_bar, float one_minus_alpha_bar, "
    "float k_t, float k_res, float k_noise, float k_0, float sigma, float offset, "
    "float clip_res, float clip_0) -> Tensor"
)
_HALVES = (torch.bfloat16, torch.float16)
_IMAGE_DTYPES = (torch.float32, *_HALVES, torch.float64)


def reverse_step_reference(
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
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as
    `torch.empty_like(I_t)` is.
    """
    compute = torch.float64 if I_t.dtype == torch.float64 else torch.float32
    x = I_t.to(compute)
    I_res, epsilon, I_0 = read_out(
        Objective(objective),
        x,
        out0.to(compute),
        None if out1 is None else out1.to(compute),
        0.0 if I_in is None else I_in.to(compute),
        alpha_bar,
        beta_bar,
        one_minus_alpha_bar,
        clip_res,
        clip_0,
    )
    terms = [(k_t, x), (k_res, I_res), (k_noise, epsilon), (k_0, I_0)]
    if sigma != 0:
        if noise is None:
            assert seed is not None
            noise = draw(I_t.shape, seed, stream, I_t.device)
        terms.append((sigma, noise.to(compute)))
    result = torch.full_like(x, offset)
    for k, term in terms:
        if k != 0:
            result = result + k * term
    return torch.empty_like(I_t).copy_(result)


def _triton(*args) -> Tensor:
    from rddm_fast.kernels.reverse_step import reverse_step as launch

    return launch(*args)


def _fake(I_t: Tensor, *args) -> Tensor:
    return torch.empty_like(I_t)


backends.define("reverse_step", _SCHEMA, reference=reverse_step_reference, triton=_triton, fake=_fake)
_op = torch.ops.rddm_fast.reverse_step.default
_CALL: dict[str, Callable[..., Tensor]] = {
    "reference": reverse_step_reference,
    "cpp": _op,
    "cuda": _op,
    "triton": torch.ops.rddm_fast.reverse_step_triton.default,
}


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
    """One step of the reverse process: from the network's outputs at I_t to the next, less noisy image.

    Reads the residual I_res, the noise epsilon and the clean image I_0 out of the outputs as
    `objective.read_out` does, and returns

        offset + k_t I_t + k_res I_res + k_noise epsilon + k_0 I_0 + sigma noise

    which is every sampler of the paper (RDDM, Liu et al., CVPR 2024): the generalised step, its eq. 13
    (k_t = 1, k_res = -(alpha_bar_t - alpha_bar_s), k_noise = -(beta_bar_t - sqrt(beta_bar_s^2 - sigma^2))),
    the last step (k_0 = 1), and the mean of the posterior (k_t, k_res, k_0). A term whose coefficient is
    exactly 0 is left out, not multiplied: an infinite epsilon (beta_bar = 0) does not spoil a last step.

    Args:
        I_t: the current image, of any shape, in float32, bfloat16 or float16 (float64: on the CPU only).
        out0, out1: the network's outputs, of I_t's shape and dtype, or both bfloat16 or both float16 beside
            a float32 I_t. `out1` is given exactly where the objective has two outputs.
        objective: what the outputs mean, an `Objective` or its name.
        alpha_bar, beta_bar: the schedule's cumulative coefficients at t, which I_t was made with.
        one_minus_alpha_bar: 1 - alpha_bar, if the schedule knows it more exactly than the subtraction.
        k_t, k_res, k_noise, k_0, sigma, offset: the coefficients of the sum above. k_0 = offset = 1/2 is the clean
            image in [0, 1].
        I_in: the degraded image, of I_t's shape and dtype. None means 0, as in generation.
        noise: a standard normal draw of I_t's shape and dtype. Where `sigma` is not 0, this or `seed` is needed.
        seed, stream: 64-bit integers that the noise is drawn from inside the kernel, instead (`ops.noise`). The
            same on every backend to 1e-6, in float32 whatever the image's dtype.
        clip_res, clip_0: half-widths of the clamps of I_res and I_0; `math.inf` for none.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best that there is for the device.

    Returns:
        The next image: I_t's shape and dtype, laid out as `torch.empty_like(I_t)`. Computed in float32
        (float64 images: in float64) and rounded once. All memory layouts are accepted; inputs laid out
        otherwise than the result are copied first.

    Raises:
        ValueError: shapes, devices or coefficients that do not go together.
        TypeError: a dtype that is not served.
        BackendUnavailable: `impl` is not there; the message says why.
        RuntimeError: a gradient would be needed. There is none, except with `impl="reference"`.
    """
    objective = Objective.parse(objective)
    _check(I_t, out0, out1, I_in, noise, seed, objective, sigma, clip_res, clip_0)
    backend = backends.choose(impl, I_t.device)
    if impl != "reference":  # also where the reference stands in for C++: the same call, the same answer
        backends.check_no_gradient("reverse_step", I_t, out0, out1, I_in, noise)
    return _CALL[backend](
        I_t,
        out0,
        out1,
        I_in if objective.needs_input else None,
        noise if sigma != 0 else None,
        None if seed is None else signed64(seed),
        signed64(stream),
        int(objective),
        alpha_bar,
        beta_bar,
        1.0 - alpha_bar if one_minus_alpha_bar is None else one_minus_alpha_bar,
        k_t,
        k_res,
        k_noise,
        k_0,
        sigma,
        offset,
        clip_res,
        clip_0,
    )


def _check(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    objective: Objective,
    sigma: float,
    clip_res: float,
    clip_0: float,
) -> None:
    if sigma != 0 and noise is None and seed is None:
        raise ValueError(
            f"sigma is {sigma}, but there is no noise: pass a seed, or a standard normal draw of I_t's shape"
        )
    if noise is not None and seed is not None:
        raise ValueError("noise and seed were both given: pass one of them")
    if not (clip_res >= 0 and clip_0 >= 0):
        raise ValueError(
            f"clip_res={clip_res} and clip_0={clip_0} must be half-widths, 0 or more; math.inf clamps nothing"
        )
    check_images(I_t, out0, out1, I_in, noise, objective)


def check_images(
    I_t: Tensor,
    out0: Tensor,
    out1: Tensor | None,
    I_in: Tensor | None,
    noise: Tensor | None,
    objective: Objective,
) -> None:
    """Raise ValueError or TypeError for images of a reverse step that do not go together."""
    if I_t.dtype not in _IMAGE_DTYPES:
        raise TypeError(f"I_t is {I_t.dtype}: convert it to float32, bfloat16 or float16")
    if objective.outputs == 2 and out1 is None:
        raise ValueError(f"{objective.name} has two outputs, but out1 is missing: pass the network's second one")
    if objective.outputs == 1 and out1 is not None:
        raise ValueError(f"{objective.name} has one output, but out1 was given: leave it out")
    if out0.dtype != I_t.dtype and not (I_t.dtype == torch.float32 and out0.dtype in _HALVES):
        raise TypeError(
            f"out0 is {out0.dtype} beside an I_t of {I_t.dtype}: "
            "convert it to I_t's dtype, or to bfloat16 or float16 beside a float32 I_t"
        )
    others = (("out0", out0, out0), ("out1", out1, out0), ("I_in", I_in, I_t), ("noise", noise, I_t))
    for name, x, like in others:
        if x is None:
            continue
        if x.shape != I_t.shape:
            raise ValueError(f"{name} has shape {tuple(x.shape)} and I_t has {tuple(I_t.shape)}: they must be equal")
        if x.device != I_t.device:
            raise ValueError(f"{name} is on {x.device} and I_t on {I_t.device}: move one to the other")
        if x.dtype != like.dtype:
            wanted = "out0" if name == "out1" else "I_t"
            raise TypeError(f"{name} is {x.dtype} and {wanted} is {like.dtype}: convert {name} to that")
