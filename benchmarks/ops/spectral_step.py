"""spectral_step_ against the published step of DDRM in plain torch, and torch.compile of its three cases.

rddm-fast bench spectral_step [--quick] [--json FILE] [--csv FILE] [--plot STEM]

A third of the coordinates is unobserved; of the others some are noisier and some cleaner than the level. As published,
boolean masks make lists of indices, and each list's coordinates are gathered and scattered. `spectral_step`: the noise
is given as a tensor to all, and five images are moved. `spectral_step drawn`: each draws its own noise, as in sampling,
and the four images that a perfect kernel moves are counted. The singular values, one row for all, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import noise, spectral_step_
from rddm_fast.ops.inverse.spectral_step import SPECTRAL_STEP

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

# a_s is below a_t, so that a state that is stepped again and again stays in range.
STEP: dict[str, float] = {"a_t": 0.6, "a_s": 0.55, "sigma_y": 0.4, "eta": 0.85, "eta_b": 0.9}
SIGMA_Y, ETA, ETA_B = STEP["sigma_y"], STEP["eta"], STEP["eta_b"]
Q, LEVEL = math.sqrt(1 - ETA**2), math.sqrt((1 - STEP["a_s"]) / STEP["a_s"])


def clean(x: Tensor, epsilon: Tensor) -> Tensor:
    """The clean image that the noise implies."""
    return (x - math.sqrt(1 - STEP["a_t"]) * epsilon) / math.sqrt(STEP["a_t"])


def eager(x: Tensor, epsilon: Tensor, y_bar: Tensor, s: Tensor, z: Tensor | None) -> Tensor:
    """The published way: a list of indices for each case."""
    z = torch.randn_like(x) if z is None else z
    x_0, s = clean(x, epsilon), s[0]
    x_bar = x_0 + Q * LEVEL * epsilon + ETA * LEVEL * z
    noisier = torch.nonzero((s > 0) & (s * LEVEL < SIGMA_Y))[:, 0]
    cleaner = torch.nonzero((s > 0) & (s * LEVEL >= SIGMA_Y))[:, 0]
    towards_y = (y_bar[:, noisier] - x_0[:, noisier]) / (SIGMA_Y / s[noisier])
    x_bar[:, noisier] = (x_0[:, noisier] + Q * LEVEL * towards_y + ETA * LEVEL * z[:, noisier]).to(x.dtype)
    deviation = (LEVEL**2 - (ETA_B * SIGMA_Y / s[cleaner]) ** 2).clamp(min=0).sqrt()
    kept = (1 - ETA_B) * x_0[:, cleaner] + ETA_B * y_bar[:, cleaner]
    x_bar[:, cleaner] = (kept + deviation * z[:, cleaner]).to(x.dtype)
    return math.sqrt(STEP["a_s"]) * x_bar


def needed(x: Tensor, epsilon: Tensor, y_bar: Tensor, s: Tensor, z: Tensor | None) -> Tensor:
    """What is needed of it, without lists, so that a compiler can make one kernel of it."""
    z = torch.randn_like(x) if z is None else z
    x_0, level = clean(x, epsilon), s * LEVEL
    unobserved = x_0 + Q * LEVEL * epsilon + ETA * LEVEL * z
    noisier = x_0 + Q * LEVEL * (y_bar - x_0) * s / SIGMA_Y + ETA * LEVEL * z
    deviation = (LEVEL**2 - (ETA_B * SIGMA_Y / s) ** 2).clamp(min=0).sqrt()
    cleaner = (1 - ETA_B) * x_0 + ETA_B * y_bar + deviation * z
    x_bar = torch.where(s == 0, unobserved, torch.where(level < SIGMA_Y, noisier, cleaner))
    return (math.sqrt(STEP["a_s"]) * x_bar).to(x.dtype)


compiled = torch.compile(needed, dynamic=False)


def _work(case: Case, device: torch.device, seed: int, drawn: bool) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x, epsilon, y_bar = (case.image(generator, device).contiguous().flatten(1) for _ in range(3))
    z = None if drawn else case.image(generator, device).contiguous().flatten(1)
    s = torch.rand(1, x.shape[1], generator=generator, device=device)
    s = s.masked_fill(s < 1 / 3, 0.0)
    given: dict[str, Any] = {"noise": z, "seed": seed if drawn else None, **STEP}

    def in_place(backend: str) -> Callable[[], Sequence[Tensor]]:
        state = x.clone()  # only the first call is checked
        return lambda: [spectral_step_(state, epsilon, y_bar, s, **given, impl=backend)]

    def exact() -> Sequence[Tensor]:
        draw = noise(x.shape, seed, device=device) if z is None else z
        return [needed(*(t.double() for t in (x, epsilon, y_bar, s, draw)))]

    calls = {backend: in_place(backend) for backend in our_backends(device, SPECTRAL_STEP)}
    calls["eager"] = lambda: [eager(x, epsilon, y_bar, s, z)]
    calls["compile"] = lambda: [compiled(x, epsilon, y_bar, s, z)]
    # The length of a list of indices is known on the host alone.
    return Work(calls, exact, draws=("eager", "compile") if drawn else (), waits=("eager",))


def work(case: Case, device: torch.device, seed: int) -> Work:
    return _work(case, device, seed, drawn=False)


def drawn_work(case: Case, device: torch.device, seed: int) -> Work:
    return _work(case, device, seed, drawn=True)


OP = Op("spectral_step", images_moved=5, images_kept=5, work=work)
DRAWN = Op("spectral_step drawn", images_moved=4, images_kept=4, work=drawn_work)

OPS = [OP, DRAWN]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
