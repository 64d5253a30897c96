"""`rddm-fast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .app import command, err, out, progress_bar

_NETWORK, _RUN = "Network", "Run"
# What each flag sets, by the flag's name in the function below.
_FIELDS = {
    "photos": "data.photos",
    "degradation": "data.degradation",
    "inputs": "data.input",
    "target": "data.target",
    "mask": "data.mask",
    "digits": "data.digits",
    "patch": "data.patch",
    "size": "data.size",
    "kind": "model.kind",
    "dim": "model.dim",
    "mults": "model.mults",
    "networks": "model.networks",
    "objective": "model.objective",
    "loss": "model.loss_type",
    "schedule": "model.schedule",
    "sum_scale": "model.sum_scale",
    "sampling_timesteps": "model.sampling_timesteps",
    "steps": "train.steps",
    "batch": "train.batch_size",
    "accumulate": "train.accumulate",
    "lr": "train.lr",
    "optimizer": "train.optimizer",
    "optimizers": "train.optimizers",
    "precision": "train.precision",
    "compile": "train.compile",
    "faster": "train.faster",
    "sample_every": "train.sample_every",
    "tensorboard": "train.tensorboard",
    "seed": "train.seed",
}


@command
def train(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder of the run: checkpoints, log and model.")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published experiment's settings, or a built-in model's, such as deraining.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML or JSON, over the preset's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as SECTION.NAME=VALUE, over all others.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings as YAML and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
    photos: Annotated[
        Path | None, typer.Option(help="Folder of clean photographs, which are degraded as they are read.")
    ] = None,
    degradation: Annotated[
        str | None, typer.Option(help="With --photos: rain, lowlight, noise, blur, shadow or mask.")
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="Degraded images: a folder, .flist, pattern or CSV.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option(help="Their ground truth, matched by name; to generate, the images.")
    ] = None,
    mask: Annotated[Path | None, typer.Option(help="Their masks, matched by name.")] = None,
    digits: Annotated[bool | None, typer.Option("--digits", help="To generate: scikit-learn's digits.")] = None,
    patch: Annotated[int | None, typer.Option(min=8, help="Side of a random patch in pixels.")] = None,
    size: Annotated[int | None, typer.Option(min=8, help="Side that whole images are resized to instead.")] = None,
    kind: Annotated[str | None, typer.Option(help="restore, translate or generate.", rich_help_panel=_NETWORK)] = None,
    dim: Annotated[int | None, typer.Option(min=8, help="Width of the first stage.", rich_help_panel=_NETWORK)] = None,
    mults: Annotated[
        str | None, typer.Option(help="Widths of the stages as multiples of it.", rich_help_panel=_NETWORK)
    ] = None,
    networks: Annotated[str | None, typer.Option(help="one, two or shared.", rich_help_panel=_NETWORK)] = None,
    objective: Annotated[
        str | None, typer.Option(help="What the networks predict; auto to find out.", rich_help_panel=_NETWORK)
    ] = None,
    loss: Annotated[str | None, typer.Option(help="l1 or l2.", rich_help_panel=_NETWORK)] = None,
    schedule: Annotated[str | None, typer.Option(help="triangular, power or ddim.", rich_help_panel=_NETWORK)] = None,
    sum_scale: Annotated[
        float | None, typer.Option(help="Variance of the noise at the last time.", rich_help_panel=_NETWORK)
    ] = None,
    sampling_timesteps: Annotated[
        int | None, typer.Option(min=1, help="Steps that the model samples in.", rich_help_panel=_NETWORK)
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Optimiser steps in all.", rich_help_panel=_RUN)] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images a gradient is of, over all processes.", rich_help_panel=_RUN)
    ] = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Gradients a step.", rich_help_panel=_RUN)] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", rich_help_panel=_RUN)] = None,
    optimizer: Annotated[str | None, typer.Option(help="adam, adamw or radam.", rich_help_panel=_RUN)] = None,
    optimizers: Annotated[
        str | None, typer.Option(help="one, or one for each of two networks.", rich_help_panel=_RUN)
    ] = None,
    precision: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16.", rich_help_panel=_RUN)] = None,
    compile: Annotated[bool | None, typer.Option("--compile", help="torch.compile.", rich_help_panel=_RUN)] = None,
    faster: Annotated[
        bool | None,
        typer.Option("--faster/--no-faster", help="The same steps in fewer kernels.", rich_help_panel=_RUN),
    ] = None,
    sample_every: Annotated[
        int | None, typer.Option(min=0, help="Steps between sheets of samples.", rich_help_panel=_RUN)
    ] = None,
    tensorboard: Annotated[
        bool | None, typer.Option("--tensorboard", help="Write TensorBoard's events too.", rich_help_panel=_RUN)
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of weights, patches and noise.", rich_help_panel=_RUN)] = None,
) -> None:
    """Train a model. An interrupted run goes on with the same command, also after a kill."""
    from ..system.files import write_text_whole
    from ..system.processes import rank
    from ..training.from_settings import trainer_of
    from ..training.settings import RunSettings
    from ..training.trainer import Interrupted
    from ..training.trainer import Progress as Report

    given = locals()
    run = RunSettings.of(*_layers(preset, config, {name: given[name] for name in _FIELDS}, settings or []))
    if dry_run:
        out.print(run.text("json" if json else "yaml"), markup=False, end="")
        return
    if output is None:
        raise ValueError("a run needs a folder for its checkpoints and its model: pass --output")
    trainer = trainer_of(run, output)
    if rank() == 0:
        write_text_whole(output / "settings.json", run.text("json"))
    with progress_bar() as bar:
        task = bar.add_task("training", total=run.train.steps, completed=trainer.step)

        def report(p: Report) -> None:
            text = f"loss {p.loss:.4f}, {p.images_per_second:.1f} images/s"
            if p.alpha_res is not None:
                text = f"selecting: lambda {p.alpha_res:.4f}, {text}"
            bar.update(task, completed=p.step, description=text)
            if not err.is_terminal and p.step % 100 == 0 and rank() == 0:
                out.print(f"step {p.step} of {run.train.steps}: {text}")

        try:
            folder = trainer.train(report)
        except Interrupted as interrupted:
            err.print(str(interrupted))
            raise typer.Exit(130) from None
    if rank() == 0:
        if trainer.aosa is not None:
            out.print("lambda {alpha_res:.4f} after {selected_at} steps: {decided}".format(**trainer.aosa))
        out.print(f"model: {escape(str(folder))}")


def _layers(
    named: str | None, config: Path | None, flags: dict[str, Any], settings: list[str]
) -> list[dict[str, dict[str, Any]]]:
    """The preset's settings, the file's, the flags' and those of --set, each over the ones before."""
    from ..training.presets import preset
    from ..training.settings import read_settings, setting

    file = read_settings(config) if config is not None else {}
    named = named or file.pop("preset", None)
    layers = [] if named is None else [preset(named)]
    layers.append(file)
    if flags["mults"] is not None:
        flags["mults"] = _widths(flags["mults"])
    # A patch and a size exclude each other, and so does what the preset says about them.
    if flags["patch"] is not None and flags["size"] is None:
        layers.append({"data": {"size": None}})
    elif flags["size"] is not None and flags["patch"] is None:
        layers.append({"data": {"patch": None}})
    for name, value in flags.items():
        if value is not None:
            section, _, field = _FIELDS[name].partition(".")
            layers.append({section: {field: str(value) if isinstance(value, Path) else value}})
    return [*layers, *map(setting, settings)]


def _widths(mults: str) -> list[int]:
    try:
        return [int(width) for width in mults.split(",")]
    except ValueError:
        raise ValueError(f"--mults is {mults!r}: write whole numbers with commas, such as 1,2,4") from None
