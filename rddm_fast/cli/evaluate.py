"""`rddm-fast evaluate`."""

from __future__ import annotations

import json
import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from .common.app import Device, Where, command, device_of, err, out, size_of
from .common.console import shown
from .common.progress import progress_bar

if TYPE_CHECKING:
    import torch

    from ..restoration.evaluate import Report


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
    crop_border: Annotated[
        int, typer.Option(min=0, help="Pixels to cut from every side before measuring, as BasicSR does.")
    ] = 0,
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
    metric: Annotated[
        list[str] | None,
        typer.Option(help="Also pyiqa:NAME, a metric of the package pyiqa, such as pyiqa:niqe; may be repeated."),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one JSON object per line: for each image, and in the end the summary."),
    ] = False,
    device: Where = Device.auto,
) -> None:
    """Measure results against their ground truth: PSNR, SSIM, RMSE, error in Lab.

    PSNR and SSIM on colour are those of BasicSR and pyiqa. On luma they differ from BasicSR's by up to 0.002 dB and
    0.0006, because luma is rounded to 8 bits, as MATLAB does.

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
        crop_border=crop_border,
        pyiqa=[_of_pyiqa(name) for name in metric or ()],
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
    if as_json:
        _print_json(report, summary)
    elif report.measured:
        out.print(_table(summary))
        names = ", ".join(f"{record.pair.name} ({record.values['psnr']:.2f} dB)" for record in report.worst(3))
        out.print(f"worst: {shown(names)}")
    if output is not None and not as_json:
        out.print(f"written to {shown(output)}")
    if report.errors:
        err.print(f"{len(report.errors)} of {len(pairs)} failed")
        raise typer.Exit(1)


def _of_pyiqa(metric: str) -> str:
    """Return NAME of pyiqa:NAME."""
    package, _, name = metric.partition(":")
    if package != "pyiqa" or not name:
        raise ValueError(f"--metric is {metric!r}: write pyiqa:NAME, such as pyiqa:niqe")
    return name


def _print_json(report: Report, summary: dict[str, Any]) -> None:
    """Print a line for each image, in their order, and the summary's; infinity is the text "inf"."""
    from ..restoration.evaluate import for_json

    lines: list[dict[str, Any]] = []
    for record in report.records:
        status = "failed" if record.error else "measured"
        lines.append({"status": status, "name": record.pair.name, **record.values, "error": record.error})
    for line in [*lines, {"status": "finished", **summary}]:
        out.print(json.dumps(for_json(line)), markup=False)


def _device(choice: Device) -> torch.device:
    """Choose the device; with several processes and several GPUs each process has its own GPU."""
    import torch

    device = device_of(choice)
    if device.type == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    return device


def _table(summary: dict[str, Any]) -> Table:
    table = Table(title=f"{summary['images']} images, {summary['space']}", title_justify="left")
    for column, justify in (("metric", "left"), ("mean", "right"), ("std", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    for name, spread in summary["metrics"].items():
        label = f"{name}, less is better" if name in summary["lower_is_better"] else name
        table.add_row(label, _number(spread["mean"]), _number(spread["std"]))
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
