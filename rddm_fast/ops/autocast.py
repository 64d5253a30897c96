"""The ops' definitions compute in their own dtype, whatever autocast surrounds them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def without_autocast(function: F) -> F:
    """Return `function`, whose first argument is a tensor, with autocast off while it computes."""

    @functools.wraps(function)
    def computed(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        kind = x.device.type
        if not (torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)):
            return function(x, *args, **kwargs)
        with torch.autocast(kind, enabled=False):
            return function(x, *args, **kwargs)

    return computed  # type: ignore[return-value]
