"""`rddm-fast paths`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from ..system.files import write_text_whole
from .common.app import MOST_SEED, Device, Where, command, device_of, out
from .common.models import model_named


@command
def paths(
    model: Annotated[str, typer.Option("--model", "-m", help="A path-independent model's folder or published .pt.")],
    output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False, help="The figure, PNG or SVG.")],
    under: Annotated[
        list[str] | None,
        typer.Option(help="A schedule: trained, ddim, power, average or readjusted; repeatable; default: all."),
    ] = None,
    order: Annotated[
        list[str] | None,
        typer.Option(help="together, residual_first or noise_first; repeatable; default: all."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of indices of the schedule to visit.")] = 10,
    count: Annotated[int, typer.Option(min=2, help="Images per row.")] = 8,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of the noise, the same for all rows.")] = 0,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Also write the distances to this file.")
    ] = None,
    device: Where = Device.auto,
    **published: Any,
) -> None:
    """Draw what one seed becomes under several schedules and orders, one per row, and print how far apart they are."""
    from ..diffusion.path_figure import SCHEDULES, distances, draw_rows, path_rows
    from ..theory.steps import ORDERS

    if unknown := [name for name in under or () if name not in SCHEDULES]:
        raise ValueError(f"--under is {unknown[0]!r}: choose one of {', '.join(SCHEDULES)}")
    diffusion = model_named(model, **published).to(device_of(device))
    rows = path_rows(diffusion, under or SCHEDULES, order or ORDERS, steps=steps, count=count, seed=seed)
    between_paths, between_seeds = distances(rows)
    output.parent.mkdir(parents=True, exist_ok=True)
    draw_rows(output, rows)
    out.print(f"picture: {escape(str(output))}")
    out.print(
        f"between paths of one seed {between_paths:.4f}, between seeds {between_seeds:.4f} (root mean square): "
        f"ratio {between_paths / between_seeds:.2f}"
    )
    if json_file is not None:
        found = {"model": model, "steps": steps, "seed": seed, "paths": between_paths, "seeds": between_seeds}
        write_text_whole(json_file, json.dumps(found, indent=1) + "\n")
