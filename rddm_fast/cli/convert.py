"""`rddm-fast convert`."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from .common.app import command, out
from .common.models import model_named, published_model


class Form(str, Enum):
    """What a model is converted to."""

    rddm_fast = "rddm_fast"
    diffusers = "diffusers"


@command
def convert(
    checkpoint: Annotated[
        str,
        typer.Argument(
            help="A published training checkpoint, model-N.pt, a model folder, hub:OWNER/NAME or a built-in model.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", file_okay=False, help="Folder for the converted model.")],
    to: Annotated[
        Form, typer.Option(help="A model folder of rddm_fast, or the folder of a pipeline of diffusers.")
    ] = Form.rddm_fast,
    **published: Any,
) -> None:
    """Save a model as a folder that needs no further options; of a published checkpoint the EMA weights."""
    from ..models.folder import save_model
    from ..models.hub import is_on_hub

    is_file = Path(checkpoint).is_file()  # of whatever name: a model folder is none
    diffusion = published_model(Path(checkpoint), **published) if is_file else model_named(checkpoint, **published)
    if to is Form.diffusers:
        from ..integrations.diffusers.pipeline import RDDMPipeline

        RDDMPipeline.from_rddm(diffusion).save_pretrained(output)
        out.print(f"pipeline: {escape(str(output))}")
    else:
        save_model(
            output, diffusion, info={"converted_from": checkpoint if is_on_hub(checkpoint) else Path(checkpoint).name}
        )
        out.print(f"model: {escape(str(output))}")
