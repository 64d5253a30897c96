"""`rddm_fast::range_null_step` and `rddm_fast::range_null_step_`: one step of DDNM, DDNM+ or DDRM in one pass.

It serves the operators A with one non-zero singular value whose P = A⁺A is a projector onto rank-one blocks: the range
and the null space of A differ in three numbers only. A captured solver runs the in-place form. Its addresses never
change, and it can read the seed from device memory.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import (
    DTYPES,
    check_alike,
    check_device,
    check_dtype,
    check_no_gradient,
    check_number,
    check_output_dtype,
    check_written_in_place,
)
from ..noise import noise as draw
from ..noise import signed64

NUMBERS = 7
"""The numbers of a step: of x_t, epsilon and z in the null space, of the same in the range, and of A⁺y.

csrc/range_null_step/range_null_step.h and kernels/inverse/range_null_step.py read them in this order.
"""

MOST_WEIGHTS = 64
"""How many channels can be joined; kMostWeights in C++."""

_BLOCK = (2, 4, 6)
"""The axes within a block of an image as (B, C / c, c, H / f, f, W / f, f)."""


def _by_image(mask: Tensor) -> Tensor:
    """Return the mask as (B or 1, H, W)."""
    return mask if mask.dim() == 3 else mask.unsqueeze(0)


def projected(u: Tensor, factor: int, weights: Sequence[float] | None, mask: Tensor | None) -> Tensor:
    """Return P u = v <v, u> / <v, v> in each block, with v = mask × weight; 0 where <v, v> = 0.

    Masked pixels are left out of the sum, not multiplied by 0: they may be NaN.
    """
    b, c, h, w = u.shape
    channels = 1 if weights is None else c
    blocks = u.reshape(b, c // channels, channels, h // factor, factor, w // factor, factor)
    v = u.new_tensor([1.0] if weights is None else weights).view(1, 1, channels, 1, 1, 1, 1)
    kept = u.new_ones(1, h, w) if mask is None else _by_image(mask)
    kept = (kept != 0).view(len(kept), 1, 1, h // factor, factor, w // factor, factor)
    square = (kept * v.square()).sum(_BLOCK, keepdim=True)
    along = torch.where(kept, v * blocks, 0.0).sum(_BLOCK, keepdim=True) / torch.where(square > 0, square, 1.0)
    return torch.where(kept, v * along, 0.0).reshape(u.shape)


def _combined(numbers: Sequence[float], images: Sequence[Tensor | None]) -> Tensor:
    """Return the sum of number × image. A term whose number is 0 is left out, not multiplied: it may be infinite."""
    assert images[0] is not None
    result = torch.zeros_like(images[0])
    for k, x in zip(numbers, images, strict=True):
        if k != 0 and x is not None:
            result = result + k * x
    return result


def _stepped(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    factor: int,
    weights: Sequence[float] | None,
    numbers: Sequence[float],
) -> Tensor:
    """Return the next image in float32 (float64 for float64 images)."""
    compute = torch.float64 if x_t.dtype == torch.float64 else torch.float32
    null, range_, k_y = numbers[:3], numbers[3:6], numbers[6]
    if noise is None and seed is not None:
        noise = draw(x_t.shape, seed, stream, x_t.device)
    images = [None if x is None else x.to(compute) for x in (x_t, epsilon, noise)]
    if factor > 1 or weights is not None:
        differences = [r - n for r, n in zip(range_, null, strict=True)]
        result = _combined(null, images) + projected(_combined(differences, images), factor, weights, mask)
    elif mask is None:
        result = _combined(range_, images)
    else:
        kept = (_by_image(mask) != 0).unsqueeze(1)
        result = torch.where(kept, _combined(range_, images), _combined(null, images))
    return result if pinv_y is None or k_y == 0 else result + k_y * pinv_y.to(compute)


@without_autocast
def range_null_step_reference(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    stream: int,
    factor: int,
    weights: Sequence[float] | None,
    numbers: Sequence[float],
) -> Tensor:
    """The definition of range_null_step in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as `torch.empty_like(x_t)`.
    """
    result = _stepped(x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers)
    return torch.empty_like(x_t).copy_(result)


@without_autocast
def range_null_step_in_place_reference(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | None,
    seed_tensor: Tensor | None,
    stream: int,
    factor: int,
    weights: Sequence[float] | None,
    numbers: Sequence[float],
) -> None:
    """The definition of range_null_step_ in plain torch, with the schema's arguments."""
    seed = seed if seed_tensor is None else int(seed_tensor)
    x_t.copy_(_stepped(x_t, epsilon, pinv_y, mask, noise, seed, stream, factor, weights, numbers))


_IMAGES = "Tensor epsilon, Tensor? pinv_y, Tensor? mask, Tensor? noise, int? seed"
_STEP = "int stream, int factor, float[]? weights, float[] numbers"
RANGE_NULL_STEP = backends.define(
    "range_null_step",
    f"(Tensor x_t, {_IMAGES}, {_STEP}) -> Tensor",
    reference=range_null_step_reference,
    triton="inverse.range_null_step:range_null_step",
)
RANGE_NULL_STEP_IN_PLACE = backends.define(
    "range_null_step_",
    f"(Tensor(a!) x_t, {_IMAGES}, Tensor? seed_tensor, {_STEP}) -> ()",
    reference=range_null_step_in_place_reference,
    triton="inverse.range_null_step:range_null_step_in_place",
    fake=lambda *_: None,
)


def range_null_step(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None = None,
    *,
    root_a_t: float,
    sigma_t: float,
    n_0: float,
    n_e: float,
    n_z: float,
    r_0: float,
    r_e: float,
    r_z: float,
    k_y: float,
    factor: int = 1,
    weights: Sequence[float] | None = None,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int | None = None,
    stream: int = 0,
    impl: str | None = None,
) -> Tensor:
    """Take one step of DDNM, DDNM+ or DDRM: from x_t and its predicted noise to the next, less noisy image.

    With x_0 = (x_t - sigma_t epsilon) / root_a_t and the projector P = A⁺A of the operator, the step is

        P (r_0 x_0 + r_e epsilon + r_z z) + (I - P) (n_0 x_0 + n_e epsilon + n_z z) + k_y A⁺y

    DDNM (Wang et al., ICLR 2023, Alg. 1) has r_0 = 0, the same noise in both parts and k_y = n_0 = sqrt(a_s). DDNM+
    (its eq. 51) and DDRM (Kawar et al., NeurIPS 2022) are this step wherever A has one non-zero singular value.

    The image is split into blocks of `factor` × `factor` pixels, of one channel each, or of all channels if `weights`
    are given. Within a block v is `mask` × weight, and P u = v <v, u> / <v, v>, 0 where <v, v> = 0:

        denoising            P = I                 factor 1
        inpainting           the mask              factor 1, mask
        super-resolution     the block's mean      factor f
        colourisation        the pixel's grey      factor 1, weights
        old photographs      all of these          factor f, weights, mask

    The numbers of x_t and epsilon in both parts are worked out first, in float64. A term whose number is exactly 0 is
    left out, not multiplied, and so is a masked pixel in its block's sum.

    Args:
        x_t: the current image (B, C, H, W), in float32, bfloat16 or float16 (float64: on the CPU only).
        epsilon: the noise that the network predicts, of x_t's shape and dtype, or bfloat16 or float16 beside a float32
            x_t.
        pinv_y: A⁺y, of x_t's shape and dtype, the same for all steps. It may be left out if `k_y` is 0.
        root_a_t, sigma_t: sqrt(a_t), not 0, and sqrt(1 - a_t).
        n_0, n_e, n_z: the coefficients in the null space.
        r_0, r_e, r_z: those in the range.
        k_y: that of A⁺y.
        factor: a block's height and width; it divides H and W.
        weights: C numbers, at most 64, not all 0; None keeps the channels separate.
        mask: (H, W), or (B, H, W) with a mask for each image; bool or uint8, not 0 where a pixel is kept.
        noise: standard normal noise z of x_t's shape and dtype. If `n_z` or `r_z` is not 0, pass either this or `seed`.
        seed, stream: 64-bit integers from which the kernel draws the noise (`ops.noise`), in float32 for every
            dtype. All backends draw the same noise to 1e-6.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        The next image: x_t's shape and dtype, laid out as `torch.empty_like(x_t)`. Computed in float32 (float64 images:
        in float64) and rounded once. The kernels work on contiguous images; other layouts are copied.

    Raises:
        ValueError: shapes, devices or coefficients that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    numbers = step_numbers(root_a_t, sigma_t, n_0, n_e, n_z, r_0, r_e, r_z, k_y)
    noisy = _check(x_t, epsilon, pinv_y, mask, noise, seed, factor, weights, numbers)
    run = RANGE_NULL_STEP(impl, x_t.device)
    if impl != "reference":  # Refuse it even if the reference stands in for C++: one call, one answer on every machine.
        check_no_gradient("range_null_step", x_t, epsilon, pinv_y, noise)
    return run(
        x_t,
        epsilon,
        pinv_y if k_y != 0 else None,
        mask,
        noise if noisy else None,
        None if seed is None or not noisy else signed64(seed),
        signed64(stream),
        factor,
        None if weights is None else [float(w) for w in weights],
        numbers,
    )


def range_null_step_(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None = None,
    *,
    root_a_t: float,
    sigma_t: float,
    n_0: float,
    n_e: float,
    n_z: float,
    r_0: float,
    r_e: float,
    r_z: float,
    k_y: float,
    factor: int = 1,
    weights: Sequence[float] | None = None,
    mask: Tensor | None = None,
    noise: Tensor | None = None,
    seed: int | Tensor | None = None,
    stream: int = 0,
    impl: str | None = None,
) -> Tensor:
    """Take the step of `range_null_step` in place.

    Args:
        x_t: the current image (B, C, H, W), contiguous or channels-last. The next image overwrites it.
        seed: the seed of the noise: an int, or a tensor of one int64 number on x_t's device, which a captured CUDA
            graph reads at every replay.

    All other arguments are those of `range_null_step`. One of them may be x_t itself, but none may share only some of
    its memory.

    Returns:
        x_t, with its new values.

    Raises:
        ValueError: shapes, devices, layouts or coefficients that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient, which the op does not have, or overlaps x_t.
    """
    numbers = step_numbers(root_a_t, sigma_t, n_0, n_e, n_z, r_0, r_e, r_z, k_y)
    noisy = _check(x_t, epsilon, pinv_y, mask, noise, seed, factor, weights, numbers)
    check_number("seed", seed, x_t.device)
    check_written_in_place("x_t", x_t)
    run = RANGE_NULL_STEP_IN_PLACE(impl, x_t.device)
    check_no_gradient("range_null_step_", x_t, epsilon, pinv_y, noise, advice="call it under torch.no_grad()")
    drawn = seed if noisy else None
    run(
        x_t,
        epsilon,
        pinv_y if k_y != 0 else None,
        mask,
        noise if noisy else None,
        None if drawn is None else 0 if isinstance(drawn, Tensor) else signed64(drawn),
        drawn if isinstance(drawn, Tensor) else None,
        signed64(stream),
        factor,
        None if weights is None else [float(w) for w in weights],
        numbers,
    )
    return x_t


def step_numbers(
    root_a_t: float,
    sigma_t: float,
    n_0: float,
    n_e: float,
    n_z: float,
    r_0: float,
    r_e: float,
    r_z: float,
    k_y: float,
) -> list[float]:
    """Return the step's NUMBERS; the arguments are those of `range_null_step`.

    k_0 x_0 + k_e epsilon is (k_0 / root_a_t) x_t + (k_e - k_0 sigma_t / root_a_t) epsilon.

    Raises:
        ValueError: a root_a_t that is not more than 0.
    """
    if not root_a_t > 0:
        raise ValueError(f"root_a_t is {root_a_t}: it must be more than 0, because x_0 is divided by it")
    null = [n_0 / root_a_t, n_e - n_0 * sigma_t / root_a_t, n_z]
    return [*null, r_0 / root_a_t, r_e - r_0 * sigma_t / root_a_t, r_z, float(k_y)]


def _check(
    x_t: Tensor,
    epsilon: Tensor,
    pinv_y: Tensor | None,
    mask: Tensor | None,
    noise: Tensor | None,
    seed: int | Tensor | None,
    factor: int,
    weights: Sequence[float] | None,
    numbers: Sequence[float],
) -> bool:
    """Raise unless the arguments fit together; return whether the step adds noise."""
    noisy = numbers[2] != 0 or numbers[5] != 0
    if noise is not None and seed is not None:
        raise ValueError("noise and seed were both given: pass one of them")
    if noisy and noise is None and seed is None:
        raise ValueError(
            f"n_z is {numbers[2]} and r_z is {numbers[5]}, but there is no noise: "
            "pass a seed, or a standard normal draw of x_t's shape"
        )
    if numbers[6] != 0 and pinv_y is None:
        raise ValueError(f"k_y is {numbers[6]}, but there is no measurement: pass pinv_y, the image A⁺y")
    check_dtype("x_t", x_t, DTYPES)
    if x_t.dim() != 4:
        raise ValueError(f"x_t has shape {tuple(x_t.shape)}: it must be a batch of images (B, C, H, W)")
    check_output_dtype("epsilon", epsilon, "x_t", x_t)
    check_alike("x_t", x_t, pinv_y=pinv_y, noise=noise)
    if epsilon.shape != x_t.shape:
        raise ValueError(f"epsilon has shape {tuple(epsilon.shape)} and x_t has {tuple(x_t.shape)}: they must be equal")
    check_device(x_t.device, "x_t", epsilon=epsilon)
    _check_blocks(x_t, factor, weights, mask)
    return noisy


def _check_blocks(x_t: Tensor, factor: int, weights: Sequence[float] | None, mask: Tensor | None) -> None:
    b, c, h, w = x_t.shape
    if not isinstance(factor, int) or factor < 1:
        raise ValueError(f"factor is {factor!r}: it must be a positive integer")
    if h % factor or w % factor:
        raise ValueError(
            f"the image's height and width must be multiples of factor {factor}, but it is {h} × {w}: "
            f"crop it to {h - h % factor} × {w - w % factor}"
        )
    if weights is not None:
        if len(weights) != c:
            raise ValueError(f"there are {len(weights)} weights and x_t has {c} channels: give one for each channel")
        if c > MOST_WEIGHTS:
            raise ValueError(f"x_t has {c} channels: weights can join at most {MOST_WEIGHTS} of them")
        if not (any(weights) and all(math.isfinite(weight) for weight in weights)):
            raise ValueError(f"weights are {list(weights)}: they must be finite, and not all 0")
    if mask is None:
        return
    if mask.dtype not in (torch.bool, torch.uint8):
        raise TypeError(f"mask is {mask.dtype}: convert it to bool or uint8, 1 where a pixel is kept")
    if mask.shape not in ((h, w), (b, h, w), (1, h, w)):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}: it must be ({h}, {w}) as the image, or ({b}, {h}, {w}) for the batch"
        )
    check_device(x_t.device, "x_t", mask=mask)
