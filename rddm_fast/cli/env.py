"""`rddm-fast env`."""

from __future__ import annotations

from typing import Annotated

import typer

from .common.app import command


@command
def env(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print versions, what is installed and compiled, and which backend each op uses; for pasting into an issue."""
    from ..ops.env_report import main as report

    report(["--json"] if as_json else [])
