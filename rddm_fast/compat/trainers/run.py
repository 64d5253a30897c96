"""What the published trainers of RDDM and DiffUIR share: steps, sheets in between, files in the published layout."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from ...diffusion.residual import ResidualDiffusion
from ...system.files import write_whole
from ...system.saved import load_saved
from ...theory.objective import Objective
from ...training.aosa import AutoObjective, Undecided
from ...training.settings import TrainSettings
from ...training.trainer import Trainer as TrainingRun


def published_settings(*, fp16: bool, **options: Any) -> TrainSettings:
    """Return `TrainSettings` with what all published trainers have: a constant rate, their EMA, and torch's seed."""
    return TrainSettings(
        lr_schedule="constant",
        warmup=0,
        ema="published",
        precision="float16" if fp16 else None,
        seed=torch.initial_seed() % 2**31,
        plot=False,
        **options,
    )


class PublishedRun:
    """A training that saves `model-N.pt` as the published code does, over `rddm_fast.training.trainer.Trainer`.

    Args:
        diffusion_model: a `rddm_fast.compat` model.
        dataset: its training images, `{"target", "input"[, "mask"]}` in [0, 1].
        results_folder: where everything is written.
        settings: how to train.
        save_and_sample_every: steps between sheets of samples; at every tenth, and at the end, the model is saved.
        strict: raise Undecided if AOSA decides nothing in its steps; otherwise warn and continue, as published.
    """

    def __init__(
        self,
        diffusion_model: Any,
        dataset: Dataset[dict[str, Any]],
        results_folder: str,
        settings: TrainSettings,
        *,
        save_and_sample_every: int,
        strict: bool,
    ) -> None:
        self.train_num_steps, self.save_and_sample_every = settings.steps, save_and_sample_every
        self.strict = strict
        trained: ResidualDiffusion | AutoObjective = diffusion_model
        if getattr(diffusion_model, "automatic", False) and diffusion_model.alpha_res_to_0_or_1 is None:
            trained = AutoObjective(diffusion_model, diffusion_model.get_parameter("alpha_res"))
        self._core = TrainingRun(trained, dataset, results_folder, settings, resume=False)
        self.model, self.accelerator = diffusion_model, self._core.accelerator
        self.device = self.accelerator.device
        self.set_results_folder(results_folder)

    @property
    def step(self) -> int:
        """Number of steps done."""
        return self._core.step

    @property
    def ema_model(self) -> Any:
        """The model with the averaged weights, which sampling and testing use."""
        return self._core.ema.module

    def set_results_folder(self, path: str | Path) -> None:
        """Set the folder for samples, results and models, and create it."""
        self.results_folder = Path(path)
        if self.accelerator.is_main_process:
            self.results_folder.mkdir(parents=True, exist_ok=True)

    # -- training -----------------------------------------------------------------------------------------

    def train(self, ATDP: bool = False) -> int | None:
        """Train to `train_num_steps`.

        With `ATDP=True` (AOSA), stop as soon as the objective is decided, and return 1 for the residual or 0 for the
        noise; None, with a warning, if `train_num_steps` decide nothing.

        Without `ATDP`, an AOSA model whose objective is open first decides, and is then trained from new weights; if
        nothing is decided, the model is saved as it is, with a warning.
        """
        core, undecided = self._core, False
        if ATDP and core.selection is None:
            raise ValueError("train(ATDP=True) chooses an objective: build the model with objective='auto_res_noise'")
        try:
            for progress in core.run(until_decided=ATDP):
                if progress.phase == "training" and progress.step % self.save_and_sample_every == 0:
                    core.accelerator.print(f"step {progress.step} of {self.train_num_steps}: loss {progress.loss:.4f}")
                    self._milestone(progress.step // self.save_and_sample_every)
        except Undecided as error:
            if self.strict:
                raise
            undecided = True
            warnings.warn(f"{error}; the script continues undecided, as published", stacklevel=2)
            if ATDP:
                return None
        if ATDP:
            assert core.selection is not None
            return int(core.selection.decided is Objective.pred_res)
        if undecided or self.step % (10 * self.save_and_sample_every):
            self.save(self.step // self.save_and_sample_every)
        core.accelerator.wait_for_everyone()
        core.accelerator.print("training complete")
        return None

    def _milestone(self, milestone: int) -> None:
        """Draw samples and, at every tenth milestone, save the model."""
        self.sample(milestone)
        if milestone % 10 == 0:
            self.save(milestone)

    def sample(self, milestone: int) -> int:
        """Write a sheet of samples, where the trainer has one."""
        return milestone

    def _optimizers(self) -> dict[str, Any]:
        """Return the optimisers by their published names."""
        later = getattr(self.model, "later_generation", False)
        return {f"opt{i}" if later else "opt": optimizer for i, optimizer in enumerate(self._core.phase.optimizers)}

    def save(self, milestone: int) -> None:
        """Write `model-{milestone}.pt` in the published layout, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        ema, online = self._core.ema, self.model.state_dict()
        averaged = {
            "initted": torch.tensor([float(ema.steps > 0)]),
            "step": ema.steps.reshape(1).cpu(),
            **{f"online_model.{key}": value for key, value in online.items()},
            **{f"ema_model.{key}": value for key, value in self.ema_model.state_dict().items()},
        }
        scaler = getattr(self.accelerator, "scaler", None)
        content = {
            "step": self.step,
            "model": online,
            **{name: optimizer.state_dict() for name, optimizer in self._optimizers().items()},
            "ema": averaged,
            "scaler": None if scaler is None else scaler.state_dict(),
        }
        write_whole(self.results_folder / f"model-{milestone}.pt", lambda path: torch.save(content, path))

    def load(self, milestone: int) -> None:
        """Resume from `model-{milestone}.pt`, written by the published code or by this one.

        As published, a missing file leaves the weights as they are; here a warning says so.
        """
        path = self.results_folder / f"model-{milestone}.pt"
        if not path.exists():
            warnings.warn(f"there is no {path}: the weights stay as they are", stacklevel=2)
            return
        content = load_saved(path, self.device)
        optimizers = self._optimizers()
        wanted = {"step", "model", "ema", *optimizers}
        if missing := sorted(wanted - content.keys()):
            raise ValueError(f"{path} holds no {missing[0]!r}: it is of another experiment, check num_unet")
        self.model.load_state_dict(content["model"])
        self.ema_model.load_state_dict(_below("ema_model.", content["ema"]))
        self._core.ema.steps.fill_(int(content["ema"]["step"].reshape(-1)[0]))
        for name, optimizer in optimizers.items():
            optimizer.load_state_dict(content[name])
        if getattr(self.accelerator, "scaler", None) is not None and content.get("scaler"):
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self._core.phase.step = int(content["step"])
        self.accelerator.print(f"loaded {path}")


def _below(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
