"""The application, and what its commands share: printing, errors, devices."""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

try:
    import rich  # noqa: F401
    import typer
except ModuleNotFoundError as missing:
    sys.exit(f"error: rddm-fast needs {missing.name}: pip install 'rddm_fast[cli]'")

import typer.core

from ...system.errors import one_line
from ...system.memory import out_of_memory
from ...system.version import __version__
from .console import err, out, printable_streams, shown
from .models import published_model
from .wording import as_typed, options_of

if TYPE_CHECKING:  # torch takes a second to import: --help and --version do without
    import torch


class _PlainFlags:
    """Shows a flag without the `<bool>` that typer adds, which looks as if it took a value."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if getattr(parameter, "is_flag", False):
                parameter.metavar = ""
        return parameters


class _Group(_PlainFlags, typer.core.TyperGroup):
    """The application itself."""


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Few-step image restoration with Residual Denoising Diffusion Models, fast.",
)
debug = False


class _Command(_PlainFlags, typer.core.TyperCommand):
    """A command that refuses an empty value: as a path it would be the working folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for before, value in zip(["", *args], args, strict=False):
            option = value[:-1] if value.startswith("--") and value.endswith("=") else ""
            if value == "" or option:
                name = option or (before if before.startswith("-") else "an argument")
                fail(f"{name} is empty: write a value" + ("" if name == "an argument" else f", or leave {name} out"))
        return super().parse_args(ctx, args)


class Dtype(str, Enum):
    """The dtype of the networks' computation."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class Device(str, Enum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


# Options that several commands have.
Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help="A built-in model (rddm-fast models lists them), a model folder, hub:OWNER/NAME, or a published .pt.",
    ),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Sampling steps; default: the model's own.")]
MOST_SEED = 2**63 - 1
"""Every generator takes seeds up to this one."""
MOST_SIDE = 1_000_000
Batch = Annotated[int, typer.Option(min=1, help="Images per batch.")]
Where = Annotated[Device, typer.Option(help="Where to compute.")]
Precision = Annotated[
    Dtype | None, typer.Option(help="Dtype of the computation; by default float32, and bfloat16 on a GPU.")
]


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
    err.print(f"[red]error:[/red] {shown(sentence)}")
    raise typer.Exit(1)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose users' errors are printed as one sentence, in the words of its options.

    ValueError covers ImageError, ModelError and DataError. An error of any other kind is a bug in this package
    and shows its traceback. A command that ends in `**published` takes the options of `published_model` too.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:
            if debug:
                raise
            if isinstance(error, OSError) and error.filename is not None and error.strerror:
                fail(f"{error.filename}: {error.strerror}")
            if isinstance(error, ValueError | OSError | ImportError):
                fail(as_typed(str(error), options))
            if out_of_memory(error):
                fail(f"this needs more memory than there is: make images or batches smaller ({one_line(error)[:200]})")
            raise

    # typer reads options from the signature, so the shared ones replace **published in it.
    parameters = list(_signature(function).parameters.values())
    if parameters and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD:
        parameters[-1:] = list(_signature(published_model).parameters.values())[1:]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # type: ignore[attr-defined]
    options = options_of(parameters)
    return app.command(cls=_Command)(run)


def _signature(function: Callable[..., object]) -> inspect.Signature:
    """Return a signature with the annotations of its parameters evaluated; what is returned may be a class of torch."""
    returned = {"ResidualDiffusion": object}
    return inspect.signature(function, eval_str=True, locals=returned)


def device_of(choice: Device) -> torch.device:
    import torch

    if choice is Device.cuda and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device: use --device cpu, or see rddm-fast env")
    if choice is Device.auto:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice.value)


def dtype_of(choice: Dtype | None) -> torch.dtype | None:
    import torch

    return None if choice is None else getattr(torch, choice.value)


def size_of(text: str, option: str = "--size") -> tuple[int, int]:
    """Read height and width from an option's text such as 256x320."""
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", text)
    if match is None or max(int(match[1]), int(match[2])) > MOST_SIDE:
        raise ValueError(f"{option} is {text!r}: write height and width, 1 to {MOST_SIDE}, such as 256x256")
    return int(match[1]), int(match[2])


def main() -> None:
    """The entry point of `rddm-fast`."""
    printable_streams()
    app()
