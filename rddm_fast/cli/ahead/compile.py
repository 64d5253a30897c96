"""`rddm-fast compile`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..common.app import Batch, Device, Model, Precision, Steps, Where, command, device_of, dtype_of, err, out, size_of
from ..common.models import model_named


@command
def compile(
    model: Model,
    size: Annotated[list[str], typer.Option(help="Height and width of the images, such as 256x256; repeatable.")],
    batch: Batch = 1,
    steps: Steps = None,
    device: Where = Device.auto,
    dtype: Precision = None,
    **published: Any,
) -> None:
    """Compile a model's networks ahead of time: later processes find the result in torch's cache."""
    from ...fast.engine import FastSampler

    shapes = [size_of(text) for text in size]
    diffusion = model_named(model, **published).to(device_of(device))
    sampler = FastSampler(diffusion, steps=steps, dtype=dtype_of(dtype), compile=True)
    for text, (height, width) in zip(size, shapes, strict=True):
        with err.status(f"compiling for {text}"):
            seconds = sampler.warmup((batch, diffusion.channels, height, width))
        out.print(f"{text}: {seconds:.1f} s")
