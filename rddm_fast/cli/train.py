"""`rddm-fast train`. Its options are the settings that have a flag (`training.settings`)."""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from rich.markup import escape

from ..system.processes import rank
from ..training.settings import DataSettings, ModelSettings, Settings, SettingsError, TrainSettings
from .common.app import command, err, out
from .common.progress import progress_bar

_PANELS: dict[type[Settings], str | None] = {DataSettings: None, ModelSettings: "Network", TrainSettings: "Run"}


def _name(flag: str) -> str:
    """The parameter of a flag: `sample_every` of "--sample-every", `faster` of "--faster/--no-faster"."""
    return flag.split("/")[0].removeprefix("--").replace("-", "_")


_FLAGS: dict[str, tuple[type[Settings], Field[Any]]] = {
    _name(f.metadata["flag"]): (section, f)
    for section in _PANELS
    for f in fields(section)  # type: ignore[arg-type]
    if f.metadata["flag"]
}


def _option(name: str) -> inspect.Parameter:
    """The command's parameter of a setting: its type, its least value and its help."""
    section, setting = _FLAGS[name]
    hint = get_type_hints(section)[setting.name]
    kinds = () if get_origin(hint) is tuple else (hint, *get_args(hint))  # a list is one text, such as 1,2,4
    kind: Any = next((kind for kind in kinds if kind in (int, float, bool)), str)
    least, most = (setting.metadata[end] if kind is int else None for end in ("least", "most"))
    option = typer.Option(
        setting.metadata["flag"], help=setting.metadata["help"], min=least, max=most, rich_help_panel=_PANELS[section]
    )
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]
    )


def _with_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Replace the function's last parameter, `**flags`, by one option per setting."""
    own = list(inspect.signature(function, eval_str=True).parameters.values())[:-1]
    function.__signature__ = inspect.Signature([*own, *map(_option, _FLAGS)])  # type: ignore[attr-defined]
    return function


@command
@_with_flags
def train(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", file_okay=False, help="Folder of the run: checkpoints, log and model."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A published experiment's settings, or a built-in model's, such as deraining.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings as YAML or JSON; they override the preset's.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="Any setting, as SECTION.NAME=VALUE; overrides all others.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the settings as YAML and stop.")] = False,
    json: Annotated[bool, typer.Option("--json", help="With --dry-run: as JSON.")] = False,
    new_data: Annotated[bool, typer.Option("--new-data", help="Resume a run although its data has changed.")] = False,
    **flags: Any,
) -> None:
    """Train a model. The same command resumes an interrupted run, also after a kill."""
    from ..system.files import write_text_whole
    from ..training.from_settings import trainer_of
    from ..training.log import check_trackers
    from ..training.settings import RunSettings
    from ..training.trainer import Interrupted
    from ..training.trainer import Progress as Report

    try:
        run = RunSettings.of(*_layers(preset, config, flags, settings or []))
        check_trackers(run.train.trackers)
    except SettingsError as error:
        raise SettingsError(_as_flags(str(error), flags)) from error
    if dry_run:
        out.print(run.text("json" if json else "yaml"), markup=False, end="")
        return
    if output is None:
        raise ValueError("a run needs a folder for its checkpoints and its model: pass --output")
    with _warnings_as_sentences():
        trainer = trainer_of(run, output, new_data=new_data)
    with trainer.alone(), progress_bar(lines=False) as bar, _warnings_as_sentences():
        if rank() == 0:
            write_text_whole(output / "settings.json", run.text("json"))
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


@contextmanager
def _warnings_as_sentences() -> Iterator[None]:
    """Print this package's warnings as a sentence on stderr, without the line of code that Python adds."""
    with warnings.catch_warnings():
        python_s = warnings.showwarning

        def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
            if category is not UserWarning:
                python_s(message, category, *rest, **more)
            elif rank() == 0:
                err.print(escape(f"warning: {message}"))

        warnings.showwarning = show
        yield


def _layers(
    named: str | None, config: Path | None, flags: dict[str, Any], settings: list[str]
) -> list[dict[str, dict[str, Any]]]:
    """The settings of the preset, the file, the flags and --set; each layer overrides those before it."""
    from ..training.presets import preset
    from ..training.settings import read_settings, setting_of

    file = read_settings(config) if config is not None else {}
    named = named or file.pop("preset", None)
    layers = [] if named is None else [preset(named)]
    layers.append(file)
    # A patch and a size exclude each other: a flag of one drops the preset's other.
    if flags["patch"] is not None and flags["size"] is None:
        layers.append({"data": {"size": None}})
    elif flags["size"] is not None and flags["patch"] is None:
        layers.append({"data": {"patch": None}})
    for name, value in flags.items():
        if value is not None:
            section, field = _FLAGS[name]
            layers.append({section.section: {field.name: _widths(value) if name == "mults" else value}})
    return [*layers, *map(setting_of, settings)]


def _as_flags(sentence: str, flags: dict[str, Any]) -> str:
    """Return an error's sentence with the flags that were given in the place of their settings' names."""
    for name, value in flags.items():
        section, field = _FLAGS[name]
        if value is not None:
            flag = field.metadata["flag"].split("/")[0]
            sentence = re.sub(rf"\b{section.section}\.{field.name}\b", flag, sentence)
    return sentence


def _widths(mults: str) -> list[int]:
    try:
        return [int(width) for width in mults.split(",")]
    except ValueError:
        raise ValueError(f"--mults is {mults!r}: write whole numbers with commas, such as 1,2,4") from None
