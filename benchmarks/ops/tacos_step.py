"""tacos_step against Algorithm 2 of Cold Diffusion in plain torch, and torch.compile of that.

rddm-fast bench tacos_step [--quick] [--json FILE] [--csv FILE] [--plot STEM]

x_s - D(x_0, s) + D(x_0, s - 1), where each D is one operation already; the published code takes s of them. Three images
are moved: x_s and x_0 read, the next image written. The layers of fade and snow, one for all samples, are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rddm_fast.ops import tacos_step

from ..harness import Case, Op, Work, our_backends
from ..report import main as run

ALPHA_BAR = {"s": 0.6, "to": 0.55}
BRIGHTNESS = {"s": 0.55, "to": 0.6}

Layers = tuple[Tensor, Tensor]


def fade(x_0: Tensor, layers: Layers, level: str) -> Tensor:
    """D of a fade to 0, with alpha_bar for every pixel."""
    return x_0 + layers[level == "to"].to(x_0.dtype) * (0.0 - x_0)


def decolour(x_0: Tensor, layers: Layers, level: str) -> Tensor:
    """D of colours that fade to grey."""
    return x_0 + ALPHA_BAR[level] * (x_0.mean(1, keepdim=True) - x_0)


def snow(x_0: Tensor, layers: Layers, level: str) -> Tensor:
    """D of a bright snowfall."""
    u, br = (x_0 + 1) / 2, BRIGHTNESS[level]
    red, green, blue = u.split(1, 1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    u = br * u + (1 - br) * torch.maximum(u, 1.5 * grey + 0.5)
    return (u + layers[level == "to"].to(x_0.dtype)).clamp(0, 1) * 2 - 1


FORMS: dict[str, tuple[Callable[[Tensor, Layers, str], Tensor], dict[str, Any], bool]] = {
    "fade": (fade, {"kind": "mix", "numbers": (-1.0, 1.0)}, True),
    "decolour": (decolour, {"kind": "grey", "numbers": (-(0.55 - 0.6), 0.55 - 0.6)}, False),
    "snow": (snow, {"kind": "snow", "numbers": (BRIGHTNESS["s"], BRIGHTNESS["to"])}, True),
}
"""Name to D, the op's arguments, and whether it takes layers."""


def eager(x_s: Tensor, x_0: Tensor, layers: Layers, form: str) -> Tensor:
    """Algorithm 2 as it is written."""
    D = FORMS[form][0]
    return x_s - D(x_0, layers, "s") + D(x_0, layers, "to")


compiled = torch.compile(eager, dynamic=False)


def work(case: Case, device: torch.device, seed: int, form: str) -> Work:
    generator = torch.Generator(device).manual_seed(seed)
    x_s, x_0 = (case.image(generator, device) / 2 for _ in range(2))
    size = (1, 1, *case.shape[2:])
    before, after = (0.5 * torch.rand(size, generator=generator, device=device) for _ in range(2))
    _, numbers, layered = FORMS[form]
    given = {**numbers, **({"layer_s": before, "layer_to": after} if layered else {})}

    def ours(backend: str) -> Callable[[], Sequence[Tensor]]:
        return lambda: [tacos_step(x_s, x_0, **given, impl=backend)]

    def exact() -> Sequence[Tensor]:
        return [eager(x_s.double(), x_0.double(), (before.double(), after.double()), form)]

    calls = {backend: ours(backend) for backend in our_backends(device)}
    calls["eager"] = lambda: [eager(x_s, x_0, (before, after), form)]
    calls["compile"] = lambda: [compiled(x_s, x_0, (before, after), form)]
    return Work(calls, exact)


OPS = [Op(f"tacos_step {form}", images_moved=3, images_kept=3, work=partial(work, form=form)) for form in FORMS]


def main(argv: Sequence[str] | None = None) -> None:
    """This op's benchmark, with the options of `report.main`."""
    run(OPS, __doc__, argv)
