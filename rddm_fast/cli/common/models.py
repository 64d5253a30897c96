"""Load the model that a command names: a built-in one, a folder, or a published checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from ...diffusion.residual import ResidualDiffusion
    from ...theory.schedule import Schedule

PUBLISHED = "What a published .pt does not store"


def _option(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=PUBLISHED)


def published_model(
    path: Path,
    *,
    experiment: Annotated[
        str | None, _option("The experiment that trained it, such as translation, or its folder's number.")
    ] = None,
    objective: Annotated[str | None, _option("What the networks predict, such as pred_res_noise.")] = None,
    path_independent: Annotated[
        bool | None, _option("The networks take the coefficients as their times, instead of t.")
    ] = None,
    official_two_pass: Annotated[
        bool | None, _option("Few steps take a pass for the residual, then one for the noise.")
    ] = None,
    condition: Annotated[bool | None, _option("The model restores images, instead of generating them.")] = None,
    input_condition: Annotated[bool | None, _option("The model takes a mask.")] = None,
    self_condition: Annotated[bool | None, _option("The networks take their previous estimate.")] = None,
    input_condition_mask: Annotated[bool | None, _option("The mask is in [0, 1], not in [-1, 1].")] = None,
    test_res_or_noise: Annotated[str | None, _option("The output to sample with: res or noise.")] = None,
    schedule: Annotated[str | None, _option("triangular, power or ddim; default: the file's coefficients.")] = None,
) -> ResidualDiffusion:
    """Load a published checkpoint. The keyword arguments are the options of every command that takes one."""
    from ...models.published import MissingArgument, load_published

    try:
        return load_published(
            path,
            experiment=experiment,
            objective=objective,
            path_independent=path_independent,
            official_two_pass=official_two_pass,
            condition=condition,
            input_condition=input_condition,
            self_condition=self_condition,
            input_condition_mask=bool(input_condition_mask),
            test_res_or_noise=test_res_or_noise,
            schedule=None if schedule is None else _schedule(schedule),
        )
    except MissingArgument as missing:
        option = "--" + missing.name.replace("_", "-")
        spelling = option if missing.name in ("experiment", "objective") else f"{option} or --no-{option[2:]}"
        raise ValueError(f"{path}: {missing.reason}: pass {spelling} ({missing.choices})") from missing


def _schedule(name: str) -> Schedule:
    from ...theory.schedule import Schedule

    families: dict[str, Callable[[], Schedule]] = {
        "triangular": Schedule.triangular,
        "power": Schedule.power,
        "ddim": Schedule.from_ddim,
    }
    if name not in families:
        raise ValueError(f"unknown schedule {name!r}: choose one of {', '.join(families)}")
    return families[name]()


def model_named(name: str, **published: Any) -> ResidualDiffusion:
    """Load a built-in model, a model folder, one on the Hub or a published checkpoint."""
    from ...models.folder import load_model
    from ...models.hub import is_on_hub

    path = Path(name)
    if not is_on_hub(name) and path.suffix.lower() in (".pt", ".pth", ".ckpt") and not path.is_dir():
        return published_model(path, **published)
    given = [option for option, value in published.items() if value is not None]
    if given:
        raise ValueError(f"--{given[0].replace('_', '-')} is for published .pt checkpoints; {name} stores its own")
    return load_model(name)
