"""Training: accelerate, averaged weights, and checkpoints from which a killed run goes on as if it had not stopped.

Every random number of step n comes from (seed, n), and the data set's item i from (seed, i), so the state of a run is
its weights, its optimiser and n; nothing else has to be restored. Several processes share a step's items and its
random numbers, so that their number changes no more than rounding does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from ..diffusion.residual import ResidualDiffusion
from ..diffusion.start import to_signed
from ..fast.for_training import for_training
from ..images.sheet import write_sheet
from ..models.folder import described, save_model
from ..system.extras import require
from ..system.signals import signals_noted
from ..theory.objective import AUTO, THRESHOLD, Objective
from .aosa import AutoObjective, draw_weights_anew, fix_objective
from .batches import batches
from .checkpoints import CheckpointError, RunFolder
from .ema import Ema
from .log import Recent, TrainLog, plot_log
from .losses import Losses, losses_of, python_seeded
from .samples import sampled
from .settings import SettingsError, TrainSettings

__all__ = ["Interrupted", "Progress", "TrainSettings", "Trainer", "Undecided"]

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
_SAVED = {"step", "selected_at", "settings", "described", "model", "ema", "optimizers", "scaler", "aosa"}


class Interrupted(Exception):
    """Training was stopped by a signal; a checkpoint was written first."""


class Undecided(ValueError):
    """AOSA's selection ended without a decision."""


@dataclass(frozen=True)
class Progress:
    """What `Trainer.train` reports after each step.

    step: the steps done, of this phase.
    loss: averaged over the last 100 steps.
    images_per_second: since training began, over all processes.
    phase: "selecting" while AOSA chooses the objective, else "training".
    alpha_res: AOSA's weight while selecting, else None.
    """

    step: int
    loss: float
    images_per_second: float
    phase: str = "training"
    alpha_res: float | None = None


class Trainer:
    """Train `diffusion` on `dataset`, whose items are `{"target", "input"[, "mask"]}` in [0, 1], (C, H, W).

    Args:
        diffusion: the model; or one whose objective is to be found, in an `AutoObjective`: it is selected first, in at
            most `settings.steps` steps at a constant rate, and then trained from new weights.
        folder: where the checkpoints, the log, its plot, sheets of samples and, in the end, the model (`model/`) are
            written. A checkpoint found there is gone on with; one of other settings is an error.
        info: kept in the model's config.json.
        resume: False to start from the weights given, whatever the folder holds.

    Raises SettingsError where the settings do not fit the model or the number of processes, CheckpointError for a
    checkpoint that cannot be gone on with, ImportError for a package that is not installed.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion | AutoObjective,
        dataset: Dataset[dict[str, Any]],
        folder: str | PathLike[str],
        settings: TrainSettings | None = None,
        info: dict[str, Any] | None = None,
        *,
        resume: bool = True,
    ) -> None:
        self.settings = settings or TrainSettings()
        self.folder = Path(folder)
        self.info = info or {}
        self.dataset = dataset
        self.selection = diffusion if isinstance(diffusion, AutoObjective) else None
        self.diffusion = diffusion.diffusion if isinstance(diffusion, AutoObjective) else diffusion
        if self.settings.plot:
            require("matplotlib", "plot")
        self.accelerator = _accelerator(self.settings)
        self.step = 0
        self.aosa: dict[str, Any] | None = None  # what was decided, where it was AOSA's to decide
        self.described = self._described()
        self._ema: Ema | None = None
        self._prepare()
        if self.settings.compile:
            self.diffusion.model.compile()
        self.checkpoints = RunFolder(self.folder, self.settings.keep)
        if self.accelerator.is_main_process:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.checkpoints.tidy()
        self.accelerator.wait_for_everyone()
        if resume:
            self._resume()
        self._log: TrainLog | None = None

    # -- what is trained ----------------------------------------------------------------------------------

    def _described(self) -> str:
        model = described(self.diffusion)
        if self.selection is not None:
            model["objective"] = AUTO
        return json.dumps(model, sort_keys=True)

    def _prepare(self) -> None:
        """The losses and their optimisers, on their device and in their wrappers, for the phase that is to come."""
        options: dict[str, Any] = {"betas": self.settings.betas, "weight_decay": self.settings.weight_decay}
        if self.settings.faster:
            # What compiles the networks fuses them itself, and knows the published modules better than our functions.
            if self.settings.compile:
                self.diffusion.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            else:
                for_training(self.diffusion)
            if self.settings.optimizer != "radam":  # torch has no fused one of it
                options["fused"] = True
        losses: Losses = losses_of(self.selection or self.diffusion, self.settings.lam)
        make = OPTIMIZERS[self.settings.optimizer]
        optimizers = [make(group, lr=self.settings.lr, **options) for group in self._groups(losses)]
        self.model, *self.optimizers = self.accelerator.prepare(losses, *optimizers)
        self._ema = None

    def _groups(self, losses: nn.Module) -> list[list[nn.Parameter]]:
        """The parameters of each optimiser."""
        if self.settings.optimizers == "one":
            return [list(losses.parameters())]
        members = getattr(self.diffusion.model, "members", [])
        if len(members) != 2:
            raise SettingsError(
                "train.optimizers 'each' is for two networks: choose 'one', or a model with networks two"
            )
        return [list(member.parameters()) for member in members]

    @property
    def ema(self) -> Ema:
        """The averaged weights, made when they are first asked for (selecting has none)."""
        if self._ema is None:
            settings = self.settings
            self._ema = Ema(self.diffusion, settings.ema, settings.ema_decay, settings.ema_every)
        return self._ema

    @property
    def share(self) -> tuple[int, int]:
        """(process, processes): this one's number and how many there are."""
        return self.accelerator.process_index, self.accelerator.num_processes

    @property
    def total_step(self) -> int:
        """The steps done in all, those of a selection that is over included."""
        return self.step + (self.aosa["selected_at"] if self.aosa else 0)

    # -- the run ------------------------------------------------------------------------------------------

    def train(self, report: Callable[[Progress], None] | None = None) -> Path:
        """Train to `settings.steps` and write the EMA weights as a model; returns its folder.

        SIGINT and SIGTERM end the run after the step in hand, with a checkpoint, by raising Interrupted. Raises
        Undecided where AOSA found no objective, and CheckpointError where the disk is full.
        """
        settings, saved = self.settings, time.monotonic()
        with signals_noted() as received:
            for progress in self.run():
                if report is not None:
                    report(progress)
                stopping = self._anywhere(received)
                if stopping or time.monotonic() - saved > settings.save_every:
                    self.save()
                    saved = time.monotonic()
                if stopping:
                    raise Interrupted(
                        f"stopped at step {self.step} of {settings.steps}: the same command goes on from it"
                    )
        self.save()
        return self.export()

    def run(self, until_decided: bool = False) -> Iterator[Progress]:
        """The steps that are left, one at a time, with their log; `train` is this with checkpoints.

        `until_decided` ends it when AOSA's selection does, with `selection.decided`.
        """
        if self.accelerator.is_main_process:
            options = {"selecting": self.selection is not None, "tensorboard": self.settings.tensorboard}
            self._log = TrainLog(self.folder, self.total_step, **options)
        try:
            if self.selection is not None:
                yield from self._phase("selecting")
                objective = self._found()
                if until_decided:
                    return
                self._decide(objective)
            yield from self._phase("training")
        finally:
            if self._log is not None:
                self._log.close()
                if self.settings.plot and self._log.path.is_file():
                    plot_log(self._log.path, self.folder / "loss.png")

    def _phase(self, phase: str) -> Iterator[Progress]:
        settings, recent = self.settings, Recent(100)
        images = settings.batch_size * settings.accumulate
        started, first = time.monotonic(), self.step
        for step_batches in batches(self.dataset, settings, self.step, self.share):
            if self.selection is not None and self.selection.decided is not None:
                return
            loss, parts = self._step(step_batches)
            recent.add(loss)
            rate = (self.step - first) * images / (time.monotonic() - started)
            alpha_res = float(self.selection.alpha_res.detach()) if self.selection is not None else None
            progress = Progress(self.step, recent.mean, rate, phase, alpha_res)
            if self.step % settings.log_every == 0 or self.step == settings.steps:
                self._write_log(progress, loss, parts)
            if phase == "training" and settings.sample_every and self.step % settings.sample_every == 0:
                self.write_samples()
            yield progress

    def _write_log(self, progress: Progress, loss: float, parts: list[float]) -> None:
        if self._log is None:
            return
        record: dict[str, Any] = {"step": self.total_step, "phase": progress.phase, "loss": loss}
        record.update(zip(self._names(), parts, strict=True))
        if progress.alpha_res is not None:
            record["alpha_res"] = progress.alpha_res
        record.update(lr=self.optimizers[0].param_groups[0]["lr"], images_per_second=progress.images_per_second)
        self._log.write(record)

    def _names(self) -> list[str]:
        """What the parts of the loss are called in the log: loss_res and loss_noise, for example."""
        if self.selection is not None:
            return ["loss_res", "loss_noise"]
        first, _, second = self.diffusion.objective.name.removeprefix("pred_").partition("_")
        return [f"loss_{name}" for name in (first, second) if name]

    def _found(self) -> Objective:
        """What the selection has decided; Undecided if nothing."""
        assert self.selection is not None
        if self.selection.decided is None:
            raise Undecided(
                f"after {self.step} steps lambda is {float(self.selection.alpha_res.detach()):.4f}, within {THRESHOLD} "
                "of 1/2, and decides nothing: train longer or with a larger learning rate in another folder, or choose "
                "pred_res or pred_noise"
            )
        return self.selection.decided

    def _decide(self, objective: Objective) -> None:
        """End the selection: the objective it found, new weights, and the first step again."""
        assert self.selection is not None
        w = float(self.selection.alpha_res.detach())
        self._fix(objective, {"decided": objective.name, "alpha_res": w, "selected_at": self.step})
        draw_weights_anew(self.diffusion, self.settings.seed)
        self.step = 0
        self._prepare()
        if self._log is not None:
            self._log.write({"step": self.total_step, "decided": objective.name, "alpha_res": w})

    def _fix(self, objective: Objective, aosa: dict[str, Any]) -> None:
        assert self.selection is not None
        self.selection.alpha_res.requires_grad_(False)
        fix_objective(self.diffusion, objective)
        self.aosa, self.selection = aosa, None

    # -- a step -------------------------------------------------------------------------------------------

    def _step(self, step_batches: list[dict[str, Any]]) -> tuple[float, list[float]]:
        """One optimiser step on a step's batches; the loss, and each output's, averaged over batches and processes."""
        settings, accelerator = self.settings, self.accelerator
        seed = settings.seed * 1_000_003 + self.step
        generator = torch.Generator().manual_seed(seed)
        rate = min(1.0, (self.step + 1) / max(1, settings.warmup)) if self.selection else settings.lr_at(self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.lr * rate
        sums = []
        with python_seeded(seed):
            for number, batch in enumerate(step_batches):
                last = number == len(step_batches) - 1
                with ExitStack() as stack:
                    if not last:  # the gradients of several processes meet once a step
                        stack.enter_context(accelerator.no_sync(self.model))
                    loss, parts = self.model(
                        *self._images(batch),
                        generator=generator,
                        seed=settings.seed,
                        stream=self.step * settings.accumulate + number,
                        share=self.share,
                    )
                    accelerator.backward(loss / len(step_batches))
                sums.append(torch.stack([loss.detach(), *parts.detach()]))
        if settings.grad_clip:
            accelerator.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if self.selection is None:
            self.ema.update(self.diffusion)
        self.step += 1
        loss, *rest = accelerator.reduce(torch.stack(sums).mean(0), "mean").tolist()
        return loss, rest

    def _images(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """(I_0, I_in, mask) of a batch, in [-1, 1] and on the device."""
        diffusion = self.diffusion
        layout = torch.channels_last if self.settings.faster else torch.contiguous_format

        def ready(x: Tensor) -> Tensor:
            return x.to(self.accelerator.device, non_blocking=True).contiguous(memory_format=layout)

        I_0 = to_signed(ready(batch["target"]))
        I_in = to_signed(ready(batch["input"])) if diffusion.condition else None
        if not diffusion.input_condition:
            return I_0, I_in, None
        mask = ready(batch["mask"].expand(-1, I_0.shape[1], -1, -1))
        return I_0, I_in, mask if diffusion.input_condition_mask else to_signed(mask)

    def _anywhere(self, received: list[int]) -> bool:
        """Whether any process was sent a signal; all of them stop at the same step."""
        if self.accelerator.num_processes == 1:
            return bool(received)
        return bool(self.accelerator.reduce(torch.tensor([len(received)], device=self.accelerator.device)).item())

    # -- what is written ----------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """All that a checkpoint holds, tensors and plain values only."""
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "step": self.step,
            "selected_at": self.aosa["selected_at"] if self.aosa else None,
            "settings": asdict(self.settings),
            "described": self.described,
            "model": self.diffusion.state_dict(),
            "ema": None if self.selection is not None else self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if scaler is None else scaler.state_dict(),
            "aosa": self.aosa if self.selection is None else {"alpha_res": self.selection.alpha_res.detach()},
        }

    def save(self) -> None:
        """Write a checkpoint now."""
        if self.accelerator.is_main_process:
            self.checkpoints.save(self.total_step, self.state())

    def _resume(self) -> None:
        found = self.checkpoints.latest(self.accelerator.device)
        if found is None:
            return
        path, state = found
        if not state.keys() >= _SAVED:
            raise CheckpointError(f"{path} cannot be gone on with: it is not a checkpoint of this trainer")
        if state["described"] != self.described:
            raise CheckpointError(f"{path} is of another model: train this one in another folder")
        if changed := self.settings.changed(state["settings"]):
            ours, theirs = asdict(self.settings)[changed[0]], state["settings"].get(changed[0])
            raise CheckpointError(
                f"{path} was trained with {changed[0]}={theirs}, not {ours}: "
                "use its settings to go on, or another folder to start again"
            )
        if self.selection is not None and state["selected_at"] is not None:
            self._fix(Objective[state["aosa"]["decided"]], state["aosa"])
            self._prepare()
        elif self.selection is not None:
            self.selection.alpha_res.data.copy_(state["aosa"]["alpha_res"])
        self.diffusion.load_state_dict(state["model"])
        if state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]

    def write_samples(self) -> None:
        """Write `samples/step-N.png`: input, result of the averaged weights and truth of the first items."""
        if not self.accelerator.is_main_process:
            return
        rows = sampled(self.ema.module, self.dataset, self.settings.samples, self.settings.seed)  # type: ignore[arg-type]
        write_sheet(self.folder / "samples" / f"step-{self.step:08d}.png", rows)

    def export(self) -> Path:
        """Write the EMA weights as a model folder, weights in float16."""
        folder = self.folder / "model"
        if self.accelerator.is_main_process:
            info = {**self.info, "training": {**asdict(self.settings), "trained_steps": self.step}}
            if self.aosa is not None:
                info["aosa"] = self.aosa
            save_model(folder, self.ema.module, dtype=torch.float16, info=info)  # type: ignore[arg-type]
        self.accelerator.wait_for_everyone()
        return folder


def _accelerator(settings: TrainSettings) -> Any:
    accelerate = require("accelerate", "train")
    if settings.precision == "float16" and not torch.cuda.is_available():
        raise SettingsError("train.precision float16 needs a GPU: choose bfloat16 or float32")
    if settings.precision == "float16" and settings.optimizers == "each":
        # accelerate would divide the second optimiser's gradients by the loss's scale twice.
        raise SettingsError("train.precision float16 goes with optimizers 'one': choose that, or bfloat16")
    precision = None if settings.precision is None else PRECISIONS[settings.precision]
    return accelerate.Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
