"""The log of a run: log.jsonl, the plot drawn from it, and the trackers that are told the same numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import Any

from ..system.errors import one_line
from ..system.extras import require
from ..system.files import write_text_whole, write_whole
from .settings import SettingsError, TrainSettings


def read_log(path: str | PathLike[str]) -> list[dict[str, Any]]:
    """Read a log.jsonl, one object per line; a last line that a kill cut short is left out."""
    records = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return records


class TrainLog:
    """The log of a run: `log.jsonl` in `folder`, one JSON object per line, and the trackers that were asked for.

    Args:
        folder: the folder of the run.
        step: of the checkpoint from which the run resumes. Later lines are dropped, because their steps are repeated.
        selecting: whether AOSA is still selecting. Then a line with a decision is dropped too.
        trackers: accelerate's trackers (`opened`), which are told the numbers too.
    """

    def __init__(self, folder: Path, step: int = 0, *, selecting: bool = False, trackers: Sequence[Any] = ()) -> None:
        self.path, self._trackers = folder / "log.jsonl", trackers
        if self.path.is_file():
            records = [record for record in read_log(self.path) if record["step"] <= step]
            kept = [record for record in records if not (selecting and "decided" in record)]
            write_text_whole(self.path, "".join(_line(record) for record in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Add `record`; its "step" counts all steps of the run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        numbers = {name: value for name, value in record.items() if isinstance(value, float)}
        for tracker in self._trackers if numbers else ():
            tracker.log(numbers, step=record["step"])

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


def _line(record: dict[str, Any]) -> str:
    # JSON has no NaN and no infinity.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def check_trackers(names: Sequence[str]) -> None:
    """Check that accelerate knows trackers by these names, and that their packages are installed.

    Raises:
        SettingsError: it knows none of a name.
        ImportError: a package is not installed.
    """
    tracking = require("accelerate.tracking", "train")
    known = sorted(map(str, tracking.LOGGER_TYPE_TO_CLASS))
    installed = [str(name) for name in tracking.get_available_trackers()]
    for name in names:
        if name not in known:
            raise SettingsError(f"train.log_with is {name!r}: choose one of {', '.join(known)}, or several with commas")
        if name not in installed:
            raise ImportError(
                f"{name} is not installed; pip install {name} installs it, or leave log_with out", name=name
            )


def opened(accelerator: Any, settings: TrainSettings) -> list[Any]:
    """Open the trackers of an `accelerate.Accelerator`, and tell them the settings.

    Raises:
        SettingsError: one does not start, such as wandb where nobody is logged in.
    """
    if not settings.trackers:
        return []
    plain = {
        name: value if isinstance(value, int | float | str) else str(value) for name, value in asdict(settings).items()
    }
    try:
        accelerator.init_trackers("rddm_fast", config=plain)
    except Exception as error:  # each tracker has errors of its own
        raise SettingsError(f"train.log_with {settings.log_with} does not start: {one_line(error)}") from error
    return accelerator.trackers


def plot_log(log: str | PathLike[str], picture: str | PathLike[str]) -> None:
    """Draw a log.jsonl as a PNG: the loss over the steps and, if AOSA selected, lambda and its decision above it."""
    matplotlib = require("matplotlib", "plot")
    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = read_log(log)
    losses = [record for record in records if record.get("loss") is not None]
    lambdas = [record for record in records if "alpha_res" in record]
    figure, axes = pyplot.subplots(2 if lambdas else 1, 1, figsize=(8, 6 if lambdas else 4), squeeze=False)
    below = axes[-1, 0]
    for phase in ("selecting", "training"):
        part = [record for record in losses if record.get("phase") == phase]
        if part:
            below.plot([r["step"] for r in part], [r["loss"] for r in part], label=phase, linewidth=1)
    below.set(xlabel="step", ylabel="loss", yscale="log" if all(r["loss"] > 0 for r in losses) else "linear")
    below.legend()
    if lambdas:
        above = axes[0, 0]
        above.plot([r["step"] for r in lambdas], [r["alpha_res"] for r in lambdas], color="tab:green")
        above.axhspan(0.49, 0.51, color="0.9")
        above.set(ylabel="lambda (alpha_res)")
        for record in records:
            if record.get("decided"):
                above.axvline(record["step"], color="tab:red", linestyle="--")
                above.set(title=f"{record['decided']} decided at step {record['step']}")
    figure.tight_layout()
    write_whole(picture, lambda path: figure.savefig(path, format="png", dpi=120))
    pyplot.close(figure)
