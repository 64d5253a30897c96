"""`rddm-fast export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .common.app import Batch, Device, Model, Precision, Steps, command, device_of, dtype_of, err, out, size_of
from .common.models import model_named


@command
def export(
    model: Model,
    size: Annotated[str, typer.Option(help="Height and width of the images, such as 256x256.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The file to write; it ends in .pt2.")],
    batch: Batch = 1,
    steps: Steps = None,
    device: Annotated[Device, typer.Option(help="Where the file will run; it is compiled on such a device.")] = (
        Device.auto
    ),
    dtype: Precision = None,
    **published: Any,
) -> None:
    """Write the whole sampling loop as a .pt2 file, which torch or libtorch runs without this package."""
    from ..fast.export import export as write

    shape = size_of(size)
    diffusion = model_named(model, **published).to(device_of(device))
    started = time.perf_counter()
    with err.status(f"compiling for {size}"):
        path = write(diffusion, output, size=shape, batch=batch, steps=steps, dtype=dtype_of(dtype))
    seconds = time.perf_counter() - started
    out.print(f"{path}: {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
