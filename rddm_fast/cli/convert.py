"""`rddm-fast convert`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .common.app import command, out
from .common.models import published_model


@command
def convert(
    checkpoint: Annotated[
        Path, typer.Argument(help="A published training checkpoint, model-N.pt.", show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", file_okay=False, help="Folder for model.safetensors and config.json.")
    ],
    **published: Any,
) -> None:
    """Save a published checkpoint's EMA weights as a model folder, which needs no further options."""
    from ..models.folder import save_model

    diffusion = published_model(checkpoint, **published)
    save_model(output, diffusion, info={"converted_from": checkpoint.name})
    out.print(f"model: {escape(str(output))}")
