"""`rddm-fast train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape

from ..diffusion import ResidualDiffusion
from ..schedule import Schedule
from .app import command, err, out, progress_bar


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
    from ..train import Interrupted
    from ..train import Progress as Report

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
    from ..data import PairedImages, PhotoPatches
    from ..image_files import find_images
    from ..pairs import find_pairs
    from ..train import Trainer, TrainSettings
    from ..unet import ResidualUnets

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
