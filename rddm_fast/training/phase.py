"""One phase of a run: a loss, its optimisers, the averaged weights, and the steps done on them."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..diffusion.residual_unets import ResidualUnets
from ..diffusion.start import to_signed
from ..fast.for_training import for_training
from .ema import Ema
from .losses import Draws, Losses, python_seeded
from .settings import SettingsError, TrainSettings

OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "radam": torch.optim.RAdam}


class Phase:
    """Minimise `losses` step by step. AOSA's selection (`aosa.Selecting`) is a phase that may end early.

    Args:
        losses: the loss and the model that it trains.
        settings: those of the run.
        accelerator: accelerate's; it moves and wraps the losses and their optimisers.

    Attributes:
        step: the optimiser steps done in this phase.
        names: the names of the loss's parts in the log, such as loss_res and loss_noise.
        optimizers: one, or one for each of two networks.

    Raises SettingsError for `optimizers` "each" and a model of one network.
    """

    name = "training"
    averaged = True  # whether the phase keeps an average of its weights

    def __init__(self, losses: Losses, settings: TrainSettings, accelerator: Any) -> None:
        self.diffusion, self.settings, self.accelerator = losses.diffusion, settings, accelerator
        self.step, self.names = 0, losses.names
        options: dict[str, Any] = {"betas": settings.betas, "weight_decay": settings.weight_decay}
        if settings.faster:
            # torch.compile fuses the networks itself, and recognises the published modules better than our functions.
            if settings.compile:
                self.diffusion.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            else:
                for_training(self.diffusion)
            if settings.optimizer != "radam":  # torch has no fused RAdam
                options["fused"] = True
        make = OPTIMIZERS[settings.optimizer]
        optimizers = [make(group, lr=settings.lr, **options) for group in self._groups(losses)]
        self.model, *self.optimizers = accelerator.prepare(losses, *optimizers)

    def _groups(self, losses: nn.Module) -> list[list[nn.Parameter]]:
        """The parameters of each optimiser."""
        if self.settings.optimizers == "one":
            return [list(losses.parameters())]
        model = self.diffusion.model
        if not isinstance(model, ResidualUnets) or len(model.members) != 2:
            raise SettingsError(
                "train.optimizers 'each' is for two networks: choose 'one', or a model with networks two"
            )
        return [list(member.parameters()) for member in model.members]

    # -- what a kind of phase may change ------------------------------------------------------------------

    @property
    def over(self) -> bool:
        """Whether the phase ends before its last step."""
        return False

    @property
    def alpha_res(self) -> float | None:
        """AOSA's weight while it selects, else None."""
        return None

    def rate(self) -> float:
        """The factor on the learning rate at the next step."""
        return self.settings.lr_at(self.step)

    # -- a step -------------------------------------------------------------------------------------------

    @cached_property
    def ema(self) -> Ema:
        """The averaged weights; they are made when they are first asked for, because a selection keeps none."""
        return Ema(self.diffusion, self.settings.ema, self.settings.ema_decay, self.settings.ema_every)

    @property
    def share(self) -> tuple[int, int]:
        """(process, processes): the number of this process, and how many there are."""
        return self.accelerator.process_index, self.accelerator.num_processes

    def advance(self, step_batches: list[dict[str, Any]]) -> tuple[float, list[float]]:
        """Take one optimiser step.

        Args:
            step_batches: this process's part of the step's batches.

        Returns:
            (loss, parts): the loss, and that of each output, averaged over batches and processes.
        """
        settings, accelerator = self.settings, self.accelerator

        # Seed the step.
        seed = settings.seed * 1_000_003 + self.step
        generator = torch.Generator().manual_seed(seed)

        # Accumulate gradients.
        sums = []
        with python_seeded(seed):
            for number, batch in enumerate(step_batches):
                with ExitStack() as stack:
                    if number < len(step_batches) - 1:  # processes exchange gradients once per step
                        stack.enter_context(accelerator.no_sync(self.model))
                    stream = self.step * settings.accumulate + number
                    draws = Draws(generator, settings.seed, stream, self.share)
                    loss, parts = self.model(*self._images(batch), draws=draws)
                    accelerator.backward(loss / len(step_batches))
                sums.append(torch.stack([loss.detach(), *parts.detach()]))

        # Clip gradients.
        if settings.grad_clip:
            accelerator.clip_grad_norm_(self.model.parameters(), settings.grad_clip)

        # Update weights.
        lr = settings.lr * self.rate()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.step()
            optimizer.zero_grad()

        # Update the average.
        if self.averaged:
            self.ema.update(self.diffusion)
        self.step += 1

        # Average the loss over the processes.
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

    # -- what a checkpoint holds of it --------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """The phase's part of a checkpoint: tensors and plain values only."""
        scaler = self.accelerator.scaler
        return {
            "step": self.step,
            "model": self.diffusion.state_dict(),
            "ema": self.ema.state_dict() if self.averaged else None,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "scaler": None if scaler is None else scaler.state_dict(),
            "aosa": None,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned."""
        self.diffusion.load_state_dict(state["model"])
        if state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        if state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.step = state["step"]
