"""`rddm-fast restore --on`: the same restoration, on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.console import shown
from ..common.outcomes import Tally
from ..common.progress import progress_bar

if TYPE_CHECKING:
    from ...diffusion.residual import ResidualDiffusion


def _option(*names: str, help: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, rich_help_panel="Restore on a cluster", **more)


On = Annotated[
    str | None,
    _option(
        "--on",
        help="A Ray cluster: ray://HOST:PORT, ray (the one of this machine, or of RAY_ADDRESS) or ray:local. The "
        "input and --output may be addresses such as s3://bucket/folder; every machine must see both.",
    ),
]
Workers = Annotated[
    int | None, _option(min=1, help="Processes with a sampler each; default: one per GPU, or per machine without GPUs.")
]
AtOnce = Annotated[int, _option("--batch", min=1, help="Pictures of one size to restore at once on the cluster.")]

ONLY_HERE = (
    *("mask", "compare", "html"),
    *("method", "operator", "sigma_y", "prior", "eta", "eta_b", "travel", "official", "degrade"),
)
"""Options of `restore` that need all files on one machine, or are for --method."""


def restore_on_cluster(
    diffusion: ResidualDiffusion,
    inputs: list[str],
    output: str,
    *,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Restore and tell of it, as `rddm-fast restore` does; `options` are those of `restore_on_ray`."""
    from ...integrations.ray.restore import restore_on_ray

    if len(inputs) != 1:
        raise ValueError(f"--on takes one input, a folder or a store, not {len(inputs)}: call it for each")
    tally = Tally(quiet=quiet, as_json=as_json)
    with progress_bar(quiet=quiet) as bar:
        task = bar.add_task("restoring", total=None)
        outcomes = restore_on_ray(
            diffusion,
            inputs[0],
            output,
            on_left_out=tally.leaves_out,
            on_planned=lambda count: bar.update(task, total=count),
            **options,
        )
        for number, outcome in enumerate(outcomes, 1):
            if outcome.skipped:
                bar.begin_after(task, number)
            else:
                bar.update(task, completed=number)
            if tally.restores(outcome):
                note = f", {outcome.note}" if outcome.note else ""
                tally.says(f"{shown(outcome.target)}  {outcome.seconds:.2f} s{note}")
    tally.finish(output)
