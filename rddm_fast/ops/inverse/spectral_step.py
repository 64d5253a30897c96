"""`rddm_fast::spectral_step_`: one step of DDRM or DDNM+ in spectral coordinates, in place, in one pass over memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import DTYPES, check_alike, check_device, check_dtype, check_no_gradient
from ..noise import noise as draw
from ..noise import signed64

FIELDS = (
    *("sigma_t", "inv_root_a_t", "root_a_s", "sigma_s", "threshold"),
    *("k_noise", "k_z", "k_y_per_s", "eta_b"),
)
"""The numbers of a step, in the order of csrc/spectral_step/spectral_step.h."""


def spectral_numbers(a_t: float, a_s: float, sigma_y: float, eta: float, eta_b: float) -> list[float]:
    """Return the numbers of FIELDS, computed in float64. The arguments are those of `spectral_step_`."""
    root_a_s, sigma_s, q = a_s**0.5, (1.0 - a_s) ** 0.5, (1.0 - eta**2) ** 0.5
    return [
        *((1.0 - a_t) ** 0.5, a_t**-0.5, root_a_s, sigma_s, root_a_s * sigma_y),
        *(q * sigma_s, eta * sigma_s, q * sigma_s / sigma_y if sigma_y > 0 else 0.0, eta_b),
    ]


def _term(k: Tensor, x: Tensor) -> Tensor:
    """Return k x, and 0 where k is 0, even if x is infinite there."""
    return torch.where(k == 0, 0.0, k * x)


@without_autocast
def spectral_step_reference(
    x: Tensor,
    epsilon: Tensor,
    y_bar: Tensor,
    s: Tensor,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    strict: bool,
    numbers: Sequence[float],
    clean: Tensor | None,
) -> None:
    """The definition of spectral_step_ in plain torch, with the schema's arguments.

    Computes in float32 (float64 for float64 coordinates) and rounds once.
    """
    k = dict(zip(FIELDS, numbers, strict=True))
    compute = torch.float64 if x.dtype == torch.float64 else torch.float32
    state, epsilon, y_bar = (values.to(compute) for values in (x, epsilon, y_bar))
    if noise is None:
        noise = torch.zeros_like(state) if seed is None else draw(x.shape, seed, stream, x.device)
    x_0 = (state - k["sigma_t"] * epsilon) * k["inv_root_a_t"]

    # Which case is it?
    level = s * k["sigma_s"]
    observed = s > 0
    is_cleaner = observed & (level > k["threshold"] if strict else level >= k["threshold"])
    is_noisier = observed & (level < k["threshold"])

    # The coefficients of x_0, epsilon, y_bar and z.
    k_y = torch.where(is_cleaner, k["eta_b"] * k["root_a_s"], torch.where(is_noisier, k["k_y_per_s"] * s, 0.0))
    k_0 = torch.where(is_cleaner, (1.0 - k["eta_b"]) * k["root_a_s"], k["root_a_s"] - k_y)
    k_epsilon = torch.where(is_cleaner | is_noisier, 0.0, k["k_noise"])
    of_y = k["eta_b"] * k["threshold"] / torch.where(is_cleaner, s, 1.0)
    k_z = torch.where(is_cleaner, (k["sigma_s"] ** 2 - of_y**2).clamp(min=0).sqrt(), k["k_z"])

    x_s = _term(k_0, x_0) + _term(k_epsilon, epsilon) + _term(k_y, y_bar) + _term(k_z, noise.to(compute))
    x.copy_(x_s)
    if clean is not None:
        clean.copy_(x_0)


SPECTRAL_STEP = backends.define(
    "spectral_step_",
    "(Tensor(a!) x, Tensor epsilon, Tensor y_bar, Tensor s, Tensor? noise, int? seed, int stream, bool strict, "
    "float[] numbers, Tensor(b!)? clean) -> ()",
    reference=spectral_step_reference,
    triton="inverse.spectral_step:spectral_step",
    fake=lambda *_: None,
    lacking=("cuda",),
)


def spectral_step_(
    x: Tensor,
    epsilon: Tensor,
    y_bar: Tensor,
    s: Tensor,
    *,
    a_t: float,
    a_s: float,
    sigma_y: float,
    eta: float,
    eta_b: float = 1.0,
    strict: bool = False,
    noise: Tensor | None = None,
    seed: int | None = None,
    stream: int = 0,
    clean: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Take one step of DDRM (Kawar et al., NeurIPS 2022, eq. 7 and 8) in place, from x_t to x_s.

    All vectors are spectral coordinates: of A = U S V^T, the image multiplied by V^T. With x_0 = (x_t - sqrt(1 - a_t)
    epsilon) / sqrt(a_t), sigma = sqrt(1 - a_s), r = sqrt(a_s), c = r sigma_y and q = sqrt(1 - eta^2), per coordinate
    of singular value s:

        s = 0         unobserved    r x_0 + q sigma epsilon + eta sigma z
        s sigma < c   y noisier     r x_0 + q sigma (y_bar - x_0) s / sigma_y + eta sigma z
        s sigma >= c  y cleaner     r ((1 - eta_b) x_0 + eta_b y_bar) + sqrt(sigma^2 - (eta_b c / s)^2) z

    With eta_b = 1 it is a step of DDNM+ (Wang et al., ICLR 2023, eq. 51). A term whose coefficient is exactly 0 is left
    out, not multiplied: y_bar may be NaN where s is 0.

    Args:
        x: x_t, (B, N), contiguous, in float32, bfloat16 or float16 (float64: on the CPU only). x_s overwrites it.
        epsilon: the predicted noise, of x's shape and dtype.
        y_bar: U^T y / s, (B or 1, N), in x's dtype.
        s: the singular values, 0 or more, (B or 1, N or 1), in float32; in float64 beside a float64 x.
        a_t, a_s: DDPM's products at both times, above 0 and at most 1; a_s = 1 at the last step.
        sigma_y: the noise of y, a deviation.
        eta: the share of new noise where y is noisier or says nothing, 0 to 1.
        eta_b: the weight of y where y is cleaner, 0 to 1.
        strict: a coordinate where s sigma = c counts as unobserved, as in the published code of DDRM.
        noise: standard normal noise z of x's shape and dtype. Pass either this or `seed`, unless a_s is 1.
        seed, stream: 64-bit integers from which the kernel draws z (`ops.noise`), in float32 for every dtype.
        clean: also receives x_0; contiguous, of x's shape and dtype.
        impl: "reference", "cpp" or "triton"; None takes the best one available on the device.

    Returns:
        x, with its new values. Computed in float32 (float64 coordinates: in float64) and rounded once.

    Raises:
        ValueError: shapes, devices, layouts or numbers that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient, which the op does not have, or memory overlaps: an input may be
            x or clean, but not share only some of its memory.
    """
    _check(x, epsilon, y_bar, s, noise, clean)
    _check_numbers(a_t, a_s, sigma_y, eta, eta_b)
    if noise is not None and seed is not None:
        raise ValueError("noise and seed were both given: pass one of them")
    noisy = a_s < 1
    if noisy and noise is None and seed is None:
        raise ValueError("this step adds noise: pass a seed, or a standard normal draw of x's shape")
    run = SPECTRAL_STEP(impl, x.device)
    check_no_gradient("spectral_step_", x, epsilon, y_bar, s, noise, advice="call it under torch.no_grad()")
    run(
        x,
        epsilon,
        y_bar,
        s,
        noise if noisy else None,
        None if seed is None or not noisy else signed64(seed),
        signed64(stream),
        strict,
        spectral_numbers(a_t, a_s, sigma_y, eta, eta_b),
        clean,
    )
    return x


def _check(x: Tensor, epsilon: Tensor, y_bar: Tensor, s: Tensor, noise: Tensor | None, clean: Tensor | None) -> None:
    check_dtype("x", x, DTYPES)
    if x.dim() != 2:
        raise ValueError(f"x has shape {tuple(x.shape)}: spectral coordinates are (B, N)")
    for name, written in (("x", x), ("clean", clean)):
        if written is not None and not written.is_contiguous():
            raise ValueError(f"{name} has strides {written.stride()}: it is written in place and must be contiguous")
    check_alike("x", x, epsilon=epsilon, noise=noise, clean=clean)
    check_device(x.device, "x", y_bar=y_bar, s=s)
    batch, size = x.shape
    if y_bar.dim() != 2 or y_bar.shape[0] not in (1, batch) or y_bar.shape[1] != size:
        raise ValueError(f"y_bar has shape {tuple(y_bar.shape)} beside an x of {tuple(x.shape)}: pass (B or 1, N)")
    if s.dim() != 2 or s.shape[0] not in (1, batch) or s.shape[1] not in (1, size):
        raise ValueError(f"s has shape {tuple(s.shape)} beside an x of {tuple(x.shape)}: pass (B or 1, N or 1)")
    if y_bar.dtype != x.dtype:
        raise TypeError(f"y_bar is {y_bar.dtype} and x is {x.dtype}: convert y_bar to that")
    of_s = torch.float64 if x.dtype == torch.float64 else torch.float32
    if s.dtype != of_s:
        raise TypeError(f"s is {s.dtype} beside an x of {x.dtype}: convert it to {of_s}")


def _check_numbers(a_t: float, a_s: float, sigma_y: float, eta: float, eta_b: float) -> None:
    for name, product in (("a_t", a_t), ("a_s", a_s)):
        if not 0 < product <= 1:
            raise ValueError(f"{name} is {product}: it must be above 0 and at most 1")
    if not 0 <= sigma_y < float("inf"):
        raise ValueError(f"sigma_y must be a standard deviation of 0 or more, not {sigma_y}")
    for name, share in (("eta", eta), ("eta_b", eta_b)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be between 0 and 1, not {share}")
