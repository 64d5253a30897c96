"""The networks of one RDDM model: one, two, or a shared encoder with two decoders."""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from .unet import SharedUnet, Unet


def _without_unet0(module: nn.Module, state: dict[str, Tensor], prefix: str, _metadata: Any) -> None:
    for key in [k for k in state if k.startswith(prefix + "unet0.")]:
        state[prefix + key[len(prefix + "unet0.") :]] = state.pop(key)


def _with_unet0(module: nn.Module, state: dict[str, Tensor], prefix: str, *_unused: Any) -> None:
    for key in [k for k in state if k.startswith(prefix)]:
        state[prefix + "unet0." + key[len(prefix) :]] = state.pop(key)


class ResidualUnets(nn.Module):
    """The networks of one RDDM model: "two" U-Nets, "one" U-Net, or a "shared" encoder with two decoders.

    A call takes the concatenated input, the time of each network and the self-condition, and returns a list of one or
    two images (B, out_dim, H, W). The two times differ only in path-independent models, where the residual network sees
    alpha_bar_t T and the noise network beta_bar_t T.

    Args:
        dim: width of each network's first stage.
        networks: "two", "one" or "shared".
        kwargs: the arguments of `Unet`.

    Raises:
        ValueError: another `networks`.
    """

    unet0: Unet | SharedUnet
    unet1: Unet

    def __init__(self, dim: int, *, networks: str = "two", **kwargs: Any) -> None:
        super().__init__()
        if networks not in ("two", "one", "shared"):
            raise ValueError(f"networks is 'two', 'one' or 'shared', not {reprlib.repr(networks)}")
        self.networks = networks
        self.config = {"dim": dim, "networks": networks, **kwargs}
        self.unet0 = SharedUnet(dim, **kwargs) if networks == "shared" else Unet(dim, **kwargs)
        self.channels, self.self_condition = self.unet0.channels, self.unet0.self_condition
        if networks == "two":
            self.unet1 = Unet(dim, **kwargs)
        elif networks == "shared":
            # The published keys of the shared-encoder network have no prefix.
            self.register_state_dict_post_hook(_without_unet0)
            self.register_load_state_dict_pre_hook(_with_unet0)

    @property
    def members(self) -> list[Unet | SharedUnet]:
        """The U-Nets in the order of their outputs (one for a shared encoder)."""
        return [self.unet0, self.unet1] if self.networks == "two" else [self.unet0]

    @property
    def outputs(self) -> int:
        """Number of images that a call returns: 1 or 2."""
        return 1 if self.networks == "one" else 2

    def forward(
        self,
        x: Tensor,
        time: Tensor | Sequence[Any],
        x_self_cond: Tensor | None = None,
        only: tuple[int, ...] | None = None,
    ) -> list[Tensor]:
        """Return the outputs numbered in `only`, by default all. A network without a wanted output is not evaluated."""
        times = time if isinstance(time, (list, tuple)) else (time, time)
        if self.networks == "shared":
            out = self.members[0](x, times[0], x_self_cond)
            return out if only is None else [out[i] for i in only]
        wanted = range(self.outputs) if only is None else only
        return [self.members[i](x, times[i], x_self_cond) for i in wanted]
