"""AOSA: the network itself chooses whether to predict the residual or the noise (Liu et al., CVPR 2024, sec. 4.3).

One network f and one learnt weight w, `alpha_res`, which starts at 1/2. While |w - 1/2| < 0.01, f is read as both, as a
mixture by w, and trained on both losses, weighted by w:

    I_res^ = w f + (1 - w) (I_in - I_0(f as noise))        L = w |I_res^ - I_res| + (1 - w) |epsilon^ - epsilon|
    epsilon^ = w epsilon(f as residual) + (1 - w) f

Once w leaves that band the objective is decided: the residual above it, the noise below. New weights are then drawn and
trained with that objective ("reinit" in the published experiment).

Four mistakes of the published experiment are not repeated: a constant overwrites its decision; a decision for the noise
starts the selection again; the checkpoint does not keep the decision; and at the last index of the schedule the loss
jumps, because it divides by 1e-6 instead of 1 - alpha_bar.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..diffusion.residual import LOSSES, ResidualDiffusion
from ..diffusion.residual_unets import ResidualUnets
from ..theory.objective import THRESHOLD, Objective, at_test, decision, noise_to_clean, residual_to_noise
from .losses import Draws, Losses
from .phase import Phase
from .settings import TrainSettings

SMALLEST_DIVISOR = 1e-3
"""A selection draws no time with a smaller 1 - alpha_bar_t or beta_bar_t. DDIM's schedule has none."""


class Undecided(ValueError):
    """AOSA's selection ended without a decision."""


class AosaLoss(NamedTuple):
    """The two mean distances, their weighted sum, and the decision; a distance that it leaves out is 0."""

    residual: Tensor
    noise: Tensor
    total: Tensor
    decided: Objective | None


def aosa_loss(
    f: Tensor,
    I_t: Tensor,
    I_0: Tensor,
    I_in: Tensor | None,
    noise: Tensor,
    alpha_bar: Tensor,
    beta_bar: Tensor,
    alpha_res: Tensor,
    loss_type: str = "l1",
) -> AosaLoss:
    """The loss that selects, of a network's output.

    Args:
        f: the output, (B, C, H, W).
        I_t, I_0, I_in, noise: the images that it was made from, in [-1, 1], of its shape; I_in None means 0.
        alpha_bar, beta_bar: their coefficients, (B, 1, 1, 1). Divisors are floored at 1e-6.
        alpha_res: one number. While nothing is decided, both the mixtures and the weights of the losses give it a
            gradient.
        loss_type: "l1" or "l2".
    """
    distance = LOSSES[loss_type]
    given: Tensor | float = 0.0 if I_in is None else I_in
    I_res, decided, zero = given - I_0, decision(alpha_res), f.new_zeros(())
    if decided is Objective.pred_res:
        loss = distance(f, I_res)
        return AosaLoss(loss, zero, loss, decided)
    if decided is Objective.pred_noise:
        loss = distance(f, noise)
        return AosaLoss(zero, loss, loss, decided)

    # Undecided: read f as both, and mix by w.
    w = alpha_res.reshape(())
    clean = noise_to_clean(I_t, given, f, alpha_bar, beta_bar, (1 - alpha_bar).clamp_min(1e-6))
    residual = w * f + (1 - w) * (given - clean.clamp(-1, 1))
    epsilon = w * residual_to_noise(I_t, given, f, alpha_bar, beta_bar.clamp_min(1e-6)) + (1 - w) * f
    by_residual, by_noise = distance(residual, I_res), distance(epsilon, noise)
    return AosaLoss(by_residual, by_noise, w * by_residual + (1 - w) * by_noise, None)


class AutoObjective(nn.Module):
    """A model whose objective is still open; `training.trainer.Trainer` finds it, and then trains the model.

    Args:
        diffusion: a model of one network, which sees t as its time; the decision sets its objective.
        alpha_res: the learnt weight, one float32 number; a new one of 1/2 if None.

    Raises ValueError for two networks, or for one that sees alpha_bar and beta_bar as its times.
    """

    def __init__(self, diffusion: ResidualDiffusion, alpha_res: nn.Parameter | None = None) -> None:
        super().__init__()
        if not isinstance(diffusion.model, ResidualUnets) or diffusion.model.outputs != 1:
            raise ValueError("objective auto chooses what one network predicts: pass networks one")
        if diffusion.path_independent:
            raise ValueError(
                "objective auto needs a network that sees t: alpha_bar and beta_bar are times of a known objective"
            )
        self.alpha_res = nn.Parameter(torch.full((1,), 0.5)) if alpha_res is None else alpha_res
        self.diffusion = diffusion

    @property
    def decided(self) -> Objective | None:
        """The objective that alpha_res stands for by now; None while it is in the band."""
        return decision(self.alpha_res)

    def times(self) -> tuple[int, int]:
        """(first, end) of the indices that a selection draws: those where both divisors are at least 1e-3."""
        schedule = self.diffusion.schedule
        usable = (schedule.beta_bar >= SMALLEST_DIVISOR) & (1 - schedule.alpha_bar >= SMALLEST_DIVISOR)
        indices = usable.nonzero()[0]
        if not len(indices):
            raise ValueError(
                "objective auto divides by beta_bar and by 1 - alpha_bar, and this schedule has no time where both "
                f"reach {SMALLEST_DIVISOR}: choose another schedule, such as ddim"
            )
        return int(indices[0]), int(indices[-1]) + 1

    def forward(
        self, I_0: Tensor, I_in: Tensor | None, t: Tensor, mask: Tensor | None, noise: Tensor, **options: Any
    ) -> AosaLoss:
        """`aosa_loss` at indices `t` (B,) of images in [-1, 1]. `options` go to `ResidualDiffusion.outputs`."""
        diffusion = self.diffusion
        I_res = -I_0 if I_in is None else I_in - I_0
        I_t = diffusion.noised(I_0, I_res, t, noise)
        (f,) = diffusion.outputs(I_t, t, I_in, mask, only=(0,), **options)
        per_sample = (-1, 1, 1, 1)
        alpha_bar, beta_bar = diffusion.alphas_cumsum[t].view(per_sample), diffusion.betas_cumsum[t].view(per_sample)
        return aosa_loss(
            f.float(), I_t, I_0, I_in, noise, alpha_bar, beta_bar, self.alpha_res, loss_type=diffusion.loss_type
        )

    def fix(self, objective: Objective) -> None:
        """Let the model's one network predict `objective` from now on."""
        self.alpha_res.requires_grad_(False)
        self.diffusion.objective = objective
        self.diffusion.read_objective, self.diffusion.read_outputs = at_test(objective, None)


class SelectionLosses(Losses):
    """The loss of a selection, at the times of `AutoObjective.times`."""

    def __init__(self, selection: AutoObjective) -> None:
        super().__init__(selection.diffusion)
        self.selection = selection

    @property
    def names(self) -> list[str]:
        return ["loss_res", "loss_noise"]

    def times(self) -> tuple[int, int]:
        return self.selection.times()

    def at(
        self, t: Tensor, I_0: Tensor, I_in: Tensor | None, mask: Tensor | None, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        losses = self.selection(I_0, I_in, t, mask, draws.noise(I_0))
        return losses.total, torch.stack([losses.residual, losses.noise])


class Selecting(Phase):
    """The phase that selects the objective: its rate is constant after the warm-up, and it ends when w has decided."""

    name = "selecting"
    averaged = False

    def __init__(self, selection: AutoObjective, settings: TrainSettings, accelerator: Any) -> None:
        super().__init__(SelectionLosses(selection), settings, accelerator)
        self.selection = selection

    @property
    def over(self) -> bool:
        return self.selection.decided is not None

    @property
    def alpha_res(self) -> float:
        return float(self.selection.alpha_res.detach())

    def rate(self) -> float:
        return min(1.0, (self.step + 1) / max(1, self.settings.warmup))

    def found(self) -> Objective:
        """The objective that was decided; raises Undecided if there is none."""
        if self.selection.decided is None:
            raise Undecided(
                f"after {self.step} steps lambda is {self.alpha_res:.4f}, within {THRESHOLD} of 1/2, so nothing "
                "is decided: train longer or with a larger learning rate in another folder, or choose pred_res or "
                "pred_noise"
            )
        return self.selection.decided

    def state(self) -> dict[str, Any]:
        return {**super().state(), "aosa": {"alpha_res": self.selection.alpha_res.detach()}}

    def load(self, state: dict[str, Any]) -> None:
        self.selection.alpha_res.data.copy_(state["aosa"]["alpha_res"])
        super().load(state)


def draw_new_weights(diffusion: ResidualDiffusion, seed: int) -> None:
    """Give the networks the weights that a new model has after `torch.manual_seed(seed)`."""
    assert isinstance(diffusion.model, ResidualUnets)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ResidualUnets(**diffusion.model.config)
    diffusion.model.load_state_dict(fresh.state_dict())
