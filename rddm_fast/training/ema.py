"""The average of the weights over the training, which the exported model takes.

There are two rules. "warmup" averages at every step, with decay min(ema_decay, (1 + n) / (10 + n)) after n averages.
"published" is the rule of the published code (ema-pytorch 0.0.10 with its defaults): every tenth step it copies the
weights for the first hundred steps, then averages with decay min(0.995, 1 - (1 + steps since)^(-2/3)).
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

RULES = ("warmup", "published")
UPDATE_AFTER_STEP = 100
"""For so many steps the published rule copies instead of averaging."""


def published_decay(step: int, greatest: float, every: int = 10) -> float | None:
    """The published rule's decay after `step` earlier calls: 0 copies, None does nothing.

    The first average, at step 100 + `every`, is a copy too, as in the version that the published code pins.
    """
    if step % every:
        return None
    since = step - UPDATE_AFTER_STEP
    return 0.0 if since <= every else min(greatest, 1 - (1 + since) ** (-2 / 3))


class Ema(nn.Module):
    """The exponential moving average of `source`'s parameters, in `module`; buffers are copied.

    Args:
        source: copied, on its device.
        rule: "warmup" or "published", as above.
        decay: the greatest decay.
        every: steps between averages of the published rule; "warmup" averages at every step.

    Attributes:
        steps: counts the calls of `update`; part of the state dict.

    Raises ValueError for another rule.
    """

    steps: Tensor

    def __init__(self, source: nn.Module, rule: str = "warmup", decay: float = 0.999, every: int = 10) -> None:
        super().__init__()
        if rule not in RULES:
            raise ValueError(f"ema is {rule!r}: choose one of {', '.join(RULES)}")
        self.rule, self.decay, self.every = rule, decay, every
        self.module = deepcopy(source).requires_grad_(False)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def decay_at(self, step: int) -> float | None:
        """The decay after `step` earlier calls of `update`: 0 copies, None does nothing."""
        if self.rule == "published":
            return published_decay(step, self.decay, self.every)
        return min(self.decay, (1 + step) / (10 + step)) if step else 0.0

    @torch.no_grad()
    def update(self, source: nn.Module) -> None:
        """Average the weights of `source` in, after an optimiser step."""
        decay = self.decay_at(int(self.steps))
        self.steps += 1
        if decay is None:
            return
        average: list[Tensor] = list(self.module.parameters())
        current = [p.detach().to(a.device) for a, p in zip(average, source.parameters(), strict=True)]
        if decay == 0:
            torch._foreach_copy_(average, current)
        else:
            torch._foreach_lerp_(average, current, 1 - decay)
        for ours, theirs in zip(self.module.buffers(), source.buffers(), strict=True):
            ours.copy_(theirs)
