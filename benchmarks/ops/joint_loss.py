"""joint_loss forward and backward, against torch's losses under autograd, and torch.compile of them.

rddm-fast bench joint_loss [--quick] [--json FILE] [--csv FILE] [--plot STEM]

The L1 loss of pred_res_noise, lambda 1/2, with the noise given as a tensor to all (`cpp seed` draws it again). Seven
images are moved: I_0, I_in, the noise and two predictions read, two gradients written (with a seed one less, and
the GB/s are those of seven all the same).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rddm_fast.ops import joint_loss
from rddm_fast.ops.noise import noise

from ..harness import Case, Op, Work, our_backends
from ..report import main as run


def eager(res: Tensor, epsilon: Tensor, I_0: Tensor, I_in: Tensor, z: Tensor) -> Tensor:
    """The published losses, summed with lambda 1/2."""
    return 0.5 * F.l1_loss(res, I_in - I_0) + 0.5 * F.l1_loss(epsilon, z)


compiled = torch.compile(eager, dynamic=False)


def with_gradients(loss: Callable[[Tensor, Tensor], Tensor], predictions: Sequence[Tensor]) -> Sequence[Tensor]:
    """The loss of the two predictions, and its gradients by them."""
    value = loss(*predictions)
    return [value.detach(), *torch.autograd.grad(value, predictions)]


def work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    res, epsilon, I_0, I_in = (case.image(generator, device) for _ in range(4))
    z = torch.empty_like(I_0).copy_(noise(case.shape, seed, device=device))  # laid out as by torch.randn_like
    predictions = [res.requires_grad_(), epsilon.requires_grad_()]

    def ours(backend: str, **given: Any) -> Callable[[], Sequence[Tensor]]:
        def loss(out0: Tensor, out1: Tensor) -> Tensor:
            return joint_loss(out0, out1, I_0, I_in, objective="pred_res_noise", impl=backend, **given)[0]

        return lambda: with_gradients(loss, predictions)

    def exact() -> Sequence[Tensor]:
        wide = [p.detach().double().requires_grad_() for p in predictions]
        return with_gradients(lambda a, b: eager(a, b, I_0.double(), I_in.double(), z.double()), wide)

    calls: dict[str, Callable[[], Sequence[Tensor]]] = {}
    for backend in our_backends(device):
        calls[backend] = ours(backend, noise=z)
        if case.dtype == "float32":  # elsewhere z is rounded, and drawn noise is not
            calls[f"{backend} seed"] = ours(backend, seed=seed)
    calls["eager"] = lambda: with_gradients(lambda a, b: eager(a, b, I_0, I_in, z), predictions)
    calls["compile"] = lambda: with_gradients(lambda a, b: compiled(a, b, I_0, I_in, z), predictions)
    return Work(calls, exact)


OP = Op("joint_loss", images_moved=7, images_kept=7, work=work)

OPS = [OP]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
