"""`rddm-fast evaluate`."""

from __future__ import annotations

import os
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.table import Table

from .common.app import Device, Where, command, device_of, err, out, progress_bar, size_of
from .common.console import shown


class Space(str, Enum):
    """The colours that PSNR, SSIM and RMSE are measured on."""

    rgb = "rgb"
    y = "y"


@command
def evaluate(
    pred: Annotated[
        Path, typer.Argument(help="Results: a folder, a pattern, a list, or a CSV file of pairs.", show_default=False)
    ],
    gt: Annotated[
        Path | None, typer.Argument(help="The ground truth, matched by name; omit it with a CSV.", show_default=False)
    ] = None,
    mask: Annotated[
        Path | None, typer.Option(help="Masks of the same names, white in the shadow: measure inside and outside, too.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="Folder for metrics.csv, summary.json and worst.png."),
    ] = None,
    space: Annotated[
        Space, typer.Option(help="PSNR, SSIM and RMSE on colour, or on luma (deraining, low light).")
    ] = Space.rgb,
    resize: Annotated[
        str | None, typer.Option(help="Scale all images first, bicubic; 256x256 for ISTD as published.")
    ] = None,
    worst: Annotated[int, typer.Option(min=0, help="Number of images in worst.png.")] = 8,
    lpips: Annotated[
        Path | None, typer.Option(help="LPIPS: TorchScript file of f(pred, target), images in [-1, 1], to one number.")
    ] = None,
    fid: Annotated[
        Path | None,
        typer.Option(help="FID: TorchScript file of f(uint8 images, return_features=True) to features."),
    ] = None,
    inception: Annotated[
        Path | None, typer.Option("--is", help="Inception Score: TorchScript file of f(uint8 images) to probabilities.")
    ] = None,
    device: Where = Device.auto,
) -> None:
    """Measure results against their ground truth: PSNR, SSIM, RMSE, error in Lab.

    LPIPS, FID and IS are measured where their network's file is given; inception-2015-12-05.pt of StyleGAN2-ADA serves
    for the last two. Under torchrun the images are shared among the processes.
    """
    from ..images.pairs import find_pairs
    from ..restoration.evaluate import Evaluator, check_apart
    from ..restoration.evaluate import evaluate as measure

    if output is not None:
        check_apart(output, pred, gt, mask)
    pairs = find_pairs(pred, gt, mask)
    if any(pair.target is None for pair in pairs):
        raise ValueError(f"{pred} names no ground truth: pass its folder as the second argument")
    evaluator = Evaluator(
        space=space.value,
        resize=None if resize is None else size_of(resize, "--resize"),
        lpips=lpips,
        fid=fid,
        inception=inception,
        device=_device(device),
    )
    with progress_bar() as bar:
        task = bar.add_task("measuring", total=None)
        report = measure(pairs, evaluator, lambda done, count: bar.update(task, completed=done, total=count))
    if report is None:
        return
    for error in report.errors:
        err.print(f"[red]error:[/red] {shown(error)}")
    summary = report.summary() if output is None else report.write(output, worst=worst)
    if report.measured:
        out.print(_table(summary))
        names = ", ".join(f"{record.pair.name} ({record.values['psnr']:.2f} dB)" for record in report.worst(3))
        out.print(f"worst: {shown(names)}")
    if output is not None:
        out.print(f"written to {shown(output)}")
    if report.errors:
        err.print(f"{len(report.errors)} of {len(pairs)} failed")
        raise typer.Exit(1)


def _device(choice: Device) -> torch.device:
    """Choose the device; with several processes and several GPUs each process has its own GPU."""
    device = device_of(choice)
    if device.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['images']} images, {summary['space']}", title_justify="left")
    for column, justify in (("metric", "left"), ("mean", "right"), ("std", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, spread in summary["metrics"].items():
        table.add_row(name, _number(spread["mean"]), _number(spread["std"]))
    for region, value in summary["mae_lab_per_pixel"].items():
        table.add_row("mae_lab per pixel" + ("" if region == "all" else f", {region}"), _number(value), "")
    if "fid" in summary:
        table.add_row("fid", _number(summary["fid"]), "")
    if "inception_score" in summary:
        spread = summary["inception_score"]
        table.add_row("inception score", _number(spread["mean"]), _number(spread["std"]))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
