"""`rddm_fast::tacos_step`: a step of Cold Diffusion's Algorithm 2 in one pass, where the degradation is elementwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import backends
from ..autocast import without_autocast
from ..checks import DTYPES, check_alike, check_device, check_dtype, check_no_gradient

KINDS = ("mix", "grey", "snow")
"""The forms of D; an op's `kind` is the index, as in csrc/tacos_step/tacos_step.h."""
LUMINANCE = (0.299, 0.587, 0.114)


def _grey(x: Tensor, kind: int) -> Tensor:
    """Return the luminance of RGB for snow, else the mean of the channels, (B, 1, H, W)."""
    if KINDS[kind] != "snow" or x.shape[1] != len(LUMINANCE):
        return x.mean(1, keepdim=True)
    weights = torch.tensor(LUMINANCE, dtype=x.dtype, device=x.device).view(1, -1, 1, 1)
    return (x * weights).sum(1, keepdim=True)


def _snowed(u: Tensor, grey: Tensor, brightness: float, layer: Tensor | None) -> Tensor:
    """Return D of an image in [0, 1]."""
    if layer is None:
        return u
    if brightness != 1:
        u = brightness * u + (1 - brightness) * torch.maximum(u, 1.5 * grey + 0.5)
    return (u + layer).clamp(0, 1)


@without_autocast
def tacos_step_reference(
    x_s: Tensor,
    x_0: Tensor,
    x_end: Tensor | None,
    layer_s: Tensor | None,
    layer_to: Tensor | None,
    kind: int,
    numbers: Sequence[float],
) -> Tensor:
    """The op's definition in plain torch, with the schema's arguments. Differentiable.

    Computes in float32 (float64 for float64 images) and rounds once, into an image laid out as `torch.empty_like(x_s)`.
    """
    compute = torch.float64 if x_s.dtype == torch.float64 else torch.float32
    first, second = numbers
    x, clean = x_s.to(compute), x_0.to(compute)
    if KINDS[kind] == "snow":
        u = (clean + 1) / 2
        before, after = (
            _snowed(u, _grey(u, kind), brightness, layer)
            for brightness, layer in ((first, layer_s), (second, layer_to))
        )
        change = 2 * (after - before)
    else:
        change = first * clean
        if KINDS[kind] == "grey":
            change = change + second * _grey(clean, kind)
        elif x_end is not None:
            change = change + second * x_end.to(compute)
        if layer_s is not None and layer_to is not None:
            change = (layer_to - layer_s) * change
    return torch.empty_like(x_s).copy_(x + change)


TACOS_STEP = backends.define(
    "tacos_step",
    "(Tensor x_s, Tensor x_0, Tensor? x_end, Tensor? layer_s, Tensor? layer_to, int kind, float[] numbers) -> Tensor",
    reference=tacos_step_reference,
    triton="inverse.tacos_step:tacos_step",
)


def tacos_step(
    x_s: Tensor,
    x_0: Tensor,
    *,
    kind: str,
    numbers: tuple[float, float],
    x_end: Tensor | None = None,
    layer_s: Tensor | None = None,
    layer_to: Tensor | None = None,
    impl: str | None = None,
) -> Tensor:
    """Take one step of TACoS (Bansal et al., 2022, Algorithm 2) from level s to another level:

        x_s - D(x_0, s) + D(x_0, to)

    D is one of these forms. In the first two, w is layer_to - layer_s, one number per pixel, or 1 without layers:

        kind    numbers                   the form
        mix     k_0, k_end                the step is x_s + w (k_0 x_0 + k_end x_end)
        grey    k_0, k_end                the same, with the mean of the channels of x_0 for x_end
        snow    br_s, br_to, brightness   D(x, l) = clamp(br_l x + (1 - br_l) max(x, 1.5 grey + 0.5) + layer_l, 0, 1)

    The numbers of the first two are differences between the levels. A blend D(x, l) = x + alpha_bar_l (I_in - x) is
    "mix" with k_0 = -(alpha_bar_to - alpha_bar_s) = -k_end, or -1 and 1 with alpha_bar as the layers. Snow is stated
    for values in [0, 1], where grey is the luminance of RGB and the mean of any other number of channels; the images of
    the op are in [-1, 1] as always. Without its layer a level of snow is the clean image, D(x, l) = x.

    Args:
        x_s, x_0: the image at level s and the restorer's estimate, (B, C, H, W) of one dtype: float32, bfloat16 or
            float16 (float64: on the CPU only).
        kind: "mix", "grey" or "snow".
        numbers: see above.
        x_end: the far end of "mix", of a shape that broadcasts to x_s and of its dtype; None for 0.
        layer_s, layer_to: (B or 1, 1, H, W), in float32; in float64 beside float64 images. "mix" and "grey" take both
            or none.
        impl: "reference", "cpp", "cuda" or "triton"; None takes the best one available on the device.

    Returns:
        The image at level `to`: x_s's shape and dtype, laid out as `torch.empty_like(x_s)`. Computed in float32
        (float64 images: in float64) and rounded once. All layouts are accepted; the kernels read contiguous images, so
        others are copied first.

    Raises:
        ValueError: an unknown kind, or shapes, devices or arguments that do not fit together.
        TypeError: an unsupported dtype.
        BackendUnavailable: `impl` cannot be used here; the message says why.
        RuntimeError: an argument requires a gradient. Only `impl="reference"` has one.
    """
    _check(x_s, x_0, kind, x_end, layer_s, layer_to)
    if x_end is not None and x_end.shape[2:] not in ((1, 1), x_s.shape[2:]):
        x_end = x_end.expand(-1, -1, *x_s.shape[2:])  # the kernels know one value per plane, or one per pixel
    run = TACOS_STEP(impl, x_s.device)
    if impl != "reference":
        check_no_gradient("tacos_step", x_s, x_0, x_end, layer_s, layer_to)
    return run(x_s, x_0, x_end, layer_s, layer_to, KINDS.index(kind), list(numbers))


def _check(
    x_s: Tensor, x_0: Tensor, kind: str, x_end: Tensor | None, layer_s: Tensor | None, layer_to: Tensor | None
) -> None:
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r}: choose one of {', '.join(KINDS)}")
    check_dtype("x_s", x_s, DTYPES)
    if x_s.dim() != 4:
        raise ValueError(f"x_s has shape {tuple(x_s.shape)}: pass images (B, C, H, W)")
    check_alike("x_s", x_s, x_0=x_0)
    check_device(x_s.device, "x_s", x_end=x_end, layer_s=layer_s, layer_to=layer_to)
    if x_end is not None:
        if kind != "mix":
            raise ValueError(f"x_end is the far end of 'mix': leave it out of {kind!r}")
        if x_end.dim() != 4 or any(have not in (1, want) for have, want in zip(x_end.shape, x_s.shape, strict=True)):
            raise ValueError(f"x_end has shape {tuple(x_end.shape)}: it must broadcast to x_s, {tuple(x_s.shape)}")
        if x_end.dtype != x_s.dtype:
            raise TypeError(f"x_end is {x_end.dtype} and x_s is {x_s.dtype}: convert x_end to that")
    if kind != "snow" and (layer_s is None) != (layer_to is None):
        raise ValueError(f"only one of layer_s and layer_to was given: {kind!r} takes both or none")
    batch, _, height, width = x_s.shape
    of_layers = torch.float64 if x_s.dtype == torch.float64 else torch.float32
    for name, layer in (("layer_s", layer_s), ("layer_to", layer_to)):
        if layer is None:
            continue
        if tuple(layer.shape) not in ((1, 1, height, width), (batch, 1, height, width)):
            raise ValueError(f"{name} has shape {tuple(layer.shape)}: pass ({batch} or 1, 1, {height}, {width})")
        if layer.dtype != of_layers:
            raise TypeError(f"{name} is {layer.dtype} beside images of {x_s.dtype}: convert it to {of_layers}")
