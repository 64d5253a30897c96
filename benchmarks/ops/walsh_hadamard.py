"""walsh_hadamard against the butterflies in plain torch, torch.compile of them, and products with Hadamard matrices.

rddm-fast bench walsh_hadamard [--quick] [--json FILE] [--csv FILE] [--plot STEM]

Two images are moved: one read, one written. `matrix` multiplies from both sides by matrices that were made beforehand;
`eager` is the op's reference, one sum and one difference of whole images a stage.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from rddm_fast.ops import walsh_hadamard, walsh_hadamard_reference
from rddm_fast.ops.inverse.walsh_hadamard import WALSH_HADAMARD

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

eager = walsh_hadamard_reference
compiled = torch.compile(eager, dynamic=False)


def hadamard(size: int) -> Tensor:
    """The orthonormal matrix of that size, in float64: the transform of the identity's rows."""
    rows = torch.eye(size, dtype=torch.float64).view(size, 1, size)
    return walsh_hadamard_reference(rows).view(size, size)


def work(case: Case, device: torch.device, seed: int) -> Work:
    x = case.image(torch.Generator(device).manual_seed(seed), device)
    left, right = (hadamard(size).to(x) for size in case.shape[-2:])

    def ours(backend: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: [walsh_hadamard(x, impl=backend)]

    def exact() -> Sequence[Tensor]:
        return [hadamard(case.shape[-2]).to(device) @ x.double() @ hadamard(case.shape[-1]).to(device)]

    calls: dict[str, Callable[[], Sequence[Tensor]]] = {
        backend: ours(backend) for backend in our_backends(device, WALSH_HADAMARD)
    }
    calls["eager"] = lambda: [eager(x)]
    calls["matrix"] = lambda: [left @ x @ right]
    calls["compile"] = lambda: [compiled(x)]
    return Work(calls, exact)


OP = Op("walsh_hadamard", images_moved=2, images_kept=2, work=work)

OPS = [OP]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
