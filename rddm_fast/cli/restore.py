"""`rddm-fast restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .common.app import Device, Model, Precision, Steps, Where, command, device_of, dtype_of, err, out, progress_bar
from .common.models import model_named


@command
def restore(
    inputs: Annotated[list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results, which keep their names.")],
    model: Model = "derain",
    steps: Steps = None,
    mask: Annotated[Path | None, typer.Option(help="Masks of the same names, for models that take one.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the starting noise, the same for every image.")] = 0,
    tile: Annotated[int, typer.Option(min=0, help="Restore larger images in tiles of this side; 0: whole.")] = 512,
    overlap: Annotated[int, typer.Option(min=0, help="Overlap of neighbouring tiles in pixels.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also restore files whose result exists.")] = False,
    device: Where = Device.auto,
    dtype: Precision = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the networks; pays for many images of one size.")
    ] = False,
    **published: Any,
) -> None:
    """Restore images. A file that fails is named and skipped; the others are restored, and the exit code is 1."""
    from ..restoration.restore import Restorer, restore_files

    diffusion = model_named(model, **published).to(device_of(device))
    settings: dict[str, Any] = {"steps": steps, "dtype": dtype_of(dtype), "compile": compile}
    restorer = Restorer(diffusion, seed=seed, tile=tile or None, overlap=overlap, **settings)
    restored = skipped = failed = 0
    with progress_bar() as bar:
        files = bar.add_task("restoring", total=None)
        tiles = bar.add_task("tiles", total=None, visible=False)

        def on_start(number: int, count: int, path: Path) -> None:
            bar.update(files, completed=number, total=count, description=escape(path.name))
            bar.update(tiles, visible=False)

        def advance(done: int, count: int) -> None:
            bar.update(tiles, completed=done, total=count, visible=True)

        for outcome in restore_files(
            restorer, inputs, output, mask=mask, overwrite=overwrite, on_start=on_start, advance=advance
        ):
            if outcome.error:
                failed += 1
                err.print(f"[red]error:[/red] {escape(outcome.error)}")
            elif outcome.skipped:
                skipped += 1
            else:
                restored += 1
                out.print(f"{escape(str(outcome.target))}  {outcome.seconds:.2f} s")
    counts = [f"{restored} restored"]
    if skipped:
        counts.append(f"{skipped} already in {output} (--overwrite restores them again)")
    if failed:
        counts.append(f"{failed} failed")
    out.print(escape(", ".join(counts)))
    if failed:
        raise typer.Exit(1)
