"""`rddm-fast export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from .app import Device, Dtype, command, device_of, dtype_of, err, out, size_of
from .models import model_named


@command
def export(
    model: Annotated[str, typer.Option("--model", "-m", help="A built-in model, a model folder, or a published .pt.")],
    size: Annotated[str, typer.Option(help="Height and width of the images, such as 256x256.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; it ends in .pt2.")],
    batch: Annotated[int, typer.Option(min=1, help="Images per batch.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; default: the model's own.")] = None,
    device: Annotated[Device, typer.Option(help="Where the file will run; it is compiled on such a device.")] = (
        Device.auto
    ),
    dtype: Annotated[
        Dtype | None, typer.Option(help="Dtype of the computation; by default float32, and bfloat16 on a GPU.")
    ] = None,
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
