"""Training: EMA, accelerate, and checkpoints from which an interrupted run goes on as if it had not stopped.

Every random number of step n comes from (seed, n), and the data set's item i from (seed, i), so the state of a
run is its weights, its optimiser and n; nothing else has to be restored.
"""

from __future__ import annotations

import json
import math
import random
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, Dataset, Subset

from ._extras import require
from .checkpoint import described, save_model
from .diffusion import ResidualDiffusion, to_signed
from .files import write_whole


@dataclass(frozen=True)
class TrainSettings:
    """How to train.

    steps: optimiser steps in all, those before an interruption included.
    batch_size: images a step.
    lr: peak learning rate of Adam; it rises over `warmup` steps and then falls to 0 as a cosine.
    ema_decay: of the averaged weights, approached as (1 + n) / (10 + n).
    grad_clip: greatest norm of the gradient.
    seed: of the draws of time and noise.
    save_every: seconds between checkpoints.
    """

    steps: int = 10_000
    batch_size: int = 8
    lr: float = 4e-4
    warmup: int = 100
    ema_decay: float = 0.999
    grad_clip: float = 1.0
    seed: int = 0
    save_every: float = 60.0

    def lr_at(self, step: int) -> float:
        """The factor on `lr` at `step`, 0 to 1."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))))


class Interrupted(Exception):
    """Training was stopped by a signal; a checkpoint was written first."""


@dataclass(frozen=True)
class Progress:
    """What `Trainer.train` reports: the step just done, its loss averaged over the last 100, images a second."""

    step: int
    loss: float
    images_per_second: float


class _Losses(nn.Module):
    """A model's losses as a module's call, which is what wrappers (DDP, compile) intercept."""

    def __init__(self, diffusion: ResidualDiffusion) -> None:
        super().__init__()
        self.diffusion = diffusion

    def forward(self, *arguments: Any) -> list[Tensor]:
        # The class's own: `compat`'s subclass may have other methods of these names.
        return ResidualDiffusion.losses(self.diffusion, *arguments)


class Trainer:
    """Train `diffusion` on `dataset`, whose items are `{"target", "input"[, "mask"]}` in [0, 1], (C, H, W).

    Args:
        folder: where the checkpoint (`checkpoint.pt`) and, in the end, the model (`model/`) are written. A
            checkpoint found there is gone on with; one of other settings is an error.
        info: kept in the model's config.json.
    """

    def __init__(
        self,
        diffusion: ResidualDiffusion,
        dataset: Dataset[dict[str, Any]],
        folder: str | PathLike[str],
        settings: TrainSettings | None = None,
        info: dict[str, Any] | None = None,
    ) -> None:
        accelerate = require("accelerate", "train")
        self.settings = settings or TrainSettings()
        self.folder = Path(folder)
        self.info = info or {}
        self.accelerator = accelerate.Accelerator()
        self.dataset = dataset
        self.diffusion = diffusion
        self.step = 0
        optimizer = torch.optim.Adam(diffusion.parameters(), lr=self.settings.lr, betas=(0.9, 0.99))
        self.model, self.optimizer = self.accelerator.prepare(_Losses(diffusion), optimizer)
        self.ema = AveragedModel(diffusion, multi_avg_fn=self._average)
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.is_file():
            self._resume()

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.pt"

    @torch.no_grad()
    def _average(self, averaged: Sequence[Tensor], current: Sequence[Tensor], updates: Any) -> None:
        n = float(updates)
        decay = min(self.settings.ema_decay, (1 + n) / (10 + n))
        torch._foreach_lerp_(list(averaged), list(current), 1 - decay)

    # -- the run ------------------------------------------------------------------------------------------

    def train(self, report: Callable[[Progress], None] | None = None) -> Path:
        """Train to `settings.steps` and write the EMA weights as a model; returns its folder.

        SIGINT and SIGTERM end the run after the step in hand, with a checkpoint, by raising Interrupted.
        """
        settings = self.settings
        saved, losses = time.monotonic(), _Recent(100)
        with _signals_noted() as received:
            started, first = time.monotonic(), self.step
            for batch in self._batches():
                losses.add(self._step(batch))
                if report is not None:
                    rate = (self.step - first) * settings.batch_size / (time.monotonic() - started)
                    report(Progress(self.step, losses.mean, rate))
                if received or time.monotonic() - saved > settings.save_every:
                    self._save()
                    saved = time.monotonic()
                if received:
                    raise Interrupted(
                        f"stopped at step {self.step} of {settings.steps}: the same command goes on from it"
                    )
        self._save()
        return self.export()

    def _batches(self) -> DataLoader[dict[str, Any]]:
        count = len(self.dataset)  # type: ignore[arg-type]
        wanted = range(self.step * self.settings.batch_size, self.settings.steps * self.settings.batch_size)
        remaining = Subset(self.dataset, [i % count for i in wanted])
        loader = DataLoader(remaining, batch_size=self.settings.batch_size, drop_last=True)
        return self.accelerator.prepare(loader)

    def _step(self, batch: dict[str, Any]) -> float:
        settings, diffusion = self.settings, self.diffusion
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + self.step)
        I_0 = to_signed(batch["target"])
        I_in = to_signed(batch["input"]) if diffusion.condition else None
        mask = None
        if diffusion.input_condition:
            mask = batch["mask"].expand_as(I_0)
            mask = mask if diffusion.input_condition_mask else to_signed(mask)
        t = torch.randint(0, diffusion.num_timesteps, (len(I_0),), generator=generator).to(I_0.device)
        noise = torch.randn(I_0.shape, generator=generator).to(I_0.device)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.lr * settings.lr_at(self.step)
        with _python_seeded(settings.seed * 1_000_003 + self.step):  # whether to self-condition is drawn by Python
            loss = torch.stack(self.model(I_0, I_in, t, mask, noise)).sum()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update_parameters(diffusion)
        self.step += 1
        return float(loss.detach())

    # -- what is written ----------------------------------------------------------------------------------

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "step": self.step,
            "settings": asdict(self.settings),
            "described": json.dumps(described(self.diffusion), sort_keys=True),
            "model": self.diffusion.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        write_whole(self.checkpoint, lambda path: torch.save(state, path))

    def _resume(self) -> None:
        try:
            state = torch.load(self.checkpoint, map_location=self.accelerator.device, weights_only=True)
            if not {"step", "settings", "described", "model", "ema", "optimizer"} <= state.keys():
                raise ValueError("it is not a checkpoint of this trainer")
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.checkpoint} cannot be gone on with: {reason}") from error
        if state["described"] != json.dumps(described(self.diffusion), sort_keys=True):
            raise ValueError(f"{self.checkpoint} is of another model: train this one in another folder")
        ours, theirs = asdict(self.settings), state["settings"]
        changed = [name for name in ours if ours[name] != theirs.get(name) and name != "save_every"]
        if changed:
            raise ValueError(
                f"{self.checkpoint} was trained with {changed[0]}={theirs.get(changed[0])}, not {ours[changed[0]]}: "
                "use its settings to go on, or another folder to start again"
            )
        self.diffusion.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step = state["step"]

    def export(self) -> Path:
        """Write the EMA weights as a model folder, weights in float16."""
        folder = self.folder / "model"
        if self.accelerator.is_main_process:
            info = {**self.info, "training": {**asdict(self.settings), "trained_steps": self.step}}
            save_model(folder, self.ema.module, dtype=torch.float16, info=info)  # type: ignore[arg-type]
        return folder


@contextmanager
def _python_seeded(seed: int):
    """Python's own generator seeded for a while, and then as it was."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


class _Recent:
    """The mean of the last `size` numbers."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.values: list[float] = []

    def add(self, value: float) -> None:
        self.values = [*self.values[-self.size + 1 :], value]

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)


@contextmanager
def _signals_noted():
    """Note SIGINT and SIGTERM in the list yielded instead of dying of them."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {
        s: signal.signal(s, lambda number, _frame: received.append(number)) for s in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
