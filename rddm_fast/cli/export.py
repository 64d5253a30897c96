"""`rddm-fast export`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from ..models.catalogue import licence_of
from .common.app import Batch, Device, Dtype, Model, Precision, Steps, command, device_of, dtype_of, err, out, size_of
from .common.models import model_named


@command
def export(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The file to write; it ends in .pt2 or .onnx.")
    ],
    size: Annotated[
        str | None, typer.Option(help="Height and width of the images of a .pt2 file, such as 256x256.")
    ] = None,
    batch: Batch = 1,
    steps: Steps = None,
    device: Annotated[Device, typer.Option(help="Where a .pt2 file will run; it is compiled on such a device.")] = (
        Device.auto
    ),
    dtype: Precision = None,
    **published: Any,
) -> None:
    """Write the whole sampling loop as one file that runs without this package.

    A .pt2 file is compiled for one size and one kind of device, and runs with torch or libtorch. An .onnx file takes
    images of any size, computes in float32, and runs in onnxruntime and others; where onnxruntime is installed, it is
    held against FastSampler first.
    """
    if output.suffix not in (".pt2", ".onnx"):
        raise ValueError(f"--output {output} ends in neither .pt2 nor .onnx: choose such a name")
    if output.suffix == ".onnx":
        chosen = {
            "--size": size is not None,
            "--batch": batch != 1,
            "--device": device is Device.cuda,
            "--dtype": dtype not in (None, Dtype.float32),
        }
        given = [option for option, is_given in chosen.items() if is_given]
        if given:
            raise ValueError(
                f"{given[0]} is for .pt2 files; an ONNX file takes any number of images of any size, computes in "
                f"float32 and runs on every device: leave {given[0]} out"
            )
        _write_onnx(model, output, steps, published)
        return
    if size is None:
        raise ValueError("a .pt2 file is for images of one size: pass --size with height and width, such as 256x256")
    shape = size_of(size)
    diffusion = model_named(model, **published).to(device_of(device))

    from ..fast.export import export as write
    from ..fast.export import left_to_caller

    started = time.perf_counter()
    with err.status(f"compiling for {size}"):
        path = write(diffusion, output, size=shape, batch=batch, steps=steps, dtype=dtype_of(dtype))
    seconds = time.perf_counter() - started
    out.print(f"{path}: {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB")
    _say_what_is_left(left_to_caller(diffusion))


def _write_onnx(model: str, path: Path, steps: int | None, published: dict[str, Any]) -> None:
    from ..fast.export import left_to_caller
    from ..fast.to_onnx.export import export as write

    diffusion = model_named(model, **published)
    started = time.perf_counter()
    with err.status("writing and checking"):
        difference = write(diffusion, path, steps=steps, name=Path(model).stem, licence=licence_of(model))
    seconds = time.perf_counter() - started
    checked = (
        "not checked, because onnxruntime is not installed"
        if difference is None
        else f"in onnxruntime at most {difference:.1e} from FastSampler's images"
    )
    out.print(f"{path}: {seconds:.1f} s, {path.stat().st_size / 1e6:.1f} MB; {checked}")
    _say_what_is_left(left_to_caller(diffusion))


def _say_what_is_left(words: str) -> None:
    if words:
        err.print(f"[yellow]note:[/yellow] the file holds the network's steps alone; this package also {words}")
