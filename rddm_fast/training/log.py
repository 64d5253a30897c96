"""The log of a run: log.jsonl, the plot drawn from it, and TensorBoard's events."""

from __future__ import annotations

import json
import math
from os import PathLike
from pathlib import Path
from typing import Any

from ..system.extras import require
from ..system.files import write_text_whole, write_whole


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
    """The log of a run: `log.jsonl` in `folder`, one JSON object per line, and TensorBoard's events if asked for.

    Args:
        folder: the folder of the run.
        step: of the checkpoint from which the run resumes. Later lines are dropped, because their steps are repeated.
        selecting: whether AOSA is still selecting. Then a line with a decision is dropped too.
        tensorboard: write TensorBoard's events too.

    Raises ImportError if TensorBoard is asked for and not installed.
    """

    def __init__(self, folder: Path, step: int = 0, *, selecting: bool = False, tensorboard: bool = False) -> None:
        self.path = folder / "log.jsonl"
        self._events = _events(folder / "tensorboard") if tensorboard else None
        if self.path.is_file():
            records = [record for record in read_log(self.path) if record["step"] <= step]
            kept = [record for record in records if not (selecting and "decided" in record)]
            write_text_whole(self.path, "".join(_line(record) for record in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Add `record`; its "step" counts all steps of the run."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(record))
        if self._events is not None:
            for name, value in record.items():
                if name != "step" and isinstance(value, float):
                    self._events.add_scalar(name, value, record["step"])

    def close(self) -> None:
        if self._events is not None:
            self._events.close()


def _line(record: dict[str, Any]) -> str:
    # JSON has no NaN and no infinity.
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(finite, allow_nan=False) + "\n"


def _events(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "tensorboard is not installed; pip install tensorboard, or leave train.tensorboard false",
            name="tensorboard",
        ) from error
    return SummaryWriter(str(folder))


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
