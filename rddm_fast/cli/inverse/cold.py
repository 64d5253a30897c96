"""`rddm-fast cold`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from ..common.app import MOST_SEED, Device, Precision, Where, command, device_of, dtype_of, out
from ..common.console import shown
from ..common.outcomes import Tally
from ..common.progress import progress_bar


class Algorithm(str, Enum):
    """How Cold Diffusion takes a step."""

    tacos = "tacos"
    naive = "naive"


@command
def cold(
    inputs: Annotated[list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="The model folder of a training with --degradation cold:NAME, or hub:OWNER/NAME."
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for the results, which keep their names, or the one input's result."
        ),
    ],
    algorithm: Annotated[
        Algorithm, typer.Option(help="tacos (Algorithm 2), or naive (Algorithm 1), which adds up a restorer's errors.")
    ] = Algorithm.tacos,
    degrade: Annotated[
        bool, typer.Option("--degrade", help="Take the images as clean: degrade, restore and measure them.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="With --degrade: seed of what is drawn, such as snow.")
    ] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also restore files whose result exists.")] = False,
    device: Where = Device.auto,
    dtype: Precision = None,
) -> None:
    """Restore images by Cold Diffusion, with a restorer that you trained. A file that fails is named and skipped."""
    from ...models.folder import load_cold_restorer
    from ...restoration.cold import ColdPictureRestorer, Measured
    from ...restoration.restore import restore_files

    measured: list[Measured] = []
    restorer = ColdPictureRestorer(
        load_cold_restorer(model).to(device_of(device)),
        algorithm=algorithm.value,
        measured=measured.append if degrade else None,
        seed=seed,
        dtype=dtype_of(dtype),
    )
    tally = Tally()
    with progress_bar() as bar:
        files = bar.add_task("restoring", total=None)

        def on_start(number: int, count: int, path: Path) -> None:
            bar.update(files, completed=number, total=count, description=shown(path.name))

        for outcome in restore_files(
            restorer, inputs, output, overwrite=overwrite, on_left_out=tally.leaves_out, on_start=on_start
        ):
            if tally.restores(outcome):
                numbers = f"  {_text(measured[-1])}" if degrade else ""
                out.print(f"{shown(outcome.target)}  {outcome.seconds:.2f} s{numbers}")
    if len(measured) > 1:
        means = (sum(column) / len(measured) for column in zip(*(vars(m).values() for m in measured), strict=True))
        out.print(f"mean of {len(measured)}: {_text(Measured(*means))}")
    tally.finish(output)


def _text(m: object) -> str:
    before, after = "{0.psnr_before:.2f} dB, {0.ssim_before:.3f}", "{0.psnr_after:.2f} dB, {0.ssim_after:.3f}"
    return f"degraded {before}; restored {after}".format(m)
