"""`tacos_step` in Triton, with the arithmetic of csrc/tacos_step/tacos_step.h in the same order."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..images import in_layout_of, launch_config, load_or_zeros


@triton.jit
def snowed(u, grey, brightness, layer):
    # D of values in [0, 1]. Comparisons instead of min and max: a NaN is returned, as torch returns it.
    winter = 1.5 * grey + 0.5
    bright = brightness * u + (1.0 - brightness) * tl.where(u > winter, u, winter)
    total = tl.where(brightness != 1.0, bright, u) + layer
    return tl.where(total < 0.0, 0.0, tl.where(total > 1.0, 1.0, total))


@triton.jit
def grey_weight(channel: tl.constexpr, channels: tl.constexpr, snow: tl.constexpr):
    if snow and channels == 3:
        return 0.299 if channel == 0 else (0.587 if channel == 1 else 0.114)
    else:
        return 1.0 / channels


@triton.jit
def tacos_step_kernel(
    x_s_pointer,
    x_0_pointer,
    end_pointer,
    layer_s_pointer,
    layer_to_pointer,
    result_pointer,
    size,  # pixels of a plane
    blocks,  # of a plane
    end_sample,
    end_channel,
    s_sample,
    to_sample,
    numbers,
    channels: tl.constexpr,
    end_whole: tl.constexpr,  # whether x_end has a number of its own for every pixel
    snow: tl.constexpr,
    needs_grey: tl.constexpr,
    block: tl.constexpr,
):
    sample = (tl.program_id(0) // blocks).to(tl.int64)
    within = tl.program_id(0) % blocks * block + tl.arange(0, block)
    inside = within < size
    plane = sample * channels * size
    first, second = numbers
    before = load_or_zeros(layer_s_pointer, sample * s_sample + within, inside)
    after = load_or_zeros(layer_to_pointer, sample * to_sample + within, inside)

    # All channels of these pixels, and their grey.
    images = ()
    grey = tl.zeros(within.shape, tl.float32)
    for c in tl.static_range(channels):
        x_0 = load_or_zeros(x_0_pointer, plane + c * size + within, inside)
        if needs_grey:
            grey += grey_weight(c, channels, snow) * x_0
        images = images + (x_0,)  # type: ignore[assignment]  # noqa: RUF005  (Triton cannot unpack here)

    for c in tl.static_range(channels):
        at = plane + c * size + within
        x_s = load_or_zeros(x_s_pointer, at, inside)
        x_0 = images[c]
        if snow:
            u = (x_0 + 1.0) * 0.5
            winter_grey = (grey + 1.0) * 0.5
            ahead = u if layer_to_pointer is None else snowed(u, winter_grey, second, after)
            behind = u if layer_s_pointer is None else snowed(u, winter_grey, first, before)
            change = 2.0 * (ahead - behind)
        else:
            change = first * x_0
            if needs_grey:
                change += second * grey
            elif end_pointer is not None:
                base = sample * end_sample + c * end_channel
                if end_whole:
                    change += second * load_or_zeros(end_pointer, base + within, inside)
                else:
                    change += second * tl.load(end_pointer + base).to(tl.float32)
            if layer_to_pointer is not None:
                change = (after - before) * change
        tl.store(result_pointer + at, (x_s + change).to(result_pointer.dtype.element_ty), mask=inside)


def tacos_step(
    x_s: Tensor,
    x_0: Tensor,
    x_end: Tensor | None,
    layer_s: Tensor | None,
    layer_to: Tensor | None,
    kind: int,
    numbers: list[float],
) -> Tensor:
    """Launch the kernel; the arguments are the op's (rddm_fast/ops/inverse/tacos_step.py)."""
    if x_s.dtype == torch.float64:
        raise TypeError("x_s is float64, which the Triton kernel does not take: use impl='reference'")
    wanted = torch.empty_like(x_s)
    result = wanted.contiguous()  # the planes of an image must follow each other
    if result.numel() == 0:
        return wanted
    batch, channels, height, width = x_s.shape
    pixels, snow = height * width, kind == 2
    x_end, layer_s, layer_to = (None if x is None else x.contiguous() for x in (x_end, layer_s, layer_to))
    end_whole = x_end is not None and x_end.shape[2:] == x_s.shape[2:]
    plane = pixels if end_whole else 1
    config = launch_config(x_s.element_size())
    brightens = any(layer is not None and b != 1 for layer, b in zip((layer_s, layer_to), numbers, strict=True))
    blocks = triton.cdiv(pixels, config["block"])
    with torch.cuda.device_of(result):
        tacos_step_kernel[(blocks * batch,)](
            in_layout_of(x_s, result),
            in_layout_of(x_0, result),
            x_end,
            layer_s,
            layer_to,
            result,
            pixels,
            blocks,
            0 if x_end is None or len(x_end) == 1 else x_end.shape[1] * plane,
            0 if x_end is None or x_end.shape[1] == 1 else plane,
            *(0 if layer is None or len(layer) == 1 else pixels for layer in (layer_s, layer_to)),
            tuple(numbers),
            channels=channels,
            end_whole=end_whole,
            snow=snow,
            needs_grey=kind == 1 or (snow and brightens),
            **config,
        )
    return result if result is wanted else wanted.copy_(result)
