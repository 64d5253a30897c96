"""The command line: `rddm-fast demo | restore | compile | train | convert | env`.

Commands are thin: each turns its options into a call of the module that does the work, and prints. A user's
mistake ends in one sentence and exit code 1; `--debug` shows the traceback instead.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, NoReturn

try:
    import typer
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.table import Table
except ModuleNotFoundError as missing:
    sys.exit(f"error: rddm-fast needs {missing.name}: pip install 'rddm_fast[cli]'")

import torch

from . import __version__
from .diffusion import ResidualDiffusion
from .files import write_text_whole
from .schedule import Schedule

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Few-step image restoration with Residual Denoising Diffusion Models, fast.",
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
debug = False


class Dtype(str, Enum):
    """What the networks compute in."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    traceback: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    global debug
    debug = traceback
    if version:
        out.print(f"rddm_fast {__version__}")
        raise typer.Exit


def fail(sentence: object) -> NoReturn:
    """Print one sentence and end with exit code 1."""
    err.print(f"[red]error:[/red] {escape(str(sentence))}")
    raise typer.Exit(1)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose users' errors are printed as one sentence.

    ValueError covers ImageError, ModelError and DataError. An error of any other kind is a bug in this package
    and shows its traceback. A command that ends in `**published` takes the options of `_published` too.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except (ValueError, OSError, ImportError) as error:
            if debug:
                raise
            fail(error)

    # typer reads options off a signature, so the shared ones are put into it where **published stands.
    parameters = list(inspect.signature(function, eval_str=True).parameters.values())
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        parameters[-1:] = list(inspect.signature(_published, eval_str=True).parameters.values())[1:]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]
    return app.command()(run)


def progress_bar() -> Progress:
    """A bar on stderr that leaves nothing behind, and is not drawn where stderr is no terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,
    )


def _device(choice: Device) -> torch.device:
    if choice is Device.cuda and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device: use --device cpu, or see rddm-fast env")
    if choice is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice.value)


def _dtype(choice: Dtype | None) -> torch.dtype | None:
    return None if choice is None else getattr(torch, choice.value)


# -- models -------------------------------------------------------------------------------------------------

PUBLISHED = "What a published .pt does not store"


def _published(
    path: Path,
    *,
    objective: Annotated[
        str | None, typer.Option(help="What its networks predict, such as pred_res_noise.", rich_help_panel=PUBLISHED)
    ] = None,
    path_independent: Annotated[
        bool | None,
        typer.Option(
            "--path-independent/--no-path-independent",
            help="Whether its networks see the coefficients as their times, or t.",
            rich_help_panel=PUBLISHED,
        ),
    ] = None,
    condition: Annotated[
        bool | None,
        typer.Option("--condition/--no-condition", help="Restores, or generates.", rich_help_panel=PUBLISHED),
    ] = None,
    input_condition: Annotated[
        bool | None,
        typer.Option("--input-condition/--no-input-condition", help="Takes a mask.", rich_help_panel=PUBLISHED),
    ] = None,
    self_condition: Annotated[
        bool | None,
        typer.Option(
            "--self-condition/--no-self-condition", help="Takes its previous estimate.", rich_help_panel=PUBLISHED
        ),
    ] = None,
    input_condition_mask: Annotated[
        bool | None,
        typer.Option(
            "--input-condition-mask/--no-input-condition-mask",
            help="Takes the mask in [0, 1], not in [-1, 1].",
            rich_help_panel=PUBLISHED,
        ),
    ] = None,
    test_res_or_noise: Annotated[
        str | None, typer.Option(help="Which of two outputs to sample with: res or noise.", rich_help_panel=PUBLISHED)
    ] = None,
    schedule: Annotated[
        str | None,
        typer.Option(
            help="triangular, power or ddim, where the file's coefficients are not those.", rich_help_panel=PUBLISHED
        ),
    ] = None,
) -> ResidualDiffusion:
    """A published checkpoint; its keyword arguments are the options of the commands that take one."""
    from .checkpoint import MissingArgument, load_published

    try:
        return load_published(
            path,
            objective=objective,
            path_independent=path_independent,
            condition=condition,
            input_condition=input_condition,
            self_condition=self_condition,
            input_condition_mask=bool(input_condition_mask),
            test_res_or_noise=test_res_or_noise,
            schedule=None if schedule is None else _schedule(schedule),
        )
    except MissingArgument as missing:
        option = "--" + missing.name.replace("_", "-")
        spelling = option if missing.name == "objective" else f"{option} or --no-{option[2:]}"
        raise ValueError(f"{path}: {missing.reason}: pass {spelling} ({missing.choices})") from missing


def _schedule(name: str) -> Schedule:
    families: dict[str, Callable[[], Schedule]] = {
        "triangular": Schedule.triangular,
        "power": Schedule.power,
        "ddim": Schedule.from_ddim,
    }
    if name not in families:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(families)}")
    return families[name]()


def _model(name: str, **published: Any) -> ResidualDiffusion:
    """A built-in model, a model folder, or a published checkpoint."""
    from .checkpoint import load_model

    path = Path(name)
    if path.suffix.lower() in (".pt", ".pth", ".ckpt") and not path.is_dir():
        return _published(path, **published)
    given = [option for option, value in published.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for published .pt checkpoints; {name} stores its own")
    return load_model(name)


# -- commands -----------------------------------------------------------------------------------------------


@command
def restore(
    inputs: Annotated[list[Path], typer.Argument(help="Images, and folders of images.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results, which keep their names.")],
    model: Annotated[
        str, typer.Option("--model", "-m", help="A built-in model, a model folder, or a published .pt.")
    ] = "derain",
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the model's own if left out.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Masks by the same names, for models that take one.")] = None,
    seed: Annotated[int, typer.Option(help="Of the starting noise; the same for every image.")] = 0,
    tile: Annotated[int, typer.Option(min=0, help="Larger images are restored in tiles of this side; 0: whole.")] = 512,
    overlap: Annotated[int, typer.Option(min=0, help="Of neighbouring tiles, in pixels.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Restore again what is there already.")] = False,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What to compute in; by default float32, and bfloat16 on a GPU.")
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="For many images of one size: compile for it.")] = False,
    **published: Any,
) -> None:
    """Restore images. A bad file is named and skipped, the rest is done, and the exit code is 1."""
    from .restore import Restorer, restore_files

    diffusion = _model(model, **published).to(_device(device))
    settings: dict[str, Any] = {"steps": steps, "dtype": _dtype(dtype), "compile": compile}
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


@command
def compile(
    model: Annotated[str, typer.Option("--model", "-m", help="A built-in model, a model folder, or a published .pt.")],
    size: Annotated[list[str], typer.Option(help="Height and width of the images, such as 256x256; repeatable.")],
    batch: Annotated[int, typer.Option(min=1, help="Images at once.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Sampling steps; the model's own if left out.")] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = Device.auto,
    dtype: Annotated[
        Dtype | None, typer.Option(help="What to compute in; by default float32, and bfloat16 on a GPU.")
    ] = None,
    **published: Any,
) -> None:
    """Compile a model's networks ahead of time: later processes find the result in torch's cache."""
    from .fast import FastSampler

    shapes = []
    for text in size:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
        if match is None:
            raise ValueError(f"{text!r} is no size: write height and width, such as 256x256")
        shapes.append((int(match[1]), int(match[2])))
    diffusion = _model(model, **published).to(_device(device))
    sampler = FastSampler(diffusion, steps=steps, dtype=_dtype(dtype), compile=True)
    for text, (height, width) in zip(size, shapes, strict=True):
        with err.status(f"compiling for {text}"):
            seconds = sampler.warmup((batch, diffusion.channels, height, width))
        out.print(f"{text}: {seconds:.1f} s")


@command
def demo(
    model: Annotated[str, typer.Option("--model", "-m", help="A built-in model, or a model folder.")] = "derain",
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: input, restored, truth.")] = Path(
        "demo/demo.png"
    ),
    steps: Annotated[int, typer.Option(min=1, help="Sampling steps.")] = 3,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the numbers there.")] = None,
    seed: Annotated[int, typer.Option(help="Of the degradation and the starting noise.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Timings of each path; medians are shown.")] = 3,
    degradation: Annotated[str | None, typer.Option(help="What a model of your own undoes, such as rain.")] = None,
) -> None:
    """Restore the package's photographs, and compare quality and time with the eager reference."""
    from . import demo as demonstration

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
        table.add_row(
            r.name,
            r.size,
            f"{r.psnr_before:.2f}→{r.psnr_after:.2f}",
            f"{r.ssim_before:.3f}→{r.ssim_after:.3f}",
            f"{r.eager_ms:.0f}",
            f"{r.fast_ms:.0f}",
            f"{r.eager_ms / r.fast_ms:.2f}",
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        f"{mean['psnr_before']:.2f}→{mean['psnr_after']:.2f}",
        f"{mean['ssim_before']:.3f}→{mean['ssim_after']:.3f}",
        f"{mean['eager_ms']:.0f}",
        f"{mean['fast_ms']:.0f}",
        f"{mean['speedup']:.2f}",
    )
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


@command
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run: checkpoint and model.")],
    photos: Annotated[
        Path | None, typer.Option(help="Folder of clean photographs, which are degraded as they are read.")
    ] = None,
    degradation: Annotated[
        str, typer.Option(help="With --photos: rain, lowlight, noise, blur, shadow or mask.")
    ] = "rain",
    inputs: Annotated[
        Path | None, typer.Option("--input", help="Degraded images: a folder, .flist, pattern or CSV.")
    ] = None,
    target: Annotated[Path | None, typer.Option(help="Their ground truth, matched by name.")] = None,
    mask: Annotated[Path | None, typer.Option(help="Their masks, matched by name.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps in all.")] = 4500,
    batch: Annotated[int, typer.Option(min=1, help="Patches a step.")] = 8,
    patch: Annotated[int, typer.Option(min=8, help="Side of a patch in pixels.")] = 64,
    lr: Annotated[float, typer.Option(help="Peak learning rate, decayed as a cosine.")] = 4e-4,
    dim: Annotated[int, typer.Option(min=8, help="Width of the first stage.")] = 24,
    mults: Annotated[str, typer.Option(help="Widths of the stages as multiples of it.")] = "1,2,4",
    networks: Annotated[str, typer.Option(help="one, two or shared.")] = "one",
    objective: Annotated[str, typer.Option(help="What the networks predict.")] = "pred_res",
    sum_scale: Annotated[float, typer.Option(help="Variance of the noise at the last time.")] = 0.01,
    sampling_timesteps: Annotated[int, typer.Option(min=1, help="Steps that the model samples in.")] = 3,
    seed: Annotated[int, typer.Option(help="Of weights, patches and noise.")] = 0,
) -> None:
    """Train a restoration model. An interrupted run goes on with the same command."""
    from .train import Interrupted
    from .train import Progress as Report

    try:
        widths = [int(width) for width in mults.split(",")]
    except ValueError:
        raise ValueError(f"--mults is {mults!r}: write whole numbers with commas, such as 1,2,4") from None
    trainer = _trainer(
        output,
        photos=photos,
        degradation=degradation,
        sources=(inputs, target, mask),
        run=dict(steps=steps, batch_size=batch, lr=lr, seed=seed),
        patch=patch,
        network=dict(dim=dim, dim_mults=widths, networks=networks),
        diffusion=dict(objective=objective, sampling_timesteps=sampling_timesteps),
        sum_scale=sum_scale,
    )
    with progress_bar() as bar:
        task = bar.add_task("training", total=steps, completed=trainer.step)

        def report(p: Report) -> None:
            text = f"loss {p.loss:.4f}, {p.images_per_second:.1f} images/s"
            bar.update(task, completed=p.step, description=text)
            if not err.is_terminal and p.step % 100 == 0:
                out.print(f"step {p.step} of {steps}: {text}")

        try:
            folder = trainer.train(report)
        except Interrupted as interrupted:
            err.print(str(interrupted))
            raise typer.Exit(130) from None
    out.print(f"model: {escape(str(folder))}")


def _trainer(
    output: Path,
    *,
    photos: Path | None,
    degradation: str,
    sources: tuple[Path | None, Path | None, Path | None],
    run: dict[str, Any],
    patch: int,
    network: dict[str, Any],
    diffusion: dict[str, Any],
    sum_scale: float,
) -> Any:
    from .data import PairedImages, PhotoPatches
    from .image_files import find_images
    from .pairs import find_pairs
    from .train import Trainer, TrainSettings
    from .unet import ResidualUnets

    inputs, target, mask = sources
    settings = TrainSettings(**run)
    length = settings.steps * settings.batch_size
    dataset: PhotoPatches | PairedImages
    if (photos is None) == (inputs is None):
        raise ValueError("pass either --photos, photographs to degrade, or --input and --target, pairs of images")
    if photos is not None:
        masked = degradation in ("shadow", "mask")
        found = find_images(photos)
        dataset = PhotoPatches(found, degradation, patch=patch, length=length, seed=settings.seed, shrink=2.0)
    else:
        assert inputs is not None
        pairs = find_pairs(inputs, target, mask)
        if any(pair.target is None for pair in pairs):
            raise ValueError("training needs the ground truth: pass --target")
        masked = any(pair.mask is not None for pair in pairs)
        dataset = PairedImages(pairs, patch=patch, length=length, seed=settings.seed)
    torch.manual_seed(settings.seed)
    model = ResidualDiffusion(
        ResidualUnets(**network, condition=True, input_condition=masked),
        Schedule.triangular(1000, sum_scale),
        condition=True,
        input_condition=masked,
        input_condition_mask=masked,
        clip_res=2.0,
        **diffusion,
    )
    return Trainer(model, dataset, output, settings, info={"task": degradation if photos is not None else "pairs"})


@command
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published training checkpoint, model-N.pt.", show_default=False)
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model.safetensors and config.json.")],
    **published: Any,
) -> None:
    """Save a published checkpoint's EMA weights as a model folder, which needs no options from then on."""
    from .checkpoint import save_model

    diffusion = _published(checkpoint, **published)
    save_model(output, diffusion, info={"converted_from": checkpoint.name})
    out.print(f"model: {escape(str(output))}")


@command
def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions, what was compiled, and which backend each op uses; for pasting into an issue."""
    from .env_report import main as report

    report(["--json"] if as_json else [])


def main() -> None:
    """The entry point of `rddm-fast`."""
    app()


if __name__ == "__main__":
    main()
