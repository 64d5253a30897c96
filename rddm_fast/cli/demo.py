"""`rddm-fast demo`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.markup import escape
from rich.table import Table

from ..system.files import write_text_whole
from .common.app import MOST_SEED, command, out
from .common.progress import progress_bar


@command
def demo(
    model: Annotated[
        str, typer.Option("--model", "-m", help="A built-in model, a model folder, or hub:OWNER/NAME.")
    ] = "derain",
    output: Annotated[
        Path, typer.Option("--output", "-o", dir_okay=False, help="The picture: input, restored, truth.")
    ] = Path("demo/demo.png"),
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 3,
    json_file: Annotated[
        Path | None, typer.Option("--json", dir_okay=False, help="Also write the numbers to this file.")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the degradation and of the starting noise.")
    ] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Timed runs of each path; the medians are shown.")] = 3,
    degradation: Annotated[
        str | None, typer.Option(help="The degradation that your own model undoes, such as rain.")
    ] = None,
) -> None:
    """Degrade and restore the package's photographs; compare quality and time with the eager reference."""
    import torch

    from ..restoration import demo as demonstration

    results = []
    with progress_bar() as bar:
        task = bar.add_task("restoring", total=len(demonstration.photographs()))
        for result in demonstration.run(model, steps=steps, seed=seed, repeats=repeats, kind=degradation):
            results.append(result)
            bar.advance(task)
    demonstration.draw(output, results)
    mean = demonstration.summary(results)

    headers = ("photograph", "size", "PSNR dB", "SSIM", "eager ms", "fast ms", "ratio")
    table = Table(*headers, box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)  # within 80 columns
    for column in table.columns[2:]:
        column.justify = "right"
    for r in results:
        table.add_row(*_cells(r.numbers()))
    table.add_section()
    table.add_row(*_cells({"name": "mean", "size": "", **mean}))
    out.print(table)
    out.print(
        f"{len(results)} photographs, {steps} steps, PSNR gain {mean['psnr_gain']:.2f} dB; "
        f"eager and fast images differ by at most {mean['difference']:.1e}; {torch.get_num_threads()} threads"
    )
    out.print(f"picture: {escape(str(output))}")
    if json_file is not None:
        numbers = {
            "model": model,
            "steps": steps,
            "seed": seed,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "summary": mean,
            "photographs": [r.numbers() for r in results],
        }
        json_file.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(json_file, json.dumps(numbers, indent=2) + "\n")
        out.print(f"numbers: {escape(str(json_file))}")


def _cells(of: dict[str, Any]) -> tuple[str, ...]:
    return (
        of["name"],
        of["size"],
        f"{of['psnr_before']:.2f}→{of['psnr_after']:.2f}",
        f"{of['ssim_before']:.3f}→{of['ssim_after']:.3f}",
        f"{of['eager_ms']:.0f}",
        f"{of['fast_ms']:.0f}",
        f"{of['eager_ms'] / of['fast_ms']:.2f}",
    )
