"""`rddm_fast::forward_diffuse`: I_t from the clean and the degraded image in one pass over memory."""

from __future__ import annotations

import torch
from torch import Tensor

from . import backends
from .autocast import without_autocast
from .checks import DTYPES, check_alike, check_device, check_dtype, check_no_gradient
from .noise import noise as draw
from .noise import signed64


@without_autocast
def forward_diffuse_reference(
    I_0: Tensor,
    I_in: Tensor | None,
    t: Tensor,
    alpha_bar: Tensor,
    beta_bar: Tensor,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as
    `torch.empty_like(I_0)`.
    """
    compute = torch.float64 if I_0.dtype == torch.float64 else torch.float32
    per_sample = (-1, *(1,) * (I_0.dim() - 1))
    a, b = (table[t].to(compute).view(per_sample) for table in (alpha_bar, beta_bar))
    if noise is None:
        assert seed is not None
        noise = draw(I_0.shape, seed, stream, I_0.device)
    x = I_0.to(compute)
    I_res = -x if I_in is None else I_in.to(compute) - x
    return torch.empty_like(I_0).copy_(x + a * I_res + b * noise.to(compute))


FORWARD_DIFFUSE = backends.define(
    "forward_diffuse",
    "(Tensor I_0, Tensor? I_in, Tensor t, Tensor alpha_bar, Tensor beta_bar, Tensor? noise, int? seed, int stream)"
    " -> Tensor",
    reference=forward_diffuse_reference,
    triton="forward_diffuse:forward_diffuse",
)


def forward_diffuse(
    I_0: Tensor,
    I_in: Tensor | None,
    t: Tensor,
    alpha_bar: Tensor,
    beta_bar: Tensor,
    *,
    noise: Tensor | None = None,
    seed: int | None = None,
    stream: int = 0,
    impl: str | None = None,
) -> Tensor:
    """Apply the forward process of RDDM (Liu et al., CVPR 2024, eq. 7), each sample at its own time:

        I_t = I_0 + alpha_bar[t] (I_in - I_0) + beta_bar[t] epsilon

    The residual is never stored, nor is noise drawn from a seed. `ops.noise` draws the same noise again from the same
    seed and stream.

    Args:
        I_0: clean images (B, ...), in float32, bfloat16 or float16 (float64: on the CPU only).
        I_in: degraded images of I_0's shape and dtype. None means 0, as in generation.
        t: indices (B,) into the tables, int64. An index out of range is an error on the CPU. On a GPU the check would
            stall the queue, so the sample becomes NaN instead.
        alpha_bar, beta_bar: the schedule's tables (T,), float32.
        noise: standard normal noise of I_0's shape and dtype. Pass either this or `seed`.
        seed, stream: 64-bit integers from which the kernel draws the noise, in float32 for every dtype.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        I_t: I_0's shape and dtype, laid out as `torch.empty_like(I_0)`. Computed in float32 (float64 images: in
        float64) and rounded once.

    Raises:
        ValueError: shapes, devices or arguments that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    _check(I_0, I_in, t, alpha_bar, beta_bar, noise, seed)
    run = FORWARD_DIFFUSE(impl, I_0.device)
    if impl != "reference":
        check_no_gradient("forward_diffuse", I_0, I_in, noise)
    return run(I_0, I_in, t, alpha_bar, beta_bar, noise, None if seed is None else signed64(seed), signed64(stream))


def _check(
    I_0: Tensor,
    I_in: Tensor | None,
    t: Tensor,
    alpha_bar: Tensor,
    beta_bar: Tensor,
    noise: Tensor | None,
    seed: int | None,
) -> None:
    check_dtype("I_0", I_0, DTYPES)
    if I_0.dim() == 0:
        raise ValueError("I_0 has no batch dimension: pass images of shape (B, ...)")
    check_alike("I_0", I_0, I_in=I_in, noise=noise)
    if t.shape != I_0.shape[:1] or t.dtype != torch.int64:
        raise ValueError(f"t must be {I_0.shape[0]} int64 indices, one per sample, not {t.dtype} of {tuple(t.shape)}")
    if alpha_bar.dim() != 1 or alpha_bar.shape != beta_bar.shape:
        shapes = f"{tuple(alpha_bar.shape)} and {tuple(beta_bar.shape)}"
        raise ValueError(f"alpha_bar and beta_bar must be tables (T,) of one length, not {shapes}")
    if alpha_bar.dtype != torch.float32 or beta_bar.dtype != torch.float32:
        raise TypeError(f"alpha_bar and beta_bar are {alpha_bar.dtype} and {beta_bar.dtype}: convert them to float32")
    check_device(I_0.device, "I_0", t=t, alpha_bar=alpha_bar, beta_bar=beta_bar)
    if (noise is None) == (seed is None):
        raise ValueError("pass either noise, a standard normal draw of I_0's shape, or a seed to draw it from")
