"""reverse_step against the sequence of torch ops that the published sampler runs, and torch.compile of it.

python -m benchmarks.bench_reverse_step [--quick] [--json FILE] [--csv FILE] [--plot STEM]

One stochastic step of pred_res_noise (eta > 0), its noise given as a tensor to all, so that all can be checked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import reverse_step

from .harness import Case, Op, Work, our_backends
from .report import main

ALPHA_BAR, BETA_BAR = 0.6, 0.3
STEP: dict[str, Any] = {"k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.0, "sigma": 0.15}


def eager(I_t: Tensor, res: Tensor, epsilon: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """What the published loop computes for a step: the clamped predictions, the clean image, and the update."""
    res = res.clamp(-1, 1)
    I_0 = (I_t - ALPHA_BAR * res - BETA_BAR * epsilon).clamp(-1, 1)  # not used by this step, but always computed
    return I_t + STEP["k_res"] * res + STEP["k_noise"] * epsilon + STEP["sigma"] * z, I_0


def needed(I_t: Tensor, res: Tensor, epsilon: Tensor, z: Tensor) -> tuple[Tensor, ...]:
    """What is needed of it: the compiler drops the clean image."""
    return eager(I_t, res, epsilon, z)[:1]


compiled = torch.compile(needed, dynamic=False)


def work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator().manual_seed(seed)
    I_t, res, epsilon, z = (case.image(generator, device) for _ in range(4))

    def ours(backend: str) -> Sequence[Tensor]:
        return [
            reverse_step(
                I_t,
                res,
                epsilon,
                objective="pred_res_noise",
                alpha_bar=ALPHA_BAR,
                beta_bar=BETA_BAR,
                noise=z,
                impl=backend,
                **STEP,
            )
        ]

    calls = {backend: (lambda backend=backend: ours(backend)) for backend in our_backends(device)}
    return Work(
        {
            **calls,
            "eager": lambda: eager(I_t, res, epsilon, z)[:1],
            "compile": lambda: compiled(I_t, res, epsilon, z),
        },
        exact=lambda: eager(*(x.double() for x in (I_t, res, epsilon, z)))[:1],
    )


OP = Op("reverse_step", images_moved=5, images_kept=5, work=work)

if __name__ == "__main__":
    main([OP], __doc__)
