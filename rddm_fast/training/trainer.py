"""Training: the run folder around the steps, with its log, checkpoints, samples and the model at the end.

Every random number of step n comes from (seed, n), and the data set's item i from (seed, i). So the state of a run is
its weights, its optimiser and n, and a killed run resumes to the same bits. Several processes share a step's items and
its random numbers: their number changes the weights by rounding alone.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ..diffusion.cold_restorer import ColdRestorer
from ..diffusion.residual import ResidualDiffusion
from ..images.sheet import write_sheet
from ..models.folder import described, save_model
from ..system.extras import require
from ..system.launcher import ended_with_launcher, launcher_is_gone
from ..system.signals import signals_noted
from ..theory.objective import AUTO, Objective
from .aosa import AutoObjective, Selecting, Undecided, draw_new_weights
from .batches import batches
from .checkpoints import CheckpointError, RunFolder
from .ema import Ema
from .guards.data import difference
from .guards.finite import Diverged, LossWatch, all_finite
from .guards.lock import alone_in
from .log import TrainLog, check_trackers, opened, plot_log
from .losses import losses_of
from .phase import Phase
from .samples import sampled
from .settings import SettingsError, TrainSettings

__all__ = ["Interrupted", "Progress", "TrainSettings", "Trainer", "Undecided"]

PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_SAVED = {"step", "selected_at", "settings", "described", "model", "ema", "optimizers", "scaler", "aosa"}


class Interrupted(Exception):
    """A signal stopped the training, after a checkpoint was written."""


@dataclass(frozen=True)
class Progress:
    """What `Trainer.train` reports after each step.

    Attributes:
        step: the steps done in this phase.
        loss: averaged over the last 100 steps.
        images_per_second: since this phase began in this process, over all processes.
        phase: "selecting" while AOSA chooses the objective, else "training".
        alpha_res: AOSA's weight while it selects, else None.
    """

    step: int
    loss: float
    images_per_second: float
    phase: str = "training"
    alpha_res: float | None = None


class Trainer:
    """Train `diffusion` on `dataset`, whose items are `{"target", "input"[, "mask"]}` in [0, 1], (C, H, W).

    Args:
        diffusion: the model. An `AutoObjective` first selects the objective of the model that it holds, in at most
            `settings.steps` steps at a constant rate; the model is then trained from new weights.
            A `ColdRestorer` degrades the targets by its own recipe.
        dataset: as above; a generating model and a cold restorer need "target" alone.
        folder: where the checkpoints, the log, its plot, sheets of samples and, in the end, the model (`model/`) are
            written. Training resumes from a checkpoint found there; one made with other settings is an error.
        settings: how to train; `TrainSettings()` if None.
        info: kept in the model's config.json.
        resume: False to start from the given weights, whatever the folder holds.
        data: `guards.data.fingerprint` of the data set, kept in the checkpoints; a checkpoint of other data is an
            error. None, or a checkpoint without one, is not compared.
        new_data: True to resume from a checkpoint of other data all the same.

    Raises:
        SettingsError: the settings do not fit the model or the number of processes.
        CheckpointError: a checkpoint from which training cannot resume.
        ImportError: a package is not installed.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion | ColdRestorer | AutoObjective,
        dataset: Dataset[dict[str, Any]],
        folder: str | PathLike[str],
        settings: TrainSettings | None = None,
        info: dict[str, Any] | None = None,
        *,
        resume: bool = True,
        data: dict[str, Any] | None = None,
        new_data: bool = False,
    ) -> None:
        self.settings = settings or TrainSettings()
        self.folder, self.dataset, self.info = Path(folder), dataset, info or {}
        self.data, self._alone = data, False
        if self.settings.plot:
            require("matplotlib", "plot")
        check_trackers(self.settings.trackers)
        self.accelerator = _accelerator(self.settings, self.folder)
        self.aosa: dict[str, Any] | None = None  # what AOSA decided, if it was asked to
        if isinstance(diffusion, AutoObjective):
            self.diffusion: Any = diffusion.diffusion
            self.phase: Phase = Selecting(diffusion, self.settings, self.accelerator)
            self.described = _described(self.diffusion, AUTO)
        else:
            self.diffusion = diffusion
            self.phase = self._training()
            self.described = _described(self.diffusion)
        if self.settings.compile:
            self.diffusion.model.compile()
        self.checkpoints = RunFolder(self.folder, self.settings.keep)
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.wait_for_everyone()
        if resume:
            self._resume(new_data)
        self._log: TrainLog | None = None

    def _training(self) -> Phase:
        losses = losses_of(self.diffusion, self.settings.lam, self.settings.at_start)
        return Phase(losses, self.settings, self.accelerator)

    @property
    def step(self) -> int:
        """The steps done in this phase."""
        return self.phase.step

    @property
    def total_step(self) -> int:
        """The steps done in all, including those of a finished selection."""
        return self.step + (self.aosa["selected_at"] if self.aosa else 0)

    @property
    def ema(self) -> Ema:
        """The averaged weights."""
        return self.phase.ema

    @property
    def selection(self) -> AutoObjective | None:
        """What AOSA is selecting; None once it has decided, or where nothing is selected."""
        return self.phase.selection if isinstance(self.phase, Selecting) else None

    # -- the run ------------------------------------------------------------------------------------------

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder inside the `with` block; `train` and `run` do so themselves.

        Raises FolderInUse if another run is in it.
        """
        if self._alone or not self.accelerator.is_main_process:
            yield
            return
        with alone_in(self.folder):
            self._alone = True
            try:
                self.checkpoints.tidy()
                yield
            finally:
                self._alone = False

    def train(self, report: Callable[[Progress], None] | None = None) -> Path:
        """Train to `settings.steps` and write the averaged weights as a model.

        SIGINT, SIGTERM and the death of the launcher of several processes end the run after the current step, with a
        checkpoint.

        Args:
            report: called after each step.

        Returns:
            The model's folder.

        Raises:
            Interrupted: a signal came, or the launcher has gone.
            Undecided: AOSA found no objective.
            Diverged: the loss or the weights are no longer finite.
            FolderInUse: another run is in the folder.
            CheckpointError: the disk is full.
        """
        settings, saved = self.settings, time.monotonic()
        with self.alone(), signals_noted() as received:
            for progress in self.run():
                if report is not None:
                    report(progress)

                # Save a checkpoint.
                stopping = self._anywhere(bool(received) or launcher_is_gone())
                if stopping or time.monotonic() - saved > settings.save_every:
                    self.save()
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(
                        f"stopped at step {self.step} of {settings.steps}: run the same command again to resume"
                    )
            self.save()
            return self.export()

    def run(self, until_decided: bool = False) -> Iterator[Progress]:
        """Take the remaining steps one at a time, and log them; `train` adds the checkpoints.

        With `until_decided` the run ends when AOSA has decided, with the decision in `selection.decided`.
        """
        with self.alone():
            yield from self._run(until_decided)

    def _run(self, until_decided: bool) -> Iterator[Progress]:
        if self.accelerator.is_main_process:
            trackers = opened(self.accelerator, self.settings)
            selecting = self.selection is not None
            self._log = TrainLog(self.folder, self.total_step, selecting=selecting, trackers=trackers)
        try:
            # Select the objective.
            if isinstance(self.phase, Selecting):
                yield from self._steps()
                objective = self.phase.found()
                if until_decided:
                    return
                self._train_what_was_found(self.phase, objective)

            # Train the model.
            yield from self._steps()
        finally:
            if self._log is not None:
                self._log.close()
                if self.settings.plot and self._log.path.is_file():
                    plot_log(self._log.path, self.folder / "loss.png")

    def _steps(self) -> Iterator[Progress]:
        """The remaining steps of this phase."""
        phase, settings = self.phase, self.settings
        losses: deque[float] = deque(maxlen=100)
        watch = LossWatch(self.accelerator.scaler is not None)
        images = settings.batch_size * settings.accumulate
        started, first = time.monotonic(), phase.step
        for step_batches in batches(self.dataset, settings, phase.step, phase.share):
            if phase.over:
                return

            # Take a step.
            loss, parts = phase.advance(step_batches)
            if watch.diverged(loss):
                raise Diverged(f"the loss is {loss} at step {phase.step} of {settings.steps}", self.checkpoints.left())
            if math.isfinite(loss):
                losses.append(loss)
            rate = (phase.step - first) * images / (time.monotonic() - started)
            mean = sum(losses) / len(losses) if losses else math.nan
            progress = Progress(phase.step, mean, rate, phase.name, phase.alpha_res)

            # Log it.
            if phase.step % settings.log_every == 0 or phase.step == settings.steps:
                self._write_log(progress, loss, parts)

            # Draw samples.
            if phase.averaged and settings.sample_every and phase.step % settings.sample_every == 0:
                self.write_samples()
            yield progress

    def _write_log(self, progress: Progress, loss: float, parts: list[float]) -> None:
        if self._log is None:
            return
        record: dict[str, Any] = {"step": self.total_step, "phase": progress.phase, "loss": loss}
        record.update(zip(self.phase.names, parts, strict=True))
        if progress.alpha_res is not None:
            record["alpha_res"] = progress.alpha_res
        lr = self.phase.optimizers[0].param_groups[0]["lr"]
        record.update(lr=lr, images_per_second=progress.images_per_second)
        self._log.write(record)

    def _train_what_was_found(self, selecting: Selecting, objective: Objective) -> None:
        """Begin the training: the objective that AOSA found, new weights, and the first step again."""
        w = selecting.alpha_res
        self.aosa = {"decided": objective.name, "alpha_res": w, "selected_at": self.step}
        selecting.selection.fix(objective)
        draw_new_weights(self.diffusion, self.settings.seed)
        self.phase = self._training()
        if self._log is not None:
            self._log.write({"step": self.total_step, "decided": objective.name, "alpha_res": w})

    def _anywhere(self, stopped: bool) -> bool:
        """Whether any process is to stop; all of them then stop at the same step."""
        if self.accelerator.num_processes == 1:
            return stopped
        return bool(self.accelerator.reduce(torch.tensor([int(stopped)], device=self.accelerator.device)).item())

    # -- what is written ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds: tensors and plain values only."""
        state = {"settings": asdict(self.settings), "described": self.described, "selected_at": None, "data": self.data}
        state.update(self.phase.state())
        if self.aosa is not None:
            state.update(aosa=self.aosa, selected_at=self.aosa["selected_at"])
        return state

    def save(self) -> None:
        """Write a checkpoint now. Raises Diverged, and writes nothing, if a weight is not finite."""
        averaged = self.ema.module.parameters() if self.phase.averaged else ()
        if not all_finite([*self.phase.model.parameters(), *averaged]):
            raise Diverged(f"the weights are not finite after step {self.step}", self.checkpoints.left())
        if self.accelerator.is_main_process:
            self.checkpoints.save(self.total_step, self.state())

    def _resume(self, new_data: bool) -> None:
        """Resume from the folder's newest good checkpoint, if there is one."""
        found = self.checkpoints.latest()
        if found is None:
            return
        path, state = found
        if not state.keys() >= _SAVED:
            raise CheckpointError(f"training cannot resume from {path}: it is not a checkpoint of this trainer")
        if state["described"] != self.described:
            raise CheckpointError(f"{path} is of another model: train this one in another folder")
        if changed := self.settings.changed(state["settings"]):
            ours, before = asdict(self.settings)[changed[0]], asdict(TrainSettings())
            theirs = {**before, **state["settings"]}[changed[0]]
            raise CheckpointError(
                f"{path} was trained with {changed[0]}={theirs}, not {ours}: "
                "use its settings to resume, or another folder to start again"
            )
        saved = state.get("data")  # older checkpoints have none
        other = difference(saved, self.data) if saved and self.data and not new_data else None
        if other is not None:
            raise CheckpointError(
                f"{path} was trained {other}: use the same data to resume, pass --new-data to resume with this, "
                "or use another folder to start again"
            )
        if isinstance(self.phase, Selecting) and state["selected_at"] is not None:
            self.aosa = state["aosa"]
            self.phase.selection.fix(Objective[state["aosa"]["decided"]])
            self.phase = self._training()
        self.phase.load(state)

    def write_samples(self) -> None:
        """Write `samples/step-N.png`: input, result of the averaged weights and truth of the first items."""
        if not self.accelerator.is_main_process:
            return
        rows = sampled(self.ema.module, self.dataset, self.settings.samples, self.settings.seed)  # type: ignore[arg-type]
        write_sheet(self.folder / "samples" / f"step-{self.step:08d}.png", rows)

    def export(self) -> Path:
        """Write the averaged weights as a model folder, in float16. Raises Diverged if they leave its range."""
        folder = self.folder / "model"
        if not all_finite(self.ema.module.parameters(), torch.float16):
            raise Diverged("the weights leave the range of float16, in which a model is written", "no model is written")
        if self.accelerator.is_main_process:
            info = {**self.info, "training": {**asdict(self.settings), "trained_steps": self.step}}
            if self.aosa is not None:
                info["aosa"] = self.aosa
            save_model(folder, self.ema.module, dtype=torch.float16, info=info)  # type: ignore[arg-type]
        self.accelerator.wait_for_everyone()
        return folder


def _described(diffusion: ResidualDiffusion | ColdRestorer, objective: str | None = None) -> str:
    """The model as JSON, by which a checkpoint knows it again; `objective` replaces the model's own."""
    model = described(diffusion)
    if objective is not None:
        model["objective"] = objective
    return json.dumps(model, sort_keys=True)


def _accelerator(settings: TrainSettings, folder: Path) -> Any:
    accelerate = require("accelerate", "train")
    if settings.precision == "float16" and not torch.cuda.is_available():
        raise SettingsError("train.precision float16 needs a GPU: choose bfloat16 or float32")
    if settings.precision == "float16" and settings.optimizers == "each":
        # accelerate would divide the second optimiser's gradients by the loss's scale twice.
        raise SettingsError("train.precision float16 needs train.optimizers one: choose that, or bfloat16")
    precision = None if settings.precision is None else PRECISIONS[settings.precision]
    with ended_with_launcher():
        return accelerate.Accelerator(
            mixed_precision=precision,
            cpu=not torch.cuda.is_available(),
            log_with=settings.trackers or None,
            project_config=accelerate.utils.ProjectConfiguration(logging_dir=str(folder / "trackers")),
        )
