"""`rddm-fast restore`."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..models.catalogue import DEFAULT
from .cluster.restore import ONLY_HERE, AtOnce, On, Workers, restore_on_cluster
from .common.app import MOST_SEED, Device, Model, Precision, Where, command, device_of, dtype_of
from .common.console import shown
from .common.models import model_named
from .common.outcomes import Tally
from .common.progress import progress_bar
from .inverse.solve import Degrade, Eta, EtaB, Method, Official, OperatorName, Prior, SigmaY, Travel, solver_of
from .seeing.page import Page

if TYPE_CHECKING:
    from ..restoration.files.outcome import Outcome

Scores = Mapping[str, tuple[float, float]]


@command
def restore(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(help="Images, and folders of images.", show_default=False)],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Folder for the results, which keep their names, or the one input's result, such as restored.png. If "
            "the folder lies in an input folder, it is left out there.",
        ),
    ],
    model: Model = DEFAULT,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Sampling steps; default: the model's own, and with --method 100, for ddrm 20."),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Masks of the same names, white where the image is missing or was changed, for models that take one, "
            "and for the operators inpaint and old (of the result's size)."
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=MOST_SEED, help="Seed of the starting noise, the same for every image.")
    ] = 0,
    tile: Annotated[
        int,
        typer.Option(
            min=0,
            help="Restore larger images in tiles of this side; 0: whole. With --method denoising, inpaint, sr, color "
            "and old take tiles, and the other operators take whole images only.",
        ),
    ] = 256,
    overlap: Annotated[
        int,
        typer.Option(min=0, help="Overlap of neighbouring tiles in pixels; with --method the default is a quarter."),
    ] = 16,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also restore files whose result exists.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also write FILE.compare.png beside each result: before and after.")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            dir_okay=False, help="Also write one page, such as report.html, with a before/after slider for each result."
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per line: for each file, and in the end the counts."),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing but errors, and what --json prints.")
    ] = False,
    device: Where = Device.auto,
    dtype: Precision = None,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the networks; pays for many images of one size.")
    ] = False,
    method: Method = None,
    operator: OperatorName = None,
    sigma_y: SigmaY = None,
    prior: Prior = None,
    eta: Eta = None,
    eta_b: EtaB = None,
    travel: Travel = None,
    official: Official = False,
    degrade: Degrade = False,
    on: On = None,
    workers: Workers = None,
    batch: AtOnce = 8,
    **published: Any,
) -> None:
    """Restore images. A file that fails is named and skipped; the others are restored, and the exit code is 1.

    A result keeps its file's size, depth, alpha, colour profile and resolution, as far as the format holds them. It is
    stored upright. EXIF (camera, date, place) and XMP are not kept.

    With --method and --operator they are restored from a formula of the degradation, without a model of it: by DDRM or
    DDNM. The inputs are then what the operator has made of images: small ones for sr, bicubic and old, grey ones for
    color and old, with holes for inpaint. With --degrade they are clean, and are degraded first.

    With --on the work is shared among the machines of a Ray cluster; files are skipped, named and told in the same way.
    """
    from ..restoration.restore import Restorer, restore_files
    from ..restoration.solve import solve_files

    # Which options were written, as --tile and others have another default with --method.
    def given(option: str) -> bool:
        source = context.get_parameter_source(option)
        return source is not None and source.name == "COMMANDLINE"

    if on is None and (given("workers") or given("batch")):
        raise ValueError("--workers and --batch are for --on: name a cluster, or leave them out")
    for option in ONLY_HERE if on is not None else ():
        if given(option):
            raise ValueError(f"--{option.replace('_', '-')} is not for --on: restore these files on one machine")

    settings: dict[str, Any] = {"steps": steps, "seed": seed, "dtype": dtype_of(dtype), "compile": compile}
    formula: dict[str, Any] = {"operator": operator, "sigma_y": sigma_y, "prior": prior, "eta": eta, "eta_b": eta_b}
    formula |= {"travel": travel, "official": official}
    if method is None:
        for option in (*formula, "degrade"):
            if given(option):
                name = "--" + option.replace("_", "-")
                raise ValueError(f"{name} is for --method: add one, such as --method ddnm, or leave {name} out")
    elif operator is None:
        raise ValueError("--method needs --operator, such as sr:4: rddm-fast operators lists them")
    elif given("model"):
        raise ValueError("--model is for restoring without --method: with it, name a model of the noise as --prior")

    if on is not None:
        settings |= {
            "tile": tile or None,
            "overlap": overlap,
            "overwrite": overwrite,
            "workers": workers,
            "batch": batch,
        }
        told = {"quiet": quiet, "as_json": as_json}
        restore_on_cluster(
            model_named(model, **published), inputs, output, on=on, device=device.value, **settings, **told
        )
        return

    work: Callable[..., Iterator[Outcome]]
    if method is None:
        diffusion = model_named(model, **published).to(device_of(device))
        work = partial(restore_files, Restorer(diffusion, tile=tile or None, overlap=overlap, **settings))
    else:
        settings |= {"tile": tile if given("tile") else None, "overlap": overlap if given("overlap") else None}
        solver = solver_of(device_of(device), published, method=method, **formula, **settings)
        work = partial(solve_files, solver, degrade=degrade)

    page = None if html is None else Page(html, degrade=degrade)
    tally = Tally(quiet=quiet, as_json=as_json)
    measured: list[Scores] = []
    with progress_bar(quiet=quiet) as bar:
        files = bar.add_task("restoring", total=None)
        tiles = bar.add_task("tiles" if method is None else "steps", total=None, visible=False)

        begun = 0

        def on_start(number: int, count: int, path: Path) -> None:
            nonlocal begun
            begun = number
            bar.update(files, completed=number, total=count, description=shown(path.name))
            bar.update(tiles, visible=False)

        def advance(done: int, count: int) -> None:
            bar.update(tiles, completed=done, total=count, visible=True)
            bar.update(files, completed=begun + done / count)

        for outcome in work(
            list(map(Path, inputs)),
            Path(output),
            mask=mask,
            overwrite=overwrite,
            compare=compare,
            on_left_out=tally.leaves_out,
            on_start=on_start,
            advance=advance,
        ):
            if page is not None:
                page.add(outcome)
            if outcome.skipped:
                bar.begin_after(files, begun + 1)
            if tally.restores(outcome):
                note = f", {outcome.note}" if outcome.note else ""
                tally.says(f"{shown(outcome.target)}  {outcome.seconds:.2f} s{note}")
                if outcome.scores is not None:
                    measured.append(outcome.scores)
                    tally.says(f"  {_text(outcome.scores)}")
    if len(measured) > 1:
        tally.says(f"mean of {len(measured)}: {_text(_means(measured))}")
    if page is not None:
        page.write(model if method is None else f"{method}, {operator}")
        tally.says(f"page: {shown(page.path)}")
    tally.finish(Path(output), **({} if page is None else {"page": str(page.path)}))


def _text(scores: Scores) -> str:
    return ", ".join(f"{name} {psnr:.2f} dB, SSIM {ssim:.4f}" for name, (psnr, ssim) in scores.items())


def _means(measured: list[Scores]) -> Scores:
    """Return each name's mean PSNR and mean SSIM; all files have the same names."""
    columns = {name: list(zip(*(scores[name] for scores in measured), strict=True)) for name in measured[0]}
    return {name: (statistics.fmean(psnr), statistics.fmean(ssim)) for name, (psnr, ssim) in columns.items()}
