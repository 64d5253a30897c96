"""`rddm-fast bench`."""

from __future__ import annotations

import typer

from .common.app import app


@app.command(
    add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "obj": None}
)
def bench(context: typer.Context) -> None:
    """Time ops, networks, samplers and training beside their alternatives; without a name, list the benchmarks."""
    from rddm_fast.benchmarks.__main__ import main

    main(context.args)
