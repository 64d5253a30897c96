"""reverse_step against the sequence of torch ops that the published sampler runs, and torch.compile of it.

rddm-fast bench reverse_step [--quick] [--json FILE] [--csv FILE] [--plot STEM]

One stochastic step of pred_res_noise (eta > 0), in two forms. `reverse_step`: the noise is given as a tensor to all, so
that all can be checked, and five images are moved; `in place` is `reverse_step_`. `reverse_step drawn`: each draws its
own noise, as in sampling, and the four images that a perfect kernel moves are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import StepTable, noise, reverse_step, reverse_step_

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

KNOWN: dict[str, Any] = {"alpha_bar": 0.6, "beta_bar": 0.3}
STEP: dict[str, Any] = {"k_t": 1.0, "k_res": -0.1, "k_noise": -0.2, "k_0": 0.0, "sigma": 0.15}


def eager(I_t: Tensor, res: Tensor, epsilon: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the published loop computes for a step: the clamped predictions, the clean image, and the update."""
    z = torch.randn_like(I_t) if z is None else z
    res = res.clamp(-1, 1)
    # This step does not use I_0, but the published loop always computes it.
    I_0 = (I_t - KNOWN["alpha_bar"] * res - KNOWN["beta_bar"] * epsilon).clamp(-1, 1)
    return I_t + STEP["k_res"] * res + STEP["k_noise"] * epsilon + STEP["sigma"] * z, I_0


def needed(I_t: Tensor, res: Tensor, epsilon: Tensor, z: Tensor | None) -> tuple[Tensor, ...]:
    """What is needed of it: the compiler drops the clean image."""
    return eager(I_t, res, epsilon, z)[:1]


compiled = torch.compile(needed, dynamic=False)


def _work(case: Case, device: torch.device, seed: int, drawn: bool) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    I_t, res, epsilon = (case.image(generator, device) for _ in range(3))
    z = None if drawn else case.image(generator, device)
    given: dict[str, Any] = {"objective": "pred_res_noise", "noise": z, "seed": seed if drawn else None}
    table = StepTable.of([KNOWN | STEP], device=device)

    def functional(backend: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: [reverse_step(I_t, res, epsilon, **given, **KNOWN, **STEP, impl=backend)]

    def in_place(backend: str) -> Callable[[], Sequence[Tensor]]:
        state = (
            I_t.clone()
        )  # Only the first call is checked; later calls continue from its result, which stays in range.
        return lambda: [reverse_step_(state, res, epsilon, **given, table=table, step=0, impl=backend)]

    def exact() -> Sequence[Tensor]:
        draw = noise(case.shape, seed, device=device) if z is None else z
        return eager(*(x.double() for x in (I_t, res, epsilon, draw)))[:1]

    calls: dict[str, Callable[[], Sequence[Tensor]]] = {}
    for backend in our_backends(device):
        calls |= {backend: functional(backend), f"{backend} in place": in_place(backend)}
    calls["eager"] = lambda: eager(I_t, res, epsilon, z)[:1]
    calls["compile"] = lambda: compiled(I_t, res, epsilon, z)
    return Work(calls, exact, draws=("eager", "compile") if drawn else ())


def work(case: Case, device: torch.device, seed: int) -> Work:
    return _work(case, device, seed, drawn=False)


def drawn_work(case: Case, device: torch.device, seed: int) -> Work:
    return _work(case, device, seed, drawn=True)


OP = Op("reverse_step", images_moved=5, images_kept=5, work=work)
DRAWN = Op("reverse_step drawn", images_moved=4, images_kept=4, work=drawn_work)

OPS = [OP, DRAWN]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
