"""`rddm-fast tune`."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..common.app import Batch, Device, Model, Precision, Steps, Where, command, device_of, dtype_of, err, out, size_of
from ..common.console import shown
from ..common.models import model_named

if TYPE_CHECKING:
    from ...fast.engine import FastSampler

TURNS = 5


@command
def tune(
    model: Model,
    size: Annotated[list[str], typer.Option(help="Height and width of the images, such as 256x256; repeatable.")],
    batch: Batch = 1,
    steps: Steps = None,
    device: Where = Device.auto,
    dtype: Precision = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", dir_okay=False, help="Also write the table here (.json), for FastSampler(tune=…)."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    **published: Any,
) -> None:
    """Measure how each layer of a model is computed fastest on this machine: later processes take what was found."""
    from ...fast.engine import FastSampler
    from ...fast.tuning.report import lines_of, summary

    shapes = [size_of(text) for text in size]
    if output is not None and output.suffix != ".json":
        raise ValueError(f"--output {output} does not end in .json: choose such a name")
    diffusion = model_named(model, **published).to(device_of(device))
    options: dict[str, Any] = {"steps": steps, "dtype": dtype_of(dtype)}
    sampler = FastSampler(diffusion, tune=True, **options)
    tuner = sampler.tuner
    assert tuner is not None
    rules = FastSampler(diffusion, tune=False, **options)
    found = []
    for text, (height, width) in zip(size, shapes, strict=True):
        shape = (batch, diffusion.channels, height, width)
        with err.status(f"measuring for {text}") as status:
            tuner.say = lambda what: status.update(f"measuring: {shown(what)}")
            rules.warmup(shape)  # before the tiles of a GPU's convolutions are chosen, which its graph then keeps
            sampler.warmup(shape)
            found.append((text, _seconds(rules, sampler, shape)))
    known = tuner.known()
    tuner.table.write()  # The sampler warns if it cannot be kept; here that is an error.
    if output is not None:
        tuner.table.write(output)
    if as_json:
        images = [{"size": text, "batch": batch, **seconds} for text, seconds in found]
        print(json.dumps({"table": str(output or tuner.table.path), "images": images, "choices": summary(known)}))
        return
    for line in lines_of(known, tuner.table):
        out.print(shown(line.strip()))
    for text, seconds in found:
        by_rules, as_measured = seconds["rules_s"], seconds["measured_s"]
        out.print(
            f"{text}, batch {batch}: {1e3 * by_rules:.0f} ms by the rules, {1e3 * as_measured:.0f} ms as measured "
            f"({by_rules / as_measured:.2f} times as fast)"
        )
    out.print(shown(f"{summary(known)}; written to {output or tuner.table.path}"))


def _seconds(rules: FastSampler, measured: FastSampler, shape: tuple[int, ...]) -> dict[str, float]:
    """Return the median seconds of a batch in turns, by the rules and as measured."""
    from ...system.timing import in_turns

    times = in_turns({"rules_s": lambda: rules.warmup(shape), "measured_s": lambda: measured.warmup(shape)}, TURNS)
    return {name: statistics.median(of) for name, of in times.items()}
