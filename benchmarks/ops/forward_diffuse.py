"""forward_diffuse with its noise, against torch.randn and the published expression, and torch.compile of that.

rddm-fast bench forward_diffuse [--quick] [--json FILE] [--csv FILE] [--plot STEM]

Each draws its own noise, as in training. Ours is checked against the specification's; torch's generator draws
another, so of the others only the spread is. Three images are moved: I_0 and I_in read, I_t written.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rddm_fast.ops import forward_diffuse, noise

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

TIMES = 1000


def eager(I_0: Tensor, I_in: Tensor, t: Tensor, alpha_bar: Tensor, beta_bar: Tensor) -> Tensor:
    """The published training step's expression, with its draw."""
    epsilon = torch.randn_like(I_0)
    a, b = (table[t][:, None, None, None].to(I_0.dtype) for table in (alpha_bar, beta_bar))
    return I_0 + a * (I_in - I_0) + b * epsilon


compiled = torch.compile(eager, dynamic=False)


def work(case: Case, device: torch.device, seed: int) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    I_0, I_in = (case.image(generator, device) for _ in range(2))
    t = torch.randint(0, TIMES, case.shape[:1], generator=generator, device=device)
    tables = torch.linspace(0, 1, TIMES, device=device), torch.linspace(0, 0.1, TIMES, device=device)
    a, b = (table[t][:, None, None, None].double() for table in tables)

    def ours(backend: str) -> Sequence[Tensor]:
        return [forward_diffuse(I_0, I_in, t, *tables, seed=seed, impl=backend)]

    def exact() -> Sequence[Tensor]:
        x, y = I_0.double(), I_in.double()
        return [x + a * (y - x) + b * noise(case.shape, seed, device=device)]

    calls = {backend: (lambda backend=backend: ours(backend)) for backend in our_backends(device)}
    return Work(
        {
            **calls,
            "eager": lambda: [eager(I_0, I_in, t, *tables)],
            "compile": lambda: [compiled(I_0, I_in, t, *tables)],
        },
        exact=exact,
        draws=("eager", "compile"),
    )


OP = Op("forward_diffuse", images_moved=3, images_kept=3, work=work)

OPS = [OP]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
