"""Calls of joint_loss, with their gradients, and the same by torch's own losses and autograd."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from oracle import F32, F64, LAYOUTS, PAIRS, Case
from torch import Tensor

from rddm_fast.ops import joint_loss, noise
from rddm_fast.theory.objective import Objective, targets


def arguments(
    objective: Objective,
    image: torch.dtype = F32,
    output: torch.dtype = F32,
    shape: tuple[int, ...] = (2, 3, 9, 7),
    layout: str = "contiguous",
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Contiguous outputs, and images in a layout."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(shape, generator=generator).to(device) for _ in range(5)]
    images = {name: LAYOUTS[layout](x.to(image)) for name, x in zip(("I_0", "I_in", "noise"), draws[2:], strict=True)}
    out1 = draws[1].to(output) if objective.outputs == 2 else None
    return {"out0": draws[0].to(output), "out1": out1, **images, "objective": objective}


def by_torch(c: dict[str, Any], lam: Tensor, loss_type: str, dtype: torch.dtype, scale: float = 1.0) -> list[Tensor]:
    """The loss, its parts and its gradients by the outputs and by lam, by torch's losses and autograd in `dtype`."""
    outputs = [c[name].detach().to(dtype).requires_grad_() for name in ("out0", "out1") if c[name] is not None]
    lam = lam.detach().to(dtype).requires_grad_()
    I_0, I_in, epsilon = (None if c[name] is None else c[name].to(dtype) for name in ("I_0", "I_in", "noise"))
    wanted = targets(c["objective"], I_0, -I_0 if I_in is None else I_in - I_0, epsilon)
    parts = [(F.l1_loss if loss_type == "l1" else F.mse_loss)(*pair) for pair in zip(outputs, wanted, strict=True)]
    loss = parts[0] if len(parts) == 1 else lam * parts[0] + (1 - lam) * parts[1]
    (loss * scale).backward()
    both = torch.stack([parts[0], parts[1] if len(parts) == 2 else torch.zeros_like(loss)]).detach()
    return [loss.detach(), both, *(out.grad for out in outputs), *([lam.grad] if len(parts) == 2 else [])]


def by_us(c: dict[str, Any], lam: Tensor | float, loss_type: str, scale: float = 1.0, **options: Any) -> list[Tensor]:
    """The same from the op; lam's gradient only if lam is a tensor."""
    outputs = {name: c[name].detach().requires_grad_() for name in ("out0", "out1") if c[name] is not None}
    lam = lam.detach().requires_grad_() if isinstance(lam, Tensor) else lam
    loss, parts = joint_loss(**{**c, **outputs}, lam=lam, loss_type=loss_type, **options)
    assert not parts.requires_grad and parts.shape == (2,)
    (loss * scale).backward()
    learnt = [lam.grad] if len(outputs) == 2 and isinstance(lam, Tensor) else []
    return [loss.detach(), parts, *(out.grad for out in outputs.values()), *learnt]


def few(backend: str, device: torch.device | str = "cpu") -> Iterator[Case]:
    """Every pair of dtypes with both losses.

    The interpreter runs every objective with both noises; a GPU, where Triton compiles for each objective, runs one
    in two shapes and layouts.
    """
    for pair, loss_type in itertools.product(PAIRS, ("l1", "l2")):
        if backend == "interpreted":
            layout = "channels_last" if loss_type == "l1" else "sliced"
            for objective, drawn in itertools.product(Objective, (False, True)):
                c, lam = arguments(objective, *pair, (2, 3, 7, 11), layout, device), torch.tensor(0.3, device=device)
                yield _case(c, lam, loss_type, 1.0, drawn, f"{objective.name} {pair} {loss_type} {drawn}")
        else:
            for shape, layout in itertools.product(((2, 3, 5, 7), (1, 3, 64, 64)), ("contiguous", "channels_last")):
                c = arguments(Objective.pred_res_noise, *pair, shape, layout, device)
                yield _case(c, 0.3, loss_type, 4.0, False, f"{pair} {loss_type} {shape} {layout}")


def _case(c: dict[str, Any], lam: Tensor | float, loss_type: str, scale: float, drawn: bool, name: str) -> Case:
    """The loss, its parts and the gradients by the outputs: lam's is a difference, which its own test judges."""
    kept = 2 + c["objective"].outputs
    given = {**c, "noise": None, "seed": 3, "stream": 1} if drawn else c
    wide = {**c, "noise": noise(c["I_0"].shape, 3, 1, c["I_0"].device)} if drawn else c
    return Case(
        name,
        lambda impl: by_us(given, lam, loss_type, scale, impl=impl)[:kept],
        lambda: by_torch(wide, torch.as_tensor(lam, dtype=F64, device=c["I_0"].device), loss_type, F64, scale)[:kept],
        sums=True,
    )
